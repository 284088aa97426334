"""Where the bundle comes from: a directory, or a model registry by name."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from clients.errors import ConfigurationError
from forecasting.models.bundle import Bundle, read_bundle
from service.model.served import Model, check_example
from service.service_settings import Settings

_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


def load_model(settings: Settings) -> Model:
    """The model of the bundle that the settings name.

    Raises BundleError when the bundle is damaged or its worked example comes out differently, and ConfigurationError
    when the bundle cannot be fetched.
    """
    if settings.bundle.startswith("models:"):
        bundle, version = _from_registry(settings.bundle)
    elif settings.bundle:
        bundle, version = read_bundle(Path(settings.bundle)), ""
    else:
        raise ConfigurationError("no bundle: give --bundle DIR, --bundle models:/weather@production, or set RPS_BUNDLE")
    model = Model(bundle, settings.model_version or version or bundle.manifest.mlflow_run or "unversioned")
    check_example(model)
    return model


def _from_registry(address: str) -> tuple[Bundle, str]:
    found = _REGISTERED.fullmatch(address)
    if found is None:
        expected = "models:/name@alias or models:/name/version, such as models:/weather@production"
        raise ConfigurationError(f"RPS_BUNDLE: expected {expected}; found {address!r}")
    try:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        message = "a bundle from a registry needs the package mlflow-skinny, which the service alone does not"
        raise ConfigurationError(f"{address}: {message}; install it, or give the bundle as a directory") from error
    # A server that keeps artifacts in S3 may send its clients there, by a name that only its own network knows.
    os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    client = MlflowClient()
    try:
        version = found["version"] or client.get_model_version_by_alias(found["name"], found["alias"]).version
        source = client.get_model_version(found["name"], version).source
        with tempfile.TemporaryDirectory(prefix="rps-bundle-") as scratch:
            # By the artifacts' own address: MLflow 2.7, which DagsHub runs, does not answer what newer clients ask it.
            directory = download_artifacts(artifact_uri=source, dst_path=scratch)
            return read_bundle(Path(directory)), str(version)
    except (MlflowException, OSError) as error:
        message = " ".join(str(error).split())[:300]
        raise ConfigurationError(f"{address} cannot be fetched: {message}. Check MLFLOW_TRACKING_URI.") from error
