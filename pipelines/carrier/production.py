"""The production model, to which the registry's alias `production` points, and its folds, fetched for comparison."""

from __future__ import annotations

from pathlib import Path

from clients.disk import whole_directory
from clients.tracking import artifacts_gone, released_version
from forecasting.models.bundle import read_bundle
from forecasting.models.manifest import BundleError
from pipelines.carrier.tracked_run import TrackedRun
from pipelines.files import write_json
from pipelines.production import Released
from pipelines.run import Run
from records.mlflow_names import Artifact


def fetch_production(run: Run, tracking: TrackedRun) -> None:
    """Put the released version beside the run's files: its bundle, and what it predicted of its folds.

    Before the first release, nothing is there. Raises ConfigurationError (its artifacts are gone, or MLflow refuses us)
    or PassingFault.
    """
    with tracking.faults(f"look up the model {run.challenge.name}"):
        version = released_version(tracking.client, run.challenge.name)
    with whole_directory(run.files.production) as scratch:
        if not version:
            return
        with tracking.faults(f"fetch version {version} of {run.challenge.name}"):
            from mlflow.artifacts import list_artifacts

            source = tracking.client.get_model_version_download_uri(run.challenge.name, version)
            if not list_artifacts(artifact_uri=source, tracking_uri=tracking.uri):
                raise artifacts_gone(run.challenge.name, version, source)
            # By its artifact address: a 2.7 server does not answer today's requests for `runs:/`.
            bundle = scratch / "bundle"
            _download(source, bundle, tracking)
        try:
            problem = _fetch_folds(scratch, tracking, read_bundle(bundle).manifest.mlflow_run)
        except BundleError:
            problem = ""  # the stage meets it, too
        write_json(scratch / Released.FILE, Released(version=version, problem=problem))


def _fetch_folds(scratch: Path, tracking: TrackedRun, mlflow_run: str) -> str:
    """Fetch what an MLflow run predicted of its folds; why that is not possible, or nothing."""
    name = Path(Artifact.LOSSES).name
    with tracking.faults("fetch production's folds"):
        from mlflow.artifacts import list_artifacts

        source = f"{tracking.client.get_run(mlflow_run).info.artifact_uri}/{Artifact.EVALUATION}"
        listed = list_artifacts(artifact_uri=source, tracking_uri=tracking.uri) or ()
        if not any(each.path.endswith(name) for each in listed):
            return f"its MLflow run {mlflow_run} has no {Artifact.LOSSES}: train production's commit again"
        _download(f"{source}/{name}", scratch / "folds", tracking)
        (scratch / "folds" / name).rename(scratch / name)
        (scratch / "folds").rmdir()
    return ""


def _download(source: str, directory: Path, tracking: TrackedRun) -> None:
    """Into ``directory``, whatever folder the client makes there."""
    from mlflow.artifacts import download_artifacts

    directory.mkdir()
    fetched = Path(download_artifacts(artifact_uri=source, dst_path=str(directory), tracking_uri=tracking.uri))
    if fetched.is_dir() and fetched != directory:
        for file in fetched.iterdir():
            file.rename(directory / file.name)
        fetched.rmdir()
