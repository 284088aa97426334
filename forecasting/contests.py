"""Candidate, production and persistence on the same rows: their errors, whole and sliced, and how sure a change is.

Nothing is decided here: `forecasting.verdict` holds the rules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
class Slices:
    """The panel's rows in k groups, summed by origin: how many there are, and what each model loses, all (T, k).

    reach: (k,), the longest horizon in each group. production is None when there is none to compare with.
    """

    names: Sequence[str]
    reach: IntArray
    rows: FloatArray
    candidate: FloatArray
    persistence: FloatArray
    production: FloatArray | None


@dataclass(frozen=True)
class Holdout:
    """The panel by time: its distinct origins, and what is lost at each, whole and sliced."""

    loss: Loss
    origins: npt.NDArray[np.datetime64]
    """(T,), ascending, to the second."""
    steps: IntArray
    """(T,), when each origin was, in steps since the first."""
    step_seconds: int
    """The widest step on which every origin lies; 0 for a single origin."""
    block: int
    """How many origins the bootstrap keeps together."""
    inside: FloatArray
    """(T, 1), how many truths lie in the candidate's intervals."""
    overall: Slices
    horizons: Slices
    series: Slices


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
    candidate = losses(loss, panel.truth, panel.candidate)
    persistence = losses(loss, panel.truth, panel.persistence)
    production = None if panel.production is None else losses(loss, panel.truth, panel.production)
    within = (panel.candidate_lower <= panel.truth) & (panel.truth <= panel.candidate_upper)

    def sliced(names: Sequence[str], longest: IntArray, group: IntArray) -> Slices:
        def sums(values: FloatArray) -> FloatArray:
            return _sums(values, of_row, group, (len(origins), len(names)))

        return Slices(
            names,
            longest,
            rows=sums(np.ones(len(of_row))),
            candidate=sums(candidate),
            persistence=sums(persistence),
            production=None if production is None else sums(production),
        )

    return Holdout(
        loss=loss,
        origins=origins,
        steps=(seconds - seconds[0]) // max(step, 1),
        step_seconds=step,
        block=block_length(len(origins), _DAY_SECONDS // step if step else 1, longest),
        inside=_sums(within.astype(np.float64), of_row, np.zeros_like(of_row), (len(origins), 1)),
        overall=sliced(["overall"], np.array([longest]), np.zeros_like(of_row)),
        horizons=sliced([f"horizon {value}" for value in horizons.tolist()], horizons.astype(np.int64), of_horizon),
        series=sliced([f"series {name}" for name in series.tolist()], reach, of_series),
    )


def contests(holdout: Holdout, policy: Gate) -> tuple[Contest, list[Contest], list[Contest]]:
    """Overall, by horizon and by series; the p-values of the slices are corrected for the number of all slices."""
    overall, *_ = _contests(holdout, holdout.overall, policy)
    by_horizon = _contests(holdout, holdout.horizons, policy)
    corrected = _corrected([*by_horizon, *_contests(holdout, holdout.series, policy)])
    return overall, corrected[: len(by_horizon)], corrected[len(by_horizon) :]


def covered(holdout: Holdout, policy: Gate) -> tuple[float, float | None, float | None]:
    """The share of truths in the candidate's intervals, and the ends of its confidence interval."""
    share = float(holdout.inside.sum() / holdout.overall.rows.sum())
    if len(holdout.origins) < MIN_PERIODS:
        return share, None, None
    sure = ratio(holdout.inside, holdout.overall.rows, block=holdout.block, confidence=1.0 - policy.significance)
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


def _contests(holdout: Holdout, slices: Slices, policy: Gate) -> list[Contest]:
    """One per slice; the p-values are not corrected."""
    rows = slices.rows.sum(axis=0)
    candidate, persistence = (_errors(sums, rows, holdout) for sums in (slices.candidate, slices.persistence))
    bare = [
        Contest(slice=name, rows=int(count), candidate=ours, persistence=naive)
        for name, count, ours, naive in zip(slices.names, rows, candidate, persistence, strict=True)
    ]
    if slices.production is None:
        return bare
    production = _errors(slices.production, rows, holdout)
    intervals = _intervals(holdout, slices.candidate, slices.production, policy)
    p_values = _p_values(holdout, slices, slices.production, policy)
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


def _errors(sums: FloatArray, rows: FloatArray, holdout: Holdout) -> list[float]:
    means: list[float] = (sums.sum(axis=0) / rows).tolist()
    return [error_of(mean, holdout.loss) for mean in means]


def _intervals(holdout: Holdout, candidate: FloatArray, production: FloatArray, policy: Gate) -> Interval:
    if len(holdout.origins) < MIN_PERIODS:
        none = np.full(candidate.shape[1], np.nan)
        return Interval(none, none)
    root, confidence = holdout.loss == "squared_error", 1.0 - policy.significance
    return relative_change(candidate, production, block=holdout.block, root=root, confidence=confidence)


def _p_values(holdout: Holdout, slices: Slices, production: FloatArray, policy: Gate) -> list[float | None]:
    """That the error has grown by more than is negligible: the test is of the loss beyond that margin.

    An origin with fewer rows than others weighs less, so that the mean difference is that of all rows.
    """
    margin = loss_of(1.0 + policy.negligible_regression, holdout.loss)
    beyond = (slices.candidate - margin * production) * (len(slices.rows) / slices.rows.sum(axis=0))
    found: list[float | None] = []
    for index, reach in enumerate(slices.reach.tolist()):
        known = slices.rows[:, index] > 0.0
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
