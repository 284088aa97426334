from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.__main__ import STAGES
from tests.runs import ROOT


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of what `dvc repro` looks at, with a stand-in for every file that a stage reads."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("pipelines", "forecasting", "challenges"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", tmp_path / ".dvc")
    data = tmp_path / "data" / "weather"
    for directory in ("bundle", "sklearn"):
        (data / directory).mkdir(parents=True)
    files = "run.json collection.json history.parquet observations.parquet quality.json quality.md features.parquet"
    for name in (
        *files.split(),
        "profile.html",
        "dataset.json",
        "evaluation.json",
        "losses.parquet",
        "registered.json",
    ):
        (data / name).write_text("{}")
    return tmp_path


def dvc(repository: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True).stdout


def test_dvc_repro_runs_the_stages_that_airflow_runs_in_an_order_that_works(repository: Path) -> None:
    said = dvc(repository, "repro", "--dry")
    commands = [line.removeprefix("> ") for line in said.splitlines() if line.startswith("> ")]
    assert set(commands) == {f"python -m pipelines {stage} --challenge weather" for stage in STAGES}
    order = [command.split()[3] for command in commands]
    for earlier, later in [
        ("ingest", "validate"), ("validate", "transform"), ("transform", "version"), ("version", "train"),
        ("train", "evaluate"), ("evaluate", "register"), ("profile", "register"),
    ]:  # fmt: skip
        assert order.index(earlier) < order.index(later)


def test_every_challenge_is_in_the_stage_file(repository: Path) -> None:
    stages = dvc(repository, "stage", "list", "--name-only").split()
    challenges = [path.stem for path in (ROOT / "challenges").glob("*.toml")]
    assert set(stages) == {f"{stage}@{challenge}" for stage in STAGES for challenge in challenges}
