"""What a model can see of a series, defined once: each feature has a name, a reach and a form over a table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from forecasting.challenge.values import Cycle, Statistic
from forecasting.features.cycles import Part, cycle_values
from forecasting.features.vectors import Component, component_values

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Cells(Protocol):
    """A piece of a table, as a feature reads it: one value for each of its rows, which are the origins."""

    def at_origins(self, variable: str, age: int) -> FloatArray:
        """The variable ``age`` steps before each origin: (rows,)."""

    def rolling_at_origins(self, variable: str, window: int, statistic: Statistic) -> FloatArray:
        """The statistic of the window that ends at each origin: (rows,)."""

    def minutes_after_origins(self, horizon: int) -> IntArray:
        """The moment ``horizon`` steps after each origin, in minutes since 1970: (rows,)."""


class FeatureError(ValueError):
    """Observations that no feature can be made of; the message names series, time, expected and found."""


@dataclass(frozen=True)
class Lag:
    """The variable, ``steps`` before the origin."""

    variable: str
    steps: int

    @property
    def name(self) -> str:
        return f"{self.variable}_lag_{self.steps}"

    @property
    def lookback(self) -> int:
        return self.steps

    def batch(self, cells: Cells) -> FloatArray:
        return cells.at_origins(self.variable, self.steps)


@dataclass(frozen=True)
class RollingStatistic:
    """A statistic of the variable's last ``window`` steps, the origin included, over the values that are present.

    NaN when fewer than half of them are; ``std`` is of the population (divisor n, not n - 1).
    relative: the statistic minus the variable at the origin; NaN when either is missing.
    """

    variable: str
    window: int
    statistic: Statistic
    relative: bool = False

    @property
    def name(self) -> str:
        return f"{self.variable}_rolling_{self.statistic}_{self.window}{'_relative' if self.relative else ''}"

    @property
    def lookback(self) -> int:
        return self.window - 1

    def batch(self, cells: Cells) -> FloatArray:
        values = cells.rolling_at_origins(self.variable, self.window, self.statistic)
        return values - cells.at_origins(self.variable, 0) if self.relative else values


@dataclass(frozen=True)
class Difference:
    """The variable at the origin minus itself ``steps`` earlier."""

    variable: str
    steps: int

    @property
    def name(self) -> str:
        return f"{self.variable}_difference_{self.steps}"

    @property
    def lookback(self) -> int:
        return self.steps

    def batch(self, cells: Cells) -> FloatArray:
        difference: FloatArray = cells.at_origins(self.variable, 0) - cells.at_origins(self.variable, self.steps)
        return difference


@dataclass(frozen=True)
class VectorComponent:
    """One component of the wind ``steps`` before the origin: u towards east, v towards north."""

    speed: str
    direction: str
    component: Component
    steps: int

    @property
    def name(self) -> str:
        return f"{self.speed}_{self.component}_{self.steps}"

    @property
    def lookback(self) -> int:
        return self.steps

    def batch(self, cells: Cells) -> FloatArray:
        speed, direction = (cells.at_origins(variable, self.steps) for variable in (self.speed, self.direction))
        return component_values(self.component, speed, direction)


@dataclass(frozen=True)
class Calendar:
    """Where the predicted moment, ``horizon`` steps after the origin, stands in a cycle."""

    cycle: Cycle
    part: Part
    horizon: int

    @property
    def name(self) -> str:
        return f"{self.cycle}_{self.part}_h{self.horizon}"

    @property
    def lookback(self) -> int:
        return 0

    def batch(self, cells: Cells) -> FloatArray:
        return cycle_values(self.cycle, self.part, cells.minutes_after_origins(self.horizon))


PastFeature = Lag | RollingStatistic | Difference | VectorComponent
Feature = PastFeature | Calendar


def present(value: float | None) -> float:
    """The value, or NaN when it is none or not finite."""
    return float(value) if value is not None and math.isfinite(value) else math.nan
