"""The features of one series as its observations arrive: the last steps of the grid, and what rolls over them.

A new observation costs a handful of float operations per rolling window; nothing is recomputed over the window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum

import numpy as np
import numpy.typing as npt

from forecasting.features import FeatureError, FeatureSpec, present
from forecasting.rolling import NOTHING, Summary, leaf, merge_plan, merged

FloatArray = npt.NDArray[np.float64]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Arrival(Enum):
    """What an observation did to the buffer."""

    NEWEST = "newest"
    """It is the newest now; steps between the one before and it are missing."""
    FILLED = "filled"
    """It came late, or again: its step was within the buffer and now holds its values."""
    TOO_OLD = "too old"
    """It is older than anything a feature reads, and was ignored."""


class RingBuffer:
    """The last ``lookback + 1`` grid steps of one series. Oldest first in every list; the newest is at -1."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self.values: dict[str, list[float]] = {}
        self.summaries: dict[str, dict[int, list[Summary]]] = {}
        self._length = spec.lookback + 1
        self._columns: list[list[float]] = []
        self._rolled = [
            (spec.variables.index(variable), variable, merge_plan(windows))
            for variable, windows in spec.windows.items()
        ]
        self._step = timedelta(minutes=spec.step_minutes)
        self._newest: int | None = None
        self._clear()

    @property
    def newest(self) -> datetime | None:
        """The time of the newest observation, which is the forecast's origin; None before the first."""
        return None if self._newest is None else _EPOCH + self._newest * self._step

    def update(self, ds: datetime, values: Sequence[float | None]) -> Arrival:
        """Take in one observation, in any order of time; of repeats the last one counts.

        ds: aware, on the grid; values: one per ``spec.variables``, in that order, None or NaN when missing.
        Raises FeatureError when ds is off the grid or the number of values is wrong.
        """
        step = self._grid_step(ds)
        if len(values) != len(self._columns):
            expected = f"{len(self._columns)} values ({', '.join(self.spec.variables)})"
            raise FeatureError(f"{ds:%Y-%m-%dT%H:%M:%SZ}: expected {expected}; found {len(values)}")
        row = [present(value) for value in values]
        if self._newest is None or step > self._newest:
            self._advance(step, row)
            return Arrival.NEWEST
        age = self._newest - step
        if age >= self._length:
            return Arrival.TOO_OLD
        for column, value in zip(self._columns, row, strict=True):
            column[-1 - age] = value
        self._roll_again(age)
        return Arrival.FILLED

    def vector(self) -> FloatArray:
        """The shared features with the newest observation as origin: (len(spec.shared_columns),)."""
        return np.array([feature.latest(self) for feature in self.spec.past])

    def calendar(self, horizon: int) -> FloatArray:
        """The calendar features of ``horizon``, which follow the shared ones in ``spec.columns_for(horizon)``."""
        return np.array([feature.latest(self) for feature in self.spec.calendar[horizon]])

    def features(self, horizon: int) -> FloatArray:
        """One model's input: (1, len(spec.columns_for(horizon)))."""
        return np.concatenate((self.vector(), self.calendar(horizon)))[np.newaxis]

    def minutes_after_origin(self, horizon: int) -> int:
        """The moment ``horizon`` steps after the origin, in minutes since 1970-01-01T00:00Z."""
        if self._newest is None:
            raise FeatureError("expected at least one observation; found none")
        return (self._newest + horizon) * self.spec.step_minutes

    def _grid_step(self, ds: datetime) -> int:
        if ds.tzinfo is None:
            raise FeatureError(f"ds: expected a time with its offset from UTC; found {ds.isoformat()}")
        step, rest = divmod(ds - _EPOCH, self._step)
        if rest:
            expected = f"a whole multiple of {self.spec.step_minutes} minutes since 1970-01-01T00:00Z"
            raise FeatureError(f"ds: expected {expected}; found {ds.isoformat()}")
        return step

    def _clear(self) -> None:
        for variable in self.spec.variables:
            self.values[variable] = [math.nan] * self._length
        self._columns = list(self.values.values())
        for _, variable, plan in self._rolled:
            sizes = (1, *(merge.size for merge in plan))
            self.summaries[variable] = {size: [NOTHING] * self._length for size in sizes}

    def _advance(self, step: int, row: list[float]) -> None:
        if self._newest is not None:
            missing = step - self._newest - 1
            if missing >= self._length:
                self._clear()
            else:
                nothing = [math.nan] * len(row)
                for _ in range(missing):
                    self._push(nothing)
        self._push(row)
        self._newest = step

    def _push(self, row: list[float]) -> None:
        for column, value in zip(self._columns, row, strict=True):
            del column[0]
            column.append(value)
        for index, variable, plan in self._rolled:
            by_size = self.summaries[variable]
            leaves = by_size[1]
            del leaves[0]
            leaves.append(leaf(row[index]))
            for merge in plan:
                rolled = by_size[merge.size]
                del rolled[0]
                rolled.append(merged(by_size[merge.newer][-1], by_size[merge.older][-1 - merge.newer]))

    def _roll_again(self, oldest_age: int) -> None:
        """Redo the windows that end at ``oldest_age`` or later.

        One that reaches past the buffer's start sees nothing there; no later window is built from it.
        """
        for index, variable, plan in self._rolled:
            by_size = self.summaries[variable]
            column = self._columns[index]
            for age in range(oldest_age, -1, -1):
                by_size[1][-1 - age] = leaf(column[-1 - age])
                for merge in plan:
                    older_age = age + merge.newer
                    older = by_size[merge.older][-1 - older_age] if older_age < self._length else NOTHING
                    by_size[merge.size][-1 - age] = merged(by_size[merge.newer][-1 - age], older)
