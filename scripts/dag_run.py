"""One run of a DAG through Airflow's REST API: trigger it, and follow its tasks to the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import httpx
from airflow_client import client as airflow
from airflow_client.client.exceptions import ApiException, NotFoundException
from urllib3.exceptions import HTTPError

from scripts.services import StackError

ENDED_RUN = {"success", "failed"}
POLL_SECONDS = 0.5
GRACE_SECONDS = 60.0
"""How long Airflow may fail to answer before the watch is given up; the run itself goes on."""


@dataclass(frozen=True)
class TaskState:
    """A task of the run as Airflow sees it now."""

    name: str
    state: str
    seconds: float
    attempt: int
    started: datetime | None


@dataclass(frozen=True)
class DagRun:
    """A triggered run."""

    dag_id: str
    run_id: str
    address: str
    api: airflow.ApiClient

    @property
    def url(self) -> str:
        return f"{self.address}/dags/{self.dag_id}/runs/{self.run_id}"

    def changes(self, deadline_seconds: float) -> Iterator[list[TaskState]]:
        """The tasks' states, whenever one has changed, until the run has ended. Raises StackError."""
        began = answered = time.monotonic()
        last: list[tuple[str, str, int]] = []
        while True:
            try:
                # The run's state is read first, so that the tasks read after it are those of an ended run.
                run = airflow.DagRunApi(self.api).get_dag_run(self.dag_id, self.run_id)
                tasks = self._tasks()
                answered = time.monotonic()
            except (ApiException, HTTPError) as error:
                if time.monotonic() - answered > GRACE_SECONDS:
                    raise StackError(f"Airflow at {self.address} does not answer any more: {error}") from error
                time.sleep(POLL_SECONDS)
                continue
            states = [(task.name, task.state, task.attempt) for task in tasks]
            if states != last:
                last = states
                yield tasks
            if run.state in ENDED_RUN:
                return
            if time.monotonic() - began > deadline_seconds:
                raise StackError(f"the run is not done after {deadline_seconds:.0f} s; it goes on at {self.url}")
            time.sleep(POLL_SECONDS)

    def log(self, task: TaskState) -> list[str]:
        """The lines of the task's last attempt."""
        found = airflow.TaskInstanceApi(self.api).get_log(
            self.dag_id, self.run_id, task.name, max(task.attempt, 1), full_content=True
        )
        content = found.content.actual_instance or []
        return [str(getattr(entry, "actual_instance", entry).event) for entry in content if not isinstance(entry, str)]

    def _tasks(self) -> list[TaskState]:
        found = airflow.TaskInstanceApi(self.api).get_task_instances(self.dag_id, self.run_id).task_instances
        tasks = [
            TaskState(
                each.task_id,
                str(each.state.value if each.state else "waiting"),
                float(each.duration or 0.0),
                int(each.try_number),
                each.start_date,
            )
            for each in found
        ]
        return sorted(tasks, key=lambda task: (task.started is None, task.started, task.name))


def trigger(
    addresses: Mapping[str, str],
    dag_id: str,
    run_id: str,
    parameters: Mapping[str, str],
    patience_seconds: float = GRACE_SECONDS,
) -> DagRun:
    """Start a run of the DAG; waits until Airflow has read the DAG's file. Raises StackError."""
    address = addresses["AIRFLOW_API_URL"].rstrip("/")
    api = airflow.ApiClient(airflow.Configuration(host=address, access_token=_token(address, addresses)))
    body = airflow.TriggerDAGRunPostBody(dag_run_id=run_id, logical_date=None, conf=dict(parameters))
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            run = airflow.DagRunApi(api).trigger_dag_run(dag_id, body)
            return DagRun(dag_id, str(run.dag_run_id), address, api)
        except NotFoundException:
            if time.monotonic() > deadline:
                errors = airflow.ImportErrorApi(api).get_import_errors().import_errors
                told = "".join(f"\n{error.filename}: {error.stack_trace}" for error in errors)
                raise StackError(f"Airflow at {address} has no DAG {dag_id!r}.{told}") from None
            time.sleep(POLL_SECONDS)
        except ApiException as error:
            raise StackError(f"Airflow at {address} would not start {dag_id}: {error.status} {error.body}") from error
        except HTTPError as error:
            raise StackError(f"Airflow at {address} cannot be reached: {error}") from error


def _token(address: str, addresses: Mapping[str, str]) -> str:
    if "AIRFLOW_TOKEN" in addresses:
        return addresses["AIRFLOW_TOKEN"]
    missing = [name for name in ("AIRFLOW_USERNAME", "AIRFLOW_PASSWORD") if name not in addresses]
    if missing:
        raise StackError(f"set AIRFLOW_TOKEN, or {' and '.join(missing)}, in the environment (see .env.example)")
    user = {"username": addresses["AIRFLOW_USERNAME"], "password": addresses["AIRFLOW_PASSWORD"]}
    try:
        answer = httpx.post(f"{address}/auth/token", json=user, timeout=10.0)
        answer.raise_for_status()
        return str(answer.json()["access_token"])
    except (httpx.HTTPError, KeyError, ValueError) as error:
        raise StackError(f"Airflow at {address} gave no token for {user['username']!r}: {error}") from error
