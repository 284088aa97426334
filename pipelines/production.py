"""The released model and its folds, as they lie beside the run's files for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec
import pandas as pd

from forecasting.judging.panel import COLUMNS
from forecasting.models.bundle import Bundle, read_bundle
from forecasting.models.manifest import BundleError
from pipelines.files import read_json, read_parquet
from pipelines.run import Run
from records.mlflow_names import Artifact


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """Which version of the registry the files in `production/` are of."""

    FILE: ClassVar[str] = "released.json"

    version: str
    problem: str = ""
    """Why its folds could not be fetched; empty when they were."""


@dataclass(frozen=True)
class Production:
    """The released version; what of it cannot be read is None, and ``problem`` says why."""

    version: str
    directory: Path
    """Of its bundle."""
    bundle: Bundle | None
    judged: pd.DataFrame | None
    """What its recipe predicted of the folds when it was trained: the columns of `losses.parquet`."""
    problem: str = ""


def read_production(run: Run) -> Production | None:
    """The released version with its bundle and its folds, which may be unreadable; None when none lies there."""
    home = run.files.production
    if not (home / Released.FILE).exists():
        return None
    released = read_json(home / Released.FILE, Released, made_by="evaluate")
    directory = home / "bundle"
    try:
        bundle = read_bundle(directory)
    except BundleError as error:
        return Production(released.version, directory, None, None, str(error))
    if released.problem:
        return Production(released.version, directory, bundle, None, released.problem)
    judged, problem = _folds(home / Path(Artifact.LOSSES).name, bundle.manifest.mlflow_run)
    return Production(released.version, directory, bundle, judged, problem)


def _folds(path: Path, mlflow_run: str) -> tuple[pd.DataFrame | None, str]:
    """What the production model's recipe predicted, and why that cannot be read."""
    where = f"the {Artifact.LOSSES} of its MLflow run {mlflow_run}"
    try:
        judged = read_parquet(path).to_pandas(use_threads=False)
    except OSError as error:
        return None, f"{where} cannot be read: {error}"
    missing = [name for name in COLUMNS if name not in judged]
    return (None, f"{where} lacks {', '.join(missing)}") if missing else (judged, "")
