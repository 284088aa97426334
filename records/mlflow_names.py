"""The names in MLflow of all that a run leaves there: alias, tags, metrics and artifacts.

Stages write them; the gate, the release, retraining and the exporter read them.
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
LOSS = "target.loss"
"""The parameter of a run that names the challenge's loss."""


class RunTag(StrEnum):
    """Tags of a run."""

    RUN_ID = "rps.run_id"
    GIT_SHA = "rps.git_sha"
    PULL_REQUEST = "rps.pull_request"
    REASON = "rps.reason"
    DATASET_MD5 = "rps.dataset_md5"
    DATASET_REV = "rps.dataset_rev"
    TRAIN_END = "rps.train_end"
    SANDBOX = "rps.sandbox"
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
    """The gate's verdict on a version: values of `VersionTag.GATE`."""

    PASSED = "passed"
    BLOCKED = "blocked"
    PENDING = "pending"


class Reason(StrEnum):
    """Why a run was started, as the exporter counts it: how values of `RunTag.REASON` begin."""

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
    PLOTS = "plots"
    PROFILE = "profile"
    QUALITY = "profile/quality.json"


class Metric(StrEnum):
    """The first part of a metric's name, as is the measure of the challenge's loss; ``metric`` adds the rest."""

    R2 = "r2"
    COVERAGE = "coverage"
    """In MLflow always with the interval's level: see ``coverage``."""
    WIDTH = "interval_width"
    SKILL = "skill"
    FAIR = "fair"
    FOLD = "fold"
    """After the measure and an underscore: the error on one fold, whose number is the step."""
    FOLDS = "folds"
    JUDGED_ROWS = "judged_rows"
    JUDGED_DAYS = "judged_days"
    BUNDLE_BYTES = "bundle_bytes"
    PREDICTION_SECONDS = "prediction_seconds_per_row"


MODELS: Final[tuple[Model, ...]] = ("candidate", "production", "baseline")

_COVERAGE = re.compile(rf"{Metric.COVERAGE}_(\d+(?:\.\d+)?)")


def metric(name: str, *, model: str = "candidate", horizon: int | None = None, series: str | None = None) -> str:
    """The full name: of the candidate `skill` or `skill_h4`; of another model `production.skill_EWR`.

    MLflow accepts no colon in a name: a space, which no series has, replaces it. A series `h4` must not look like a
    horizon.
    """
    full = name if model == "candidate" else f"{model}.{name}"
    if horizon is not None:
        return f"{full}_h{horizon}"
    if series is not None:
        own = f"series {series}" if re.fullmatch(r"h\d+", series) else series.replace(":", " ")
        return f"{full}_{own}"
    return full


def coverage(level: float) -> str:
    """The first part of the name: `coverage_90` for the share of truths inside the 90 % interval (level 0.9)."""
    return f"{Metric.COVERAGE}_{level * 100:g}"


def error_metrics(model: str, measured: ModelErrors, measure: str, interval: float) -> Iterator[tuple[str, float]]:
    """The names and values of a model's errors, slice by slice.

    measure: of the challenge's loss; interval: the nominal level of the model's intervals.
    """
    for one, errors in measured.slices():
        figures = {
            measure: errors.error,
            Metric.R2: errors.r2,
            coverage(interval): errors.coverage,
            Metric.WIDTH: errors.width,
        }
        for name, value in figures.items():
            if value is not None:
                yield metric(name, model=model, horizon=one.horizon, series=one.series), value


def horizons_of(names: Iterable[str], measure: str) -> list[int]:
    """The horizons in the names of a run's metrics, ascending. measure: of the challenge's loss."""
    own = re.compile(rf"{re.escape(measure)}_h(\d+)")
    return sorted(int(found[1]) for name in names if (found := own.fullmatch(name)))


def levels_of(names: Iterable[str]) -> dict[str, str]:
    """The metrics of coverage among a run's, with their levels in percent: `90` for `coverage_90`."""
    return {name: found[1] for name in sorted(names) if (found := _COVERAGE.fullmatch(name))}


def reason_of(tag: str) -> Reason:
    """How the exporter counts a run's tag `rps.reason`."""
    words = tag.strip().lower().replace("-", " ")
    return next((reason for reason in Reason if words.startswith(reason)), Reason.OTHER)
