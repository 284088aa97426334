"""What a model is told, defined once: each feature has a name, a reach and a form over a table.

The table form (`forecasting.table_features`) serves training, the form for one moment (`forecasting.origin_features`)
serving; both give the same numbers to the bit. Everything here follows from a `FeatureSpec`, which travels in the
bundle.

Windows and lags are counted in steps of a grid that starts at 1970-01-01T00:00Z; an hour without an observation is NaN
on it, as is a value that is not finite. No feature looks past its origin, save for the calendar, which is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from forecasting.challenge import Challenge, Cycle, Features, Name, Positive, Statistic
from forecasting.cycles import Part, cycle_value, cycle_values

if TYPE_CHECKING:
    from forecasting.origin_features import Reader
    from forecasting.table_features import Cells

FloatArray = npt.NDArray[np.float64]


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
    """

    variable: str
    window: int
    statistic: Statistic

    @property
    def name(self) -> str:
        return f"{self.variable}_rolling_{self.statistic}_{self.window}"

    @property
    def lookback(self) -> int:
        return self.window - 1

    def batch(self, cells: Cells) -> FloatArray:
        return cells.rolling_at_origins(self.variable, self.window, self.statistic)


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


PastFeature = Lag | RollingStatistic | Difference
Feature = PastFeature | Calendar


class FeatureSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Everything that the features follow from. ``dict=True`` lets the derived properties be worked out once."""

    target: Name
    step_minutes: Positive
    horizons: tuple[Positive, ...]
    features: Features

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """The variables that are read, the target first; observations are given in this order."""
        return tuple(dict.fromkeys((self.target, *self.features.variables)))

    @cached_property
    def past(self) -> tuple[PastFeature, ...]:
        """The features that every horizon shares: lags, rolling statistics, differences.

        The target at the origin is always one of them (added in front when the challenge does not list it), because
        models predict the change from it.
        """
        features = self.features
        lags = [Lag(group.variable, steps) for group in features.lags for steps in group.steps]
        origin = Lag(self.target, 0)
        past: list[PastFeature] = [*lags] if origin in lags else [origin, *lags]
        past += [
            RollingStatistic(group.variable, window, statistic)
            for group in features.rolling
            for window in group.windows
            for statistic in group.statistics
        ]
        past += [Difference(group.variable, steps) for group in features.differences for steps in group.steps]
        return tuple(dict.fromkeys(past))

    @cached_property
    def shared_columns(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.past)

    @cached_property
    def calendar(self) -> dict[int, tuple[Calendar, ...]]:
        """By horizon, the calendar of the hour that is predicted."""
        parts: tuple[Part, ...] = ("sin", "cos")
        return {
            horizon: tuple(Calendar(cycle, part, horizon) for cycle in self.features.calendar for part in parts)
            for horizon in self.horizons
        }

    def columns_for(self, horizon: int) -> tuple[str, ...]:
        """The columns, in order, of the model for ``horizon``: the shared ones, then that horizon's calendar."""
        if horizon not in self.horizons:
            raise FeatureError(f"horizon: expected one of {list(self.horizons)}; found {horizon}")
        return (*self.shared_columns, *(feature.name for feature in self.calendar[horizon]))

    @cached_property
    def read_origin(self) -> Reader:
        """Reads the shared features of a single moment off the last steps of each variable."""
        from forecasting.origin_features import origin_reader

        return origin_reader(self)

    def calendar_values(self, step: int, horizon: int) -> list[float]:
        """The calendar features of ``horizon`` for an origin at ``step`` of the grid, as ``calendar[horizon]``."""
        minute = (step + horizon) * self.step_minutes
        return [cycle_value(feature.cycle, feature.part, minute) for feature in self.calendar[horizon]]

    @cached_property
    def definitions(self) -> tuple[Feature, ...]:
        """Every feature, in the order of the features table: the shared ones, then each horizon's calendar."""
        return (*self.past, *(feature for horizon in self.horizons for feature in self.calendar[horizon]))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.definitions)

    @cached_property
    def origin_column(self) -> int:
        """The place of the target's value at the origin among the columns of any horizon."""
        return self.past.index(Lag(self.target, 0))

    @cached_property
    def lookback(self) -> int:
        """How many steps before its origin the farthest-reaching feature looks."""
        return max(feature.lookback for feature in self.past)

    @cached_property
    def windows(self) -> dict[str, tuple[int, ...]]:
        """The rolling windows of each variable that has any, ascending."""
        found: dict[str, set[int]] = {}
        for feature in self.past:
            if isinstance(feature, RollingStatistic):
                found.setdefault(feature.variable, set()).add(feature.window)
        return {variable: tuple(sorted(windows)) for variable, windows in found.items()}


def feature_spec(challenge: Challenge) -> FeatureSpec:
    """What a challenge's features follow from."""
    target = challenge.target
    return FeatureSpec(target.variable, target.step_minutes, target.horizons, challenge.features)


def target_column(horizon: int) -> str:
    """The name of the column that holds the target ``horizon`` steps after the origin."""
    return f"target_h{horizon}"


def present(value: float | None) -> float:
    """The value, or NaN when it is none or not finite."""
    return float(value) if value is not None and math.isfinite(value) else math.nan
