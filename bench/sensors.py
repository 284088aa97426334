"""How soon the detectors of sensor faults find faults in the recorded year, and how often they find one in vain.

`python -m bench.sensors` prints Markdown. Each fault begins on the eighth of a month at one station, or at all, and
lasts for three weeks; each month is tried at each station. What is usual between the stations comes from the days
before the month, for which the year's end stands in where it has just begun. The numbers of `neighbours` were chosen
on the even months, so the odd ones count; those of the other detectors were chosen on no month.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
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
    Usual,
    faults,
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
"""Hours until a first version found the fault; twice these are allowed."""

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
"""What happens, the detector that is to find it, whether at all stations, and what becomes of the values."""


@dataclass(frozen=True)
class Month:
    """A month with what is before it: the grid, where month and fault begin, and what is found without a fault."""

    number: int
    grid: SensorGrid
    start: int
    fault: int
    usual: Usual
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
        sound = {each.kind: faults(each, grid, usual) for each in challenge.detectors}
        found.append(Month(number, grid, longest, longest + (FAULT_DAY - 1) * 24, usual, sound))
    return found


def hours_to_find(
    challenge: Challenge, month: Month, station: int | None, fault: Callable[[Values], Values]
) -> dict[str, float]:
    """By detector, after how many hours it finds the fault; infinite when it does not.

    station: its place; None: all, any of which counts. An hour in which the detector finds something anyway does not.
    """
    hit = slice(None) if station is None else slice(station, station + 1)
    hours = slice(month.fault, month.fault + FAULT_HOURS)
    sound = month.grid.values  # noqa: PD011 - arrays by variable
    spoilt = {name: values.copy() for name, values in sound.items()}
    for name, values in fault({name: values[hit, hours] for name, values in sound.items()}).items():
        spoilt[name][hit, hours] = values
    grid = replace(month.grid, values=spoilt)
    found = {}
    for detector in challenge.detectors:
        kind = detector.kind
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
    odd = [month for month in every if month.number % 2]
    even = [month for month in every if not month.number % 2]
    yield from _delays(challenge, odd, even)
    yield ""
    yield from _alarms([detector.kind for detector in challenge.detectors], odd, even)


def _delays(challenge: Challenge, odd: list[Month], even: list[Month]) -> Iterator[str]:
    kinds = [detector.kind for detector in challenge.detectors]
    rows = []
    for name, finder, everywhere, fault in FAULTS:
        stations = [None] if everywhere else list(range(len(challenge.series_ids)))
        trials, others = (
            [hours_to_find(challenge, month, station, fault) for month in part for station in stations]
            for part in (odd, even)
        )
        hours = [trial[finder] for trial in trials]
        well = max(hours) < np.inf and float(np.median(hours)) <= 2 * GOALS[finder]
        cells = [_found([trial[kind] for trial in trials]) for kind in kinds]
        rows.append([name, *cells, _found([trial[finder] for trial in others]), f"`{finder}`: {met(well=well)}"])
    heads = ["fault", *(f"`{kind}`" for kind in kinds), "even months, whichever is to find it", "goal"]
    yield from table("l" * len(heads), heads, rows)
    goals = ", ".join(f"`{kind}` {2 * hours} h" for kind, hours in GOALS.items())
    yield ""
    yield "In how many of the odd months, at each station, a detector found the fault, and after how many hours at the"
    yield f"median and at the latest. Goal: always, and at the median within {goals}."


def _alarms(kinds: list[str], odd: list[Month], even: list[Month]) -> Iterator[str]:
    rows = []
    for part, shown in ((odd, "odd"), (even, "even"), ([*odd, *even], "all")):
        rates = [sum(false_alarms(month, kind) for month in part) / len(part) for kind in kinds]
        rows.append([shown, *(f"{rate:.2f}" for rate in (*rates, sum(rates))), met(well=sum(rates) <= MOST_FALSE)])
    heads = ["months without a fault", *(f"`{kind}`" for kind in kinds), "in all", f"goal: at most {MOST_FALSE}"]
    yield from table("l" + "r" * (len(kinds) + 1) + "l", heads, rows)
    yield ""
    yield f"False alarms a month, at the three stations together; those up to {APART_HOURS} h apart count once."


def _found(hours: list[float]) -> str:
    known = [each for each in hours if np.isfinite(each)]
    if not known:
        return f"0 of {len(hours)}"
    return f"{len(known)} of {len(hours)}: {np.median(known):.0f} h, {max(known):.0f} h"


if __name__ == "__main__":
    sys.exit(run(arguments(), report))
