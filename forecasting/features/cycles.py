"""Calendar cycles as sine and cosine, by table: both forms of a feature read the same entry, so they agree to the bit.

Sines differ in the last bit between a processor's vector unit and its scalar one; a table look-up does not.
"""

from __future__ import annotations

import math
from datetime import date
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from forecasting.challenge.values import Cycle

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Part = Literal["sin", "cos"]

MINUTES_PER_DAY = 1440
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_EPOCH_WEEKDAY = date(1970, 1, 1).weekday()
_ENTRIES_AND_PERIOD: dict[Cycle, tuple[int, float]] = {
    "hour_of_day": (MINUTES_PER_DAY, float(MINUTES_PER_DAY)),
    "day_of_week": (7, 7.0),
    "day_of_year": (366, 365.25),
}


def cycle_values(cycle: Cycle, part: Part, minutes: IntArray) -> FloatArray:
    """Sine or cosine of where each moment stands in the cycle. minutes: (n,), since 1970-01-01T00:00Z. Returns (n,)."""
    return np.asarray(_table(cycle, part))[_phases(cycle, minutes)]


def cycle_value(cycle: Cycle, part: Part, minute: int) -> float:
    """As ``cycle_values``, of one moment."""
    return _table(cycle, part)[_phase(cycle, minute)]


@cache
def _table(cycle: Cycle, part: Part) -> tuple[float, ...]:
    entries, period = _ENTRIES_AND_PERIOD[cycle]
    wave = math.sin if part == "sin" else math.cos
    return tuple(wave(2.0 * math.pi * phase / period) for phase in range(entries))


def _phases(cycle: Cycle, minutes: IntArray) -> IntArray:
    if cycle == "hour_of_day":
        return minutes % MINUTES_PER_DAY
    days = minutes // MINUTES_PER_DAY
    if cycle == "day_of_week":
        return (days + _EPOCH_WEEKDAY) % 7
    if not days.size:
        return days
    first = int(days.min())
    calendar = np.arange(first, int(days.max()) + 1).astype("datetime64[D]")
    day_of_year = (calendar - calendar.astype("datetime64[Y]")).astype(np.int64)
    picked: IntArray = day_of_year[days - first]
    return picked


def _phase(cycle: Cycle, minute: int) -> int:
    if cycle == "hour_of_day":
        return minute % MINUTES_PER_DAY
    day = minute // MINUTES_PER_DAY
    return (day + _EPOCH_WEEKDAY) % 7 if cycle == "day_of_week" else _day_of_year(day)


@cache
def _day_of_year(day: int) -> int:
    moment = date.fromordinal(_EPOCH_ORDINAL + day)
    return moment.toordinal() - date(moment.year, 1, 1).toordinal()
