"""The command of the stages: how a run starts, and what it says, with which exit code, whatever the surroundings."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from clients.errors import ConfigurationError
from pipelines.files import write_json
from pipelines.history import Collection
from pipelines.run import open_run, parse_utc
from tests.runs import AS_OF, ROOT, made_up_weather, make_run, write_observations


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("RPS_RUN_ID", "RPS_AS_OF", "RPS_GIT_SHA", "RPS_CLOCK_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def stage(workspace: Path, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines", name, "--challenge", "weather"],
        capture_output=True,
        text=True,
        check=False,
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


@pytest.mark.parametrize(
    "text", ["rubbish", "2013", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-10:00", "0001-01-01", "2300-01-01"]
)
def test_a_moment_that_cannot_be_is_reported(workspace: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RPS_AS_OF", text)
    with pytest.raises(ConfigurationError, match="RPS_AS_OF: expected an ISO 8601 time"):
        open_run("weather", starts=True)


def test_a_moment_with_an_offset_is_taken_to_utc() -> None:
    assert parse_utc("2013-12-30T23:00:00+02:00", "it") == datetime(2013, 12, 30, 21, tzinfo=UTC)


def test_a_run_starts_without_git(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(workspace))
    assert open_run("weather", starts=True).identity.git_sha == "unknown"


def test_a_log_that_takes_only_ascii_ends_no_stage(workspace: Path) -> None:
    run = open_run("weather", starts=False)
    table = made_up_weather(hours=24 * 90)
    table.loc[:100, "temperature"] = 99.0
    write_observations(run, table)
    write_json(run.files.collection, collected(run.identity.run_id, len(table)))
    done = stage(workspace, "validate", PYTHONIOENCODING="ascii")
    assert done.returncode == 65, done.stderr
    assert "values are outside -60 \\u2026 60" in done.stdout


def test_observations_of_another_run_are_not_judged(workspace: Path) -> None:
    run = open_run("weather", starts=False)
    table = made_up_weather(hours=24 * 90)
    write_observations(run, table)
    write_json(run.files.collection, collected("another", len(table)))
    done = stage(workspace, "validate")
    assert done.returncode == 64, done.stderr
    assert "is of run 'another'" in done.stderr
    assert not run.files.quality.exists()


def collected(run_id: str, rows: int) -> Collection:
    return Collection(
        run_id=run_id,
        as_of=AS_OF,
        requested_since=AS_OF,
        requested_until=AS_OF,
        fingerprint="",
        raw_keys=(),
        rows_received=rows,
        rows_new=rows,
        repeats=0,
        conflicting_repeats=0,
        out_of_order=0,
        raw_folded=0,
        raw_unreadable=(),
        rows=rows,
        rows_by_series={},
    )
