"""How sure a ratio of errors or a share is, when the moments that it was measured at depend on one another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

RESAMPLES = 2000
_COLUMNS_AT_ONCE = 1024
"""Bounds the memory."""


@dataclass(frozen=True)
class Interval:
    """Confidence intervals of one quantity in each column, both (k,); NaN where nothing can be said."""

    low: FloatArray
    high: FloatArray


def block_length(moments: int, per_day: int, horizon: int) -> int:
    """How many moments in a row are kept together: a day, the horizon, or moments^(1/3), whichever is longest.

    A day, because errors come and go with the sun; the horizon, because forecasts of overlapping stretches share their
    errors; the cube root, the rate at which the best block grows with the sample (Hall, Horowitz & Jing 1995).
    At most a fifth of the moments, so that there is something to draw from.
    """
    wanted: int = max(per_day, horizon, math.ceil(moments ** (1.0 / 3.0)))
    return min(wanted, max(1, moments // 5))


def relative_change(
    candidate: FloatArray, production: FloatArray, *, block: int, power: float, confidence: float, seed: int = 0
) -> Interval:
    """The confidence interval of the candidate's error / production's error - 1, for each column.

    candidate, production: (T, k), the sum of the losses at each moment, oldest first, 0 where there is none.
    power: error = mean loss ** power. The rest is as for ``ratio``.
    """
    of_losses = ratio(candidate, production, block=block, confidence=confidence, seed=seed)
    return Interval(of_losses.low**power - 1.0, of_losses.high**power - 1.0)


def ratio(numerator: FloatArray, denominator: FloatArray, *, block: int, confidence: float, seed: int = 0) -> Interval:
    """The confidence interval of sum(numerator) / sum(denominator), for each column, by drawing blocks of moments.

    numerator, denominator: (T, k), not negative, one row per moment, oldest first. block: how many rows in a row are
    drawn together; over a gap in time a block reaches further, so that no dependence is cut that another block keeps.
    confidence: e.g. 0.95. Every column sees the same draws, and the same seed gives the same draws.
    The quantiles are those of the logarithm of the ratio, around its mean over all blocks: numerator and denominator
    can change places, and the first and last moments, which are in fewer blocks, do not shift the interval.
    Some 28 blocks make it a little narrow: 90 % intervals of simulated errors held the true ratio in 86 %.
    Source: Künsch (1989), moving blocks; centred as in Lahiri (2003), "Resampling Methods for Dependent Data", 2.5.
    """
    if numerator.shape != denominator.shape or numerator.ndim != 2:
        raise ValueError(f"expected two tables of one shape; found {numerator.shape} and {denominator.shape}")
    if not 1 <= block <= len(numerator):
        raise ValueError(f"block: expected 1 to {len(numerator)}; found {block}")
    columns = numerator.shape[1]
    low, high = np.empty(columns), np.empty(columns)
    for first in range(0, columns, _COLUMNS_AT_ONCE):
        chunk = slice(first, first + _COLUMNS_AT_ONCE)
        low[chunk], high[chunk] = _interval(numerator[:, chunk], denominator[:, chunk], block, confidence, seed)
    return Interval(low, high)


def _interval(
    numerator: FloatArray, denominator: FloatArray, block: int, confidence: float, seed: int
) -> tuple[FloatArray, FloatArray]:
    both = np.hstack([numerator, denominator])
    running = np.vstack([np.zeros(both.shape[1]), np.cumsum(both, axis=0)])
    blocks = running[block:] - running[:-block]
    drawn = np.random.default_rng(seed).integers(len(blocks), size=(math.ceil(len(both) / block), RESAMPLES))
    sums = np.zeros((RESAMPLES, both.shape[1]))
    for nth_of_each in drawn:
        sums += blocks[nth_of_each]
    with np.errstate(divide="ignore", invalid="ignore"):
        around = _log_ratio(both.sum(axis=0)) - _log_ratio(blocks.sum(axis=0))
        logarithm = np.sort(_log_ratio(sums) + around, axis=0)
    outside = math.floor(RESAMPLES * (1.0 - confidence) / 2.0 + 1e-9)
    low, high = np.exp(logarithm[outside]), np.exp(logarithm[RESAMPLES - 1 - outside])
    # A column in which some draw has nothing to divide has its NaN sorted last.
    unknown = np.isnan(logarithm[-1])
    return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)


def _log_ratio(sums: FloatArray) -> FloatArray:
    numerator, denominator = np.split(sums, 2, axis=-1)
    difference: FloatArray = np.log(numerator) - np.log(denominator)
    return difference
