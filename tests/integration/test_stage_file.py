from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from records.stages import STAGES
from tests.runs import ROOT

COMMANDS = {"order": ["repro", "--dry"], "stages": ["stage", "list", "--name-only"]}
ASK = """
import sys
from dvc.cli import main
for command in sys.argv[1:]:
    code = main(command.split())
    print(f"ended {code}", flush=True)
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what `dvc repro` looks at, with a stand-in for every file that a stage reads."""
    tmp_path = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("pipelines", "forecasting", "records", "clients", "challenges"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", tmp_path / ".dvc")
    data = tmp_path / "data" / "weather"
    data.mkdir(parents=True)
    for path in (data / name for stage in STAGES.values() for name in stage.writes):
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        else:
            path.mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def said(repository: Path) -> dict[str, str]:
    """What DVC says to each command; one process, because importing it takes the longest."""
    command = [sys.executable, "-c", ASK, *map(" ".join, COMMANDS.values())]
    done = subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True)
    *parts, rest = done.stdout.split("ended 0\n")
    assert (len(parts), rest) == (len(COMMANDS), ""), done.stdout + done.stderr
    return dict(zip(COMMANDS, parts, strict=True))


def test_dvc_repro_runs_the_stages_that_airflow_runs_in_an_order_that_works(said: dict[str, str]) -> None:
    commands = [line.removeprefix("> ") for line in said["order"].splitlines() if line.startswith("> ")]
    assert set(commands) == {f"python -m pipelines {stage} --challenge weather" for stage in STAGES}
    order = [command.split()[3] for command in commands]
    for earlier, later in [
        ("ingest", "merge"), ("merge", "validate"), ("validate", "transform"), ("transform", "train"),
        ("train", "evaluate"), ("validate", "profile"),
    ]:  # fmt: skip
        assert order.index(earlier) < order.index(later)


def test_every_challenge_is_in_the_stage_file(said: dict[str, str]) -> None:
    stages = said["stages"].split()
    challenges = [path.stem for path in (ROOT / "challenges").glob("*.toml")]
    assert set(stages) == {f"{stage}@{challenge}" for stage in STAGES for challenge in challenges}
