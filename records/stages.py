"""The pipeline: its stages in an order that works, the files that they hand on, and the names of its DAG and branch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


def dag_id(challenge: str) -> str:
    """The id of a challenge's DAG; `dags/retrain.py`, which imports no records, spells it too."""
    return f"retrain_{challenge}"


def data_branch(challenge: str) -> str:
    """The branch on which the versions of a challenge's dataset are recorded."""
    return f"data/{challenge}"


@dataclass(frozen=True)
class RunFiles:
    """The files of one challenge's run, relative to the workspace."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run.json"

    @property
    def collection(self) -> Path:
        return self.root / "collection.json"

    @property
    def history(self) -> Path:
        """Everything known of the series, the window's observations among it, and the raw answers that it came from."""
        return self.root / "history.parquet"

    @property
    def observations(self) -> Path:
        return self.root / "observations.parquet"

    @property
    def quality(self) -> Path:
        return self.root / "quality.json"

    @property
    def quality_report(self) -> Path:
        return self.root / "quality.md"

    @property
    def features(self) -> Path:
        return self.root / "features.parquet"

    @property
    def profile(self) -> Path:
        return self.root / "profile.html"

    @property
    def dataset(self) -> Path:
        return self.root / "dataset.json"

    @property
    def tracking(self) -> Path:
        return self.root / "mlflow.json"

    @property
    def bundle(self) -> Path:
        return self.root / "bundle"

    @property
    def models(self) -> Path:
        """The training library's own format, for people who use MLflow's tools."""
        return self.root / "sklearn"

    @property
    def production(self) -> Path:
        """The released model's bundle, fetched for comparison."""
        return self.root / "production"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation.json"

    @property
    def losses(self) -> Path:
        """Every prediction of every compared model on the hold-out, one row each."""
        return self.root / "losses.parquet"

    @property
    def registered(self) -> Path:
        return self.root / "registered.json"


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline: `python -m pipelines NAME`, `pipelines/NAME.py`."""

    help: str
    reads: tuple[Path, ...]
    """Names of `RunFiles`, as are ``writes``; what comes from a service is not among them."""
    writes: tuple[Path, ...]


_NAMES = RunFiles(Path())

STAGES = {
    "ingest": Stage(
        "ask the source for what is new, store the answer as it came, merge it into the history",
        reads=(),
        writes=(_NAMES.run, _NAMES.collection, _NAMES.history, _NAMES.observations),
    ),
    "validate": Stage(
        "judge the observations by the challenge's quality rules; 65 when they fail",
        reads=(_NAMES.run, _NAMES.collection, _NAMES.history, _NAMES.observations),
        writes=(_NAMES.quality, _NAMES.quality_report),
    ),
    "transform": Stage(
        "make the features and the targets",
        reads=(_NAMES.observations, _NAMES.quality),
        writes=(_NAMES.features,),
    ),
    "profile": Stage(
        "write the profile report and log it to MLflow",
        reads=(_NAMES.run, _NAMES.observations, _NAMES.quality, _NAMES.quality_report),
        writes=(_NAMES.profile,),
    ),
    "version": Stage(
        "record the dataset with DVC, push it, commit its metadata to data/<challenge>",
        reads=(_NAMES.run, _NAMES.observations, _NAMES.features, _NAMES.quality),
        writes=(_NAMES.dataset,),
    ),
    "train": Stage(
        "fit one model per horizon, calibrate the intervals, write the bundle",
        reads=(_NAMES.run, _NAMES.observations, _NAMES.features, _NAMES.dataset),
        writes=(_NAMES.models,),
    ),
    # It adds its figures to the bundle that `train` wrote; DVC wants one writer of each file, and that is the last.
    "evaluate": Stage(
        "measure candidate, production and persistence on the same hold-out",
        reads=(_NAMES.run, _NAMES.observations, _NAMES.features, _NAMES.models),
        writes=(_NAMES.bundle, _NAMES.evaluation, _NAMES.losses),
    ),
    "register": Stage(
        "add the candidate to the model registry, without an alias",
        reads=(_NAMES.run, _NAMES.bundle, _NAMES.evaluation, _NAMES.profile),
        writes=(_NAMES.registered,),
    ),
}
