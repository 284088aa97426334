"""On which scale a target is learnt: a table, from which a challenge names its own.

Features of the target, its change, and the residuals that intervals come from are on the scale. Observations, forecasts
and their errors are in the target's unit.

A challenge is read where NumPy is not installed (by Airflow's scheduler), so only what computes on arrays imports it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

Factor = Callable[["FloatArray", "FloatArray"], float]
"""Of truths and forecasts, (n,) each: by what the latter are best multiplied."""
ScaleName = Literal["identity", "log"]
"""The entries of ``SCALES``, for a challenge's check."""

_MOST = 200.0
"""exp of a number farther from 0 counts as exp of this, so that a value, its change and the end of its interval
multiply to a number, which is not 0."""


class TargetScale(Protocol):
    """One entry. What is given and returned is in the target's unit, unless it says ``scaled`` or ``change``.

    Each operation has a form for one number and one for arrays, which give the same to the bit. A missing value is NaN.
    """

    positive: bool
    """Whether it takes values above 0 only; any other counts as missing."""

    def scaled(self, value: float) -> float: ...
    def scaled_values(self, values: FloatArray) -> FloatArray: ...
    def last_scaled(self, values: Sequence[float], count: int) -> Sequence[float]:
        """At least the last ``count`` of the values."""

    def unscaled(self, scaled: float) -> float: ...
    def unscaled_values(self, scaled: FloatArray) -> FloatArray: ...

    def change(self, before: float, after: float) -> float:
        """From ``before`` to ``after``, on the scale."""

    def changes(self, before: FloatArray, after: FloatArray) -> FloatArray: ...

    def changed(self, value: float, change: float) -> float:
        """The value after a change on the scale."""

    def changed_values(self, values: FloatArray, changes: FloatArray | float) -> FloatArray: ...

    def correction(self, factor: Factor, truth: FloatArray, forecast: FloatArray) -> float:
        """By which change on the scale forecasts that were learnt there become the best ones in the target's unit.

        factor: of truths and forecasts, by what the latter are best multiplied.
        """

    def text(self, change: float, unit: str) -> str:
        """A change for people, who think in the target's unit."""


class Identity:
    """The target itself."""

    positive = False

    def scaled(self, value: float) -> float:
        return value

    def scaled_values(self, values: FloatArray) -> FloatArray:
        return values

    def last_scaled(self, values: Sequence[float], count: int) -> Sequence[float]:  # noqa: ARG002 - all are at least those
        return values

    def unscaled(self, scaled: float) -> float:
        return scaled

    def unscaled_values(self, scaled: FloatArray) -> FloatArray:
        return scaled

    def change(self, before: float, after: float) -> float:
        return after - before

    def changes(self, before: FloatArray, after: FloatArray) -> FloatArray:
        return after - before

    def changed(self, value: float, change: float) -> float:
        return value + change

    def changed_values(self, values: FloatArray, changes: FloatArray | float) -> FloatArray:
        return values + changes

    def correction(self, factor: Factor, truth: FloatArray, forecast: FloatArray) -> float:  # noqa: ARG002 - none
        return 0.0

    def text(self, change: float, unit: str) -> str:
        return f"{change:+.2f} {unit}"


class Log:
    """The natural logarithm; a change of c multiplies the target by exp(c)."""

    positive = True

    def scaled(self, value: float) -> float:
        return math.log(value) if value > 0.0 else math.nan

    def scaled_values(self, values: FloatArray) -> FloatArray:
        return _one_by_one(self.scaled, values)

    def last_scaled(self, values: Sequence[float], count: int) -> Sequence[float]:
        return [self.scaled(value) for value in values[-count:]]

    def unscaled(self, scaled: float) -> float:
        return math.exp(max(min(scaled, _MOST), -_MOST))

    def unscaled_values(self, scaled: FloatArray) -> FloatArray:
        return _one_by_one(self.unscaled, scaled)

    def change(self, before: float, after: float) -> float:
        return self.scaled(after) - self.scaled(before)

    def changes(self, before: FloatArray, after: FloatArray) -> FloatArray:
        return self.scaled_values(after) - self.scaled_values(before)

    def changed(self, value: float, change: float) -> float:
        return value * self.unscaled(change)

    def changed_values(self, values: FloatArray, changes: FloatArray | float) -> FloatArray:
        import numpy as np

        return values * self.unscaled_values(np.asarray(changes))

    def correction(self, factor: Factor, truth: FloatArray, forecast: FloatArray) -> float:
        return self.scaled(factor(truth, forecast))

    def text(self, change: float, unit: str) -> str:  # noqa: ARG002 - a factor has none
        return f"×{self.unscaled(change):.2f}"


def _one_by_one(function: Callable[[float], float], values: FloatArray) -> FloatArray:
    """NumPy's own functions differ in the last bit between a processor's vector unit and its scalar one."""
    import numpy as np

    return np.fromiter(map(function, values.ravel().tolist()), np.float64, values.size).reshape(values.shape)


SCALES: Mapping[ScaleName, TargetScale] = {"identity": Identity(), "log": Log()}
