"""What a run left in MLflow: its data, its errors on the hold-out, its registered version."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from scripts.services import StackError

if TYPE_CHECKING:
    from mlflow.entities import Run

OPPONENTS = {"": "candidate", "production.": "production", "persistence.": "persistence"}


@dataclass(frozen=True)
class Score:
    """One model's errors at one horizon on the hold-out, in units of the target (R² has none)."""

    horizon: str
    model: str
    rmse: float
    mae: float
    r2: float


@dataclass(frozen=True)
class Outcome:
    """What the demo shows of a run."""

    challenge: str
    unit: str
    rows: int
    violations: str
    features: int
    scores: list[Score]
    coverage: float
    dataset_md5: str
    dataset_rev: str
    model_version: str
    gate: str
    run_url: str
    profile_url: str


def find_outcome(addresses: Mapping[str, str], challenge: str, run_id: str) -> Outcome:
    """Read it from the MLflow server that the addresses name. Raises StackError."""
    os.environ.update({name: value for name, value in addresses.items() if name.startswith("MLFLOW_")})
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    address = addresses["MLFLOW_TRACKING_URI"].rstrip("/")
    client = MlflowClient(tracking_uri=address, registry_uri=address)
    try:
        experiment = client.get_experiment_by_name(challenge)
        found = client.search_runs([experiment.experiment_id], f"tags.`rps.run_id` = '{run_id}'") if experiment else []
        if not found:
            raise StackError(f"MLflow at {address} has no run tagged rps.run_id={run_id}")
        run = found[0]
        versions = client.search_model_versions(f"run_id = '{run.info.run_id}'")
        quality = _artifact(address, run, "profile/quality.json")
        evaluation = _artifact(address, run, "evaluation/evaluation.json")
    except MlflowException as error:
        raise StackError(f"MLflow at {address} would not tell what came out: {error}") from error
    run_url = f"{address}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    violations = quality["violations"]
    warnings = sum(violation["severity"] == "warning" for violation in violations)
    return Outcome(
        challenge=challenge,
        unit=evaluation["unit"],
        rows=int(quality["rows"]),
        violations=f"{len(violations) - warnings} ({warnings} tolerated)",
        features=int(run.data.params["features"]),
        scores=_scores(run.data.metrics),
        coverage=run.data.metrics["coverage_90"],
        dataset_md5=run.data.tags["rps.dataset_md5"],
        dataset_rev=run.data.tags["rps.dataset_rev"],
        model_version=versions[0].version,
        gate=versions[0].tags["gate"],
        run_url=run_url,
        profile_url=f"{run_url}/artifacts/profile",
    )


def _scores(metrics: Mapping[str, float]) -> list[Score]:
    horizons = sorted({name.removeprefix("rmse_h") for name in metrics if name.startswith("rmse_h")}, key=int)
    return [
        Score(f"{horizon}", model, *(metrics[f"{prefix}{measure}_h{horizon}"] for measure in ("rmse", "mae", "r2")))
        for horizon in horizons
        for prefix, model in OPPONENTS.items()
        if f"{prefix}rmse_h{horizon}" in metrics
    ]


def _artifact(address: str, run: Run, path: str) -> dict[str, Any]:
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory() as scratch:
        # By its artifact address: a 2.7 server does not answer what the client's newer ways ask it.
        uri = f"{run.info.artifact_uri}/{path}"
        local = Path(download_artifacts(artifact_uri=uri, dst_path=scratch, tracking_uri=address))
        content: dict[str, Any] = msgspec.json.decode(local.read_bytes())
        return content
