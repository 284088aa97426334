"""The whole laptop stack, started once: Airflow, MLflow, S3, the replay; it runs a clone of this repository.

Each module finds it in the same state, whichever modules came before: see ``laptop``.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import pytest
from mlflow.exceptions import RestException
from mlflow.tracking import MlflowClient

from clients.dag_run import Airflow, DagRun, TaskState
from clients.git import Git
from clients.settings import airflow_settings
from scripts.gate_demo import CHALLENGE
from scripts.processes import Started, end
from scripts.services import REPLAY_STARTS, ROOT, Stack, separate_stack, set_clock
from scripts.stack import down, up

DEADLINE_SECONDS = 400.0
IDENTITY = {"user.name": "Test", "user.email": "test@rps.invalid"}


@dataclass(frozen=True)
class Laptop:
    """A running stack, and the team's repository whose commits it runs."""

    stack: Stack
    repository: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.stack.settings, **self.stack.addresses}

    @property
    def mlflow(self) -> MlflowClient:
        address = self.stack.addresses["MLFLOW_TRACKING_URI"]
        return MlflowClient(tracking_uri=address, registry_uri=address)

    def git(self, *arguments: str) -> str:
        return Git(self.repository, settings=IDENTITY).text(*arguments)

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

    def start(self, run_id: str = "", **parameters: str) -> DagRun:
        """A run of the pipeline, of the repository's HEAD by default; the one of this id when it is there already."""
        run_id = run_id or f"test__{secrets.token_hex(4)}"
        conf = {"git_sha": self.git("rev-parse", "HEAD"), "run_id": run_id, "reason": "test", **parameters}
        return Airflow(airflow_settings(self.stack.addresses)).start(f"retrain_{CHALLENGE}", run_id, conf)

    @staticmethod
    def wait(run: DagRun) -> dict[str, TaskState]:
        """Its tasks, by name, once it has ended."""
        *_, tasks = run.changes(DEADLINE_SECONDS)
        return {task.name: task for task in tasks}

    def reset(self, head: str) -> None:
        """Back to the start: no model served or in production, no fault, the data's first moment, this commit."""
        records = [self.stack.home / "processes" / f"{name}.json" for name in ("feed", "service")]
        online = [msgspec.json.decode(path.read_bytes(), type=Started) for path in records if path.exists()]
        end(online, patience_seconds=5)
        url = self.stack.addresses["OPEN_METEO_URL"]
        httpx.delete(f"{url}/replay/faults").raise_for_status()
        set_clock(url, speed=1.0, now=REPLAY_STARTS)
        with contextlib.suppress(RestException):  # no model yet, or none in production
            self.mlflow.delete_registered_model_alias(CHALLENGE, "production")
        # On a branch of its own, so that every other one can be pushed to.
        self.git("switch", "--quiet", "--force-create", "checked-out", head)


@pytest.fixture(scope="session")
def started_laptop(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    home = tmp_path_factory.mktemp("laptop")
    (home / "envs").symlink_to(kept / "envs")
    repository = home / "repository"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(repository)], check=True)
    stack = separate_stack(home, repository)
    try:
        up(stack)
        yield Laptop(stack, repository)
    finally:
        down(stack)


@pytest.fixture(scope="session")
def first_commit(started_laptop: Laptop) -> str:
    return started_laptop.git("rev-parse", "HEAD")


@pytest.fixture(scope="module")
def laptop(started_laptop: Laptop, first_commit: str) -> Laptop:
    """The stack as it is at the start of each module; only its history (runs, model versions, branches) grows."""
    started_laptop.reset(first_commit)
    return started_laptop


def python(*arguments: str, environment: dict[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
