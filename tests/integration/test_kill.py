"""Every stage, killed (SIGKILL) at random moments many times, then run to its end: the same state, and nothing half.

The moments are drawn over the whole time that the stage takes, from a seed that is printed.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from mlflow.tracking import MlflowClient

from forecasting.bundle import read_bundle
from pipelines.store import open_store
from tests.integration.conftest import STAGES, Pipeline

KILLS = 5
SEED = 20131230


def observations(pipeline: Pipeline) -> object:
    return _table(pipeline.data / "observations.parquet")


def judged(pipeline: Pipeline) -> object:
    report = json.loads((pipeline.data / "quality.json").read_text())
    accepted = [key for key in open_store().keys("history/weather/") if key.endswith(".parquet")]
    return report["passed"], report["rows"], len(report["violations"]), len(accepted)


def features(pipeline: Pipeline) -> object:
    return _table(pipeline.data / "features.parquet")


def profile(pipeline: Pipeline) -> object:
    return (pipeline.data / "profile.html").read_text().rstrip().endswith("</script>"), _artifacts(pipeline, "profile")


def dataset(pipeline: Pipeline) -> object:
    written = json.loads((pipeline.data / "dataset.json").read_text())
    return written["md5"], len([body for body in pipeline.commits() if pipeline.environment["RPS_RUN_ID"] in body])


def bundle(pipeline: Pipeline) -> object:
    read_bundle(pipeline.data / "bundle")
    return _files(pipeline.data / "bundle"), _artifacts(pipeline, "bundle")


def evaluation(pipeline: Pipeline) -> object:
    metrics = {name: value for name, value in _mlflow_run(pipeline).data.metrics.items() if "seconds" not in name}
    return _table(pipeline.data / "losses.parquet"), metrics, read_bundle(pipeline.data / "bundle").manifest.holdout


def registered(pipeline: Pipeline) -> object:
    versions = _client(pipeline).search_model_versions(f"run_id = '{_mlflow_run(pipeline).info.run_id}'")
    return [version.tags["gate"] for version in versions], _mlflow_run(pipeline).info.status


STATES: dict[str, Callable[[Pipeline], object]] = {
    "ingest": observations,
    "validate": judged,
    "transform": features,
    "profile": profile,
    "version": dataset,
    "train": bundle,
    "evaluate": evaluation,
    "register": registered,
}


@pytest.mark.timeout(1200)
def test_a_stage_killed_at_random_moments_ends_in_the_same_state_when_run_again(pipeline: Pipeline) -> None:
    draw = random.Random(SEED)
    for stage in STAGES:
        began = time.monotonic()
        code, output = pipeline.run(stage)
        assert code == 0, f"{stage}: {output}"
        took = time.monotonic() - began
        reference = STATES[stage](pipeline)
        for kill in range(KILLS):
            moment = draw.uniform(0.05, 1.0) * took
            process = pipeline.start(stage)
            time.sleep(moment)
            process.kill()
            process.communicate()
            assert _half_written(pipeline) == [], f"{stage}, kill {kill} after {moment:.2f} s (seed {SEED})"
        code, output = pipeline.run(stage)
        assert code == 0, f"{stage} after {KILLS} kills: {output}"
        assert STATES[stage](pipeline) == reference, stage
        assert _leftovers(pipeline) == [], stage


def test_a_first_run_killed_before_its_end_leaves_the_way_free(pipeline: Pipeline) -> None:
    draw = random.Random(SEED + 1)
    for stage in STAGES:
        for _ in range(2):
            process = pipeline.start(stage)
            time.sleep(draw.uniform(0.2, 3.0))
            process.kill()
            process.communicate()
        code, output = pipeline.run(stage)
        assert code == 0, f"{stage}: {output}"
    client = _client(pipeline)
    experiment = client.get_experiment_by_name("weather")
    tag = f"tags.`rps.run_id` = '{pipeline.environment['RPS_RUN_ID']}'"
    assert len(client.search_runs([experiment.experiment_id], tag)) == 1


def _half_written(pipeline: Pipeline) -> list[str]:
    """Outputs under their own names that cannot be read whole; hidden scratch files do not count."""
    broken = []
    for path in pipeline.data.iterdir():
        if path.name.startswith("."):
            continue
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
    return [path.name for path in pipeline.data.iterdir() if re.fullmatch(r"\..*\.\d+(\.old)?", path.name)]


def _table(path: Path) -> str:
    return hashlib.sha256(pd.util.hash_pandas_object(pd.read_parquet(path)).to_numpy().tobytes()).hexdigest()


def _files(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def _client(pipeline: Pipeline) -> MlflowClient:
    address = pipeline.environment["MLFLOW_TRACKING_URI"]
    return MlflowClient(tracking_uri=address, registry_uri=address)


def _mlflow_run(pipeline: Pipeline):
    experiment = _client(pipeline).get_experiment_by_name("weather")
    tag = f"tags.`rps.run_id` = '{pipeline.environment['RPS_RUN_ID']}'"
    (run,) = _client(pipeline).search_runs([experiment.experiment_id], tag)
    return run


def _artifacts(pipeline: Pipeline, path: str) -> list[str]:
    return sorted(
        artifact.path for artifact in _client(pipeline).list_artifacts(_mlflow_run(pipeline).info.run_id, path)
    )
