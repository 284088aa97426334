"""Split-conformal prediction intervals: offsets around a forecast, from residuals of data that no model saw.

There are two kinds. Where the last errors of a series are known, the offsets are of residuals divided by their recent
size, the scale, so an interval is wide in a stormy week and narrow in a calm one: Papadopoulos, Gammerman & Vovk
(2008), normalized nonconformity. Everywhere else, they are of the residuals themselves.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

FloatArray = npt.NDArray[np.float64]


LEAST_SHARE = 20.0
"""The scale counts as no less than this part of the usual one."""


class Offsets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is added to a forecast for the ends of its interval: in target units, or in multiples of a scale."""

    lower: float
    upper: float


class Scaling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How intervals follow the size of the last errors: an exponential mean per series and horizon, its scale."""

    half_life: Annotated[float, Meta(gt=0.0)]
    """In forecasts: after so many, an error counts half."""
    offsets: dict[int, Offsets]
    """By horizon, in multiples of the scale."""
    usual: dict[int, Annotated[float, Meta(ge=0.0)]]
    """By horizon, the mean size of the folds' errors, in target units: where a series without errors begins."""
    series: dict[str, dict[int, Annotated[float, Meta(ge=0.0)]]]
    """The scale after the newest fold, by series and horizon, in target units."""


def weight(half_life: float) -> float:
    """What a new error counts in an exponential mean, half as much after ``half_life`` more."""
    return 1.0 - math.pow(0.5, 1.0 / half_life)


def least_scale(usual: float) -> float:
    """The smallest scale that an interval is made of: a calm does not make the first error after it a surprise."""
    return usual / LEAST_SHARE or 1.0


def recent_scales(
    steps: npt.NDArray[np.int64], residuals: FloatArray, horizon: int, start: float, half_life: float
) -> tuple[FloatArray, float]:
    """The scale of one series at each forecast, (n,), and after the last; as a service has it that knows no future.

    steps: of the forecasts' origins, ascending, (n,); residuals: (n,), of which a forecast knows those whose target
    was ``horizon`` steps after an origin that lies as long before its own; start: the scale before the first.
    """
    share, scale = weight(half_life), start
    after = [start]
    for size in np.abs(residuals).tolist():
        scale += share * (size - scale)
        after.append(scale)
    known = np.searchsorted(steps, steps - horizon, side="right")
    return np.array(after)[known], scale


def calibrate(residuals: FloatArray, level: float) -> Offsets:
    """The offsets between which a new residual falls with probability ``level`` or more.

    residuals: (n,), truth minus forecast of rows that no model had seen, or that divided by a scale, finite; level:
    e.g. 0.9.
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
