from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient

from ci.gate.evidence import rejected_data
from clients.errors import ConfigurationError
from clients.settings import MlflowSettings
from doubles.connection import answering
from pipelines.carrier.tracked_run import open_tracking
from pipelines.run import Run, open_run
from records.quality import QualityReport
from tests.integration.ingesting import change_challenge, share_models_of_apis
from tests.replay_fixture import Replay
from tests.runs import carried, make_run, rejection


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    share_models_of_apis(monkeypatch)
    monkeypatch.delenv("RPS_RUN_ID", raising=False)
    return tmp_path


def ingested() -> Run:
    """A new run as of the replay's clock, with what the replay sent."""
    run = open_run("weather", starts=True)
    carried("ingest", run)
    carried("merge", run)
    return run


def report_of(run: Run) -> QualityReport:
    return msgspec.json.decode(run.files.quality.read_bytes(), type=QualityReport)


def broken_rules(run: Run) -> set[str]:
    message = rejection(run)
    report = report_of(run)
    assert not report.passed
    for violation in report.errors:
        assert violation.message in message
        assert violation.rule in run.files.quality_report.read_text()
    return {violation.rule for violation in report.errors}


@pytest.mark.usefixtures("store_env", "workspace", "replay")
def test_the_recorded_year_passes_and_is_accepted_into_the_history() -> None:
    run = ingested()
    carried("validate", run)
    report = report_of(run)
    assert report.passed
    assert report.rows > 26_000
    assert "passed" in run.files.quality_report.read_text()


@pytest.mark.usefixtures("store_env")
@pytest.mark.parametrize(
    ("fault", "options", "rule"),
    [
        ("null_burst", {"hours": 24}, "recent_nulls"),
        ("stuck", {"hours": 48}, "stuck"),
        ("changed_units", {"silent": True}, "unit_change"),
    ],
)
def test_a_fault_of_the_source_is_rejected_and_mended_data_pass_afterwards(
    workspace: Path, replay: Replay, fault: str, options: dict[str, object], rule: str
) -> None:
    change_challenge(workspace, "history_days = 365", "history_days = 100")
    replay.move_clock("2013-12-30T11:00:00Z")
    carried("validate", ingested())
    replay.move_clock("2013-12-30T23:00:00Z")
    replay.fault(fault, **options)
    rejected = ingested()
    kept = rejected.files.observations.read_bytes
    before = kept()
    assert rule in broken_rules(rejected)
    assert kept() == before, "the rejected data stays for inspection"
    replay.clear_faults()
    mended = ingested()
    carried("validate", mended)
    assert report_of(mended).passed


@pytest.fixture
def rejected(store_env: dict[str, str], workspace: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of its own name whose observations break a rule."""
    change_challenge(workspace, "history_days = 365", "history_days = 100")
    monkeypatch.setenv("RPS_RUN_ID", f"gate__{workspace.name}")
    replay.fault("null_burst", hours=24)
    return ingested()


def tracked(client: MlflowClient, run: Run) -> MlflowRun:
    experiment = client.get_experiment_by_name("weather").experiment_id
    (found,) = client.search_runs([experiment], f"tags.`rps.run_id` = '{run.identity.run_id}'")
    return found


def test_a_rejection_is_shown_in_mlflow_and_ends_its_run(
    rejected: Run, tracking_env: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken_rules(rejected)
    client = MlflowClient(tracking_env)
    found = tracked(client, rejected)
    assert found.info.status == "FAILED"
    for path in (rejected.files.quality, rejected.files.quality_report):
        logged = client.download_artifacts(found.info.run_id, f"profile/{path.name}", str(tmp_path))
        assert Path(logged).read_bytes() == path.read_bytes()
    assert found.info.run_id in capsys.readouterr().out.splitlines()[-1]
    violations = rejected_data(MlflowSettings(tracking_env), "weather", rejected.identity.run_id)
    assert {violation.rule for violation in violations if violation.severity == "error"} >= {"recent_nulls"}


def test_a_run_whose_data_were_rejected_can_still_end_well(rejected: Run, tracking_env: str, replay: Replay) -> None:
    broken_rules(rejected)
    replay.clear_faults()
    again = ingested()
    assert again.identity == rejected.identity
    carried("validate", again)
    open_tracking(again).finish()
    assert tracked(MlflowClient(tracking_env), again).info.status == "FINISHED"


@pytest.mark.parametrize("address", ["", "http://127.0.0.1:9", "http://ana:hunter2@127.0.0.1:9"])
def test_the_verdict_on_the_data_does_not_depend_on_mlflow(
    rejected: Run, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert "recent_nulls" in broken_rules(rejected)
    assert capsys.readouterr().out.splitlines()[-1].startswith("the report is not in MLflow: ")


def test_an_mlflow_that_refuses_us_does_not_change_the_verdict_on_the_data(
    rejected: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(401) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        assert "recent_nulls" in broken_rules(rejected)
    assert "MLFLOW_TRACKING_PASSWORD" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.usefixtures("workspace")
def test_missing_observations_are_reported_with_the_stage_that_makes_them() -> None:
    with pytest.raises(ConfigurationError, match="merge"):
        carried("validate", open_run("weather", starts=False))
