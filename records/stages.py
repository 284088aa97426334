"""The pipeline: its stages in order, the files that they exchange, and the names of its DAG and data branch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


def dag_id(challenge: str) -> str:
    """The id of a challenge's DAG; `dags/retrain.py`, which imports no records, spells it too."""
    return f"retrain_{challenge}"


def data_branch(challenge: str) -> str:
    """The branch on which the versions of a challenge's dataset are recorded."""
    return f"data/{challenge}"


class RunFiles:
    """The files of one challenge's run, relative to the workspace."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run = root / "run.json"
        self.accepted = root / "accepted.parquet"
        """The history that passed the quality gate before; none at the first time."""
        self.raw = root / "raw"
        """The answers of this run, as they came."""
        self.stored = root / "stored"
        """Answers that were stored before, and that the accepted history lacks."""
        self.asked = root / "asked.json"
        self.collection = root / "collection.json"
        self.history = root / "history.parquet"
        """Everything known of the series, observations of the window included, and the raw answers behind it."""
        self.observations = root / "observations.parquet"
        self.quality = root / "quality.json"
        self.quality_report = root / "quality.md"
        self.features = root / "features.parquet"
        self.profile = root / "profile.html"
        self.dataset = root / "dataset.json"
        self.tracking = root / "mlflow.json"
        self.bundle = root / "bundle"
        self.out_of_sample = root / "out_of_sample.parquet"
        """What the recipe predicts of each fold, by models that have not seen it."""
        self.models = root / "sklearn"
        """The training library's own format, for people who use MLflow's tools."""
        self.production = root / "production"
        """The released model's bundle and folds, for comparison; empty before the first release."""
        self.evaluation = root / "evaluation.json"
        self.losses = root / "losses.parquet"
        """Every prediction of every compared model on the folds, one row each."""
        self.metrics = root / "metrics.json"
        self.plots = root / "plots"
        self.error_by_horizon = self.plots / "error_by_horizon.csv"
        self.error_by_month = self.plots / "error_by_month.csv"
        self.newest_forecasts = self.plots / "newest_forecasts.csv"
        self.registered = root / "registered.json"


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline: `python -m pipelines NAME`, `pipelines/NAME.py`. It turns files into files."""

    help: str
    reads: tuple[Path, ...]
    """Names in `RunFiles`, as are those below."""
    writes: tuple[Path, ...]
    told: tuple[Path, ...] = ()
    """What the carrier provides; a stage that runs by itself does without."""


_NAMES = RunFiles(Path())

STAGES = {
    "ingest": Stage(
        "request new data from the source, and write the answers unchanged",
        reads=(),
        writes=(_NAMES.run, _NAMES.raw, _NAMES.asked),
        told=(_NAMES.accepted,),
    ),
    "merge": Stage(
        "fold the answers into the history",
        reads=(_NAMES.run, _NAMES.raw, _NAMES.asked),
        writes=(_NAMES.collection, _NAMES.history, _NAMES.observations),
        told=(_NAMES.accepted, _NAMES.stored),
    ),
    "validate": Stage(
        "judge the observations by the challenge's quality rules; 65 when they fail",
        reads=(_NAMES.run, _NAMES.collection, _NAMES.observations),
        writes=(_NAMES.quality, _NAMES.quality_report),
    ),
    "transform": Stage(
        "make the features and the targets", reads=(_NAMES.observations, _NAMES.quality), writes=(_NAMES.features,)
    ),
    "profile": Stage(
        "write the profile report",
        reads=(_NAMES.run, _NAMES.observations, _NAMES.quality, _NAMES.quality_report),
        writes=(_NAMES.profile,),
    ),
    "train": Stage(
        "fit one model per horizon on everything known, and the same recipe on folds; write the bundle",
        reads=(_NAMES.run, _NAMES.observations, _NAMES.features),
        writes=(_NAMES.out_of_sample, _NAMES.models),
        told=(_NAMES.dataset, _NAMES.tracking),
    ),
    # It adds its figures to the bundle that `train` wrote; DVC accepts one writer per file: the last one.
    "evaluate": Stage(
        "measure candidate, production and baselines on the same folds",
        reads=(_NAMES.run, _NAMES.observations, _NAMES.features, _NAMES.out_of_sample, _NAMES.models),
        writes=(
            *(_NAMES.bundle, _NAMES.evaluation, _NAMES.losses, _NAMES.metrics),
            *(_NAMES.error_by_horizon, _NAMES.error_by_month, _NAMES.newest_forecasts),
        ),
        told=(_NAMES.production, _NAMES.tracking),
    ),
}
DELIVERIES = {
    "version": Stage(
        "record the dataset with DVC, push it, commit its metadata to data/<challenge>",
        reads=(_NAMES.run, _NAMES.observations, _NAMES.features, _NAMES.quality),
        writes=(_NAMES.dataset, _NAMES.tracking),
    ),
    "register": Stage(
        "add the candidate to the model registry, without an alias",
        reads=(_NAMES.run, _NAMES.bundle, _NAMES.evaluation, _NAMES.profile),
        writes=(_NAMES.registered,),
    ),
}
"""What the carrier does by itself."""

FAIL = Stage("end the MLflow run of a run that has failed", reads=(_NAMES.run,), writes=())
"""What the carrier does when there will be no further step."""

STEPS = {
    name: (STAGES | DELIVERIES)[name]
    for name in ("ingest", "merge", "validate", "transform", "profile", "version", "train", "evaluate", "register")
}
"""Stages and deliveries, in order."""
