"""How soon the detectors of sensor faults find faults in the recorded year, and how often they find one in vain.

`python -m bench.sensors` prints Markdown. Each fault begins on the eighth of a month at one station, or at all, and
lasts for three weeks; each month is tried at each station. What is usual between the stations comes from the days
before the month, for which the year's end stands in where it has just begun. The numbers of `neighbours` were chosen
on the even months, so the odd ones count; those of the other detectors were chosen on no month.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from bench.recorded_models import CHALLENGE, YEAR, recorded
from bench.report import arguments, met, run, table
from forecasting.challenge.schema import Challenge, load_challenge
from forecasting.drift.sensor_faults import (
    BoolArray,
    FloatArray,
    SensorGrid,
    faults,
    kind_of,
    relative_humidity,
)
from pipelines.sensors import sensor_grid, usual_before

MONTHS = range(1, 13)
FAULT_DAY = 8
FAULT_HOURS = 21 * 24
APART_HOURS = 24
"""Findings of one detector at one series that are no farther apart count once."""
SEED = 6
MOST_FALSE = 0.3
"""A month, of all detectors together."""
GOALS = {"physics": 4, "neighbours": 58, "runs": 12}
"""Hours until the fault is found; twice these are allowed."""

Values = dict[str, FloatArray]
"""By variable, of the hours that a fault hits."""


def _warmer(degrees: float) -> Callable[[Values], Values]:
    return lambda now: now | {"temperature": now["temperature"] + degrees}


def _warmer_and_drier(now: Values) -> Values:
    warmer = now["temperature"] + 5.0
    return now | {"temperature": warmer, "humidity": relative_humidity(warmer, now["dew_point"])}


def _noisy(now: Values) -> Values:
    noise = np.random.default_rng(SEED).normal(0.0, 3.0, now["temperature"].shape)
    return now | {"temperature": now["temperature"] + noise}


def _in_fahrenheit(now: Values) -> Values:
    return now | {name: now[name] * 1.8 + 32.0 for name in ("temperature", "dew_point")}


def _stuck(now: Values) -> Values:
    return now | {"wind_speed": np.repeat(now["wind_speed"][:, :1], now["wind_speed"].shape[1], axis=1)}


FAULTS: tuple[tuple[str, str, bool, Callable[[Values], Values]], ...] = (
    ("+1 °C", "physics", False, _warmer(1.0)),
    ("+2 °C", "physics", False, _warmer(2.0)),
    ("+5 °C", "physics", False, _warmer(5.0)),
    ("+5 °C at all stations", "physics", True, _warmer(5.0)),
    ("noise of 3 °C", "physics", False, _noisy),
    ("°F in place of °C", "physics", False, _in_fahrenheit),
    ("+5 °C, humidity adjusted to match", "neighbours", False, _warmer_and_drier),
    ("stuck wind gauge", "runs", False, _stuck),
)
"""What happens, the detector that is to find it, whether it happens at all stations, and what it makes of the values."""


@dataclass(frozen=True)
class Month:
    """A month with what is before it: the grid, where month and fault begin, and what is found without a fault."""

    number: int
    grid: SensorGrid
    start: int
    fault: int
    usual: dict[str, dict[str, object]]
    sound: dict[str, BoolArray]


def months(challenge: Challenge) -> list[Month]:
    rows = recorded(challenge)
    earlier = rows.assign(ds=rows["ds"] - YEAR)
    whole = pd.concat([earlier[earlier["ds"] < rows["ds"].min()], rows], ignore_index=True)
    longest = max(detector.steps for detector in challenge.detectors)
    found = []
    for number in MONTHS:
        first = pd.Timestamp(datetime(2013, number, 1, tzinfo=UTC))
        last = min(first + pd.DateOffset(months=1), rows["ds"].max()) - pd.Timedelta(hours=1)
        grid = sensor_grid(whole, challenge, first - pd.Timedelta(hours=longest + 1), last)
        usual = usual_before(whole, challenge, first - pd.Timedelta(hours=1))
        sound = {kind_of(each): faults(each, grid, usual) for each in challenge.detectors}
        found.append(Month(number, grid, longest, longest + (FAULT_DAY - 1) * 24, usual, sound))
    return found


def hours_to_find(
    challenge: Challenge, month: Month, station: int | None, fault: Callable[[Values], Values]
) -> dict[str, float]:
    """By detector, after how many hours it finds the fault at that station (None: at all, any of them) where it finds
    nothing without; infinite when it does not."""
    hit = slice(None) if station is None else slice(station, station + 1)
    hours = slice(month.fault, month.fault + FAULT_HOURS)
    now = fault({name: values[hit, hours] for name, values in month.grid.values.items()})
    spoilt = {name: values.copy() for name, values in month.grid.values.items()}
    for name, values in now.items():
        spoilt[name][hit, hours] = values
    grid = replace(month.grid, values=spoilt)
    found = {}
    for detector in challenge.detectors:
        kind = kind_of(detector)
        new = (faults(detector, grid, month.usual) & ~month.sound[kind])[hit, hours].any(axis=0)
        found[kind] = float(np.argmax(new)) + 1.0 if new.any() else np.inf
    return found


def false_alarms(month: Month, kind: str) -> int:
    """How often a detector begins to find something in a month without a fault, over all stations."""
    starts = 0
    for found in month.sound[kind][:, month.start :]:
        hours = np.flatnonzero(found)
        starts += int(np.sum(np.diff(hours) > APART_HOURS)) + bool(len(hours))
    return starts


def report() -> Iterable[str]:
    challenge = load_challenge(CHALLENGE)
    every = months(challenge)
    odd, even = (
        sorted((each for each in every if each.number % 2 == rest), key=lambda each: each.number) for rest in (1, 0)
    )
    kinds = [kind_of(detector) for detector in challenge.detectors]
    goals_met = []
    rows = []
    for name, finder, everywhere, fault in FAULTS:
        stations: list[int | None] = [None] if everywhere else list(range(len(challenge.series_ids)))
        trials = {
            month.number: [hours_to_find(challenge, month, station, fault) for station in stations] for month in every
        }
        cells = [name]
        for part in (odd, even):
            hours = {kind: [trial[kind] for month in part for trial in trials[month.number]] for kind in kinds}
            firsts = [min(trial.values()) for month in part for trial in trials[month.number]]
            by_kind = [_found(hours[kind]) for kind in kinds]
            cells += [*by_kind, _found(firsts)] if part is odd else [_found(firsts)]
            if part is odd:
                hit = hours[finder]
                well = np.isfinite(hit).all() and float(np.median(hit)) <= 2 * GOALS[finder]
                goals_met.append(bool(well))
        cells.append(met(well=goals_met[-1]))
        rows.append(cells)
    heads = ["fault", *(f"`{kind}`" for kind in kinds), "any", "any, even months", "goal"]
    yield from table("l" + "l" * (len(kinds) + 2) + "l", heads, rows)
    yield ""
    yield (
        "Trials in which it was found (a month and a station each), and after how many hours at the median and at the "
        f"latest; odd months unless said. The goal: all, and at the median within twice {GOALS['physics']} h by "
        f"`physics`, {GOALS['neighbours']} h by `neighbours`, {GOALS['runs']} h by `runs`, whichever is to find it."
    )
    yield ""
    totals = []
    counted = []
    for part, shown in ((odd, "odd"), (even, "even"), (every, "all")):
        numbers = [sum(false_alarms(month, kind) for month in part) for kind in kinds]
        rates = [number / len(part) for number in (*numbers, sum(numbers))]
        totals.append(rates[-1])
        counted.append([shown, *(f"{rate:.2f}" for rate in rates)])
    heads = ["months without a fault", *(f"`{kind}`" for kind in kinds), f"in all (goal: ≤ {MOST_FALSE}, odd)"]
    counted[0][-1] += f", {met(well=totals[0] <= MOST_FALSE)}"
    yield from table("l" + "r" * (len(kinds) + 1), heads, counted)
    yield ""
    yield f"False alarms a month, over the three stations; those up to {APART_HOURS} h apart count once."


def _found(hours: list[float]) -> str:
    known = [each for each in hours if np.isfinite(each)]
    if not known:
        return f"0 of {len(hours)}"
    return f"{len(known)} of {len(hours)}: {np.median(known):.0f} h, {max(known):.0f} h"


if __name__ == "__main__":
    sys.exit(run(arguments(), report))
