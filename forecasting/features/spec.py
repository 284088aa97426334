"""Everything that a challenge's features follow from: the specification that travels in the bundle.

The table form (`forecasting.features.table`) serves training, the form for one moment (`forecasting.features.moment`)
serving; both give the same numbers to the bit.

Windows and lags are counted in steps of a grid that starts at 1970-01-01T00:00Z; an hour without an observation is NaN
on it, as is a value that is not finite. No feature looks past its origin, save for the calendar, which is known.
"""

from __future__ import annotations

from functools import cached_property

import msgspec

from forecasting.challenge.scales import SCALES, ScaleName, TargetScale
from forecasting.challenge.schema import Challenge, Features
from forecasting.challenge.values import Name, Positive
from forecasting.features.cycles import Part, cycle_value
from forecasting.features.definitions import (
    Calendar,
    Difference,
    Feature,
    FeatureError,
    Lag,
    PastFeature,
    RollingStatistic,
    VectorComponent,
)
from forecasting.features.moment import Reader, origin_reader
from forecasting.features.vectors import COMPONENTS


class FeatureSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Everything that the features follow from. ``dict=True`` lets the derived properties be worked out once."""

    target: Name
    step_minutes: Positive
    horizons: tuple[Positive, ...]
    features: Features
    scale: ScaleName = "identity"
    """Of the target, wherever a feature reads it."""

    @cached_property
    def target_scale(self) -> TargetScale:
        return SCALES[self.scale]

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """The variables that are read, the target first; observations are given in this order."""
        return tuple(dict.fromkeys((self.target, *self.features.variables)))

    @cached_property
    def past(self) -> tuple[PastFeature, ...]:
        """The features that every horizon shares: lags, rolling statistics, differences, vectors.

        The target at the origin is always one of them (added in front when the challenge does not list it), because
        models predict the change from it.
        """
        features = self.features
        lags = [Lag(group.variable, steps) for group in features.lags for steps in group.steps]
        origin = Lag(self.target, 0)
        past: list[PastFeature] = [*lags] if origin in lags else [origin, *lags]
        past += [
            RollingStatistic(group.variable, window, statistic, group.relative)
            for group in features.rolling
            for window in group.windows
            for statistic in group.statistics
        ]
        past += [Difference(group.variable, steps) for group in features.differences for steps in group.steps]
        past += [
            VectorComponent(group.speed, group.direction, component, steps)
            for group in features.vectors
            for steps in group.steps
            for component in COMPONENTS
        ]
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
        return origin_reader(self.variables, self.past, self.target_scale)

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
    return FeatureSpec(target.variable, target.step_minutes, target.horizons, challenge.features, target.scale)


def target_column(horizon: int) -> str:
    """The name of the column that holds the target ``horizon`` steps after the origin."""
    return f"target_h{horizon}"
