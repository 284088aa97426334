"""Every stage, killed (SIGKILL) before, during and after each kind of write: nothing half, the same state in the end.

A run is killed at the first moment at which no run before it was; so each next one starts from what a killed one has
left and gets further, until one ends by itself. `moments.py` says which moments there are.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pandas as pd
import pyarrow.parquet as pq
import pytest
from mlflow.tracking import MlflowClient

from forecasting.models.bundle import read_bundle
from records.stages import STEPS
from tests.integration.conftest import Pipeline, new_pipeline
from tests.integration.killing import Killing, kill_at_pushes, killing
from tests.integration.moments import APPEARED, CUT, PUSHED, RECEIVED, STARTED, UNANSWERED, WRITTEN, Moments
from tests.replay_fixture import Replay

CHALLENGE = """
name = "weather"
title = "Temperature at one airport, from little data"

[target]
variable = "temperature"
unit = "°C"
step_minutes = 60
horizons = [4, 5]

[source]
kind = "open-meteo"
history_days = 60
page_days = 15
variables.temperature = { name = "temperature_2m", unit = "°C" }
series = [{ unique_id = "JFK", query = { latitude = 40.6398, longitude = -73.7789 } }]

[quality]
key_columns = ["temperature"]
max_null_share = 0.01
max_out_of_range_share = 0.001
max_conflicting_share = 0.01
recent_hours = 168
max_gap_hours = 12
max_age_hours = 6
max_stuck_hours = 24
stuck_columns = ["temperature"]
min_rows = 500

[quality.ranges]
temperature = [-60.0, 60.0]

[features]
calendar = ["hour_of_day"]
lags = [{ variable = "temperature", steps = [0, 1, 24] }]
rolling = [{ variable = "temperature", windows = [24], statistics = ["mean"] }]

[learner]
kind = "hist_gradient_boosting"
seed = 20131
interval = 0.9
parameters.max_iter = 5

[folds]
count = 2
days = 14

[gate]
max_regression = 0.12
negligible_regression = 0.002
strict = false
significance = 0.001
max_slice_regression = 0.20
coverage = [0.85, 0.95]
max_bundle_bytes = 20_000_000
max_prediction_time_ratio = 2.0

[drift]
max_out_of_distribution_ratio = 0.2
max_population_stability_index = 0.25
max_live_error_ratio = 1.5
window_rows = 2016

[schedule]
cron = "17 */6 * * *"
retries = 3
retry_delay_seconds = 10
stage_timeout_minutes = 30
"""
"""Small, so that a run is cheap; it writes what every challenge writes."""

BROUGHT = {"accepted.parquet", "stored", "production"}
"""What the carrier brings from the services."""
LOCAL = {WRITTEN, APPEARED}
REMOTE = {CUT, UNANSWERED}
MET = dict.fromkeys(STEPS, LOCAL | REMOTE) | {
    "merge": LOCAL,
    "transform": LOCAL,
    "version": LOCAL | REMOTE | {STARTED, RECEIVED, PUSHED},
}
"""The kinds of moments that the first run of each stage must have met, so that no kill is left out unseen."""


def answers(pipeline: Pipeline) -> object:
    """Every answer of the run is stored as it lies here, and none twice."""
    here = sorted(path.name for path in (pipeline.data / "raw").iterdir())
    stored = [key.rsplit("/", 1)[-1] for key in _stored(pipeline, "raw/weather/")]
    return json.loads((pipeline.data / "asked.json").read_text())["until"], set(here) <= set(stored)


def observations(pipeline: Pipeline) -> object:
    return _table(pipeline.data / "observations.parquet")


def judged(pipeline: Pipeline) -> object:
    report = json.loads((pipeline.data / "quality.json").read_text())
    accepted = [key for key in _stored(pipeline, "history/weather/") if key.endswith(".parquet")]
    return report["passed"], report["rows"], len(report["violations"]), len(accepted)


def features(pipeline: Pipeline) -> object:
    return _table(pipeline.data / "features.parquet")


def profile(pipeline: Pipeline) -> object:
    return (pipeline.data / "profile.html").read_text().rstrip().endswith("</script>"), _artifacts(pipeline, "profile")


def dataset(pipeline: Pipeline) -> object:
    written = json.loads((pipeline.data / "dataset.json").read_text())
    command = ["git", "-C", pipeline.environment["RPS_REPOSITORY"], "rev-parse", "data/weather"]
    assert written["rev"] == subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return written["md5"], len([body for body in pipeline.commits() if pipeline.environment["RPS_RUN_ID"] in body])


def bundle(pipeline: Pipeline) -> object:
    read_bundle(pipeline.data / "bundle")  # compares its files with their checksums
    manifest = json.loads((pipeline.data / "bundle" / "manifest.json").read_text())
    assert manifest.pop("mlflow_run") == _mlflow_run(pipeline).info.run_id
    manifest["checksums"].pop("manifest.json")  # the MLflow run is in it, and differs between two pipelines
    return manifest, _artifacts(pipeline, "bundle")


def evaluation(pipeline: Pipeline) -> object:
    metrics = {name: value for name, value in _mlflow_run(pipeline).data.metrics.items() if "seconds" not in name}
    return _table(pipeline.data / "losses.parquet"), metrics, read_bundle(pipeline.data / "bundle").manifest.errors


def registered(pipeline: Pipeline) -> object:
    versions = _client(pipeline).search_model_versions(f"run_id = '{_mlflow_run(pipeline).info.run_id}'")
    return [version.tags["gate"] for version in versions], _mlflow_run(pipeline).info.status


STATES: dict[str, Callable[[Pipeline], object]] = {
    "ingest": answers,
    "merge": observations,
    "validate": judged,
    "transform": features,
    "profile": profile,
    "version": dataset,
    "train": bundle,
    "evaluate": evaluation,
    "register": registered,
}


@dataclass
class Journey:
    """A pipeline that gets on stage by stage, and the state in which the first good run of each stage has left it."""

    killing: Killing
    pipeline: Pipeline
    states: dict[str, object] = field(default_factory=dict)

    def complete(self, stages: Iterable[str]) -> None:
        """Run those of the stages that have not run yet; nothing is killed."""
        for stage in stages:
            if stage not in self.states:
                code, output = self.killing.run(self.pipeline, stage)
                assert code == 0, f"{stage}: {output}"
                self.states[stage] = STATES[stage](self.pipeline)


@pytest.fixture(scope="module")
def kills(s3: dict[str, str], mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killing]:
    with killing(s3["AWS_ENDPOINT_URL"], mlflow_server, tmp_path_factory.mktemp("killing")) as found:
        yield found


@pytest.fixture(scope="module")
def new_journey(
    kills: Killing, s3: dict[str, str], replay_process: Replay, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Journey]:
    def new() -> Journey:
        pipeline = new_pipeline(
            tmp_path_factory.mktemp("journey"),
            **{
                **s3,
                "RPS_STORE": f"{s3['RPS_STORE']}/{uuid.uuid4().hex[:12]}",
                "AWS_ENDPOINT_URL": kills.s3,
                "MLFLOW_TRACKING_URI": kills.mlflow,
                "OPEN_METEO_URL": replay_process.url,
                "OPEN_METEO_ARCHIVE_URL": replay_process.url,
                "RPS_CLOCK_URL": f"{replay_process.url}/replay/clock",
            },
        )
        (pipeline.workspace / "challenges" / "weather.toml").write_text(CHALLENGE, encoding="utf-8")
        kill_at_pushes(Path(pipeline.environment["RPS_REPOSITORY"]))
        return Journey(kills, pipeline)

    return new


@pytest.fixture(scope="module")
def whole(new_journey: Callable[[], Journey]) -> Journey:
    """No stage is killed in its first run."""
    return new_journey()


@pytest.fixture(scope="module")
def interrupted(new_journey: Callable[[], Journey]) -> Journey:
    """Every stage is killed in its first run, if the tests run in the order of the stages."""
    return new_journey()


@pytest.mark.parametrize("stage", STEPS)
def test_a_first_run_that_is_killed_at_each_write_ends_like_one_that_is_not(
    stage: str,
    whole: Journey,
    interrupted: Journey,
    new_journey: Callable[[], Journey],
    replay: Replay,
    tmp_path: Path,
) -> None:
    before = tuple(STEPS)[: list(STEPS).index(stage)]
    whole.complete((*before, stage))
    journey = interrupted if stage not in interrupted.states else new_journey()
    journey.complete(before)
    moments = Moments(tmp_path / "moments", coarse=False)
    tables = _tables(whole.pipeline)
    for moment in journey.killing.kills(journey.pipeline, stage, moments):
        assert _half_written(journey.pipeline) == [], f"{stage}, killed {moment}"
        assert _tables(journey.pipeline).items() <= tables.items(), f"{stage}, killed {moment}"
    names = sorted(moments.names())
    assert {kind for kind in MET[stage] if any(name.startswith(kind) for name in names)} == MET[stage], names
    journey.states[stage] = STATES[stage](journey.pipeline)
    assert journey.states[stage] == whole.states[stage], f"{stage}, killed {names}"
    assert _outputs(journey.pipeline) <= _outputs(whole.pipeline)
    assert _leftovers(journey.pipeline) == []
    assert len(_mlflow_runs(journey.pipeline)) <= 1


@pytest.mark.parametrize("stage", STEPS)
def test_a_run_over_earlier_outputs_that_is_killed_at_each_write_changes_nothing(
    stage: str, whole: Journey, replay: Replay, tmp_path: Path
) -> None:
    whole.complete(STEPS)
    moments = Moments(tmp_path / "moments", coarse=True)
    tables, outputs = _tables(whole.pipeline), _outputs(whole.pipeline)
    for moment in whole.killing.kills(whole.pipeline, stage, moments):
        assert _half_written(whole.pipeline) == [], f"{stage}, killed {moment}"
        assert _tables(whole.pipeline).items() <= tables.items(), f"{stage}, killed {moment}"
    assert STATES[stage](whole.pipeline) == whole.states[stage], f"{stage}, killed {sorted(moments.names())}"
    assert _outputs(whole.pipeline) == outputs
    assert _leftovers(whole.pipeline) == []
    assert len(_mlflow_runs(whole.pipeline)) == 1


def _half_written(pipeline: Pipeline) -> list[str]:
    """Outputs under their own names that cannot be read whole; hidden scratch files do not count."""
    broken = []
    for path in pipeline.data.glob("[!.]*"):
        try:
            if path.suffix == ".parquet":
                pq.read_table(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".html":
                assert path.read_text().rstrip().endswith("</script>")
            elif path.name == "bundle":
                read_bundle(path)
        except Exception as error:  # noqa: BLE001 - whatever a reader says of a half file
            broken.append(f"{path.name}: {error}")
    return broken


def _leftovers(pipeline: Pipeline) -> list[str]:
    """Scratch files that a stage which ended well has not cleared away."""
    return [path.name for path in pipeline.data.glob(".*") if path.suffix != ".lock"]


def _outputs(pipeline: Pipeline) -> set[str]:
    """What the steps have made, without what the carrier has brought."""
    return {path.name for path in pipeline.data.glob("[!.]*") if path.suffix != ".lock"} - BROUGHT


def _tables(pipeline: Pipeline) -> dict[str, str]:
    """The tables that are there, by their contents; but for the histories, which know when they were collected."""
    tables = {path.name: path for path in pipeline.data.glob("[!.]*.parquet")}
    return {name: _table(path) for name, path in tables.items() if name not in {"history.parquet", *BROUGHT}}


def _table(path: Path) -> str:
    return hashlib.sha256(pd.util.hash_pandas_object(pd.read_parquet(path)).to_numpy().tobytes()).hexdigest()


def _stored(pipeline: Pipeline, prefix: str) -> list[str]:
    """The keys in the store that start so."""
    environment = pipeline.environment
    client = boto3.session.Session(
        environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1"
    ).client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"])
    store = urlsplit(environment["RPS_STORE"])
    found = client.list_objects_v2(Bucket=store.netloc, Prefix=f"{store.path.strip('/')}/{prefix}")
    return [item["Key"] for item in found.get("Contents", ())]


def _client(pipeline: Pipeline) -> MlflowClient:
    address = pipeline.environment["MLFLOW_TRACKING_URI"]
    return MlflowClient(tracking_uri=address, registry_uri=address)


def _mlflow_runs(pipeline: Pipeline) -> list:
    experiment = _client(pipeline).get_experiment_by_name("weather")
    tag = f"tags.`rps.run_id` = '{pipeline.environment['RPS_RUN_ID']}'"
    return _client(pipeline).search_runs([experiment.experiment_id], tag) if experiment else []


def _mlflow_run(pipeline: Pipeline):
    (run,) = _mlflow_runs(pipeline)
    return run


def _artifacts(pipeline: Pipeline, path: str) -> list[str]:
    return sorted(
        artifact.path for artifact in _client(pipeline).list_artifacts(_mlflow_run(pipeline).info.run_id, path)
    )
