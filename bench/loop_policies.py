"""A year served under one policy: never retrained, retrained by the clock, or retrained when an alert fires."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import numpy.typing as npt

from bench.loop_models import Rejected, judged, loaded, recorded_year
from bench.loop_service import HOUR, LIVE_WINDOW, STARTING, Hours, Made, Service, Watch, hours_of, moment_at, step_of
from bench.report import say
from ci.retrain.retrain_command import COOL_DOWN_HOURS, DAILY
from monitoring.alertmanager_files import REPEAT
from service.watch.monitor import Monitor

FloatArray = npt.NDArray[np.float64]
Outcome = Literal["released", "blocked", "data rejected"]

FIRST = datetime(2013, 3, 27, tzinfo=UTC)
"""As of when the first model is trained: the first midnight at which the data gate's `min_rows` are there."""
LAST = datetime(2013, 12, 30, 23, tzinfo=UTC)
DAY = 24


@dataclass(frozen=True, kw_only=True, eq=False)
class Policy:
    """When a model is made, and whether it must pass the gate to be served."""

    name: str
    every_hours: int | None = None
    phase_hours: int = 0
    """How much later than the first model the clock begins."""
    on_drift: bool = False
    gated: bool = False
    cool_down_hours: float = COOL_DOWN_HOURS
    daily_limit: int = DAILY
    last_midnight: bool = False
    """A run takes the model of the midnight before, which a daily policy trains anyway: for a look at many rules."""
    starting: frozenset[str] = STARTING
    """The alerts that start a retraining."""
    live_window: int = LIVE_WINDOW
    """`RPS_LIVE_WINDOW`."""


@dataclass(frozen=True)
class Retraining:
    """One run of the pipeline. The model is served from the next hour's observations on when it was released."""

    at: datetime
    alerts: tuple[str, ...]
    """Those that fired; () when the clock started it."""
    outcome: Outcome
    reasons: tuple[str, ...]
    change: float | None = None
    """Of the error on the folds, over production's; None where they did not meet."""


@dataclass(frozen=True)
class Year:
    """A year under one policy."""

    policy: Policy
    retrainings: tuple[Retraining, ...]
    origins: npt.NDArray[np.int64]
    """(n,), the step of each scored forecast's origin; the same rows for every policy."""
    errors: FloatArray
    """(n,), truth minus forecast, °C."""
    persistence: FloatArray
    """(n,), truth minus the value at the origin, °C."""
    firing: dict[int, frozenset[str]]
    """By step; {} for a policy by the clock."""

    @property
    def rmse(self) -> float:
        return root_mean_square(self.errors)

    def count(self, outcome: Outcome) -> int:
        return sum(one.outcome == outcome for one in self.retrainings)

    def monthly(self, errors: FloatArray) -> dict[int, float]:
        """RMSE by the month of the origin. errors: of this year's forecasts."""
        months = np.array([moment_at(step).month for step in self.origins.tolist()])
        return {int(month): root_mean_square(errors[months == month]) for month in np.unique(months)}


def root_mean_square(errors: FloatArray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


@functools.cache
def recorded_hours() -> Hours:
    past = recorded_year()
    return hours_of(past.observations, loaded(past, FIRST).spec)


def scored(made: Sequence[Made], hours: Hours) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Of each forecast whose truth is known: the step of its origin, and truth minus forecast."""
    truth = {(each.unique_id, each.step): each.values[0] for of_hour in hours.values() for each in of_hour}
    pairs = [(one.step, truth.get((one.unique_id, one.step + one.horizon), np.nan) - one.value) for one in made]
    table = np.array(pairs).reshape(-1, 2)
    known = ~np.isnan(table[:, 1])
    return table[known, 0].astype(np.int64), table[known, 1]


def replay(policy: Policy, record: Callable[[Monitor], None] | None = None) -> Year:
    """Serve from ``FIRST`` to ``LAST``. record: called with the monitor each hour, if watched."""
    past, hours = recorded_year(), recorded_hours()
    production = FIRST
    service = Service(loaded(past, production), "1", policy.live_window)
    watch, messages = Watch(), _Messages()
    made: list[Made] = []
    retrainings: list[Retraining] = []
    firing: dict[int, frozenset[str]] = {}
    start = step_of(FIRST)
    for step in range(start + 1, step_of(LAST) + 1):
        made += service.take(hours.get(step, []))
        if policy.every_hours is not None:
            due = (step - start - policy.phase_hours) % policy.every_hours == 0
        else:
            monitor = service.fresh_monitor()
            firing[step] = watch.look(step - start, monitor)
            if record:
                record(monitor)
            due = messages.sent(step, service.model.version, firing[step] & policy.starting)
            due = due and policy.on_drift and _allowed(policy, step, retrainings)
        if not due:
            continue
        retraining = _retrained(policy, moment_at(step), production, firing.get(step, frozenset()))
        retrainings.append(retraining)
        if retraining.outcome == "released":
            production = _data_until(policy, retraining.at)
            service = Service(loaded(past, production), str(len(retrainings) + 1), policy.live_window)
        say(f"{policy.name}: {retraining.at:%d %B}, {len(retrainings)} retrainings", over=True)
    say(f"\r{policy.name}: {len(retrainings)} retrainings")
    origins, errors = scored(made, hours)
    last = {(each.unique_id, each.step): each.values[0] for of_hour in hours.values() for each in of_hour}
    _, naive = scored([one._replace(value=last[one.unique_id, one.step]) for one in made], hours)
    return Year(policy, tuple(retrainings), origins, errors, naive, firing)


def _allowed(policy: Policy, step: int, done: list[Retraining]) -> bool:
    """The cool-down of receiver and `ci retrain`, and the daily limit of the latter."""
    since = [step - step_of(one.at) for one in done]
    return all(each >= policy.cool_down_hours for each in since) and (
        sum(each < DAY for each in since) < policy.daily_limit
    )


class _Messages:
    """Alertmanager, for the one group of a challenge's drift: a message for every change, repeated after a while."""

    def __init__(self) -> None:
        self._sent: frozenset[tuple[str, str]] = frozenset()
        self._sent_at = 0

    def sent(self, step: int, version: str, firing: frozenset[str]) -> bool:
        """Whether there is a message with something that fires."""
        now = frozenset((name, version) for name in firing)
        if now == self._sent and (step - self._sent_at) * HOUR < REPEAT:
            return False
        self._sent, self._sent_at = now, step
        return bool(now)


def _retrained(policy: Policy, at: datetime, production: datetime, firing: frozenset[str]) -> Retraining:
    past, as_of = recorded_year(), _data_until(policy, at)
    alerts = tuple(sorted(firing & policy.starting))
    try:
        loaded(past, as_of)
    except Rejected as error:
        return Retraining(at, alerts, "data rejected", (str(error),))
    if not policy.gated:
        return Retraining(at, alerts, "released", ())
    verdict = judged(past, as_of, production)
    reasons = tuple(reason.rule for reason in verdict.reasons)
    outcome: Outcome = "blocked" if verdict.outcome == "block" else "released"
    return Retraining(at, alerts, outcome, reasons, verdict.overall.change)


def _data_until(policy: Policy, at: datetime) -> datetime:
    return at.replace(hour=0) if policy.last_midnight else at


def scheduled(every_hours: int) -> Iterator[datetime]:
    """When a policy by the clock trains, the first model included."""
    return map(moment_at, range(step_of(FIRST), step_of(LAST) + 1, every_hours))
