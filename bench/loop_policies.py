"""A year served under one policy: never retrained, retrained by the clock, or retrained when an alert fires."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import numpy.typing as npt

from bench.loop_models import Rejected, judged, loaded, recorded_year
from bench.loop_service import HOUR, Hours, Made, Rules, Service, Watch, hours_of, moment_at, step_of
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
    """Later than the first model, the clock begins."""
    on_drift: bool = False
    gated: bool = False
    cool_down_hours: float = COOL_DOWN_HOURS
    daily_limit: int = DAILY
    last_midnight: bool = False
    """A run takes the model of the midnight before, which a daily policy trains anyway: for a look at many rules."""
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True)
class Retraining:
    """One run of the pipeline. The model is served from the next hour's observations on when it was released."""

    at: datetime
    alerts: tuple[str, ...]
    """Those that fired; () when it was time."""
    outcome: Outcome
    reasons: tuple[str, ...]
    change: float | None = None
    """Of the error on the hold-out, over production's; None where they did not meet."""


@dataclass(frozen=True)
class Year:
    """What came of a policy."""

    policy: Policy
    retrainings: tuple[Retraining, ...]
    origins: npt.NDArray[np.int64]
    """(n,), the step of each scored forecast's origin; the same rows for every policy."""
    errors: FloatArray
    """(n,), truth minus forecast, °C."""
    persistence: FloatArray
    """(n,), truth minus the value at the origin, °C."""
    firing: dict[int, frozenset[str]]
    """By step; {} when nobody looked."""

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


Record = Callable[[int, Monitor], None]


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


def replay(policy: Policy, record: Record | None = None) -> Year:
    """Serve from ``FIRST`` to ``LAST``. record: called with each step and the monitor, if watched."""
    past, hours = recorded_year(), recorded_hours()
    production = FIRST
    service = Service(loaded(past, production), "1", policy.rules.live_window)
    watch, messages = Watch(policy.rules), _Messages()
    made: list[Made] = []
    retrainings: list[Retraining] = []
    firing: dict[int, frozenset[str]] = {}
    start = step_of(FIRST)
    for step in range(start + 1, step_of(LAST) + 1):
        made += service.take(hours.get(step, []))
        if policy.every_hours is None:
            monitor = service.fresh_monitor()
            firing[step] = watch.look(step - start, monitor)
            if record:
                record(step, monitor)
        if policy.every_hours is not None:
            due = (step - start - policy.phase_hours) % policy.every_hours == 0
        else:
            due = messages.sent(step, service.model.version, firing[step] & policy.rules.starting)
            due = due and policy.on_drift and _allowed(policy, step, retrainings)
        if not due:
            continue
        retraining = _retrained(policy, moment_at(step), production, firing.get(step, frozenset()))
        retrainings.append(retraining)
        if retraining.outcome == "released":
            production = _data_until(policy, retraining.at)
            service = Service(loaded(past, production), str(len(retrainings) + 1), policy.rules.live_window)
        _tell(policy, step, len(retrainings))
    print(f"\r{policy.name}: {len(retrainings)} retrainings", file=sys.stderr, flush=True)
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
    """Alertmanager, for the one group of a challenge's drift: it speaks of every change, and again after a while."""

    def __init__(self) -> None:
        self._told: frozenset[tuple[str, str]] = frozenset()
        self._told_at = 0

    def sent(self, step: int, version: str, firing: frozenset[str]) -> bool:
        """Whether there is a message with something that fires."""
        now = frozenset((name, version) for name in firing)
        if now == self._told and (step - self._told_at) * HOUR < REPEAT:
            return False
        self._told, self._told_at = now, step
        return bool(now)


def _retrained(policy: Policy, at: datetime, production: datetime, firing: frozenset[str]) -> Retraining:
    past, as_of = recorded_year(), _data_until(policy, at)
    alerts = tuple(sorted(firing & policy.rules.starting))
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


def _tell(policy: Policy, step: int, count: int) -> None:
    print(f"\r{policy.name}: {moment_at(step):%d %B}, {count} retrainings  ", end="", file=sys.stderr, flush=True)


def scheduled(every_hours: int) -> Iterator[datetime]:
    """When a policy by the clock trains, the first model included."""
    start = step_of(FIRST)
    for step in range(start, step_of(LAST) + 1, every_hours):
        yield moment_at(step)
