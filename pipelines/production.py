"""The production model, to which the registry's alias `production` points, and its folds, fetched for comparison."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from clients.disk import whole_directory
from clients.tracking import artifacts_gone, released_version
from forecasting.judging.panel import COLUMNS
from forecasting.models.bundle import Bundle, read_bundle
from forecasting.models.manifest import BundleError
from pipelines.files import read_parquet
from pipelines.run import Run
from pipelines.tracked_run import TrackedRun
from records.mlflow_names import Artifact


@dataclass(frozen=True)
class Production:
    """The released version; what of it cannot be read is None, and ``problem`` says why."""

    version: str
    directory: Path
    bundle: Bundle | None
    judged: pd.DataFrame | None
    """What its recipe predicted of the folds when it was trained: the columns of `losses.parquet`."""
    problem: str = ""


def fetch_production(run: Run, tracking: TrackedRun) -> Production | None:
    """The released version with its bundle and its folds, which may be unreadable, or None before the first release.

    Raises ConfigurationError (its artifacts are gone, or MLflow refuses us) or PassingFault.
    """
    with tracking.faults(f"look up the model {run.challenge.name}"):
        version = released_version(tracking.client, run.challenge.name)
    if not version:
        return None
    directory = run.files.production
    with whole_directory(directory) as scratch, tracking.faults(f"fetch version {version} of {run.challenge.name}"):
        from mlflow.artifacts import download_artifacts, list_artifacts

        source = tracking.client.get_model_version_download_uri(run.challenge.name, version)
        if not list_artifacts(artifact_uri=source, tracking_uri=tracking.uri):
            raise artifacts_gone(run.challenge.name, version, source)
        # By its artifact address: a 2.7 server does not answer today's requests for `runs:/`.
        fetched = Path(download_artifacts(artifact_uri=source, dst_path=str(scratch), tracking_uri=tracking.uri))
        if fetched != scratch:
            for file in fetched.iterdir():
                file.rename(scratch / file.name)
            fetched.rmdir()
    try:
        bundle = read_bundle(directory)
    except BundleError as error:
        return Production(version, directory, None, None, str(error))
    judged, problem = _folds(run, tracking, bundle.manifest.mlflow_run)
    return Production(version, directory, bundle, judged, problem)


def _folds(run: Run, tracking: TrackedRun, mlflow_run: str) -> tuple[pd.DataFrame | None, str]:
    """What an MLflow run predicted of its folds, and why that cannot be read."""
    with tempfile.TemporaryDirectory(dir=run.files.root) as scratch, tracking.faults("fetch production's folds"):
        from mlflow.artifacts import download_artifacts, list_artifacts

        source = f"{tracking.client.get_run(mlflow_run).info.artifact_uri}/{Artifact.EVALUATION}"
        listed = list_artifacts(artifact_uri=source, tracking_uri=tracking.uri) or ()
        if not any(each.path.endswith(Path(Artifact.LOSSES).name) for each in listed):
            return None, f"its MLflow run {mlflow_run} has no {Artifact.LOSSES}: train production's commit again"
        uri = f"{source}/{Path(Artifact.LOSSES).name}"
        path = Path(download_artifacts(artifact_uri=uri, dst_path=scratch, tracking_uri=tracking.uri))
        where = f"the {Artifact.LOSSES} of its MLflow run {mlflow_run}"
        try:
            judged = read_parquet(path).to_pandas(use_threads=False)
        except OSError as error:
            return None, f"{where} cannot be read: {error}"
    missing = [name for name in COLUMNS if name not in judged]
    return (None, f"{where} lacks {', '.join(missing)}") if missing else (judged, "")
