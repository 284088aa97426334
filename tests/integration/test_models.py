"""Training, evaluation and registration against a real MLflow, on made-up weather."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run as MlflowRun
from mlflow.entities.model_registry import ModelVersion
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from clients.errors import ConfigurationError, PassingFault
from forecasting.drift.distances import population_stability_index
from forecasting.features.spec import feature_spec
from forecasting.judging.evaluation import Evaluation
from forecasting.models.bundle import read_bundle
from pipelines.carrier.registry import Registered
from pipelines.files import read_json
from pipelines.run import Run
from pipelines.transform import read_features
from tests.modelling import NO_EDITS, copied, evaluated, featured_run, measured, registered, trained, with_learner
from tests.runs import AS_OF, carried, made_up_weather

OTHER_SHA = "b" * 40
LAST_WEEKS = {"count = 12": "count = 1"}
"""An edit of the challenge: one fold, which ends with the newest origin."""
LOSSES = "evaluation/losses.parquet"


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A challenge of the test's own: experiment and registered model are named after it."""
    return request.node.originalname[:55].lower()


@pytest.fixture
def client(tracking_env: str) -> MlflowClient:
    return MlflowClient(tracking_env, registry_uri=tracking_env)


@dataclass(frozen=True)
class Finished:
    """A run after its last stage."""

    run: Run
    evaluation: Evaluation
    made: Registered
    version: ModelVersion
    """As `register` has left it."""
    aliases: dict[str, str]


@pytest.fixture(scope="module")
def root(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the runs are made that several tests look at, with the real MLflow in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
        yield tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def fitted(root: Path) -> Run:
    """A run after `train`. A test that changes it does so in a copy."""
    return trained(featured_run(root / "fitted", "models_fitted"))


@pytest.fixture(scope="module")
def finished(root: Path, mlflow_server: str) -> Finished:
    run = featured_run(root / "finished", "models_finished")
    made = registered(run)
    client = MlflowClient(mlflow_server, registry_uri=mlflow_server)
    evaluation = read_json(run.files.evaluation, Evaluation, made_by="evaluate")
    version = client.get_model_version(run.challenge.name, made.version)
    return Finished(run, evaluation, made, version, client.get_registered_model(run.challenge.name).aliases)


@pytest.fixture(scope="module")
def candidate(root: Path) -> Run:
    """A run after `train` that meets the production model of each of several tests, in a copy."""
    return trained(featured_run(root / "candidate", "models_met"))


@pytest.fixture(scope="module")
def released(root: Path, mlflow_server: str) -> Run:
    """The run of a production model that was made as of AS_OF and judged on its last four weeks."""
    run = featured_run(root / "released", "models_released", edits=LAST_WEEKS)
    promote(MlflowClient(mlflow_server, registry_uri=mlflow_server), run.challenge.name, registered(run).version)
    return run


def logged(client: MlflowClient, run: Run, path: str, to: Path) -> Path:
    """Download what the run logged under ``path``."""
    to.mkdir(exist_ok=True)
    return Path(client.download_artifacts(tracked_run(client, run).info.run_id, path, str(to)))


def tracked_run(client: MlflowClient, run: Run) -> MlflowRun:
    experiment = client.get_experiment_by_name(run.challenge.name).experiment_id
    (found,) = client.search_runs([experiment], f"tags.`rps.run_id` = '{run.identity.run_id}'")
    return found


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def promote(client: MlflowClient, name: str, version: str) -> None:
    client.set_registered_model_alias(name, "production", version)


def test_the_bundle_predicts_what_the_training_librarys_model_predicts(fitted, tmp_path, client):
    run = fitted
    bundle = read_bundle(run.files.bundle)
    bundle.check_example()
    features = read_features(run.files.features, bundle.spec)
    for horizon in run.challenge.target.horizons:
        columns = list(bundle.spec.columns_for(horizon))
        model = mlflow.sklearn.load_model(str(logged(client, run, f"sklearn/h{horizon}", tmp_path / f"h{horizon}")))
        expected = features["y"].to_numpy() + model.predict(features[columns])
        assert np.abs(bundle.predict(horizon, features[columns].to_numpy()) - expected).max() <= 1e-9


def test_training_again_gives_the_same_bundle_and_it_is_logged_whole(fitted, tmp_path, client):
    run = copied(fitted, tmp_path)
    first = contents(run.files.bundle)
    trained(run)
    assert contents(run.files.bundle) == first
    assert contents(logged(client, run, "bundle", tmp_path / "fetched")) == first


def test_training_logs_parameters_and_the_challenge(fitted, tmp_path, client):
    run, name, tracked = fitted, fitted.challenge.name, tracked_run(client, fitted)
    assert tracked.data.params["learner.parameters.hist_gradient_boosting.max_iter"] == "20"
    assert tracked.data.params["target.horizons"] == "4 5 6"
    assert int(tracked.data.params["rows.train"]) > 1000
    assert logged(client, run, f"challenge/{name}.toml", tmp_path / "c").read_text() == run.challenge_path.read_text()
    assert tracked.info.status == "RUNNING"


def test_the_model_has_learnt_until_the_last_hour_and_the_bundle_says_so(fitted):
    run = fitted
    manifest = read_bundle(run.files.bundle).manifest
    newest = AS_OF.replace(minute=0)
    assert manifest.train_end == newest
    assert manifest.newest_row == newest - timedelta(hours=4)
    assert sum(manifest.rows_by_week.values()) == manifest.rows["train"]
    assert manifest.dataset_md5 == "0" * 32 + ".dir"
    assert manifest.git_sha == "a" * 40
    assert set(manifest.offsets) == {4, 5, 6}
    assert all(offsets.lower < 0 < offsets.upper for offsets in manifest.offsets.values())


def test_observations_of_a_fold_and_of_the_purge_after_it_do_not_reach_the_models_that_predict_it(
    fitted, tmp_path, name, client
):
    before, weather = pd.read_parquet(fitted.files.out_of_sample), made_up_weather()
    in_fold = before["fold"] == 2
    first, last = before.loc[in_fold, "ds"].agg(["min", "max"])
    middle = first + (last - first) / 2
    farthest = max(fitted.challenge.target.horizons) * fitted.challenge.target.step
    weather.loc[weather["ds"].between(middle, last + farthest), "temperature"] += 10.0
    after = pd.read_parquet(
        trained(featured_run(tmp_path, name, "manual__2", observations=weather)).files.out_of_sample
    )
    keys = ["unique_id", "ds", "horizon", "fold"]
    pd.testing.assert_frame_equal(before[keys], after[keys])
    same = before["candidate"] == after["candidate"]
    earlier = in_fold & (before["ds"] < middle)
    assert earlier.sum() == 3 * 3 * 14 * 24
    assert same[earlier].all()
    assert same[~in_fold].mean() < 0.1  # those of the other folds have learnt from it


def test_without_production_the_candidate_meets_the_challenges_baseline(finished):
    run, evaluation = finished.run, finished.evaluation
    assert evaluation.production is None
    assert not evaluation.same_code
    assert evaluation.fair
    assert evaluation.baseline.title == "climatology (28 days)"
    assert evaluation.candidate.measured.overall.error < evaluation.baseline.measured.overall.error
    assert 0.8 < evaluation.candidate.measured.overall.coverage < 0.97
    judged = pd.read_parquet(run.files.losses).query("horizon == 4")
    table = read_features(run.files.features, feature_spec(run.challenge))
    own = judged.merge(table, on=["unique_id", "ds"])
    change = (own["target_h4"] - own["y"]).to_numpy()
    (persistence,) = evaluation.opponents
    assert persistence.title == "persistence"
    assert persistence.measured.horizons[4].error == pytest.approx(math.sqrt(np.mean(change**2)), rel=1e-12)
    assert persistence.measured.horizons[4].rows == len(own) == len(judged)


def test_the_baseline_is_computed_from_the_observations_before_each_origin(finished):
    rows = pd.read_parquet(finished.run.files.losses).query("horizon == 4 and unique_id == 'JFK' and fold == 3")
    temperature = made_up_weather().query("unique_id == 'JFK'").set_index("ds")["temperature"]
    for row in rows.iloc[::100].itertuples():
        days = [timedelta(days=day) for day in range(1, 29)]
        changes = [temperature[row.ds + timedelta(hours=4) - day] - temperature[row.ds - day] for day in days]
        assert row.baseline == pytest.approx(temperature[row.ds] + np.mean(changes), rel=1e-9)


def test_every_figure_is_logged_and_the_manifest_carries_the_errors(finished, tmp_path, client):
    run, evaluation = finished.run, finished.evaluation
    tracked = tracked_run(client, run)
    metrics = tracked.data.metrics
    measured = evaluation.candidate.measured
    assert metrics["rmse"] == measured.overall.error
    assert metrics["coverage_90_h5"] == measured.horizons[5].coverage
    assert metrics["rmse_JFK"] == measured.series["JFK"].error
    baseline, (persistence,) = evaluation.baseline.measured, evaluation.opponents
    assert metrics["baseline.r2_h6"] == baseline.horizons[6].r2
    assert metrics["opponent.persistence.rmse_EWR"] == persistence.measured.series["EWR"].error
    assert metrics["skill"] == pytest.approx(1 - measured.overall.loss / baseline.overall.loss)
    assert metrics["bundle_bytes"] == sum(map(len, contents(run.files.bundle).values()))
    assert 0 < metrics["prediction_seconds_per_row"] < 1
    assert tracked.data.tags["rps.fair"] == "true"
    manifest = read_bundle(run.files.bundle).manifest
    assert manifest.errors[4]["error"] == measured.horizons[4].error
    assert manifest.errors[4]["baseline_error"] == baseline.horizons[4].error
    assert manifest.errors[4]["width"] == measured.horizons[4].width
    assert contents(logged(client, run, "bundle", tmp_path / "fetched")) == contents(run.files.bundle)
    evaluation_file = logged(client, run, "evaluation/evaluation.json", tmp_path / "evaluation")
    assert evaluation_file.read_bytes() == run.files.evaluation.read_bytes()


def test_every_prediction_is_kept_and_gives_the_reported_error(finished):
    run, evaluation = finished.run, finished.evaluation
    rows = pd.read_parquet(run.files.losses)
    assert len(rows) == evaluation.window.rows
    assert not rows.duplicated(["unique_id", "ds", "horizon"]).any()
    error = rows["candidate"] - rows["truth"]
    assert math.sqrt((error**2).mean()) == pytest.approx(evaluation.candidate.measured.overall.error)
    assert rows["production"].isna().all()
    assert (rows["candidate_lower"] < rows["candidate_upper"]).all()


def test_each_folds_error_is_reported_and_logged_with_its_number(finished, client):
    run, evaluation = finished.run, finished.evaluation
    rows = pd.read_parquet(run.files.losses)
    assert [fold.rows for fold in evaluation.folds] == rows.groupby("fold").size().tolist()
    for (_, own), fold in zip(rows.groupby("fold"), evaluation.folds, strict=True):
        assert (own["ds"].min(), own["ds"].max()) == (fold.start, fold.end)
        assert fold.end - fold.start < timedelta(days=28)
        for model in ("candidate", "baseline", "opponent.persistence"):
            expected = math.sqrt(((own[model] - own["truth"]) ** 2).mean())
            assert fold.errors[model] == pytest.approx(expected)
    history = client.get_metric_history(tracked_run(client, run).info.run_id, "rmse_fold")
    logged = {each.step: each.value for each in history}
    assert logged == {number: fold.errors["candidate"] for number, fold in enumerate(evaluation.folds, 1)}
    assert len(logged) == 3


def test_all_three_stages_again_change_nothing(tmp_path, name, client):
    run = featured_run(tmp_path, name)
    first = registered(run)
    client.set_model_version_tag(name, first.version, "gate", "passed")
    assert registered(run) == first
    (version,) = client.search_model_versions(f"name = '{name}'")
    assert version.tags["gate"] == "passed"
    (tracked,) = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    assert tracked.info.status == "FINISHED"
    assert len(client.get_metric_history(tracked.info.run_id, "rmse")) == 1


def test_a_version_is_pending_without_alias_and_holds_the_bundle(finished, tmp_path, client):
    run, version = finished.run, finished.version
    assert (version.tags["gate"], version.tags["git_sha"]) == ("pending", "a" * 40)
    assert version.tags["run_id"] == "manual__1"
    assert finished.aliases == {}
    source = client.get_model_version_download_uri(version.name, finished.made.version)
    fetched = mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(tmp_path / "fetched"))
    assert contents(Path(fetched)) == contents(run.files.bundle)


def met(
    candidate: Run,
    root: Path,
    client: MlflowClient,
    run_id: str,
    edits=NO_EDITS,
    *,
    damage=NO_EDITS,
    without="",
    git_sha=OTHER_SHA,
) -> tuple[Evaluation, Run]:
    """The candidate's evaluation against a production model of a challenge with ``edits``, and that one's run.

    damage: texts to log in the place of that model's artifacts; without: one to delete; git_sha: its commit.
    """
    before = featured_run(root / "before", candidate.challenge.name, run_id, git_sha=git_sha, edits=edits)
    made = registered(before)
    if without:
        artifacts = client.get_run(made.mlflow_run_id).info.artifact_uri
        get_artifact_repository(artifacts, tracking_uri=client.tracking_uri).delete_artifacts(without)
    for path, text in damage.items():
        client.log_text(made.mlflow_run_id, text, path)
    promote(client, candidate.challenge.name, made.version)
    try:
        return measured(copied(candidate, root / "candidate")), before
    finally:
        client.delete_registered_model_alias(candidate.challenge.name, "production")


def test_a_production_model_of_other_features_is_measured_on_its_own(candidate, tmp_path, client):
    other_features = {'calendar = ["hour_of_day", "day_of_year"]': 'calendar = ["hour_of_day", "day_of_week"]'}
    evaluation, before = met(candidate, tmp_path, client, "features", other_features)
    alone = read_json(before.files.evaluation, Evaluation, made_by="evaluate")
    version = evaluation.production_version
    assert evaluation.fair
    assert evaluation.production is not None
    (expected,) = client.search_model_versions(f"run_id = '{alone.candidate.mlflow_run}'")
    assert (version, evaluation.production.version) == (expected.version, expected.version)
    assert evaluation.production.measured == alone.candidate.measured
    assert evaluation.candidate.measured != alone.candidate.measured
    assert not evaluation.same_code
    tracked = client.get_run(evaluation.candidate.mlflow_run)
    assert tracked.data.metrics["production.rmse_h4"] == alone.candidate.measured.horizons[4].error


def expected_drift(run: Run, evaluation: Evaluation, bundle: Path) -> dict[str, float]:
    """The indices of all but the calendar's features in the newest fold, against its bundle's training."""
    table = read_features(run.files.features, feature_spec(run.challenge))
    rows = pd.read_parquet(run.files.losses)
    keys = pd.MultiIndex.from_frame(rows.loc[rows["fold"] == 3, ["unique_id", "ds"]])
    seen = table[pd.MultiIndex.from_frame(table[["unique_id", "ds"]]).isin(keys)]
    assert seen["ds"].max() == evaluation.as_of.replace(minute=0) - timedelta(hours=4)
    references = read_bundle(bundle).manifest.references
    return {
        name: population_stability_index(known, seen[name].to_numpy())
        for name, known in references.items()
        if not name.startswith(("hour_of_day", "day_of_year"))
    }


def test_drift_without_production_is_against_the_candidates_own_training(finished):
    run, evaluation = finished.run, finished.evaluation
    assert evaluation.drift_from == "candidate"
    assert evaluation.drift == pytest.approx(expected_drift(run, evaluation, run.files.bundle))


@pytest.mark.parametrize("features", ["the same", "others"])
def test_drift_is_against_productions_training_when_it_knows_these_features(tmp_path, name, client, features):
    weather = made_up_weather()
    edits = {} if features == "the same" else {"steps = [3, 6]": "steps = [3, 9]"}
    before = featured_run(tmp_path / "a", name, "manual__1", as_of=AS_OF - timedelta(days=20), edits=edits)
    promote(client, name, registered(before).version)
    shifted = weather["ds"] >= pd.Timestamp(AS_OF) - timedelta(days=7)
    weather.loc[shifted, "wind_speed"] += 10.0
    run = featured_run(tmp_path / "b", name, "manual__2", observations=weather)
    evaluation = evaluated(run)
    assert evaluation.production is not None
    known = run.files.production / "bundle" if features == "the same" else run.files.bundle
    assert evaluation.drift_from == ("production" if features == "the same" else "candidate")
    assert evaluation.drift == pytest.approx(expected_drift(run, evaluation, known))
    assert evaluation.drift["wind_speed_lag_0"] > evaluation.drift["humidity_lag_0"]
    assert (evaluation.drift["wind_speed_lag_0"] > 0.25) == (
        features == "the same"
    )  # the candidate has learnt the shift


def run_after_production(root: Path, released: Run, as_of: datetime) -> Run:
    """A candidate as of ``as_of``, judged on the four weeks before, that is to meet a production model as of AS_OF."""
    return featured_run(root, released.challenge.name, f"as of {as_of:%d}", as_of=as_of, edits=LAST_WEEKS)


def test_a_production_model_that_has_lost_its_artifacts_stops_the_run_with_what_to_do(candidate, tmp_path, client):
    made = registered(featured_run(tmp_path / "before", candidate.challenge.name, "lost"))
    promote(client, candidate.challenge.name, made.version)
    get_artifact_repository(made.source, tracking_uri=client.tracking_uri).delete_artifacts()
    try:
        with pytest.raises(ConfigurationError, match=rf"version {made.version} .*{made.source} is gone.* Restore it"):
            measured(copied(candidate, tmp_path / "candidate"))
    finally:
        client.delete_registered_model_alias(candidate.challenge.name, "production")


def test_what_both_recipes_have_predicted_of_their_folds_is_compared(tmp_path, released, client):
    run = run_after_production(tmp_path, released, AS_OF - timedelta(days=15))
    evaluation = evaluated(run)
    assert evaluation.production is not None
    assert evaluation.production.train_end > evaluation.candidate.train_end
    assert evaluation.fair
    rows, keys = pd.read_parquet(run.files.losses), ["unique_id", "ds", "horizon"]
    both = rows.merge(pd.read_parquet(released.files.losses), on=keys, suffixes=("", "_theirs"))
    compared = rows[rows["compared"]].reset_index(drop=True)
    assert set(compared[keys].itertuples(index=False)) == set(both[keys].itertuples(index=False))
    for end in ("", "_lower", "_upper"):
        assert (compared.merge(both, on=keys)[f"production{end}_x"] == both[f"candidate{end}_theirs"]).all()
    assert 12 < (evaluation.window.end - evaluation.window.start) / timedelta(days=1) < 14
    rows_of = (evaluation.window, *(model.measured.overall for model in (evaluation.candidate, evaluation.baseline)))
    assert {each.rows for each in rows_of} == {evaluation.production.measured.overall.rows} == {len(compared)}


def test_folds_that_share_few_days_are_measured_and_called_unfair(tmp_path, released, client):
    evaluation = evaluated(run_after_production(tmp_path, released, AS_OF - timedelta(days=25)))
    assert evaluation.production is not None
    assert not evaluation.fair
    assert "the folds that are compared have" in evaluation.reasons[0]
    tracked = client.get_run(evaluation.candidate.mlflow_run)
    assert tracked.data.metrics["fair"] == 0.0
    assert "at least 7 days" in tracked.data.tags["rps.unfair_reasons"]


def test_folds_that_share_no_forecast_are_reported_and_the_candidate_measured(tmp_path, released, client):
    evaluation = evaluated(run_after_production(tmp_path, released, AS_OF - timedelta(days=30)))
    assert evaluation.production is None
    assert evaluation.production_version == "1"
    assert not evaluation.fair
    assert "production (version 1) was not compared: its folds and this run's have no" in evaluation.reasons[0]
    assert evaluation.candidate.measured.overall.rows > 1000


@pytest.mark.parametrize(
    ("left", "shown"),
    [
        ({"without": LOSSES}, rf"its MLflow run \w+ has no {LOSSES}: train production's commit again"),
        ({"damage": {LOSSES: "no table"}}, rf"the {LOSSES} of its MLflow run \w+ cannot be read: "),
    ],
    ids=["missing", "broken"],
)
def test_a_production_model_whose_folds_cannot_be_read_is_not_compared(candidate, tmp_path, client, left, shown):
    evaluation, _ = met(candidate, tmp_path, client, f"folds {min(left)}", **left)
    assert evaluation.production is None
    assert not evaluation.fair
    outcome = rf"production \(version {evaluation.production_version}\) was not compared"
    assert re.match(f"{outcome}: {shown}", evaluation.reasons[0])
    assert evaluation.candidate.measured.overall.rows > 1000


def test_a_candidate_of_productions_commit_is_marked_as_the_same_code(candidate, tmp_path, client):
    evaluation, _ = met(candidate, tmp_path, client, "same commit", git_sha=candidate.identity.git_sha)
    assert evaluation.production is not None
    assert evaluation.same_code


def test_a_production_model_of_another_unit_is_not_compared(candidate, tmp_path, client):
    kelvin = {'unit = "°C"': 'unit = "K"', '"temperature_2m", unit = "°C"': '"temperature_2m", unit = "K"'}
    evaluation, _ = met(candidate, tmp_path, client, "kelvin", kelvin)
    assert evaluation.production is None
    assert not evaluation.fair
    assert "its unit is K, here °C" in evaluation.reasons[0]


def test_a_horizon_that_production_lacks_is_measured_apart(candidate, tmp_path, client):
    evaluation, _ = met(candidate, tmp_path, client, "horizons", {"horizons = [4, 5, 6]": "horizons = [4, 5]"})
    assert evaluation.production is not None
    assert set(evaluation.production.measured.horizons) == {4, 5}
    assert set(evaluation.candidate.measured.horizons) == {4, 5, 6}
    shared = [evaluation.candidate.measured.horizons[horizon].rows for horizon in (4, 5)]
    assert evaluation.candidate.measured.overall.rows == sum(shared) == evaluation.production.measured.overall.rows


def test_a_production_bundle_that_cannot_be_read_is_reported(candidate, tmp_path, client):
    evaluation, _ = met(candidate, tmp_path, client, "unreadable", damage={"bundle/manifest.json": "{}"})
    assert evaluation.production is None
    assert not evaluation.fair
    assert "its bundle cannot be read" in evaluation.reasons[0]


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [
        (
            {"max_itre": 10},
            r"learner\.parameters: object contains unknown field `max_itre`; expected the keys max_iter",
        ),
        ({"learning_rate": 1e308, "max_iter": 5}, r"learner\.parameters: .* not finite: lower learning_rate"),
    ],
)
def test_a_wrong_parameter_is_reported_with_file_and_key(tmp_path, name, client, parameters, shown):
    run = with_learner(featured_run(tmp_path, name), kind="hist_gradient_boosting", parameters=parameters)
    with pytest.raises(ConfigurationError, match=rf"{name}\.toml: {shown}"):
        carried("train", run)
    assert not run.files.bundle.exists()


def test_other_settings_within_one_run_are_refused_before_anything_is_logged(fitted, tmp_path, client):
    run = copied(fitted, tmp_path)
    with pytest.raises(ConfigurationError, match=r"learner\.seed from 20131 to 7.*'ingest'"):
        carried("train", with_learner(run, seed=7))


def test_stages_in_the_wrong_order_name_the_one_to_run(tmp_path, name, client):
    run = featured_run(tmp_path, name)
    with pytest.raises(ConfigurationError, match="run the stage 'train'"):
        carried("evaluate", run)
    with pytest.raises(ConfigurationError, match="run the stage 'evaluate'"):
        carried("register", run)
    run.files.features.unlink()
    with pytest.raises(ConfigurationError, match="run the stage 'transform' first"):
        carried("train", run)


def test_a_bundle_of_another_run_is_not_evaluated(fitted, tmp_path, client):
    run = copied(fitted, tmp_path)
    later = featured_run(tmp_path, run.challenge.name, "another")
    assert later.files.bundle == run.files.bundle
    with pytest.raises(ConfigurationError, match="run the stage 'train'"):
        carried("evaluate", later)


def test_a_dataset_record_of_another_run_is_not_put_into_a_bundle(tmp_path, name, client):
    dataset = featured_run(tmp_path, name).files.dataset.read_bytes()
    run = featured_run(tmp_path, name, "manual__2")
    run.files.dataset.write_bytes(dataset)
    with pytest.raises(ConfigurationError, match="run the stage 'version'"):
        carried("train", run)


def test_an_evaluation_of_another_run_is_not_registered(finished, tmp_path, client):
    run = copied(finished.run, tmp_path)
    with pytest.raises(ConfigurationError, match="run the stage 'evaluate'"):
        carried("register", featured_run(tmp_path, run.challenge.name, "another"))


def test_a_damaged_candidate_is_refused(fitted, tmp_path, client):
    run = copied(fitted, tmp_path)
    with (run.files.bundle / "h4.json").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ConfigurationError, match=r"h4\.json: expected SHA-256"):
        carried("evaluate", run)


def test_an_mlflow_that_is_down_passes_and_leaves_no_bundle(tmp_path, name, monkeypatch):
    run = featured_run(tmp_path, name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(PassingFault, match="Is it up"):
        carried("train", run)
    assert not run.files.bundle.exists()
