"""What the hold-out says of each model: one record, `evaluation.json`, which the gate, the report and the demo read."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from forecasting.intervals import coverage
from forecasting.metrics import Loss, losses, mae, r2, rmse

FloatArray = npt.NDArray[np.float64]


class Errors(Struct, frozen=True, kw_only=True):
    """One model on some rows; rmse and mae in the target's unit, loss in the challenge's own (squared) unit."""

    rows: int
    loss: float
    rmse: float
    mae: float
    r2: float
    coverage: float | None = None
    """The share of truths inside the interval; None for a model that gives none."""


class Measured(Struct, frozen=True, kw_only=True):
    """One model on the hold-out: over all compared rows, per horizon, and per series."""

    overall: Errors
    horizons: dict[int, Errors]
    series: dict[str, Errors]


class Compared(Struct, frozen=True, kw_only=True):
    """A model from a bundle: who it is, what it has seen, what it costs, how it did."""

    version: str
    """Its version in the registry; empty for a candidate, which has none yet."""
    mlflow_run: str
    git_sha: str
    dataset_md5: str
    train_end: datetime
    bundle_bytes: int
    prediction_seconds_per_row: float
    """Median over repeats of one row's prediction, on the machine of this run."""
    measured: Measured


class Window(Struct, frozen=True, kw_only=True):
    """The hold-out that every model was measured on: origins from ``start`` to ``end``, both with known targets."""

    start: datetime
    end: datetime
    origins: int
    """Distinct moments."""
    rows: int
    """Predictions compared: one per series, origin and horizon."""


class Evaluation(Struct, frozen=True, kw_only=True):
    """What `evaluation.json` holds."""

    challenge: str
    run_id: str
    as_of: datetime
    unit: str
    loss: Loss
    interval: float
    window: Window
    fair: bool
    """Whether the window can carry a verdict: long enough, and seen by none of the compared models."""
    reasons: tuple[str, ...]
    """Why not, one sentence each; empty when fair."""
    candidate: Compared
    production: Compared | None
    """None when there is no production model, or when it could not be compared: then ``reasons`` says why."""
    production_version: str
    """The version behind the alias `production`; empty when there is none."""
    persistence: Measured
    drift: dict[str, float] = {}
    """Population stability index of each feature on the hold-out, the calendar's left out, against ``drift_from``."""
    drift_from: Literal["production", "candidate"] = "candidate"


class Predictions(Struct, frozen=True, kw_only=True):
    """Predictions of one model, one entry per series, origin and horizon: all (n,), target units.

    compared: which of them every model has; only these count for the whole and for a series. A horizon that no other
    model predicts is measured on all of its own.
    """

    unique_id: npt.NDArray[np.object_]
    horizon: npt.NDArray[np.int64]
    compared: npt.NDArray[np.bool_]
    truth: FloatArray
    value: FloatArray
    lower: FloatArray | None = None
    upper: FloatArray | None = None


def measure(predictions: Predictions, loss: Loss) -> Measured:
    """The errors of one model, sliced. Raises NoRows when nothing is compared."""
    horizons = {}
    for horizon in np.unique(predictions.horizon).tolist():
        own = predictions.horizon == horizon
        shared = own & predictions.compared
        horizons[horizon] = _errors(predictions, shared if shared.any() else own, loss)
    series = {
        unique_id: _errors(predictions, (predictions.unique_id == unique_id) & predictions.compared, loss)
        for unique_id in sorted(set(predictions.unique_id[predictions.compared].tolist()))
    }
    return Measured(overall=_errors(predictions, predictions.compared, loss), horizons=horizons, series=series)


def _errors(predictions: Predictions, rows: npt.NDArray[np.bool_], loss: Loss) -> Errors:
    truth, value = predictions.truth[rows], predictions.value[rows]
    inside = None
    if predictions.lower is not None and predictions.upper is not None:
        inside = coverage(truth, predictions.lower[rows], predictions.upper[rows])
    return Errors(
        rows=len(truth),
        loss=float(np.mean(losses(loss, truth, value))),
        rmse=rmse(truth, value),
        mae=mae(truth, value),
        r2=r2(truth, value),
        coverage=inside,
    )
