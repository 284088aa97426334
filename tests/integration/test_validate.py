from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pipelines import ingest, validate
from pipelines.errors import ConfigurationError, DataRejected
from pipelines.quality import QualityReport
from pipelines.run import Run, open_run
from tests.replay_fixture import Replay
from tests.runs import make_run


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RPS_RUN_ID", raising=False)
    return tmp_path


def ingested() -> Run:
    """A new run as of the replay's clock, with what the replay sent."""
    run = open_run("weather", starts=True)
    ingest.run(run)
    return run


def report_of(run: Run) -> QualityReport:
    return msgspec.json.decode(run.files.quality.read_bytes(), type=QualityReport)


def broken_rules(run: Run) -> set[str]:
    with pytest.raises(DataRejected) as rejected:
        validate.run(run)
    report = report_of(run)
    assert not report.passed
    for violation in report.errors:
        assert violation.message in str(rejected.value)
        assert violation.rule in run.files.quality_report.read_text()
    return {violation.rule for violation in report.errors}


@pytest.mark.usefixtures("store_env", "workspace", "replay")
def test_the_recorded_year_passes_and_is_accepted_into_the_history() -> None:
    run = ingested()
    validate.run(run)
    report = report_of(run)
    assert report.passed
    assert report.rows > 26_000
    assert "passed" in run.files.quality_report.read_text()


@pytest.mark.usefixtures("store_env", "workspace")
@pytest.mark.parametrize(
    ("fault", "options", "rule"),
    [
        ("null_burst", {"hours": 24}, "recent_nulls"),
        ("stuck", {"hours": 48}, "stuck"),
        ("changed_units", {"silent": True}, "unit_change"),
    ],
)
def test_a_fault_of_the_source_is_rejected_and_mended_data_pass_afterwards(
    replay: Replay, fault: str, options: dict[str, object], rule: str
) -> None:
    replay.move_clock("2013-12-30T11:00:00Z")
    validate.run(ingested())
    replay.move_clock("2013-12-30T23:00:00Z")
    replay.fault(fault, **options)
    rejected = ingested()
    kept = rejected.files.observations.read_bytes
    before = kept()
    assert rule in broken_rules(rejected)
    assert kept() == before, "the rejected data stays for inspection"
    replay.clear_faults()
    mended = ingested()
    validate.run(mended)
    assert report_of(mended).passed


@pytest.mark.usefixtures("workspace")
def test_missing_observations_are_told_with_the_stage_that_makes_them() -> None:
    with pytest.raises(ConfigurationError, match="ingest"):
        validate.run(open_run("weather", starts=False))
