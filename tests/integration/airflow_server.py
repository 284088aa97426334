"""A real Airflow with small DAGs: the API server, scheduler and DAG processor of the laptop stack, and nothing else.

Modules share the one of `tests.integration.airflow_fixture`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from clients.settings import AirflowSettings, airflow_settings
from scripts.processes import Started, comes_up, end, start
from scripts.services import READY_SECONDS, ROOT, Service, Stack, free_ports

ELSEWHERE = {
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    "RPS_STORE": "s3://none",
    "OPEN_METEO_URL": "http://127.0.0.1:9",
}

DAGS = f'''
import sys
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Param

sys.path.insert(0, {str(ROOT / "dags")!r})
from retrain import CommandOperator


class Shell(CommandOperator):
    """A shell command, run as a stage is; it sees the run's parameters."""

    def __init__(self, *, command, **arguments):
        super().__init__(**arguments)
        self.command = command

    def execute(self, context):
        parameters = {{name: str(value) for name, value in context["params"].items()}}
        parameters["attempt"] = str(context["ti"].try_number)
        self.run_command(["sh", "-c", self.command], Path.cwd(), parameters)


def dag(name, **arguments):
    parameters = {{"hold": Param("0", type="string"), "code": Param("0", type="string")}}
    # More than the tests ask for: on a machine that is short of time, Airflow loses an attempt now and then.
    retry = {{"retries": 4, "retry_delay": timedelta(seconds=1)}}
    with DAG(name, schedule=None, params=parameters, default_args=retry, **arguments) as made:
        work = Shell(task_id="work", command='echo "at work"; exec sleep "$hold"')
        passing = '[ "$code" != 75 ] || [ "$attempt" != 1 ] || exit 75'
        end = Shell(task_id="end", command=f'echo "attempt $attempt"; {{passing}}; [ "$code" = 75 ] || exit "$code"')
        work >> end
    return made


steps = dag("steps")
halting = dag("halting")
asleep = dag("asleep", is_paused_upon_creation=True)
'''
BROKEN = "raise RuntimeError('this DAG file of Airflow is broken')\n"


class AirflowServer:
    """The processes of one Airflow; each can be ended and started again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.dags = home / "dags"
        self.dags.mkdir()
        self._stack = Stack(home, {"RPS_AIRFLOW_PORT": str(free_ports(1)), **ELSEWHERE})
        quick = {
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            # A file that is added or changed is read at once. Reading the others again and again takes a fifth of a
            # core.
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "1",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",  # no run but those that a test asks for
            "AIRFLOW__API__MAXIMUM_PAGE_LIMIT": "1",  # so that every list comes in pages
            "PYTHONPATH": str(ROOT),
        }
        services = self._stack.services
        self._services = {
            service.name: replace(service, environment={**service.environment, **quick})
            for service in services
            if service.name.startswith("airflow")
        }
        self._processes: dict[str, Started] = {}

    @property
    def settings(self) -> AirflowSettings:
        return airflow_settings(self._stack.addresses)

    def add_dags(self, name: str, text: str) -> None:
        (self.dags / f"{name}.py").write_text(text, encoding="utf-8")

    def start(self, *names: str) -> None:
        """Start these services, or all; they are well when this returns."""
        started = [self._services[name] for name in names or self._services]
        for service in started:
            environment = {**os.environ, **service.environment}
            if service.prepare and not self._processes:
                subprocess.run(service.prepare, cwd=self.home, env=environment, check=True, capture_output=True)
            log = self._log(service)
            self._processes[service.name] = start(
                service.command, log=log, environment=environment, directory=self.home, address=service.address
            )
        for service in started:
            process = self._processes[service.name]
            if not comes_up(process, service.healthy, seconds=READY_SECONDS):
                pytest.fail(f"{service.name} did not come up:\n{self._log(service).read_text()[-3000:]}")

    def end(self, *names: str) -> None:
        """End these services, or all, and what they have started."""
        end([self._processes[name] for name in names or self._processes], patience_seconds=3)

    def _log(self, service: Service) -> Path:
        return self.home / f"{service.name}.log"


@contextmanager
def airflow_server(home: Path) -> Iterator[AirflowServer]:
    """Airflow, with `DAGS` and a broken DAG file, until the block ends."""
    server = AirflowServer(home)
    server.add_dags("small", DAGS)
    server.add_dags("broken", BROKEN)
    try:
        server.start()
        yield server
    finally:
        server.end()
