"""The state of one series as its observations arrive: the last steps of the grid, and the features read off them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum

import numpy as np

from forecasting.features.definitions import FeatureError, FloatArray, present
from forecasting.features.spec import FeatureSpec

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Arrival(Enum):
    """What an observation did to the buffer."""

    NEWEST = "newest"
    """It is the newest now; steps between the one before and it are missing."""
    LATE = "late"
    """It came after a newer one, and filled a step that had no value."""
    REPEATED = "repeated"
    """Its step has the same values already."""
    CORRECTED = "corrected"
    """Its step had other values, which it replaced."""
    TOO_OLD = "too_old"
    """It is older than anything that is read, and was ignored."""


class RingBuffer:
    """The last grid steps of one series: ``lookback + 1`` of each variable, of the target ``target_lookback + 1``.

    columns: by ``spec.variables``, one value per step, oldest first, the newest at -1; NaN when missing.
    target_lookback: how far back the baseline reads the target; where that is less far than the features, as they do.
    newest_step: of the newest observation, in steps since 1970-01-01T00:00Z; None before the first.
    """

    __slots__ = ("columns", "newest_step", "spec")

    def __init__(self, spec: FeatureSpec, target_lookback: int = 0) -> None:
        self.spec = spec
        self.newest_step: int | None = None
        lookbacks = [max(spec.lookback, target_lookback), *[spec.lookback] * (len(spec.variables) - 1)]
        self.columns = [array("d", [math.nan]) * (lookback + 1) for lookback in lookbacks]

    @property
    def newest(self) -> datetime | None:
        """The time of the newest observation, which is the forecast's origin; None before the first."""
        return None if self.newest_step is None else moment_of(self.newest_step, self.spec)

    @property
    def origin_value(self) -> float:
        """The target at the newest step; NaN when it is missing."""
        return self.columns[0][-1]

    def at(self, step: int) -> list[float]:
        """What is held of a step: a value per variable, the target's alone of an old one, or none."""
        if self.newest_step is None or step > self.newest_step:
            return []
        place = step - self.newest_step - 1
        return [column[place] for column in self.columns if -place <= len(column)]

    def update(self, ds: datetime, values: Sequence[float | None]) -> Arrival:
        """Take in one observation, in any order of time; of repeats the last one counts.

        ds: aware, on the grid; values: one per ``spec.variables``, in that order, None or NaN when missing.
        Raises FeatureError when ds is off the grid or the number of values is wrong.
        """
        step = grid_step(ds, self.spec)
        if len(values) != len(self.columns):
            expected = f"{len(self.columns)} values ({', '.join(self.spec.variables)})"
            raise FeatureError(f"{ds:%Y-%m-%dT%H:%M:%SZ}: expected {expected}; found {len(values)}")
        return self.put(step, [present(value) for value in values])

    def put(self, step: int, row: Sequence[float]) -> Arrival:
        """As ``update``, of a step that is known to be right and values that are finite or NaN."""
        if self.newest_step is None or step > self.newest_step:
            self._advance(step, row)
            return Arrival.NEWEST
        place = step - self.newest_step - 1
        before = self.at(step)
        if not before:
            return Arrival.TOO_OLD
        for column, value in zip(self.columns[: len(before)], row, strict=False):
            column[place] = value
        if all(map(math.isnan, before)):
            return Arrival.LATE
        same = all(now == then or (now != now and then != then) for now, then in zip(row, before, strict=False))  # noqa: PLR0124
        return Arrival.REPEATED if same else Arrival.CORRECTED

    def vector(self) -> FloatArray:
        """The shared features with the newest observation as origin: (len(spec.shared_columns),)."""
        return np.array(self.spec.read_origin(self.columns))

    def calendar(self, horizon: int) -> FloatArray:
        """The calendar features of ``horizon``, which follow the shared ones in ``spec.columns_for(horizon)``."""
        if self.newest_step is None:
            raise FeatureError("expected at least one observation; found none")
        return np.array(self.spec.calendar_values(self.newest_step, horizon))

    def features(self, horizon: int) -> FloatArray:
        """One model's input: (1, len(spec.columns_for(horizon)))."""
        return np.concatenate((self.vector(), self.calendar(horizon)))[np.newaxis]

    def _advance(self, step: int, row: Sequence[float]) -> None:
        for column, value in zip(self.columns, row, strict=True):
            ahead = len(column) if self.newest_step is None else min(step - self.newest_step, len(column))
            del column[:ahead]
            if ahead > 1:
                column.extend([math.nan] * (ahead - 1))
            column.append(value)
        self.newest_step = step


def grid_step(ds: datetime, spec: FeatureSpec) -> int:
    """Which step of the grid a moment is, counted from 1970-01-01T00:00Z. Raises FeatureError when it is none."""
    if ds.tzinfo is None:
        raise FeatureError(f"ds: expected a time with its offset from UTC; found {ds.isoformat()}")
    step, rest = divmod(ds - EPOCH, timedelta(minutes=spec.step_minutes))
    if rest:
        expected = f"a whole multiple of {spec.step_minutes} minutes since 1970-01-01T00:00Z"
        raise FeatureError(f"ds: expected {expected}; found {ds.isoformat()}")
    return step


def moment_of(step: int, spec: FeatureSpec) -> datetime:
    """The time of a step of the grid."""
    return EPOCH + step * timedelta(minutes=spec.step_minutes)
