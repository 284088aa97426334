"""The gate's evidence from a real MLflow: what a run left is believed when it agrees with itself, and only then."""

from __future__ import annotations

import io
import math
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from msgspec.structs import replace
from pyarrow import parquet

from ci.gate.evidence import Evidence, ProductionMoved, fetch_evidence, record_verdict, rejected_data
from ci.release.registered import open_models
from clients.errors import ConfigurationError, NoVerdict
from clients.settings import MlflowSettings, mlflow_settings
from clients.tracking import connect
from doubles.airflow_faults import AirflowFaults, airflow_behind_faults
from doubles.connection import answering
from forecasting.challenge.schema import Gate
from forecasting.judging.contests import Contest
from forecasting.judging.evaluation import Evaluation, FoldErrors
from forecasting.judging.verdict import Verdict
from forecasting.models.manifest import Manifest, decoded_manifest, encoded_manifest
from pipelines.carrier.tracked_run import open_tracking
from pipelines.data_rules import judge
from pipelines.evaluate import run_metrics
from pipelines.files import write_json, write_text
from pipelines.run import Run
from pipelines.validate import as_markdown
from records.judgement import Judgement, Links
from records.quality import QualityReport, Violation
from tests.modelling import featured_run, registered
from tests.runs import AS_OF, made_up_weather

RUN, SHA = "gate__1", "a" * 40
MD5, REV = "0" * 32 + ".dir", "b" * 40


@dataclass(frozen=True)
class Parts:
    """What a run leaves in MLflow, part by part, so that a test can leave one of them otherwise."""

    evaluation: Evaluation
    losses: pa.Table
    manifest: Manifest
    quality: QualityReport


@dataclass(frozen=True)
class Left:
    mlflow_run: str
    version: str
    experiment: str


def finished(run: Run) -> Parts:
    """A whole run on made-up weather, as the stages log it."""
    weather = made_up_weather()
    report = judge(weather[weather["ds"] <= run.identity.as_of], run.challenge, run.identity.as_of)
    write_json(run.files.quality, report)
    write_text(run.files.quality_report, as_markdown(report))
    tracking = open_tracking(run)
    tracking.log_artifacts(run.files.quality, "profile")
    tracking.set_tags({"rps.dataset_md5": MD5, "rps.dataset_rev": REV})
    registered(run)
    return Parts(
        msgspec.json.decode(run.files.evaluation.read_bytes(), type=Evaluation),
        parquet.read_table(run.files.losses),
        decoded_manifest((run.files.bundle / "manifest.json").read_bytes()),
        report,
    )


@pytest.fixture(scope="module")
def real(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Parts, Parts]:
    """Two runs of the pipeline on the challenge `evidence`: the first was released, the second is the candidate."""
    root = tmp_path_factory.mktemp("evidence")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
        released = finished(featured_run(root / "released", "evidence", "gate__0"))
        MlflowClient(mlflow_server).set_registered_model_alias("evidence", "production", "1")
        other = {"learning_rate = 0.05": "learning_rate = 0.07"}
        candidate = finished(featured_run(root / "candidate", "evidence", RUN, edits=other))
    return released, candidate


@pytest.fixture
def name() -> str:
    """A challenge of the test's own."""
    return f"evidence_{uuid4().hex[:12]}"


@pytest.fixture
def client(mlflow_server: str) -> MlflowClient:
    return MlflowClient(mlflow_server, registry_uri=mlflow_server)


@pytest.fixture
def settings(mlflow_server: str) -> MlflowSettings:
    return MlflowSettings(mlflow_server)


@pytest.fixture
def faults(mlflow_server: str) -> Iterator[AirflowFaults]:
    """A way to MLflow that fails on demand."""
    with airflow_behind_faults(mlflow_server) as proxy:
        yield proxy


def leave(
    client: MlflowClient,
    name: str,
    parts: Parts,
    *,
    run_id: str = RUN,
    tags: dict[str, str] | None = None,
    metrics: dict[str, float] | None = None,
    without: str = "",
    status: str = "FINISHED",
    version: bool = True,
    evaluation: Callable[[Evaluation], Evaluation] = lambda same: same,
    manifest: Callable[[Manifest], Manifest] = lambda same: same,
) -> Left:
    """Log the parts as the run of another challenge, as the stages would, apart from what the test changes."""
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    own = {"rps.run_id": run_id, "rps.git_sha": SHA, "rps.dataset_md5": MD5, "rps.dataset_rev": REV, **(tags or {})}
    info = client.create_run(experiment, tags=own).info
    candidate = replace(parts.evaluation.candidate, mlflow_run=info.run_id)
    shown = replace(parts.evaluation, challenge=name, run_id=run_id, candidate=candidate)
    logged = {**dict(run_metrics(shown)), **(metrics or {})}
    client.log_batch(info.run_id, metrics=[Metric(metric, value, 0, 0) for metric, value in logged.items()])
    table = io.BytesIO()
    parquet.write_table(parts.losses, table)
    files = {
        "evaluation/evaluation.json": msgspec.json.encode(evaluation(shown)),
        "evaluation/losses.parquet": table.getvalue(),
        "bundle/manifest.json": encoded_manifest(
            manifest(replace(parts.manifest, challenge=name, mlflow_run=info.run_id))
        ),
        "profile/quality.json": msgspec.json.encode(replace(parts.quality, challenge=name)),
    }
    for path, content in files.items():
        if path != without:
            upload(client, info.run_id, path, content)
    number = ""
    if version:
        number = register(client, name, info.run_id, run_id)
    client.set_terminated(info.run_id, status)
    return Left(info.run_id, number, experiment)


def upload(client: MlflowClient, mlflow_run: str, path: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / Path(path).name
        file.write_bytes(content)
        client.log_artifact(mlflow_run, str(file), str(Path(path).parent))


def register(client: MlflowClient, name: str, mlflow_run: str, run_id: str) -> str:
    with suppress(MlflowException):  # it is there already
        client.create_registered_model(name)
    source = f"{client.get_run(mlflow_run).info.artifact_uri}/bundle"
    tags = {"gate": "pending", "git_sha": SHA, "run_id": run_id}
    return str(client.create_model_version(name, source=source, run_id=mlflow_run, tags=tags).version)


def alone(parts: Parts) -> Parts:
    """The candidate, as it would have been measured without a production model."""
    folds = tuple(
        replace(fold, errors={model: error for model, error in fold.errors.items() if model != "production"})
        for fold in parts.evaluation.folds
    )
    evaluation = replace(
        parts.evaluation,
        production=None,
        production_version="",
        same_code=False,
        folds=folds,
        drift_from="candidate",
        reasons=(),
        fair=True,
    )
    nothing = pa.array(np.full(parts.losses.num_rows, np.nan))
    losses = parts.losses
    for column in ("production", "production_lower", "production_upper"):
        losses = losses.set_column(losses.column_names.index(column), column, nothing)
    return replace_parts(parts, evaluation=evaluation, losses=losses)


def replace_parts(parts: Parts, **changes: object) -> Parts:
    return Parts(**{**vars(parts), **changes})


def released(client: MlflowClient, name: str, real: tuple[Parts, Parts], **changes) -> tuple[Left, Parts]:
    """The released model as this challenge's production model, and the candidate's parts that met it."""
    production = leave(client, name, real[0], run_id="gate__0", **changes)
    client.set_registered_model_alias(name, "production", production.version)
    met = replace(real[1].evaluation.production, version=production.version, mlflow_run=production.mlflow_run)
    evaluation = replace(real[1].evaluation, production=met, production_version=production.version)
    return production, replace_parts(real[1], evaluation=evaluation)


def fetched(settings: MlflowSettings, name: str, **options) -> Evidence:
    return fetch_evidence(settings, name, RUN, SHA, **{"patience_seconds": 5.0, **options})


def refused(settings: MlflowSettings, name: str, shown: str, **options) -> NoVerdict:
    with pytest.raises(NoVerdict, match=shown) as refusal:
        fetched(settings, name, **options)
    return refusal.value


def test_what_the_stages_leave_is_evidence(real, settings, client):
    evidence = fetched(settings, "evidence")
    assert evidence.evaluation == real[1].evaluation
    assert evidence.evaluation.production.version == "1"
    assert evidence.model_version == "2"
    assert len(evidence.panel.truth) == real[1].losses.num_rows
    error = evidence.panel.candidate - evidence.panel.truth
    mlflow_run = client.get_run(real[1].evaluation.candidate.mlflow_run)
    assert math.isclose(math.sqrt(np.mean(error**2)), mlflow_run.data.metrics["rmse"], rel_tol=1e-12)
    assert evidence.panel.production is not None
    data = evidence.data
    assert (data.rows, data.errors, data.warnings) == (7200, 0, 0)
    assert (data.first, data.last) == (AS_OF.replace(minute=0) - timedelta(hours=2399), AS_OF.replace(minute=0))
    assert (data.dataset_md5, data.dataset_rev) == (MD5, REV)
    assert (data.drift_from, set(data.drift)) == ("production", set(real[0].manifest.features.shared_columns))
    run_url = f"{settings.url}/#/experiments/{mlflow_run.info.experiment_id}/runs/{mlflow_run.info.run_id}"
    assert evidence.links == Links(
        mlflow_run=run_url,
        profile=f"{run_url}/artifacts/profile",
        model_version=f"{settings.url}/#/models/evidence/versions/2",
    )


def test_without_a_production_model_there_is_evidence_too(real, settings, client, name):
    left = leave(client, name, alone(real[1]))
    evidence = fetched(settings, name)
    assert evidence.panel.production is None
    assert evidence.model_version == left.version
    assert connect(settings, 60.0).production(name) == ""


def test_a_candidate_that_met_the_released_model_is_evidence(real, settings, client, name):
    production, parts = released(client, name, real)
    leave(client, name, parts)
    assert fetched(settings, name).evaluation.production.mlflow_run == production.mlflow_run
    assert connect(settings, 60.0).production(name) == production.version


@pytest.mark.parametrize("to", ["another", "none"])
def test_a_release_during_the_run_is_distinguished(real, settings, client, name, to):
    production, parts = released(client, name, real)
    leave(client, name, parts)
    if to == "none":
        client.delete_registered_model_alias(name, "production")
    else:
        other = leave(client, name, real[0], run_id="gate__00")
        client.set_registered_model_alias(name, "production", other.version)
    with pytest.raises(ProductionMoved, match=f"was {production.version} .* is {'none' if to == 'none' else '3'} now"):
        fetched(settings, name)


def test_a_first_release_during_the_run_is_distinguished(real, settings, client, name):
    left = leave(client, name, alone(real[1]))
    client.set_registered_model_alias(name, "production", left.version)
    with pytest.raises(ProductionMoved):
        fetched(settings, name)


def test_a_production_model_that_learnt_from_other_data_than_is_said_is_found_in_its_manifest(
    real, settings, client, name
):
    seen = real[1].evaluation.window.end
    _, parts = released(client, name, real, manifest=lambda own: replace(own, train_end=seen))
    leave(client, name, parts)
    refused(settings, name, rf"production\.train_end: expected {seen:%Y-%m-%d %H}")


def test_weeks_that_production_learnt_from_and_nobody_tells_of_are_found_in_its_manifest(real, settings, client, name):
    weeks = {**real[0].manifest.rows_by_week, "2012-W01": 500}
    _, parts = released(client, name, real, manifest=lambda own: replace(own, rows_by_week=weeks))
    leave(client, name, parts)
    refused(settings, name, r"production\.rows_by_week: expected .*2012-W01")


def test_another_recipe_that_is_passed_off_as_productions_own_is_found_by_the_commits(real, settings, client, name):
    other = "c" * 40
    production = leave(client, name, real[0], run_id="gate__0", manifest=lambda own: replace(own, git_sha=other))
    client.set_registered_model_alias(name, "production", production.version)
    met = {"version": production.version, "mlflow_run": production.mlflow_run, "git_sha": other}
    shown = replace(
        real[1].evaluation,
        production=replace(real[1].evaluation.production, **met),
        production_version=production.version,
    )
    assert shown.same_code
    leave(client, name, replace_parts(real[1], evaluation=shown))
    refused(settings, name, "same_code: expected False; found True")


def test_a_released_model_that_was_left_out_without_a_word_is_missed(real, settings, client, name):
    production, _ = released(client, name, real)
    leave(client, name, replace_parts(alone(real[1])), evaluation=lambda e: replace(e, production_version="1"))
    refused(settings, name, f"version {production.version}, which is in production: expected measured, or why not")


def test_a_released_model_that_could_not_be_compared_is_evidence_with_the_reason(real, settings, client, name):
    released(client, name, real)
    why = ("production (version 1) was not compared: its unit is K, here °C",)
    shown = {"production_version": "1", "fair": False, "reasons": why}
    leave(client, name, alone(real[1]), evaluation=lambda e: replace(e, **shown))
    assert fetched(settings, name).evaluation.reasons == why


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("evaluation/evaluation.json", "evaluation/evaluation.json: it is not there"),
        ("evaluation/losses.parquet", "evaluation/losses.parquet: it is not there"),
        ("profile/quality.json", "profile/quality.json: it is not there"),
        ("bundle/manifest.json", "manifest.json: it is not there"),
    ],
)
def test_an_artifact_that_is_missing_is_reported_at_once(real, settings, client, name, path, shown):
    leave(client, name, alone(real[1]), without=path)
    started = time.monotonic()
    refused(settings, name, shown, patience_seconds=60.0)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("path", ["profile/quality.json", "evaluation/losses.parquet", "evaluation/evaluation.json"])
def test_a_damaged_artifact_is_reported_by_name(real, settings, client, name, path):
    left = leave(client, name, alone(real[1]))
    for content in (b"", b"{}", b"\xff\x00PAR1"):
        upload(client, left.mlflow_run, path, content)
        refused(settings, name, f"{Path(path).name} cannot be judged on")


def test_a_bundle_that_was_changed_is_not_judged(real, settings, client, name):
    left = leave(client, name, alone(real[1]))
    own = replace(real[1].manifest, challenge=name, mlflow_run=left.mlflow_run)
    upload(client, left.mlflow_run, "bundle/manifest.json", encoded_manifest(own).replace(b"EWR", b"XXX"))
    refused(settings, name, r"version 1 of .* cannot be judged: manifest\.json: expected SHA-256")
    upload(client, left.mlflow_run, "bundle/manifest.json", encoded_manifest(replace(own, train_end=AS_OF)))
    refused(settings, name, r"candidate\.train_end: expected 2013-12-30 12:30")


def without_artifacts(client: MlflowClient, name: str, version: str) -> str:
    """Delete the bundle of a version, as a bucket's life-cycle rule does; where it was."""
    source = client.get_model_version_download_uri(name, version)
    get_artifact_repository(source, tracking_uri=client.tracking_uri).delete_artifacts()
    return source


def test_a_production_model_that_has_lost_its_artifacts_is_reported_with_what_to_do(real, settings, client, name):
    production, parts = released(client, name, real)
    leave(client, name, parts)
    source = without_artifacts(client, name, production.version)
    shown = rf"version 1 of {name} .*{source}/manifest\.json is gone.* Restore it"
    with pytest.raises(ConfigurationError, match=shown):
        fetched(settings, name)


def test_a_version_that_has_lost_its_artifacts_is_not_released(real, settings, client, name, tmp_path):
    left = leave(client, name, alone(real[1]))
    source = without_artifacts(client, name, left.version)
    models = open_models(settings, name, patience_seconds=60.0)
    (version,) = models.versions()
    with pytest.raises(ConfigurationError, match=rf"version 1 of {name} .*{source}/manifest\.json is gone"):
        models.fetch(version, tmp_path / "bundle")


def doctored(parts: Parts, column: str, change: Callable[[np.ndarray], np.ndarray]) -> Parts:
    values = change(parts.losses.column(column).to_numpy().copy())
    losses = parts.losses.set_column(parts.losses.column_names.index(column), column, pa.array(values))
    return replace_parts(parts, losses=losses)


def with_first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[0] = value
        return values

    return change


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("truth", math.nan),
        ("candidate", math.nan),
        ("baseline", math.inf),
        ("opponent.persistence", math.nan),
        ("production", math.nan),
    ],
)
def test_a_number_that_is_none_stops_everything(real, settings, client, name, column, value):
    _, parts = released(client, name, real)
    leave(client, name, doctored(parts, column, with_first(value)))
    refused(settings, name, "losses.parquet cannot be judged on")


@pytest.mark.parametrize("column", ["truth", "candidate", "baseline", "opponent.persistence", "production"])
def test_predictions_that_give_another_error_than_reported_are_not_judged(real, settings, client, name, column):
    _, parts = released(client, name, real)
    leave(client, name, doctored(parts, column, lambda values: values * 1.001))
    refused(settings, name, r"evaluation\.json: .*expected .*; found ")


def test_a_row_less_is_not_the_window(real, settings, client, name):
    parts = alone(real[1])
    leave(client, name, replace_parts(parts, losses=parts.losses.slice(1)))
    rows = len(parts.losses)
    refused(settings, name, rf"window\.rows: expected {rows - 1}; found {rows}\.")


def flattered(fold: FoldErrors) -> FoldErrors:
    """With an error of the candidate that is a millionth smaller."""
    return replace(fold, errors={**fold.errors, "candidate": fold.errors["candidate"] * (1 - 1e-6)})


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda e: replace(e, challenge="weather"), "challenge: expected evidence_"),
        (lambda e: replace(e, run_id="gate__0"), "run_id: expected gate__1; found gate__0"),
        (lambda e: replace(e, candidate=replace(e.candidate, git_sha="c" * 40)), "candidate: commit"),
        (lambda e: replace(e, candidate=replace(e.candidate, mlflow_run="x")), "candidate: MLflow run"),
        (lambda e: replace(e, candidate=replace(e.candidate, dataset_md5="1" * 32)), "candidate: dataset"),
        (lambda e: replace(e, candidate=replace(e.candidate, train_end=datetime(2013, 1, 1, tzinfo=UTC))), "train_end"),
        (lambda e: replace(e, candidate=replace(e.candidate, rows_by_week={})), r"candidate\.rows_by_week"),
        (lambda e: replace(e, same_code=True), "same_code: expected False; found True"),
        (lambda e: replace(e, folds=e.folds[1:]), "rows of all folds"),
        (lambda e: replace(e, folds=(flattered(e.folds[0]), *e.folds[1:])), "candidate, mean loss of all folds"),
        (lambda e: replace(e, window=replace(e.window, start=e.window.start - timedelta(hours=1))), r"window\.start"),
        (lambda e: replace(e, window=replace(e.window, end=e.window.end.replace(tzinfo=None))), r"window\.end"),
        (lambda e: replace(e, window=replace(e.window, origins=1)), r"window\.origins"),
        (lambda e: replace(e, as_of=AS_OF + timedelta(days=1)), r"quality\.json: as_of"),
        (lambda e: replace(e, baseline=replace(e.baseline, title="last")), r"baseline\.title: expected climatology"),
        (lambda e: replace(e, opponents=()), "titles of the opponents"),
        (lambda e: replace(e, drift={"x": math.nan}), r"evaluation\.json cannot be judged on"),
    ],
)
def test_an_evaluation_that_says_otherwise_than_the_rest_is_not_judged(real, settings, client, name, change, shown):
    leave(client, name, alone(real[1]), evaluation=change)
    refused(settings, name, shown)


def test_metrics_that_were_edited_are_found(real, settings, client, name):
    parts = alone(real[1])
    left = leave(client, name, parts)
    for metric in ("rmse", "r2", "coverage_90", "rmse_h5", "baseline.rmse", "opponent.persistence.rmse"):
        logged = dict(run_metrics(parts.evaluation))[metric]
        for step, edited in enumerate((logged * (1 - 1e-6), math.nan)):
            client.log_metric(left.mlflow_run, metric, edited, step=step)
            refused(settings, name, rf"its metric {metric}: expected")
        client.log_metric(left.mlflow_run, metric, logged, step=2)
    assert fetched(settings, name)


def test_a_metric_that_is_missing_is_found(real, settings, client, name):
    parts = alone(real[1])
    left = leave(client, name, parts, evaluation=lambda e: replace(e, interval=0.8))
    assert left.version
    refused(settings, name, "its metric coverage_80: expected .*; found none")


@pytest.mark.parametrize(
    ("tags", "shown"),
    [
        ({"rps.dataset_md5": "1" * 32 + ".dir"}, "dataset: expected 1111"),
        ({"rps.git_sha": "c" * 40}, "rps.git_sha: expected aaaa"),
        ({"rps.dataset_rev": ""}, "rps.dataset_rev"),
    ],
)
def test_tags_of_other_data_or_another_commit_are_found(real, settings, client, name, tags, shown):
    leave(client, name, alone(real[1]), tags=tags)
    refused(settings, name, shown)


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_a_run_that_did_not_end_well_is_not_judged(real, settings, client, name, status):
    leave(client, name, alone(real[1]), status=status)
    refused(settings, name, f"its status: expected FINISHED; found {status}")


def test_a_run_that_was_not_registered_is_not_judged(real, settings, client, name):
    leave(client, name, alone(real[1]), version=False)
    refused(settings, name, "it was not registered, or deleted")


def test_a_version_of_another_run_is_not_judged(real, settings, client, name):
    left = leave(client, name, alone(real[1]))
    client.set_model_version_tag(name, left.version, "run_id", "gate__2")
    refused(settings, name, "the version's tag run_id")


def test_a_run_that_was_deleted_is_reported_as_such(real, settings, client, name):
    left = leave(client, name, alone(real[1]))
    client.delete_run(left.mlflow_run)
    refused(settings, name, "found only deleted ones")
    leave(client, name, alone(real[1]))
    assert fetched(settings, name).model_version == "2"


def test_two_runs_of_one_name_are_not_chosen_between(real, settings, client, name):
    leave(client, name, alone(real[1]))
    leave(client, name, alone(real[1]))
    refused(settings, name, "expected one run .* found 2")


def test_a_run_that_never_logged_is_reported(real, settings, client, name):
    refused(settings, name, f"has no experiment {name}")
    leave(client, name, alone(real[1]), run_id="gate__'0")
    refused(settings, name, "found none")


@pytest.fixture
def behind(faults: AirflowFaults, monkeypatch: pytest.MonkeyPatch) -> MlflowSettings:
    """MLflow through the faults; a request is given up on as quickly as `ci` alone has it."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    return MlflowSettings(faults.url)


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500, "seconds": 3.0},
        {"status": 503, "times": 2, "path": "mlflow-artifacts"},
        {"status": 429, "times": 2, "path": "search"},
        {"cut": "before", "times": 2},
        {"cut": "after", "times": 2, "path": "mlflow-artifacts"},
        {"delay_seconds": 4.0, "times": 1},
        {"status": 200, "body": "<html>", "times": 1, "path": "experiments"},
    ],
)
def test_a_fault_that_passes_is_waited_for(real, behind, faults, fault):
    faults.switch_on(**fault)
    assert fetch_evidence(behind, "evidence", RUN, SHA, patience_seconds=30.0).model_version == "2"


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 502, "path": "mlflow-artifacts"},
        {"cut": "before"},
        {"delay_seconds": 10.0},
        {"status": 500, "path": "registered-models"},
    ],
)
def test_a_fault_that_stays_ends_in_time_and_names_the_address(real, behind, faults, fault):
    faults.switch_on(**fault)
    started = time.monotonic()
    refused(behind, "evidence", f"MLflow at {behind.url} could not .* is it up", patience_seconds=2.0)
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("path", ["", "registered-models/get"])
def test_a_page_that_is_not_found_is_no_missing_production_model(real, behind, faults, client, name, path):
    leave(client, name, alone(real[1]))
    faults.switch_on(status=404, path=path)
    refused(behind, name, behind.url)
    with pytest.raises(NoVerdict):
        connect(behind, 1.0).production(name)


def test_a_server_that_is_down_is_reported_with_its_address(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, and nobody listens
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        refused(MlflowSettings(url), "weather", url, patience_seconds=1.0)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_credential_is_reported_at_once(status):
    started = time.monotonic()
    with answering(status) as url, pytest.raises(ConfigurationError, match="MLFLOW_TRACKING_PASSWORD"):
        fetch_evidence(MlflowSettings(url), "weather", RUN, SHA)
    assert time.monotonic() - started < 10


def test_a_password_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(ConfigurationError, match="MLFLOW_TRACKING_PASSWORD") as shown:
        mlflow_settings({"MLFLOW_TRACKING_URI": "http://ana:hunter2@127.0.0.1:1"})
    assert "hunter2" not in str(shown.value)


def judgement(name: str, version: str, outcome: str, *, skill: float | None = 0.5) -> Judgement:
    contest = Contest(slice="overall", rows=1, candidate=1.0, baseline=2.0)
    verdict = Verdict(
        outcome="pass" if outcome == "pass" else "block",
        reasons=(),
        measure="RMSE",
        unit="°C",
        baseline="climatology (28 days)",
        opponent="baseline",
        overall=contest,
        horizons=(),
        series=(),
        confidence=0.95,
        interval=0.9,
        coverage=0.9,
        skill=skill,
        bundle_bytes=1,
        prediction_time_ratio=None,
        policy=Gate(),
    )
    return Judgement(
        challenge=name,
        title="x",
        outcome=outcome,
        summary="RMSE 1 °C, 50 % below climatology",
        git_sha=SHA,
        run_id=RUN,
        model_version=version,
        pull_request=None,
        policy=Gate(),
        policy_from="test at 1234567",
        policy_changes=(),
        verdict=None if outcome == "error" else verdict,
        evaluation=None,
        data=None,
        failure=None,
        links=Links(),
        started=AS_OF,
        seconds=1.0,
        task_seconds=1.0,
    )


@pytest.mark.parametrize(("outcome", "tag"), [("pass", "passed"), ("block", "blocked")])
def test_the_verdict_is_written_on_the_version_as_often_as_one_likes(real, settings, client, name, outcome, tag):
    left = leave(client, name, alone(real[1]))
    for _ in range(2):
        record_verdict(settings, judgement(name, left.version, outcome))
        tags = client.get_model_version(name, left.version).tags
        assert {key: tags[key] for key in ("gate", "gate_summary", "gate_policy", "gate_skill")} == {
            "gate": tag,
            "gate_summary": "RMSE 1 °C, 50 % below climatology",
            "gate_policy": "test at 1234567",
            "gate_skill": "0.5",
        }


def test_two_gates_that_write_one_verdict_at_once_both_succeed(real, settings, client, name):
    # MLflow looks for the row, then inserts it; of two that both found none, one is reported 400, IntegrityError.
    left = leave(client, name, alone(real[1]))
    for _ in range(5):
        with ThreadPoolExecutor(8) as gates:
            written = [gates.submit(record_verdict, settings, judgement(name, left.version, "pass")) for _ in range(8)]
        for gate in written:
            gate.result()
        tags = client.get_model_version(name, left.version).tags
        assert tags["gate"] == "passed"
        for key in set(tags) & {"gate", "gate_summary", "gate_policy", "gate_skill"}:
            client.delete_model_version_tag(name, left.version, key)


def test_without_a_verdict_the_version_stays_pending(real, settings, client, name):
    left = leave(client, name, alone(real[1]))
    record_verdict(settings, judgement(name, left.version, "error"))
    record_verdict(settings, judgement(name, "", "pass"))
    assert client.get_model_version(name, left.version).tags["gate"] == "pending"


def test_a_version_is_passed_only_when_all_is_said_of_it(real, settings, client, name):
    left = leave(client, name, alone(real[1]))
    too_long = replace(judgement(name, left.version, "pass"), policy_from="x" * 200_000)  # more than MLflow takes
    with pytest.raises(NoVerdict, match=f"tag version {left.version}"):
        record_verdict(settings, too_long)
    assert client.get_model_version(name, left.version).tags["gate"] == "pending"


def test_a_fault_does_not_lose_the_verdict(real, behind, faults, client, name):
    left = leave(client, name, alone(real[1]))
    faults.switch_on(cut="before", times=1, method="POST", path="model-versions/set-tag")
    record_verdict(behind, judgement(name, left.version, "pass", skill=None), patience_seconds=10.0)
    assert client.get_model_version(name, left.version).tags["gate"] == "passed"
    faults.switch_on(status=500, method="POST", path="model-versions/set-tag")
    with pytest.raises(NoVerdict, match=behind.url):
        record_verdict(behind, judgement(name, left.version, "block"), patience_seconds=1.0)


def test_what_the_data_gate_found_is_read_back(real, settings, client, name):
    found = Violation(
        rule="stuck", series="EWR", column="temperature", found=30, limit=24, count=30, first=AS_OF, message="stood"
    )
    rejected = replace(real[1].quality, passed=False, violations=(found,), first=None, last=None)
    leave(client, name, replace_parts(alone(real[1]), quality=rejected), status="FAILED", version=False)
    (violation,) = rejected_data(settings, name, RUN)
    shown = (violation.rule, violation.severity, violation.series, violation.column, violation.message, violation.first)
    assert shown == ("stuck", "error", "EWR", "temperature", "stood", AS_OF)


def test_data_that_passed_and_a_report_that_is_nowhere_give_no_violations(real, settings, client, name, capsys):
    assert rejected_data(settings, name, RUN) == ()
    assert name in capsys.readouterr().err
    leave(client, name, alone(real[1]))
    assert rejected_data(settings, name, RUN) == ()
