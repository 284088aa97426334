"""The names under which MLflow keeps what a run leaves: alias, tags, metrics and artifacts.

Each is defined once: stages write them, and the gate, the release, retraining and the exporter read them back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from forecasting.judging.evaluation import Model, ModelErrors

PRODUCTION = "production"
"""The alias of the released version."""


class RunTag(StrEnum):
    """Tags of a run."""

    RUN_ID = "rps.run_id"
    GIT_SHA = "rps.git_sha"
    PULL_REQUEST = "rps.pull_request"
    REASON = "rps.reason"
    DATASET_MD5 = "rps.dataset_md5"
    DATASET_REV = "rps.dataset_rev"
    TRAIN_END = "rps.train_end"
    FAIR = "rps.fair"
    UNFAIR_REASONS = "rps.unfair_reasons"
    PRODUCTION_VERSION = "rps.production_version"


class VersionTag(StrEnum):
    """Tags of a registered version."""

    GIT_SHA = "git_sha"
    RUN_ID = "run_id"
    GATE = "gate"
    SUMMARY = "gate_summary"
    POLICY = "gate_policy"
    SKILL = "gate_skill"
    OFFERED = "offered"
    """When `release.yml` was started for it."""
    RELEASED = "released"
    WITHDRAWN = "withdrawn"
    """Why no release chooses it by itself."""


class GateTag(StrEnum):
    """What the gate said of a version: values of `VersionTag.GATE`."""

    PASSED = "passed"
    BLOCKED = "blocked"
    PENDING = "pending"


class Reason(StrEnum):
    """Why a run was started, as far as it is counted: what the values of `RunTag.REASON` begin with."""

    SCHEDULE = "schedule"
    DRIFT = "drift"
    PULL_REQUEST = "pull request"
    OTHER = "other"


class Artifact(StrEnum):
    """Paths among the artifacts of a run."""

    BUNDLE = "bundle"
    SKLEARN = "sklearn"
    CHALLENGE = "challenge"
    FEATURES = "features.json"
    EVALUATION = "evaluation"
    EVALUATION_RECORD = "evaluation/evaluation.json"
    LOSSES = "evaluation/losses.parquet"
    PROFILE = "profile"
    QUALITY = "profile/quality.json"


class Metric(StrEnum):
    """What a metric's name says first; ``metric`` adds the model, and the slice it was measured on."""

    RMSE = "rmse"
    MAE = "mae"
    R2 = "r2"
    COVERAGE = "coverage"
    """In MLflow always with the interval's level: see ``coverage``."""
    SKILL = "skill"
    FAIR = "fair"
    HOLDOUT_ROWS = "holdout_rows"
    HOLDOUT_DAYS = "holdout_days"
    BUNDLE_BYTES = "bundle_bytes"
    PREDICTION_SECONDS = "prediction_seconds_per_row"


MODELS: Final[tuple[Model, ...]] = ("candidate", "production", "persistence")

_HORIZON = re.compile(rf"{Metric.RMSE}_h(\d+)")
_COVERAGE = re.compile(rf"{Metric.COVERAGE}_(\d+(?:\.\d+)?)")


def metric(name: str, *, model: Model = "candidate", horizon: int | None = None, series: str | None = None) -> str:
    """The full name: of the candidate `rmse` or `rmse_h4`; of another model `production.rmse_EWR`.

    MLflow accepts no colon in a name: a space, which no series has, replaces it. A series `h4` is no horizon.
    """
    prefix = "" if model == "candidate" else f"{model}."
    if horizon is not None:
        return f"{prefix}{name}_h{horizon}"
    if series is not None:
        own = f"series {series}" if re.fullmatch(r"h\d+", series) else series.replace(":", " ")
        return f"{prefix}{name}_{own}"
    return f"{prefix}{name}"


def coverage(level: float) -> str:
    """The first part of the name: `coverage_90` for the share of truths inside the 90 % interval (level 0.9)."""
    return f"{Metric.COVERAGE}_{level * 100:g}"


def error_metrics(model: Model, measured: ModelErrors, interval: float) -> Iterator[tuple[str, float]]:
    """The names and values of a model's errors, slice by slice. interval: the nominal level of its intervals."""
    for one, errors in measured.slices():
        figures = {
            Metric.RMSE: errors.rmse,
            Metric.MAE: errors.mae,
            Metric.R2: errors.r2,
            coverage(interval): errors.coverage,
        }
        for name, value in figures.items():
            if value is not None:
                yield metric(name, model=model, horizon=one.horizon, series=one.series), value


def measure_of(loss: str) -> Metric:
    """The error in which models are compared under a challenge's loss."""
    return Metric.MAE if loss == "absolute_error" else Metric.RMSE


def horizons_of(names: Iterable[str]) -> list[int]:
    """The horizons that a run's metrics tell of, ascending."""
    return sorted(int(found[1]) for name in names if (found := _HORIZON.fullmatch(name)))


def levels_of(names: Iterable[str]) -> dict[str, str]:
    """The metrics of coverage among a run's, with their levels in percent: `coverage_90` is of `90`."""
    return {name: found[1] for name in sorted(names) if (found := _COVERAGE.fullmatch(name))}


def reason_of(tag: str) -> Reason:
    """What the tag `rps.reason` of a run is counted as."""
    words = tag.strip().lower().replace("-", " ")
    return next((reason for reason in Reason if words.startswith(reason)), Reason.OTHER)
