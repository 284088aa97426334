"""Detectors of faulty sensors, by kind: what the values of all series in the last steps say about each of them.

A detector looks at a fixed number of steps and at nothing before them. So it has one definition for a table (`validate`
and the bench: a verdict for every step) and for a moment (the service: a window that is just as long, of which the last
verdict counts). It needs no state of its own, and a late or corrected value counts as if it had come in time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from forecasting.challenge.detectors import Detector, Neighbours, Physics, Runs

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

DAY_HOURS = 24
MAGNUS = (17.62, 243.12)
"""Over water, -45 to 60 °C; the second in °C. Sonntag (1990), as in WMO-No. 8, annex 4.B."""


class UsualDifference(Struct, frozen=True, forbid_unknown_fields=True):
    """How one series usually differs from the mean of the others.

    by_hour: the mean at each hour of the day (UTC), None where it is not known; deviation: the standard deviation
    around it.
    """

    by_hour: Annotated[tuple[float | None, ...], Meta(min_length=DAY_HOURS, max_length=DAY_HOURS)]
    deviation: Annotated[float, Meta(gt=0.0)]


Usual = Mapping[str, Mapping[str, UsualDifference]]
"""By variable and series; a series that is missing is not compared."""


@dataclass(frozen=True)
class SensorGrid:
    """The values of several series at the same successive steps.

    unique_ids: the n series; hours: (T,), the hour of the day (UTC) of each step; values: by variable (n, T), NaN when
    missing.
    """

    unique_ids: tuple[str, ...]
    hours: IntArray
    values: Mapping[str, FloatArray]


@dataclass(frozen=True)
class DetectorKind:
    """faults: whether each series is found faulty at each step, (n, T); explain: the finding in words."""

    faults: Callable[[Any, SensorGrid, Usual], BoolArray]
    explain: Callable[[Any], str]


def faults(detector: Detector, grid: SensorGrid, usual: Usual) -> BoolArray:
    """Whether each series is found faulty at each step: (n, T). A step is judged by the last ``detector.steps``."""
    return DETECTORS[detector.kind].faults(detector, grid, usual)


def explain(detector: Detector) -> str:
    """What it means that the detector has found something."""
    return DETECTORS[detector.kind].explain(detector)


def relative_humidity(temperature: FloatArray, dew_point: FloatArray) -> FloatArray:
    """In %, from °C: the vapour pressure at the dew point over that at the temperature, by the Magnus formula."""
    factor, offset = MAGNUS
    with np.errstate(all="ignore"):  # a temperature that cannot be gives what cannot be compared
        exponent = factor * dew_point / (offset + dew_point) - factor * temperature / (offset + temperature)
        humidity: FloatArray = 100.0 * np.exp(exponent)
    return humidity


def _physics(detector: Physics, grid: SensorGrid, usual: Usual) -> BoolArray:  # noqa: ARG001 - as the others
    temperature, dew_point, humidity = (grid.values[name] for name in detector.reads.values())
    off = np.abs(relative_humidity(temperature, dew_point) - humidity) > detector.points
    found: BoolArray = _lately(off, detector.steps) >= detector.at_least
    return found


def _runs(detector: Runs, grid: SensorGrid, usual: Usual) -> BoolArray:  # noqa: ARG001 - as the others
    """A missing value ends a run. A calm, a run of zeros, counts like any other."""
    values = grid.values[detector.variable]
    same = np.zeros(values.shape, dtype=bool)
    same[:, 1:] = values[:, 1:] == values[:, :-1]
    found: BoolArray = _lately(same, detector.steps - 1) == detector.steps - 1
    return found


def _lately(flags: BoolArray, steps: int) -> IntArray:
    """How many of the last ``steps`` flags are set, at each step: (n, T)."""
    count = np.concatenate([np.zeros((len(flags), steps), dtype=np.int64), np.cumsum(flags, axis=1)], axis=1)
    lately: IntArray = count[:, steps:] - count[:, :-steps]
    return lately


def difference_to_others(values: FloatArray) -> FloatArray:
    """Each series minus the mean of the others that have a value at that step: (n, T), NaN where there is none."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    others = known.sum(axis=0) - known
    with np.errstate(invalid="ignore", divide="ignore"):
        difference: FloatArray = values - (filled.sum(axis=0) - filled) / others
    return np.where(others > 0, difference, np.nan)


def usual_differences(grid: SensorGrid, variable: str) -> dict[str, UsualDifference]:
    """How the series differ over the grid's steps; one that cannot be compared, or never varies, is left out."""
    found = {}
    for unique_id, difference in zip(grid.unique_ids, difference_to_others(grid.values[variable]), strict=True):
        by_hour = np.full(DAY_HOURS, np.nan)
        for hour in range(DAY_HOURS):
            known = difference[(grid.hours == hour) & ~np.isnan(difference)]
            if known.size:
                by_hour[hour] = known.mean()
        left = difference - by_hour[grid.hours]
        left = left[~np.isnan(left)]
        deviation = float(left.std()) if left.size else 0.0
        if deviation > 0.0:
            means = tuple(None if np.isnan(mean) else float(mean) for mean in by_hour)
            found[unique_id] = UsualDifference(means, deviation)
    return found


def standardised(detector: Neighbours, grid: SensorGrid, usual: Usual) -> FloatArray:
    """The difference to the others less the usual one, in standard deviations, winsorised: (n, T)."""
    known = usual.get(detector.variable, {})
    difference = difference_to_others(grid.values[detector.variable])
    scores = np.full(difference.shape, np.nan)
    for place, unique_id in enumerate(grid.unique_ids):
        if one := known.get(unique_id):
            scores[place] = (difference[place] - np.array(one.by_hour, dtype=np.float64)[grid.hours]) / one.deviation
    return np.clip(scores, -detector.winsor, detector.winsor)


def cusum(scores: FloatArray, allowance: float, steps: int) -> FloatArray:
    """The larger of the upper and the lower sum at each step, begun at most ``steps`` steps before: (n, T).

    scores: (n, T), in standard deviations; NaN leaves the sums as they are. The upper sum is the largest of 0 and, for
    every beginning, the sum of (score - allowance) from there on; the lower one is that of the negative scores.
    Source: Page (1954), "Continuous inspection schemes", two-sided; limited to a window as in Lai (1995), "Sequential
    changepoint detection in quality control and dynamical systems", section 3.
    """
    series = len(scores)
    both = np.concatenate([scores, -scores])
    total = np.cumsum(np.where(np.isnan(both), 0.0, both - allowance), axis=1)
    before = [np.full((2 * series, steps), np.inf), np.zeros((2 * series, 1))]
    lowest = np.lib.stride_tricks.sliding_window_view(np.concatenate([*before, total], axis=1), steps + 1, axis=1)
    sums = total - lowest[:, 1:].min(axis=-1)
    larger: FloatArray = np.maximum(sums[:series], sums[series:])
    return larger


def _neighbours(detector: Neighbours, grid: SensorGrid, usual: Usual) -> BoolArray:
    """Only the series that differs most is named: its fault is in the others' mean, so they differ as well."""
    sums = cusum(standardised(detector, grid, usual), detector.allowance, detector.steps)
    found: BoolArray = (sums > detector.limit) & (sums >= sums.max(axis=0))
    return found


DETECTORS: dict[str, DetectorKind] = {
    "physics": DetectorKind(
        _physics,
        lambda one: (
            f"{one.humidity} is more than {one.points:g} points off what {one.temperature} and {one.dew_point} "
            f"give, in at least {one.at_least} of {one.steps} steps"
        ),
    ),
    "neighbours": DetectorKind(
        _neighbours,
        lambda one: (
            f"{one.variable} has moved away from the other series: the CUSUM of the difference is above "
            f"{one.limit:g} within {one.steps} steps"
        ),
    ),
    "runs": DetectorKind(_runs, lambda one: f"{one.variable} has had the same value for {one.steps} steps or more"),
}
