"""The whole laptop stack, started once: Airflow, MLflow, S3, the replay; it runs a clone of this repository."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import pytest

from ci.dag_run import Airflow, DagRun, TaskState
from ci.settings import airflow_settings
from scripts.processes import Started, end
from scripts.services import ROOT, Stack, separate_stack
from scripts.stack import down, up

DEADLINE_SECONDS = 400.0
IDENTITY = ["-c", "user.name=Test", "-c", "user.email=test@rps.invalid"]


@dataclass(frozen=True)
class Laptop:
    """A running stack, and the team's repository whose commits it runs."""

    stack: Stack
    repository: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.stack.settings, **self.stack.addresses}

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.repository), *IDENTITY, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def commit(self, branch: str, changes: dict[str, tuple[str, str]]) -> str:
        """A commit on a branch of its own, from HEAD: in each file, one text replaced by another. Its SHA."""
        self.git("switch", "--quiet", "--create", branch)
        for name, (old, new) in changes.items():
            path = self.repository / name
            text = path.read_text(encoding="utf-8")
            assert old in text
            path.write_text(text.replace(old, new), encoding="utf-8")
        self.git("commit", "--quiet", "--all", "--message", branch)
        sha = self.git("rev-parse", "HEAD")
        self.git("switch", "--quiet", "-")
        return sha

    def start(self, **parameters: str) -> DagRun:
        run_id = f"test__{secrets.token_hex(4)}"
        conf = {"git_sha": self.git("rev-parse", "HEAD"), "run_id": run_id, "reason": "test", **parameters}
        return Airflow(airflow_settings(self.stack.addresses)).start("retrain_weather", run_id, conf)

    def run(self, **parameters: str) -> tuple[DagRun, dict[str, TaskState]]:
        return self.wait(self.start(**parameters))

    @staticmethod
    def wait(run: DagRun) -> tuple[DagRun, dict[str, TaskState]]:
        *_, tasks = run.changes(DEADLINE_SECONDS)
        return run, {task.name: task for task in tasks}


@pytest.fixture(scope="session")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    home = tmp_path_factory.mktemp("laptop")
    repository = home / "repository"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(repository)], check=True)
    stack = separate_stack(home, repository)
    try:
        up(stack)
        yield Laptop(stack, repository)
    finally:
        down(stack)


@pytest.fixture
def fault(laptop: Laptop) -> Iterator[Callable[..., None]]:
    """Switches a fault of the replay on, for the pipeline alone: the demo's feed is ended. All are off at the end."""
    record = laptop.stack.home / "processes" / "feed.json"
    if record.exists():
        end([msgspec.json.decode(record.read_bytes(), type=Started)], patience_seconds=5)
    url = f"{laptop.stack.addresses['OPEN_METEO_URL']}/replay/faults"

    def switch_on(kind: str, **settings: object) -> None:
        httpx.put(url, json={"kind": kind, **settings}).raise_for_status()

    yield switch_on
    httpx.delete(url).raise_for_status()


def python(*arguments: str, environment: dict[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
