"""Runs of a DAG through Airflow's REST API: start one or attach to it, follow its tasks to the end, cancel it.

A run is evidence only if it ran as it was started: one that was cleared, deleted or had a task's state set by hand
ends in NoVerdict. The API shows it: `queued_at` moves when a run is cleared, a finished task does not change, and
Airflow's audit log names who changed what. A user who may not read the audit log cannot see a single task that was
cleared, or set to success, before the first look; `Airflow` says so in a note.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

from airflow_client import client as airflow
from airflow_client.client.exceptions import (
    ApiException,
    BadRequestException,
    ConflictException,
    ForbiddenException,
    NotFoundException,
    UnprocessableEntityException,
)

from clients.airflow_api import PAGE, AirflowApi, message_of
from clients.errors import ConfigurationError, NoVerdict, PassingFault
from clients.patience import Patience
from clients.redaction import redacted
from clients.settings import AirflowSettings

T = TypeVar("T")

ENDED_RUN = {"success", "failed"}
FINISHED_TASK = {"success", "failed"}
POLL_SECONDS = 0.5
CANCEL_LOOKS = 3
IMPORT_ERRORS = 5
CLEARED = timedelta(seconds=10)
"""Airflow notes `run_after` and `queued_at` of a new run within milliseconds of one another."""
GROUPS = ("::group::", "::endgroup::")
"""How Airflow folds its own lines in a log."""
CHANGED_BY_HAND = (
    "clear_dag_run", "post_clear_task_instances", "patch_dag_run", "patch_task_instance", "patch_task_group_instances",
    "bulk_task_instances",
)  # fmt: skip
"""The audit log's names of what can change a run's course: Airflow's own routes, and so its UI and command line."""


@dataclass(frozen=True)
class TaskState:
    """A task of the run as Airflow sees it now; times and seconds are those of its last attempt."""

    name: str
    state: str
    seconds: float
    attempt: int
    started: datetime | None
    ended: datetime | None


def busy_seconds(tasks: Iterable[TaskState], *, since: datetime | None = None) -> float:
    """Seconds, from ``since`` on, in which at least one task was at work; of each task, its last attempt counts."""
    now = datetime.now(UTC)
    spans = sorted((task.started, task.ended or now) for task in tasks if task.started)
    busy, until = timedelta(), since or datetime.min.replace(tzinfo=UTC)
    for start, end in spans:
        busy += max(end - max(start, until), timedelta())
        until = max(until, end)
    return busy.total_seconds()


class Airflow:
    """Airflow at one address. Waits for faults to pass, and reports each outage once through ``note``.

    grace_seconds: how long Airflow may give no good answer, in a row, before there is NoVerdict.
    request_seconds: how long one answer may take.
    new_dag_seconds: how long a DAG may be missing; Airflow reads a file that was just added only after a while.
    """

    def __init__(
        self,
        settings: AirflowSettings,
        *,
        grace_seconds: float = 120.0,
        request_seconds: float = 15.0,
        new_dag_seconds: float = 60.0,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.api = AirflowApi(settings, request_seconds=request_seconds)
        self.note = note
        self._grace_seconds = grace_seconds
        self._new_dag_seconds = new_dag_seconds

    def attach_or_start(
        self, dag_id: str, stem: str, parameters: Mapping[str, str], *, not_before: datetime | None = None
    ) -> DagRun:
        """The newest run `{stem}__{attempt}` if it can still serve, or else a new one, with the next attempt's number.

        It can serve while it is queued or running, and after it succeeded, when it was started at or after
        ``not_before``. Two callers at once get the same run.
        Raises ConfigurationError (credentials, DAG missing or paused, parameters refused) and NoVerdict.
        """
        attempts: dict[int, Any] = {}
        for run in self.runs(dag_id, run_id_prefix_pattern=f"{stem}__"):
            match = re.fullmatch(re.escape(stem) + r"__([1-9]\d{0,5})", run.dag_run_id)
            if match:
                attempts[int(match[1])] = run
        attempt = max(attempts, default=0)
        newest = attempts.get(attempt)
        if newest is not None:
            fresh = not_before is None or (newest.start_date or newest.run_after) >= not_before
            if newest.state not in ENDED_RUN or (newest.state == "success" and fresh):
                return DagRun(self, dag_id, newest, attached=True)
        return self.start(dag_id, f"{stem}__{attempt + 1}", parameters)

    def start(self, dag_id: str, run_id: str, parameters: Mapping[str, str]) -> DagRun:
        """Start the run, or attach to it if it is there already. Raises as `attach_or_start`."""
        self._require_dag(dag_id)
        ours = f"started by request {uuid4()}"  # identifies the run when Airflow's answer was lost
        body = airflow.TriggerDAGRunPostBody(dag_run_id=run_id, logical_date=None, conf=dict(parameters), note=ours)
        asked = False

        def trigger() -> DagRun:
            nonlocal asked
            if asked:  # and the answer was lost: Airflow may well have started the run
                found = self.api.find(self.api.runs.get_dag_run, dag_id, run_id)
                if found is not None:
                    return DagRun(self, dag_id, found, attached=found.note != ours)
            asked = True
            try:
                return DagRun(self, dag_id, self.api.call(self.api.runs.trigger_dag_run, dag_id, body), attached=False)
            except ConflictException as error:
                found = self.api.find(self.api.runs.get_dag_run, dag_id, run_id)
                if found is None:
                    raise PassingFault(f"{message_of(error)}, but there is no run {run_id}") from error
                return DagRun(self, dag_id, found, attached=True)
            except NotFoundException as error:
                raise PassingFault(message_of(error)) from error
            except (BadRequestException, UnprocessableEntityException) as error:
                message = f"Airflow at {self.api.address} would not start {run_id} of the DAG {dag_id}"
                raise ConfigurationError(f"{message}: {message_of(error)}") from error

        try:
            return self.persist(trigger)
        except (NoVerdict, ConfigurationError):
            raise
        except BaseException:  # a signal, while nobody else knows of the run yet
            if asked:
                self.cancel(dag_id, run_id)
            raise

    def cancel(self, dag_id: str, run_id: str, *, patience_seconds: float = 5.0) -> bool:
        """End the run and its tasks at work. False when it had ended or did not exist, or when that failed (in a note).

        Airflow ends the tasks' processes at their next heartbeat, within seconds.
        patience_seconds: how long Airflow may give no good answer.
        """
        asked = False

        def end() -> bool:
            """Whether the run has ended; asks Airflow to end it when it has not."""
            nonlocal asked
            try:
                run = self.api.call(self.api.runs.get_dag_run, dag_id, run_id, seconds=patience_seconds)
                if run.state.value == "failed" or (run.state.value in ENDED_RUN and not asked):
                    return True
                asked = True
                body = airflow.DAGRunPatchBody(state=airflow.DagRunMutableStates.FAILED)
                self.api.call(self.api.runs.patch_dag_run, dag_id, run_id, body, seconds=patience_seconds)
            except NotFoundException:
                return True
            return False

        try:
            # A scheduler on SQLite that is just starting the run overwrites its state: it skips the tasks to come, and
            # the run succeeds. So the run must be seen as failed several times.
            until = time.monotonic() + 2 * patience_seconds
            seen = 0
            while seen < CANCEL_LOOKS and time.monotonic() < until:
                seen = seen + 1 if self.persist(end, grace_seconds=patience_seconds) else 0
                if not asked:
                    return False
                time.sleep(POLL_SECONDS)
        except (NoVerdict, ConfigurationError) as error:
            self.note(f"the DAG run {run_id} could not be cancelled, and may go on: {error}")
            return False
        return True

    def persist(
        self, ask: Callable[[], T], *, grace_seconds: float | None = None, meanwhile: Callable[[], None] = lambda: None
    ) -> T:
        """What ``ask`` answers, asked again while a fault may pass; ``meanwhile`` runs between, and may raise.

        Raises NoVerdict when no good answer came for ``grace_seconds`` or an answer is bad for good, and
        ConfigurationError when our user may not do what was asked.
        """
        grace = self._grace_seconds if grace_seconds is None else grace_seconds
        airflow = f"Airflow at {self.api.address}"
        since: float | None = None

        def passes(error: Exception) -> bool:
            nonlocal since
            if isinstance(error, ForbiddenException):
                message = f"{airflow} does not allow this to our user: {message_of(error)}"
                raise ConfigurationError(f"{message}. It must be able to read, start and change DAG runs") from error
            if isinstance(error, ApiException):
                raise NoVerdict(f"{airflow} answered {message_of(error)}") from error
            if not isinstance(error, PassingFault):
                return False
            now = time.monotonic()
            if since is None:
                since = now
                self.note(f"{airflow} gives no good answer, waiting up to {grace:.0f} s: {error}")
            if now - since >= grace:
                message = f"{airflow} gave no good answer for {now - since:.0f} s: {error}"
                raise NoVerdict(f"{message}. Is it up? Then run this again: it attaches to the run") from error
            return True

        patience = Patience(math.inf, first_pause=POLL_SECONDS, longest_pause=POLL_SECONDS)
        answer = patience.ask(ask, passes, waiting=lambda _: meanwhile())
        if since is not None:
            self.note(f"Airflow answers again, after {time.monotonic() - since:.0f} s")
        return answer

    def dag(self, dag_id: str) -> Any:  # noqa: ANN401 - the client's models have no types
        """The DAG, or None. Raises PassingFault, and ConfigurationError when the DAG is paused, so starts no task."""
        dag = self.api.find(self.api.dags.get_dag, dag_id)
        if dag is not None and dag.is_paused:
            hint = f"run 'airflow dags unpause {dag_id}', then this again"
            raise ConfigurationError(f"the DAG {dag_id} is paused in Airflow at {self.api.address}: {hint}")
        return dag

    def runs(self, dag_id: str, **filters: Any) -> list[Any]:  # noqa: ANN401 - as above
        """The runs of a DAG; none while Airflow does not know the DAG. filters: options of `get_dag_runs`."""

        def ask() -> list[Any]:
            try:
                return self.api.pages("dag_runs", self.api.runs.get_dag_runs, dag_id, **filters)
            except NotFoundException:
                return []

        return self.persist(ask)

    def _require_dag(self, dag_id: str) -> None:
        """Return when the DAG can be started."""
        began = time.monotonic()
        noted = False
        while True:
            dag = self.persist(lambda: self.dag(dag_id))
            if dag is not None and not dag.is_stale:  # as it also is once its file cannot be read
                return
            if time.monotonic() - began >= self._new_dag_seconds:
                raise ConfigurationError(self._missing(dag_id, dag))
            if not noted:
                noted = True
                self.note(f"Airflow has no DAG {dag_id!r} (yet), waiting up to {self._new_dag_seconds:.0f} s")
            time.sleep(POLL_SECONDS)

    def _missing(self, dag_id: str, dag: Any) -> str:  # noqa: ANN401 - as above
        errors = self.persist(lambda: self.api.pages("import_errors", self.api.import_errors.get_import_errors))
        if dag is not None:  # its file is known, so nothing else is to blame
            errors = [error for error in errors if error.filename == dag.relative_fileloc]
        read = [f"\n{error.filename}: {error.stack_trace.strip().rpartition(chr(10))[2]}" for error in errors]
        hint = "DAG files could not be read:" if read else "is the challenge's file in what Airflow reads?"
        return f"Airflow at {self.api.address} has no DAG {dag_id!r}; {hint}{''.join(read[:IMPORT_ERRORS])}"


class DagRun:
    """A run that was started or attached to; ``state`` and ``tasks`` are those of the last look."""

    def __init__(self, airflow: Airflow, dag_id: str, run: Any, *, attached: bool) -> None:  # noqa: ANN401 - the client's models have no types
        self.dag_id = dag_id
        self.run_id = str(run.dag_run_id)
        self._key = (self.dag_id, self.run_id)
        self.attached = attached
        self.state = str(run.state.value)
        self.tasks: list[TaskState] = []
        self._airflow = airflow
        self._api = airflow.api
        self._queued_at: datetime | None = run.queued_at
        self._run_after: datetime = run.run_after
        self._finished: dict[str, tuple[str, int]] = {}

    @property
    def url(self) -> str:
        """The run's page in Airflow."""
        return f"{self._api.address}/dags/{quote(self.dag_id)}/runs/{quote(self.run_id, safe=':')}"

    def log_url(self, task: TaskState) -> str:
        """The page that shows the log of the task's last attempt."""
        attempt = f"?try_number={task.attempt}" if task.attempt else ""
        return f"{self.url}/tasks/{quote(task.name)}{attempt}"

    def changes(
        self, deadline_seconds: float, *, on_poll: Callable[[], None] = lambda: None
    ) -> Iterator[list[TaskState]]:
        """The tasks, whenever the state of one has changed, until the run has ended; then ``state`` says how.

        on_poll: called at each look at the run, also while Airflow does not answer; what it raises ends the watch.
        Raises NoVerdict when the run is not done after that long (it goes on), was cleared, deleted or changed by hand,
        or when Airflow is away for too long; ConfigurationError when the DAG is paused.
        """
        until = time.monotonic() + deadline_seconds

        def meanwhile() -> None:
            on_poll()
            if time.monotonic() > until:
                raise NoVerdict(f"the run is not done after {deadline_seconds:.0f} s; it goes on at {self.url}")

        looked, last = False, list[tuple[str, str, int]]()
        while True:
            ended = self._airflow.persist(self._look, meanwhile=meanwhile)
            states = [(task.name, task.state, task.attempt) for task in self.tasks]
            if states != last:
                last = states
                yield self.tasks
            if ended or (self.attached and not looked):
                self._airflow.persist(self._require_untouched, meanwhile=meanwhile)
                looked = True
            if ended:
                return
            meanwhile()
            time.sleep(POLL_SECONDS)

    def log(self, task: TaskState) -> list[str]:
        """The lines of the task's last attempt, without secrets, or one line that says why they cannot be read.

        The task chose them: a caller that prints or posts them must disarm them.
        """
        if not task.attempt:
            return []
        # The client's model of a log entry omits what was raised, so the raw answer is read.
        get_log = partial(self._api.tasks.get_log_with_http_info, *self._key, task.name, task.attempt)
        try:
            found = self._airflow.persist(lambda: self._api.call(get_log, full_content=True))
        except (NoVerdict, ConfigurationError) as error:
            return [f"(the log cannot be read: {error})"]
        entries = json.loads(found.raw_data)["content"]
        return [redacted(line) for entry in entries for line in _lines(entry) if not line.startswith(GROUPS)]

    def cancel(self, *, patience_seconds: float = 5.0) -> bool:
        """As `Airflow.cancel`."""
        done = self._airflow.cancel(self.dag_id, self.run_id, patience_seconds=patience_seconds)
        if done:
            self.state = "failed"
        return done

    def _look(self) -> bool:
        """Read state and tasks; whether the run has ended, in which case the tasks are those of its end."""
        try:
            # The state is read first, so that tasks that are read after an end are those of the ended run.
            run = self._api.call(self._api.runs.get_dag_run, *self._key)
            tasks = self._api.pages("task_instances", self._api.tasks.get_task_instances, *self._key)
        except NotFoundException as error:
            if self.run_id not in (error.body or ""):  # a proxy's words, before an Airflow that restarts
                raise PassingFault(message_of(error)) from error
            raise NoVerdict(f"the run {self.run_id} was deleted by hand from Airflow at {self._api.address}") from error
        self.state = str(run.state.value)
        self.tasks = sorted(
            (_task_state(each) for each in tasks), key=lambda task: (task.started is None, task.started, task.name)
        )
        self._require_same(run)
        if self.state not in ENDED_RUN and not any(task.state == "running" for task in self.tasks):
            self._airflow.dag(self.dag_id)  # raises when it is paused
        return self.state in ENDED_RUN

    def _require_same(self, run: Any) -> None:  # noqa: ANN401 - as above
        cleared_before = run.queued_at is not None and run.queued_at - run.run_after > CLEARED
        if cleared_before or run.queued_at != self._queued_at or run.run_after != self._run_after:
            raise NoVerdict(self._touched("was cleared by hand, or started anew, in Airflow"))
        for task in self.tasks:
            was = self._finished.get(task.name)
            if was is not None and was != (task.state, task.attempt):
                raise NoVerdict(self._touched(f"had its task {task.name} cleared or changed by hand in Airflow"))
            if task.state in FINISHED_TASK:
                self._finished[task.name] = (task.state, task.attempt)

    def _require_untouched(self) -> None:
        """Raises NoVerdict when the audit log holds a change by hand since the run was started."""
        try:
            events = self._api.call(
                self._api.events.get_event_logs,
                limit=PAGE,
                dag_id=self.dag_id,
                run_id=self.run_id,
                after=self._run_after,
                included_events=list(CHANGED_BY_HAND),
            ).event_logs
        except ForbiddenException:
            self._airflow.note("our user may not read Airflow's audit log: a task cleared by hand may go unseen")
            return
        for event in events:
            if event.event.startswith("patch_") and "state" not in (event.extra or ""):
                continue  # a note was written on it
            raise NoVerdict(self._touched(f"was changed by hand in Airflow ({event.event} by {event.owner})"))

    def _touched(self, how: str) -> str:
        first = "" if self.state == "failed" else "mark the run as failed in Airflow, then "
        return f"the run {self.run_id} {how}, so what it left is no evidence: {first}run this again for a new attempt"


def _task_state(found: Any) -> TaskState:  # noqa: ANN401 - the client's models have no types
    return TaskState(
        str(found.task_id),
        str(found.state.value if found.state else "waiting"),
        float(found.duration or 0.0),
        int(found.try_number),
        found.start_date,
        found.end_date,
    )


def _lines(entry: str | Mapping[str, Any]) -> list[str]:
    """A log entry's text, and what was raised there."""
    if isinstance(entry, str):
        return entry.splitlines()
    raised = entry.get("error_detail") or []
    return [
        *str(entry.get("event", "")).splitlines(),
        *(f"{each.get('exc_type')}: {each.get('exc_value')}" for each in raised),
    ]
