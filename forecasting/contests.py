"""Candidate, production and persistence on the same rows: their errors, whole and sliced, and how sure a change is.

Nothing is decided here: `forecasting.verdict` holds the rules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from forecasting.bootstrap import Interval, block_length, ratio, relative_change
from forecasting.challenge import Gate
from forecasting.equal_accuracy import MIN_PERIODS, TooLittleEvidence, diebold_mariano, holm
from forecasting.metrics import Loss, losses
from forecasting.panel import Panel, codes

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

CONFIDENCE = 0.95
"""The level of every confidence interval; how sure a test must be is the policy's ``significance``."""
_DAY_SECONDS = 86_400


class Contest(Struct, frozen=True, kw_only=True):
    """Candidate against production on some rows; errors in the target's unit (RMSE; MAE for absolute loss)."""

    slice: str
    """`overall`, `horizon 4`, or `series EWR`."""
    rows: int
    candidate: float
    persistence: float
    production: float | None = None
    change: float | None = None
    """candidate / production - 1: above 0 the candidate is worse. None without production, as is all below, and where
    production made no error."""
    low: float | None = None
    high: float | None = None
    """The confidence interval of ``change``; None with too few origins."""
    p_value: float | None = None
    """One-sided, that the error has grown by more than the policy's ``negligible_regression``; of a slice: corrected
    for the number of slices. None with too few origins."""
    worse: bool = False
    """Whether this slice breaks the policy."""


@dataclass(frozen=True)
class Holdout:
    """The panel by time: how many rows each of T origins has, and what each model loses on them, in k slices.

    The first slice is the whole, then come ``horizons`` slices by horizon, and the rest are series.
    """

    loss: Loss
    origins: npt.NDArray[np.datetime64]
    """(T,), ascending, to the second."""
    steps: IntArray
    """(T,), when each origin was, in steps since the first."""
    step_seconds: int
    """The widest step on which every origin lies; 0 for a single origin."""
    block: int
    """How many origins the bootstrap keeps together."""
    names: tuple[str, ...]
    horizons: int
    reach: IntArray
    """(k,), the longest horizon in each slice."""
    rows: FloatArray
    """(T, k)."""
    inside: FloatArray
    """(T,), how many truths lie in the candidate's intervals."""
    candidate: FloatArray
    persistence: FloatArray
    production: FloatArray | None
    """(T, k), sums of the losses; None when there is no production model to compare with."""


def hold_out(panel: Panel, loss: Loss) -> Holdout:
    """The panel, summed by origin. No loop over rows; the tables have one cell per origin and series."""
    moments, of_row = codes(panel.origin)
    origins = moments.astype("datetime64[s]")
    seconds = origins.astype(np.int64)
    step = int(np.gcd.reduce(np.diff(seconds))) if len(seconds) > 1 else 0
    horizons, of_horizon = codes(panel.horizon)
    series, of_series = codes(panel.unique_id)
    longest = int(panel.horizon.max())
    reach = np.zeros(len(series), dtype=np.int64)
    np.maximum.at(reach, of_series, panel.horizon)

    def sums(values: FloatArray) -> FloatArray:
        by_horizon = _sums(values, of_row, of_horizon, (len(origins), len(horizons)))
        by_series = _sums(values, of_row, of_series, (len(origins), len(series)))
        return np.hstack([by_horizon.sum(axis=1, keepdims=True), by_horizon, by_series])

    within = (panel.candidate_lower <= panel.truth) & (panel.truth <= panel.candidate_upper)
    return Holdout(
        loss=loss,
        origins=origins,
        steps=(seconds - seconds[0]) // max(step, 1),
        step_seconds=step,
        block=block_length(len(origins), _DAY_SECONDS // step if step else 1, longest),
        names=(
            "overall",
            *(f"horizon {value}" for value in horizons.tolist()),
            *(f"series {name}" for name in series.tolist()),
        ),
        horizons=len(horizons),
        reach=np.concatenate([[longest], horizons, reach]).astype(np.int64),
        rows=sums(np.ones(len(of_row))),
        inside=np.bincount(of_row, weights=within, minlength=len(origins)).astype(np.float64),
        candidate=sums(losses(loss, panel.truth, panel.candidate)),
        persistence=sums(losses(loss, panel.truth, panel.persistence)),
        production=None if panel.production is None else sums(losses(loss, panel.truth, panel.production)),
    )


def contests(holdout: Holdout, policy: Gate) -> tuple[Contest, list[Contest], list[Contest]]:
    """Overall, by horizon and by series; the p-values of the slices are corrected for the number of all slices."""
    overall, *slices = _contests(holdout, policy)
    slices = _corrected(slices)
    return overall, slices[: holdout.horizons], slices[holdout.horizons :]


def covered(holdout: Holdout) -> tuple[float, float | None, float | None]:
    """The share of truths in the candidate's intervals, and the ends of its confidence interval."""
    rows = holdout.rows[:, :1]
    share = float(holdout.inside.sum() / rows.sum())
    if len(holdout.origins) < MIN_PERIODS:
        return share, None, None
    sure = ratio(holdout.inside[:, None], rows, block=holdout.block, confidence=CONFIDENCE)
    return share, _number(sure.low[0]), _number(sure.high[0])


def loss_of(error: float, loss: Loss) -> float:
    """The mean loss behind an error in the target's unit."""
    return error**2 if loss == "squared_error" else error


def error_of(mean_loss: float, loss: Loss) -> float:
    """RMSE or MAE, in the target's unit."""
    return math.sqrt(mean_loss) if loss == "squared_error" else mean_loss


def _sums(values: FloatArray, of_row: IntArray, group: IntArray, shape: tuple[int, int]) -> FloatArray:
    cells = np.bincount(of_row * shape[1] + group, weights=values, minlength=shape[0] * shape[1])
    return cells.astype(np.float64, copy=False).reshape(shape)


def _contests(holdout: Holdout, policy: Gate) -> list[Contest]:
    """One per slice; the p-values are not corrected."""
    rows = holdout.rows.sum(axis=0)
    candidate, persistence = (_errors(sums, rows, holdout.loss) for sums in (holdout.candidate, holdout.persistence))
    bare = [
        Contest(slice=name, rows=int(count), candidate=ours, persistence=naive)
        for name, count, ours, naive in zip(holdout.names, rows, candidate, persistence, strict=True)
    ]
    if holdout.production is None:
        return bare
    production = _errors(holdout.production, rows, holdout.loss)
    intervals = _intervals(holdout, holdout.production)
    p_values = _p_values(holdout, holdout.production, policy)
    return [
        msgspec.structs.replace(
            contest,
            production=theirs,
            change=_number(contest.candidate / theirs - 1.0) if theirs else None,
            low=_number(low),
            high=_number(high),
            p_value=p_value,
        )
        for contest, theirs, low, high, p_value in zip(
            bare, production, intervals.low.tolist(), intervals.high.tolist(), p_values, strict=True
        )
    ]


def _errors(sums: FloatArray, rows: FloatArray, loss: Loss) -> list[float]:
    means: list[float] = (sums.sum(axis=0) / rows).tolist()
    return [error_of(mean, loss) for mean in means]


def _intervals(holdout: Holdout, production: FloatArray) -> Interval:
    if len(holdout.origins) < MIN_PERIODS:
        none = np.full(len(holdout.names), np.nan)
        return Interval(none, none)
    root = holdout.loss == "squared_error"
    return relative_change(holdout.candidate, production, block=holdout.block, root=root, confidence=CONFIDENCE)


def _p_values(holdout: Holdout, production: FloatArray, policy: Gate) -> list[float | None]:
    """That the error has grown by more than is negligible: the test is of the loss beyond that margin.

    It is of sums, not of means: an origin with fewer rows than others weighs less, as it does in the error itself.
    """
    beyond = holdout.candidate - loss_of(1.0 + policy.negligible_regression, holdout.loss) * production
    found: list[float | None] = []
    for index, reach in enumerate(holdout.reach.tolist()):
        known = holdout.rows[:, index] > 0.0
        try:
            test = diebold_mariano(beyond[known, index], reach, steps=holdout.steps[known])
        except TooLittleEvidence:
            found.append(None)
        else:
            found.append(test.p_value)
    return found


def _corrected(contests: list[Contest]) -> list[Contest]:
    tested = [index for index, contest in enumerate(contests) if contest.p_value is not None]
    p_values = holm([contest.p_value for contest in contests if contest.p_value is not None])
    corrected = dict(zip(tested, p_values, strict=True))
    return [msgspec.structs.replace(contest, p_value=corrected.get(index)) for index, contest in enumerate(contests)]


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
