"""What Airflow knows of the challenges' DAGs: how their runs ended, and how long these and their tasks took.

It only reads. A look makes seven short requests per DAG, however many runs there were: Airflow counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from airflow_client.client.exceptions import ApiException, ForbiddenException, NotFoundException

from clients.airflow_api import AirflowApi, message_of
from clients.errors import ConfigurationError, PassingFault, RpsError
from clients.settings import AirflowSettings
from records.stages import dag_id

AT_WORK = ("queued", "running")
ENDED = ("success", "failed")
RECENT = timedelta(hours=24)
REQUEST_SECONDS = 15.0


@dataclass(frozen=True)
class EndedRun:
    """The last run of a DAG that ended in some state; ``ended`` in seconds since 1970."""

    run_id: str
    ended: float
    seconds: float


@dataclass(frozen=True)
class DagRuns:
    """One DAG. By state: the last run that ended so, and how many are so now, or ended so in the last 24 hours."""

    last: Mapping[str, EndedRun]
    counts: Mapping[str, int]
    task_seconds: Mapping[str, float]
    """By task, of the last run that succeeded."""


class AirflowRuns:
    """Looks at the DAGs of some challenges."""

    def __init__(self, settings: AirflowSettings, challenges: Sequence[str]) -> None:
        self._api = AirflowApi(settings, request_seconds=REQUEST_SECONDS)
        self._dag_ids = tuple(dag_id(challenge) for challenge in challenges)
        self._tasks: dict[str, tuple[EndedRun, Mapping[str, float]]] = {}

    def look(self) -> dict[str, DagRuns]:
        """The DAGs that Airflow has, by their ids. Raises RpsError when Airflow is away, or refuses us."""
        found = {dag_id: self._dag(dag_id) for dag_id in self._dag_ids}
        return {dag_id: runs for dag_id, runs in found.items() if runs is not None}

    def _dag(self, dag_id: str) -> DagRuns | None:
        try:
            last = {state: self._last(dag_id, state) for state in ENDED}
            ended = {state: run for state, run in last.items() if run is not None}
            since = datetime.now(UTC) - RECENT
            counts = {state: self._count(dag_id, state) for state in AT_WORK}
            counts |= {state: self._count(dag_id, state, end_date_gte=since) for state in ENDED}
            return DagRuns(ended, counts, self._task_seconds(dag_id, ended.get("success")))
        except NotFoundException as error:
            if dag_id in (error.body or ""):
                return None
            raise self._fault(f"a proxy's {message_of(error)}") from error  # before an Airflow that restarts

    def _last(self, dag_id: str, state: str) -> EndedRun | None:
        runs = self._ask(
            self._api.call, self._api.runs.get_dag_runs, dag_id, state=[state], order_by=["-end_date"], limit=1
        ).dag_runs
        if not runs or runs[0].end_date is None:
            return None
        run = runs[0]
        seconds = (run.end_date - (run.start_date or run.end_date)).total_seconds()
        return EndedRun(str(run.dag_run_id), run.end_date.timestamp(), seconds)

    def _count(self, dag_id: str, state: str, **when: datetime) -> int:
        return int(
            self._ask(self._api.call, self._api.runs.get_dag_runs, dag_id, state=[state], limit=1, **when).total_entries
        )

    def _task_seconds(self, dag_id: str, run: EndedRun | None) -> Mapping[str, float]:
        """Asked once per run: a run that has succeeded does not change, or ends anew."""
        if run is None:
            return {}
        known, seconds = self._tasks.get(dag_id, (None, {}))
        if known != run:
            get_tasks = self._api.tasks.get_task_instances
            found = self._ask(
                partial(self._api.pages, "task_instances"), get_tasks, dag_id, run.run_id, order_by=["start_date"]
            )
            seconds = {str(task.task_id): float(task.duration) for task in found if task.duration is not None}
            self._tasks[dag_id] = run, seconds
        return seconds

    def _ask(self, call: Callable[..., Any], *arguments: object, **options: Any) -> Any:  # noqa: ANN401 - the client has no types
        """What a call of ``AirflowApi`` returns. Raises RpsError, or NotFoundException."""
        try:
            return call(*arguments, **options)
        except PassingFault as fault:
            raise self._fault(str(fault)) from fault
        except ForbiddenException as error:
            message = f"Airflow at {self._api.address} does not allow this to our user: {message_of(error)}"
            raise ConfigurationError(f"{message}. It must be able to read DAG runs and task instances") from error
        except NotFoundException:
            raise
        except ApiException as error:
            raise self._fault(message_of(error)) from error

    def _fault(self, reason: str) -> RpsError:
        return PassingFault(f"Airflow at {self._api.address} gives no good answer: {reason}")
