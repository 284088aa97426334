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
Size = Annotated[float, Meta(ge=0.0)]

LEAST_SHARE = 0.05
"""The scale is no less than this share of the usual one: a calm does not make the first error after it a surprise."""
MOST_TIMES = 10.0
"""An error counts as at most so many times the scale: one wild value does not make the intervals of a week useless."""


class Offsets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By which change a forecast becomes the ends of its interval: on the target's scale, or in multiples of a size."""

    lower: float
    upper: float


class Scale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The size of a series' errors at one horizon on the folds, on the target's scale."""

    usual: Size
    """Their mean."""
    newest: Size
    """Their exponential mean after the newest fold."""


class Scaling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How intervals follow the size of the last errors: an exponential mean per series and horizon, its scale."""

    half_life: Annotated[float, Meta(gt=0.0)]
    """In forecasts: after so many, an error counts half."""
    offsets: dict[int, Offsets]
    """By horizon, in multiples of the scale."""
    usual: dict[int, Size]
    """By horizon, the mean size of all series' errors on the folds, for a series that has none there."""
    series: dict[str, dict[int, Scale]]
    """By series and horizon."""

    def of(self, unique_id: str, horizon: int) -> Scale:
        """Where a series begins; one that the folds do not have begins with the usual scale."""
        usual = self.usual[horizon]
        return self.series.get(unique_id, {}).get(horizon, Scale(usual, usual))


def weight(half_life: float) -> float:
    """What a new error counts in an exponential mean, half as much after ``half_life`` more."""
    return 1.0 - math.pow(0.5, 1.0 / half_life)


def least_scale(usual: float) -> float:
    """The smallest scale of a series whose errors usually have that size; never 0."""
    return LEAST_SHARE * usual or 1.0


def next_scale(scale: float, error: float, share: float, least: float) -> float:
    """The scale after one more error, of either sign; share: its ``weight``; least: the series' ``least_scale``."""
    most, size = MOST_TIMES * scale, abs(error)
    return max(least, scale + share * ((size if size < most else most) - scale))  # NaN is not less, so it is the most


def recent_scales(
    steps: npt.NDArray[np.int64], residuals: FloatArray, horizon: int, usual: float, half_life: float
) -> tuple[FloatArray, float]:
    """The scale of one series at each forecast, (n,), and after the last, as a service has it that sees no future.

    steps: of the forecasts' origins, ascending, (n,); residuals: (n,), of which a forecast knows those whose target
    was ``horizon`` steps after an origin that lies as long before its own; usual: the mean size of the residuals, with
    which the scale begins.
    """
    share, least = weight(half_life), least_scale(usual)
    after = [max(usual, least)]
    for residual in residuals.tolist():
        after.append(next_scale(after[-1], residual, share, least))
    known = np.searchsorted(steps, steps - horizon, side="right")
    return np.array(after)[known], after[-1]


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
