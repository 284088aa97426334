"""Each record is written by the part that writes it, and read by the parts that read it, on a real MLflow store.

The panel and `evaluation.json` have their round trip in tests/integration/test_evidence.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
import yaml

from ci.gate.evidence import record_verdict
from ci.release.choose import choose
from ci.release.notes import Released, render
from ci.release.plan import Number, Plan
from ci.release.registered import Models, open_models
from ci.retrain.trigger import read_trigger
from clients.settings import MlflowSettings
from clients.tracking import connect
from forecasting.judging.evaluation import BaselineEvaluation, Errors, ModelErrors
from forecasting.judging.losses import LOSSES
from forecasting.models.bundle import read_bundle
from monitoring.alerts import alerts
from monitoring.exporter.mlflow_records import MlflowRecords, Records
from pipelines.carrier.production import fetch_production
from pipelines.carrier.tracked_run import open_tracking
from pipelines.data_rules import judge
from pipelines.evaluate import run_metrics
from pipelines.files import write_json
from pipelines.production import read_production
from pipelines.run import Run
from records.drift_kinds import EVENT_TYPE, KINDS
from records.mlflow_names import LOSS, Artifact, Reason, reason_of
from records.stages import RunFiles
from tests.judgements import evaluation, passing
from tests.runs import ROOT, carried, made_up_weather, make_run
from tests.unit.test_retrain_trigger import GIVEN, NOW

RUN_ID = "gate__weather__1"


def errors(error: float) -> ModelErrors:
    one = Errors(rows=10, loss=error**2, error=error, r2=0.9, coverage=0.9)
    return ModelErrors(overall=one, horizons={4: one}, series={"EWR": one})


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes many seconds to make one."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    connect(MlflowSettings(f"sqlite:///{path}"), 0.0).production("none")
    return path


@pytest.fixture
def settings(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowSettings:
    """A store of the test's own, without a server."""
    monkeypatch.chdir(tmp_path)
    address = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    return MlflowSettings(address)


@pytest.fixture
def models(settings: MlflowSettings) -> Models:
    return open_models(settings, "weather", patience_seconds=0.0)


@pytest.fixture
def run(settings: MlflowSettings, tmp_path: Path) -> Run:
    """A run whose model is 20 % better than the baseline, registered; nothing is in production."""
    made = make_run(tmp_path / "workspace", RUN_ID)
    baseline = BaselineEvaluation(kind="climatology", title="climatology (28 days)", measured=errors(2.5))
    shown = evaluation(run_id=RUN_ID, production=None, production_version="", baseline=baseline)
    shown = msgspec.structs.replace(shown, candidate=msgspec.structs.replace(shown.candidate, measured=errors(2.0)))
    write_json(made.files.evaluation, shown)
    tracking = open_tracking(made)
    tracking.log_params({LOSS: made.challenge.target.loss})
    tracking.log_metrics(dict(run_metrics(shown)))
    carried("register", made)
    return made


def exported(settings: MlflowSettings) -> Records:
    return MlflowRecords(settings, ["weather"]).look()["weather"]


def test_a_registered_version_waits_for_its_verdict_wherever_it_is_read(
    run: Run, models: Models, settings: MlflowSettings
) -> None:
    (version,) = models.versions()
    assert (version.gate, version.git_sha, version.run_id) == ("pending", run.identity.git_sha, RUN_ID)
    assert exported(settings).verdicts == {"passed": 0, "blocked": 0, "pending": 1}


def test_a_verdict_makes_a_version_one_to_release_by_what_evaluate_measured(
    run: Run, models: Models, settings: MlflowSettings
) -> None:
    record_verdict(settings, passing(model_version="1"))
    measure = LOSSES[run.challenge.target.loss].measure
    choice = choose(models.versions(), production=None, measure=measure, in_history=lambda _: True)
    assert [one.skill for one in choice.considered] == [pytest.approx(0.2)]
    found = exported(settings)
    assert found.verdicts == {"passed": 1, "blocked": 0, "pending": 0}
    assert found.errors == {"candidate": 2.0, "baseline": 2.5}


def test_the_release_notes_show_what_evaluate_logged(run: Run, models: Models, bundle: Path) -> None:
    record_verdict(MlflowSettings(models.server.uri), passing(model_version="1"))
    (version,) = models.versions()
    notes = render(
        Released(
            plan=Plan(
                challenge="weather", title="", number=Number(1, 0, 0), sha="c" * 40, model=version, withdraws=None
            ),
            choice=choose([version], production=None, measure="rmse", in_history=lambda _: True),
            manifest=read_bundle(bundle).manifest,
            before=None,
            since=None,
            commits=[],
            image="registry.example/weather@sha256:0",
            repository_url="",
            model_url="https://mlflow.example",
        )
    )
    assert "| RMSE, °C | 2.00 | 2.50 |" in notes
    assert "| skill against climatology (28 days), of the loss | 36.0 % | – |" in notes
    assert "| coverage of the 90 % interval | 90.0 % |" in notes
    assert "| RMSE, 4 steps ahead | 2.00 | 2.50 |" in notes


def test_the_promoted_version_is_production_for_gate_pipeline_and_exporter(
    run: Run, models: Models, settings: MlflowSettings
) -> None:
    tracking = open_tracking(run)
    (run.files.root / "bundle").mkdir()
    (run.files.root / "bundle" / "manifest.json").write_text("{}")
    tracking.log_artifacts(run.files.root / "bundle", Artifact.BUNDLE)
    models.promote(1)
    assert connect(settings, 0.0).production("weather") == "1"
    assert exported(settings).production == 1
    fetch_production(run, tracking)
    fetched = read_production(run)
    assert fetched is not None
    assert fetched.version == "1"


def test_the_exporter_counts_what_the_data_gate_found_and_why_the_run_was_started(
    run: Run, settings: MlflowSettings
) -> None:
    weather = made_up_weather().drop_duplicates(["unique_id", "ds"]).iloc[: -24 * 2]
    report = judge(weather, run.challenge, run.identity.as_of)
    assert report.errors
    write_json(run.files.quality, report)
    open_tracking(run).log_artifacts(run.files.quality, Artifact.PROFILE)
    found = exported(settings)
    assert found.violations["error"] == len(report.errors)
    assert found.retrainings == {"schedule": 0, "drift": 0, "pull request": 0, "other": 1}


def test_artifacts_are_read_where_the_stages_log_their_files(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    assert f"{Artifact.EVALUATION}/{files.evaluation.name}" == Artifact.EVALUATION_RECORD
    assert f"{Artifact.EVALUATION}/{files.losses.name}" == Artifact.LOSSES
    assert f"{Artifact.PROFILE}/{files.quality.name}" == Artifact.QUALITY


@pytest.mark.parametrize("kind", KINDS)
def test_a_retraining_takes_every_kind_of_drift_that_an_alert_tells(kind: str) -> None:
    trigger = read_trigger(**{**GIVEN, "drift": kind}, now=NOW)
    assert trigger.drift == kind
    assert reason_of(trigger.reason) == Reason.DRIFT


def test_alerts_tell_only_of_known_kinds_of_drift() -> None:
    assert {alert.drift for alert in alerts() if alert.drift} <= set(KINDS)


def test_the_workflow_listens_for_the_event_that_says_so() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/retrain.yml").read_text(encoding="utf-8"))
    assert workflow[True]["repository_dispatch"]["types"] == [EVENT_TYPE]
