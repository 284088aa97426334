"""Split-conformal prediction intervals: offsets around a forecast, from residuals of data that no model saw."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class Offsets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is added to a forecast for the ends of its interval, in target units."""

    lower: float
    upper: float


def calibrate(residuals: FloatArray, level: float) -> Offsets:
    """The offsets between which a new residual falls with probability ``level`` or more.

    residuals: (n,), truth minus forecast of rows that no model had seen, in target units, finite; level: e.g. 0.9.
    Each tail gets half of 1 - level, so the interval may lie askew, as the residuals do. With n residuals the ends are
    order statistics: the floor((n + 1) (1 - level) / 2)-th smallest and the ceil((n + 1) (1 + level) / 2)-th. For
    exchangeable residuals the coverage is then at least ``level``, and at most level + 2 / (n + 1) when none are tied.
    Raises ValueError when those order statistics do not exist, or for a residual that is not finite.
    Source: Vovk, Gammerman & Shafer (2005), split (inductive) conformal prediction; Lei et al. (2018), Theorem 2.2;
    a tail each as in Romano, Patterson & Candès (2019), Theorem 2.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level: expected a number between 0 and 1; found {level}")
    if not np.isfinite(residuals).all():
        raise ValueError(f"residuals: expected finite numbers; found {int((~np.isfinite(residuals)).sum())} others")
    count = len(residuals)
    tail = (1.0 - level) / 2.0
    # Rounding must not push a rank over a whole number: (n + 1) · 0.05 is 0.9999… for n = 19.
    below = math.floor((count + 1) * tail + 1e-9)
    if below < 1:
        needed = residuals_needed(level)
        raise ValueError(f"residuals: expected at least {needed} for a level of {level}; found {count}")
    ordered = np.sort(residuals)
    return Offsets(lower=float(ordered[below - 1]), upper=float(ordered[count - below]))


def residuals_needed(level: float) -> int:
    """The fewest residuals of which ``calibrate`` can make an interval of that level: 19 for 0.9."""
    return math.ceil(2.0 / (1.0 - level) - 1e-9) - 1


def coverage(truth: FloatArray, lower: FloatArray, upper: FloatArray) -> float:
    """The share of the known truths that lie in their interval, ends included. All (n,); NaN when no truth is known."""
    known = ~np.isnan(truth)
    if not known.any():
        return math.nan
    inside = (lower[known] <= truth[known]) & (truth[known] <= upper[known])
    return float(inside.mean())
