"""A workspace in which the whole pipeline can be run stage by stage, as processes, against real services."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from records.stages import STEPS
from tests.replay_fixture import Replay

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Pipeline:
    """The workspace, and the environment that names its services."""

    workspace: Path
    environment: dict[str, str]

    @property
    def data(self) -> Path:
        return self.workspace / "data" / "weather"

    def start(self, stage: str, **changes: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.carrier", stage, "--challenge", "weather"],
            cwd=self.workspace,
            env={**self.environment, **changes},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, stage: str, **changes: str) -> tuple[int, str]:
        """Exit code and output."""
        process = self.start(stage, **changes)
        output, _ = process.communicate(timeout=180)
        return process.returncode, output

    def run_all(self, stages: Iterable[str] = STEPS) -> None:
        for stage in stages:
            code, output = self.run(stage)
            assert code == 0, f"{stage}: {output}"

    def commits(self) -> list[str]:
        command = ["git", "-C", self.environment["RPS_REPOSITORY"], "log", "--format=%B", "data/weather"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.split("\n\n") if done.returncode == 0 else []


@pytest.fixture
def pipeline(tmp_path: Path, replay: Replay, store_env: dict[str, str], tracking_env: str) -> Pipeline:
    """An empty workspace with the weather challenge, its services real, its run identified."""
    return new_pipeline(tmp_path)


def new_pipeline(directory: Path, **changes: str) -> Pipeline:
    """The same in any directory; its services are those that the environment and ``changes`` name."""
    workspace = directory / "workspace"
    (workspace / "challenges").mkdir(parents=True)
    shutil.copy(ROOT / "challenges" / "weather.toml", workspace / "challenges")
    repository = directory / "repository.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(repository)], check=True)
    subprocess.run(["git", "init", "--quiet", str(workspace)], check=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RPS_REPOSITORY": str(repository),
        "RPS_RUN_ID": f"kill__{directory.name}",
        "RPS_GIT_SHA": "a" * 40,
        "RPS_REASON": "test",
        **changes,
    }
    return Pipeline(workspace, environment)


@pytest.fixture
def patient(pipeline: Pipeline) -> Pipeline:
    """The same, with a source that is given up on quickly."""
    path = pipeline.workspace / "challenges" / "weather.toml"
    text = path.read_text(encoding="utf-8")
    text = text.replace("timeout_seconds = 30.0", "timeout_seconds = 3.0").replace("attempts = 5", "attempts = 1")
    path.write_text(text, encoding="utf-8")
    return pipeline
