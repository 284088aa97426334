"""Changes whose hour is known without asking the alerts, quiet months without any, and when the alerts fire in each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from bench.loop_models import HOUR, YEAR, History, history, loaded, recorded_year, year_before
from bench.loop_policies import LAST, recorded_hours, root_mean_square, scored
from bench.loop_service import DRIFT, LIVE_WINDOW, Hours, Made, Service, Watch, hours_of, moment_at, step_of
from bench.recorded_models import CHALLENGE, recorded
from bench.report import say
from forecasting.challenge.schema import load_challenge
from forecasting.models.bundle import Bundle

MONTHS = range(1, 13)
WEEK_HOURS = 168
CHANGED = 1.5
"""A week whose error is more than so many times the folds'."""
QUIET_OUTSIDE, QUIET_ERROR = 0.05, 1.25
"""A month is quiet when no larger share of its rows lies outside training, and its error is at most so many times the
folds'."""
FAULT_DAY = 8
"""Of the month; before it, the service sees a week as it is."""
STATIONS = ("EWR", "JFK", "LGA")
NATURAL_DAYS = 90
FOUR_WEEKS = timedelta(days=28)

Firing = list[frozenset[str]]
"""By hour of the replay."""


@dataclass(frozen=True)
class Served:
    """One model over successive hours."""

    steps: list[int]
    firing: Firing
    outside: float
    """The share of rows with a feature outside what training saw."""
    weekly: dict[int, float]
    """By step, the RMSE of the forecasts made from it on, for a week, over the folds'; where the week is whole."""
    error: float
    """The RMSE of all forecasts over the folds'."""

    @property
    def quiet(self) -> bool:
        return self.outside <= QUIET_OUTSIDE and self.error <= QUIET_ERROR

    def first(self, alert: str, since: int = 0) -> int | None:
        """The first hour of the replay, from ``since`` on, in which the alert fires."""
        return next((hour for hour, firing in enumerate(self.firing) if hour >= since and alert in firing), None)

    def starts(self, alert: str) -> int:
        """How often it began to fire."""
        fires = np.array([alert in firing for firing in self.firing])
        return int(np.sum(fires & ~np.roll(fires, 1) | (fires & (np.arange(len(fires)) == 0))))


def served(bundle: Bundle, hours: Hours, steps: Iterable[int], live_window: int) -> Served:
    """Serve these hours, one after the other whatever their dates, without ever retraining."""
    service, watch, steps = Service(bundle, "1", live_window), Watch(), list(steps)
    made: list[Made] = []
    firing = []
    for hour, step in enumerate(steps):
        made += service.take(hours.get(step, []))
        firing.append(watch.look(hour, service.fresh_monitor()))
    board = service.monitor.own
    expected = root_mean_square(np.array([one["error"] for one in bundle.manifest.errors.values()]))
    origins, errors = scored(made, hours)
    return Served(
        steps,
        firing,
        float(board.unusual[0] / max(board.predicted.sum(), 1.0)),
        _weekly(origins, errors / expected, steps),
        root_mean_square(errors) / expected,
    )


def _weekly(origins: np.ndarray, errors: np.ndarray, steps: list[int]) -> dict[int, float]:
    squares, counts = np.zeros(len(steps)), np.zeros(len(steps))
    place = {step: hour for hour, step in enumerate(steps)}
    places = np.array([place[step] for step in origins.tolist()], dtype=int)
    np.add.at(squares, places, errors**2)
    np.add.at(counts, places, 1.0)
    sums, numbers = (np.concatenate([[0.0], np.cumsum(each)]) for each in (squares, counts))
    weeks = np.arange(len(steps) - WEEK_HOURS + 1)
    found = (sums[weeks + WEEK_HOURS] - sums[weeks]) / np.maximum(numbers[weeks + WEEK_HOURS] - numbers[weeks], 1.0)
    return {steps[week]: float(np.sqrt(found[week])) for week in weeks.tolist()}


# Quiet months, and faults in them


def month(number: int, live_window: int = LIVE_WINDOW) -> Served:
    """A month of a model that has never seen it, made from the eleven others."""
    start = datetime(2013, number, 1, tzinfo=UTC)
    end = datetime(2013, number + 1, 1, tzinfo=UTC) if number < 12 else LAST
    return served(_month_model(number), recorded_hours(), range(step_of(start), step_of(end)), live_window)


def _month_model(number: int) -> Bundle:
    past = year_before(number)
    return loaded(past, past.rows["ds"].max().to_pydatetime())


FAULTS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "+5 °C offset": lambda rows: rows.assign(temperature=rows["temperature"] + 5.0),
    "°F for °C": lambda rows: rows.assign(**{name: rows[name] * 1.8 + 32.0 for name in ("temperature", "dew_point")}),
    "stuck wind speed": lambda rows: rows.assign(wind_speed=rows.groupby("unique_id")["wind_speed"].transform("first")),
    "noise of 3 °C": lambda rows: rows.assign(
        temperature=rows["temperature"] + np.random.default_rng(6).normal(0.0, 3.0, len(rows))
    ),
}
"""By name, what a fault makes of the rows that it hits."""


@dataclass(frozen=True)
class Faulty:
    """A month with a fault from its eighth day on."""

    fault: str
    stations: tuple[str, ...]
    month: int
    hours: dict[str, int | None]
    """By alert, from the fault to the first hour in which it fires and would not have without; None: it does not."""
    data_errors: tuple[str, ...]
    """Why the data gate rejects a retraining when the first of them fires (or at the month's end)."""


def faulty(fault: str, stations: tuple[str, ...], number: int, sound: Served) -> Faulty:
    """number: of the month; sound: the same month without the fault."""
    begins = datetime(2013, number, FAULT_DAY, tzinfo=UTC)
    past = year_before(number)
    spoilt = history("spoilt", _spoilt(past, begins, stations, fault), past.challenge)
    bundle, steps = _month_model(number), sound.steps
    found = served(bundle, hours_of(spoilt.observations, bundle.spec), steps, LIVE_WINDOW)
    start = step_of(begins) - steps[0]
    hours = {}
    for alert in DRIFT:
        pairs = enumerate(zip(found.firing, sound.firing, strict=True))
        new = (hour - start for hour, (now, before) in pairs if hour >= start and alert in now and alert not in before)
        hours[alert] = next(new, None)
    first = min((hour for hour in hours.values() if hour is not None), default=len(steps) - 1 - start)
    say(f"{fault}, month {number}", over=True)
    return Faulty(fault, stations, number, hours, spoilt.data_errors(begins + timedelta(hours=first)))


def _spoilt(past: History, begins: datetime, stations: tuple[str, ...], fault: str) -> pd.DataFrame:
    now = recorded_year().rows
    now = now[now["ds"].dt.month == begins.month]
    hit = (now["ds"] >= begins) & now["unique_id"].isin(stations)
    return pd.concat([past.rows, now[~hit], FAULTS[fault](now[hit])], ignore_index=True)


# The season changes


@dataclass(frozen=True)
class Jump:
    """A model that has served the last weeks that it learnt from, when the clock jumps."""

    season: str
    to: datetime
    before: dict[str, int]
    """By alert, in how many of the hours before the jump it fired."""
    on: frozenset[str]
    """The alerts that fired in the last of them, and so are no news after it."""
    hours: dict[str, int | None]
    """By alert, from the first hour after the jump on."""
    error: float
    """Of the week after the jump, over the folds'."""


@functools.cache
def summer() -> History:
    """A history that knows the months from June on alone."""
    challenge = load_challenge(CHALLENGE)
    rows = recorded(challenge)
    return history("summer", rows[rows["ds"] >= datetime(2013, 6, 1, tzinfo=UTC)], challenge)


JUMPS = (
    ("winter", datetime(2013, 4, 1, tzinfo=UTC), (5, 7, 9, 11)),
    ("summer", datetime(2013, 10, 1, tzinfo=UTC), (1, 3, 5, 11)),
)
"""Which season a model knows, as of when it is trained, and to the first of which months the clock jumps."""


def jumps(live_window: int = LIVE_WINDOW) -> list[Jump]:
    return [
        _jump(season, as_of, datetime(2013, number, 1, tzinfo=UTC), live_window)
        for season, as_of, months in JUMPS
        for number in months
    ]


def _jump(season: str, as_of: datetime, to: datetime, live_window: int) -> Jump:
    # Without the bundle's observations, which are newer than the four weeks that come first.
    bundle = replace(loaded(summer() if season == "summer" else recorded_year(), as_of), observations={})
    before = list(range(step_of(as_of - FOUR_WEEKS), step_of(as_of) + 1))
    later = 0 if to > as_of else YEAR // HOUR  # of the next year, for which this one stands in
    after = list(range(step_of(to) + later, step_of(to + FOUR_WEEKS) + later))
    known = recorded_hours()
    met = {step: [one._replace(step=step) for one in known.get(step - later, [])] for step in after}
    found = served(bundle, {**known, **met}, [*before, *after], live_window)
    hours = {alert: found.first(alert, len(before)) for alert in DRIFT}
    say(f"{season} to {to:%B}", over=True)
    return Jump(
        season,
        to,
        {alert: sum(alert in firing for firing in found.firing[: len(before)]) for alert in DRIFT},
        found.firing[len(before) - 1],
        {alert: None if hour is None else hour - len(before) for alert, hour in hours.items()},
        found.weekly[after[0]],
    )


# The season changes by itself


@dataclass(frozen=True)
class Natural:
    """A model that is served on and on."""

    as_of: datetime
    changed: datetime | None
    """The first hour from which on a week's error is ``CHANGED`` times the folds'."""
    hours: dict[str, int | None]
    """By alert, from the change, or from the start where there is none, until it fires; None: it does not."""


def natural(live_window: int = LIVE_WINDOW) -> list[Natural]:
    found = []
    for number in range(4, 12):
        as_of = datetime(2013, number, 1, tzinfo=UTC)
        end = min(step_of(as_of) + NATURAL_DAYS * 24, step_of(LAST))
        bundle = loaded(recorded_year(), as_of)
        one = served(bundle, recorded_hours(), range(step_of(as_of) + 1, end + 1), live_window)
        changed = next((step for step, error in one.weekly.items() if error > CHANGED), None)
        since = step_of(as_of) if changed is None else changed
        fired = {alert: one.first(alert) for alert in DRIFT}
        hours = {alert: None if hour is None else one.steps[hour] - since for alert, hour in fired.items()}
        found.append(Natural(as_of, None if changed is None else moment_at(changed), hours))
        say(f"a model of {as_of:%B}", over=True)
    return found
