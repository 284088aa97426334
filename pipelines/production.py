"""The production model, to which the registry's alias `production` points, fetched for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clients.disk import whole_directory
from clients.tracking import artifacts_gone, released_version
from forecasting.models.bundle import Bundle, read_bundle
from forecasting.models.manifest import BundleError
from pipelines.run import Run
from pipelines.tracked_run import TrackedRun


@dataclass(frozen=True)
class Production:
    """The released version; if its bundle cannot be read, ``bundle`` is None and ``problem`` says why."""

    version: str
    directory: Path
    bundle: Bundle | None
    problem: str = ""


def fetch_production(run: Run, tracking: TrackedRun) -> Production | None:
    """The released version with its bundle, which may be unreadable, or None before the first release.

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
        return Production(version, directory, read_bundle(directory))
    except BundleError as error:
        return Production(version, directory, None, str(error))
