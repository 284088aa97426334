"""What the folds say of each model: one record, `evaluation.json`, which the gate, the report and the demo read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from forecasting.judging.losses import LOSSES, Loss, LossName, r2
from forecasting.judging.panel import Panel, codes
from forecasting.models.intervals import coverage

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Model = Literal["candidate", "production", "baseline"]


class Errors(Struct, frozen=True, kw_only=True):
    """One model on some rows: its mean loss, by the challenge's own, and the error in that loss's measure."""

    rows: int
    loss: float
    error: float
    r2: float
    coverage: float | None = None
    """The share of truths inside the interval; None for a model that gives none."""
    width: float | None = None
    """The mean width of the intervals, in target units."""


class Slice(NamedTuple):
    """Some rows of a panel: all of them, those of one horizon, or those of one series."""

    horizon: int | None = None
    series: str | None = None

    def __str__(self) -> str:
        """`overall`, `horizon 4` or `series EWR`."""
        if self.horizon is not None:
            return f"horizon {self.horizon}"
        return "overall" if self.series is None else f"series {self.series}"


class ModelErrors(Struct, frozen=True, kw_only=True):
    """One model on the folds: over all compared rows, per horizon, and per series."""

    overall: Errors
    horizons: dict[int, Errors]
    series: dict[str, Errors]

    def slices(self) -> Iterator[tuple[Slice, Errors]]:
        """Overall, then the horizons, then the series, in their order."""
        yield Slice(), self.overall
        for horizon, errors in self.horizons.items():
            yield Slice(horizon=horizon), errors
        for unique_id, errors in self.series.items():
            yield Slice(series=unique_id), errors


class ModelEvaluation(Struct, frozen=True, kw_only=True):
    """A model from a bundle: who it is, what it has seen, what it costs, how it did."""

    version: str
    """Its version in the registry; empty for a candidate, which has none yet."""
    mlflow_run: str
    git_sha: str
    dataset_md5: str
    train_end: datetime
    """The newest moment whose target it has learnt from."""
    bundle_bytes: int
    prediction_seconds_per_row: float
    """The fastest of many repeats of one row's prediction, on the machine of this run."""
    measured: ModelErrors
    rows_by_week: dict[str, int] = {}
    """How many rows of each week it has learnt from, by ISO 8601: `2013-W09`."""


class BaselineEvaluation(Struct, frozen=True, kw_only=True):
    """A baseline of the challenge: which it is, and how it did."""

    kind: str
    title: str
    """What people call it: `climatology (28 days)`."""
    measured: ModelErrors


class Window(Struct, frozen=True, kw_only=True):
    """What every model was measured on: origins from ``start`` to ``end``, both with known targets."""

    start: datetime
    end: datetime
    origins: int
    """Distinct moments."""
    rows: int
    """Predictions compared: one per series, origin and horizon."""


class FoldErrors(Struct, frozen=True, kw_only=True):
    """One fold: its compared origins, and the error of each model on them."""

    start: datetime
    end: datetime
    rows: int
    errors: dict[str, float]
    """By model, as ``errors_of`` names them."""


class Evaluation(Struct, frozen=True, kw_only=True):
    """What `evaluation.json` holds."""

    challenge: str
    run_id: str
    as_of: datetime
    unit: str
    """The target's."""
    loss: LossName
    interval: float
    window: Window
    fair: bool
    """Whether the window can carry a verdict: long enough, and predicted by every compared recipe."""
    reasons: tuple[str, ...]
    """Why not, one sentence each; empty when fair."""
    candidate: ModelEvaluation
    production: ModelEvaluation | None
    """None when there is no production model, or when it could not be compared: then ``reasons`` says why."""
    production_version: str
    """The version behind the alias `production`; empty when there is none."""
    baseline: BaselineEvaluation
    """What the candidate must beat."""
    folds: tuple[FoldErrors, ...] = ()
    """Oldest first."""
    same_code: bool = False
    """Whether candidate and production come from the same commit: then there is no other recipe to judge."""
    opponents: tuple[BaselineEvaluation, ...] = ()
    """Further baselines, which are shown and decide nothing."""
    drift: dict[str, float] = {}
    """Population stability index of each feature in the newest fold, without the calendar, against ``drift_from``."""
    drift_from: Literal["production", "candidate"] = "candidate"


def errors_of(panel: Panel, loss: LossName) -> dict[str, ModelErrors]:
    """The errors of each model that the panel holds predictions of, sliced; of a further opponent by its column.

    Raises Unmeasurable where the loss is not defined.
    """
    slices = {Slice(): np.arange(len(panel.truth))}
    slices |= {Slice(horizon=value): rows for value, rows in _rows_of(panel.horizon)}
    slices |= {Slice(series=value): rows for value, rows in _rows_of(panel.unique_id)}
    predicted: dict[str, tuple[FloatArray | None, ...]] = {
        "candidate": (panel.candidate, panel.candidate_lower, panel.candidate_upper),
        "production": (panel.production, panel.production_lower, panel.production_upper),
        "baseline": (panel.baseline,),
        **{name: (values,) for name, values in panel.opponents.items()},
    }
    found: dict[str, ModelErrors] = {}
    for model, (value, *bounds) in predicted.items():
        if value is None:
            continue
        ends = [end for end in bounds if end is not None]
        errors = {
            one: _errors(panel.truth[rows], value[rows], [end[rows] for end in ends], LOSSES[loss])
            for one, rows in slices.items()
        }
        found[model] = ModelErrors(
            overall=errors[Slice()],
            horizons={one.horizon: own for one, own in errors.items() if one.horizon is not None},
            series={one.series: own for one, own in errors.items() if one.series is not None},
        )
    return found


def _rows_of(labels: npt.NDArray[np.generic]) -> Iterator[tuple[Any, IntArray]]:
    """Each distinct label, ascending, and its rows, in their order."""
    distinct, code = codes(labels)
    rows = np.split(np.argsort(code, kind="stable"), np.cumsum(np.bincount(code))[:-1])
    yield from zip(distinct.tolist(), rows, strict=True)


def _errors(truth: FloatArray, value: FloatArray, bounds: Sequence[FloatArray], loss: Loss) -> Errors:
    """bounds: the lower and the upper end of the intervals; empty without intervals."""
    mean_loss = float(np.mean(loss.losses(truth, value)))
    return Errors(
        rows=len(truth),
        loss=mean_loss,
        error=loss.error(mean_loss),
        r2=r2(truth, value),
        coverage=coverage(truth, *bounds) if bounds else None,
        width=float(np.mean(bounds[1] - bounds[0])) if bounds else None,
    )
