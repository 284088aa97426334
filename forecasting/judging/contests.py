"""Candidate, production and baseline on the same rows: their errors, whole and sliced, and how sure a change is.

Nothing is decided here: `forecasting.judging.verdict` holds the rules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from forecasting.challenge.schema import Gate
from forecasting.judging.bootstrap import Interval, block_length, ratio, relative_change
from forecasting.judging.equal_accuracy import MIN_PERIODS, TooLittleEvidence, diebold_mariano, holm
from forecasting.judging.evaluation import ModelErrors
from forecasting.judging.losses import Loss
from forecasting.judging.panel import OPPONENT, Panel, codes

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

CONFIDENCE = 0.95
"""The level of every confidence interval; how sure a test must be is the policy's ``significance``."""
_DAY_SECONDS = 86_400


class Contest(Struct, frozen=True, kw_only=True):
    """Candidate against production on some rows; errors in the measure of the challenge's loss."""

    slice: str
    """`overall`, `horizon 4`, or `series EWR`."""
    rows: int
    candidate: float
    baseline: float
    opponents: dict[str, float] = {}
    """By kind, the baselines that are shown and decide nothing."""
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
class LossesByOrigin:
    """A panel by time: how many rows each of T origins has, and what each model loses on them, in k slices.

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
    horizons: int
    reach: IntArray
    """(k,), the longest horizon in each slice."""
    rows: FloatArray
    """(T, k)."""
    inside: FloatArray
    """(T,), how many truths lie in the candidate's intervals."""
    candidate: FloatArray
    production: FloatArray | None
    """(T, k), sums of the losses; None when there is no production model to compare with."""


def losses_by_origin(panel: Panel, loss: Loss) -> LossesByOrigin:
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
    return LossesByOrigin(
        loss=loss,
        origins=origins,
        steps=(seconds - seconds[0]) // max(step, 1),
        step_seconds=step,
        block=block_length(len(origins), _DAY_SECONDS // step if step else 1, longest),
        horizons=len(horizons),
        reach=np.concatenate([[longest], horizons, reach]).astype(np.int64),
        rows=sums(np.ones(len(of_row))),
        inside=np.bincount(of_row, weights=within, minlength=len(origins)).astype(np.float64),
        candidate=sums(loss.losses(panel.truth, panel.candidate)),
        production=None if panel.production is None else sums(loss.losses(panel.truth, panel.production)),
    )


def contests(
    by_origin: LossesByOrigin, errors: Mapping[str, ModelErrors], policy: Gate
) -> tuple[Contest, list[Contest], list[Contest]]:
    """Overall, by horizon and by series; the p-values of the slices are corrected for the number of all slices.

    errors: of the same panel.
    """
    overall, *slices = _contests(by_origin, errors, policy)
    slices = _corrected(slices)
    return overall, slices[: by_origin.horizons], slices[by_origin.horizons :]


def covered(by_origin: LossesByOrigin) -> tuple[float, float | None, float | None]:
    """The share of truths in the candidate's intervals, and the ends of its confidence interval."""
    rows = by_origin.rows[:, :1]
    share = float(by_origin.inside.sum() / rows.sum())
    if len(by_origin.origins) < MIN_PERIODS:
        return share, None, None
    sure = ratio(by_origin.inside[:, None], rows, block=by_origin.block, confidence=CONFIDENCE)
    return share, _number(sure.low[0]), _number(sure.high[0])


def _sums(values: FloatArray, of_row: IntArray, group: IntArray, shape: tuple[int, int]) -> FloatArray:
    cells = np.bincount(of_row * shape[1] + group, weights=values, minlength=shape[0] * shape[1])
    return cells.astype(np.float64, copy=False).reshape(shape)


def _contests(by_origin: LossesByOrigin, errors: Mapping[str, ModelErrors], policy: Gate) -> list[Contest]:
    """One per slice; the p-values are not corrected."""
    sliced = {model: [each.error for _, each in measured.slices()] for model, measured in errors.items()}
    kinds = {model.removeprefix(OPPONENT): found for model, found in sliced.items() if model.startswith(OPPONENT)}
    bare = [
        Contest(
            slice=str(one),
            rows=ours.rows,
            candidate=ours.error,
            baseline=sliced["baseline"][place],
            opponents={kind: found[place] for kind, found in kinds.items()},
        )
        for place, (one, ours) in enumerate(errors["candidate"].slices())
    ]
    if by_origin.production is None:
        return bare
    intervals = _intervals(by_origin, by_origin.production)
    p_values = _p_values(by_origin, by_origin.production, policy)
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
            bare, sliced["production"], intervals.low.tolist(), intervals.high.tolist(), p_values, strict=True
        )
    ]


def _intervals(by_origin: LossesByOrigin, production: FloatArray) -> Interval:
    if len(by_origin.origins) < MIN_PERIODS:
        none = np.full(len(by_origin.reach), np.nan)
        return Interval(none, none)
    block, power = by_origin.block, by_origin.loss.power
    return relative_change(by_origin.candidate, production, block=block, power=power, confidence=CONFIDENCE)


def _p_values(by_origin: LossesByOrigin, production: FloatArray, policy: Gate) -> list[float | None]:
    """That the error has grown by more than is negligible: the test is of the loss beyond that margin.

    It is of sums, not of means: an origin with fewer rows than others weighs less, as it does in the error itself.
    """
    beyond = by_origin.candidate - by_origin.loss.mean_loss(1.0 + policy.negligible_regression) * production
    found: list[float | None] = []
    for index, reach in enumerate(by_origin.reach.tolist()):
        known = by_origin.rows[:, index] > 0.0
        try:
            test = diebold_mariano(beyond[known, index], reach, steps=by_origin.steps[known])
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
