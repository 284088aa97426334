"""May a model be retrained now? One at a time, a pause after each, so many in a day: what Airflow's own list says.

Nothing else is remembered, and times are Airflow's, by Airflow's own clock, so that a runner's clock has no part in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from ci import wording
from clients.dag_run import ENDED_RUN, Airflow
from records.stages import dag_id

DAY = timedelta(days=1)
AFTER_FAILURE = timedelta(hours=6)
"""What failed may be tried again sooner than a model that was trained would be trained anew."""
_UNDER_WAY = ("queued", "running")


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """A DAG run `retrain__<challenge>__<event>__<attempt>`."""

    run_id: str
    event: str
    attempt: int
    state: str
    started: datetime
    """When it was asked for."""
    sha: str
    """The commit that it runs."""

    @property
    def is_at_work(self) -> bool:
        return self.state not in ENDED_RUN


@dataclass(frozen=True)
class Seen:
    """The retrainings of one challenge that matter, the oldest first, and Airflow's time when they were listed."""

    runs: tuple[Retraining, ...]
    now: datetime


@dataclass(frozen=True, kw_only=True)
class Limits:
    """cool_down: from the start of a retraining that did not fail to the next one's, and the most after one that did.

    daily: at most so many starts within 24 hours.
    """

    cool_down: timedelta
    daily: int


@dataclass(frozen=True)
class GoOn:
    """Start, or attach to the run that this event has already. run: that one."""

    run: Retraining | None = None


@dataclass(frozen=True)
class AtWork:
    """Another retraining of this challenge is under way."""

    run: Retraining


@dataclass(frozen=True)
class Wait:
    """A limit is reached. limit: which, in words; next: when a retraining may be started again."""

    limit: str
    next: datetime


def stem_of(challenge: str, event: str) -> str:
    """The DAG run's id without the attempt."""
    return f"{_prefix(challenge)}{event}"


def look(airflow: Airflow, challenge: str, event: str, limits: Limits) -> Seen:
    """The retrainings that are under way, of this event, or young enough for a limit.

    Raises NoVerdict and ConfigurationError as `Airflow.persist` does.
    """
    now = _now(airflow)
    dag, since = dag_id(challenge), now - max(DAY, limits.cool_down)
    asked: tuple[dict[str, Any], ...] = (
        {"run_id_prefix_pattern": _prefix(challenge), "run_after_gte": since},
        {"run_id_prefix_pattern": _prefix(challenge), "state": list(_UNDER_WAY)},
        {"run_id_prefix_pattern": f"{stem_of(challenge, event)}__"},
    )
    found = [run for filters in asked for run in airflow.runs(dag, **filters)]
    known = {run.run_id: run for run in _retrainings(found, challenge)}
    return Seen(tuple(sorted(known.values(), key=_age)), now)


def decide(seen: Seen, event: str, limits: Limits, *, by_hand: bool) -> GoOn | AtWork | Wait:
    """What is to be done about an event. by_hand: a person asks, for whom there is no cool-down."""
    own = max((run for run in seen.runs if run.event == event), key=lambda run: run.attempt, default=None)
    if own is not None and own.state != "failed":
        return GoOn(own)
    if at_work := [run for run in seen.runs if run.is_at_work]:
        return AtWork(at_work[0])
    waits = [_daily(seen, limits)]
    if not by_hand:
        waits.append(_cool_down(seen, limits))
    reached = [wait for wait in waits if wait is not None and wait.next > seen.now]
    return max(reached, key=lambda wait: wait.next, default=GoOn())


def overtaken(seen: Seen, run_id: str) -> Retraining | None:
    """The older retraining that is at work beside the one that was just started, which then has to go.

    Of two that were started at the same time, both see the same one as the older.
    """
    at_work = [run for run in seen.runs if run.is_at_work]
    own = next((run for run in at_work if run.run_id == run_id), None)
    older = [run for run in at_work if own is not None and _age(run) < _age(own)]
    return older[0] if older else None


def _cool_down(seen: Seen, limits: Limits) -> Wait | None:
    waits = []
    for run in seen.runs:
        failed = run.state == "failed"
        pause = min(limits.cool_down, AFTER_FAILURE) if failed else limits.cool_down
        what = "a retraining that failed" if failed else "each retraining"
        waits.append(Wait(f"a cool-down of {pause.total_seconds() / 3600:g} h after {what}", run.started + pause))
    return max(waits, key=lambda wait: wait.next, default=None)


def _daily(seen: Seen, limits: Limits) -> Wait | None:
    """When the oldest of the last so many is a day old."""
    if len(seen.runs) < limits.daily:
        return None
    return Wait(
        f"a limit of {wording.counted(limits.daily, 'retraining')} in 24 h", seen.runs[-limits.daily].started + DAY
    )


def _age(run: Retraining) -> tuple[datetime, str]:
    return run.started, run.run_id


def _prefix(challenge: str) -> str:
    return f"retrain__{challenge}__"


def _now(airflow: Airflow) -> datetime:
    """Airflow's clock, to the second; ours where its answers do not say."""
    answer = airflow.persist(lambda: airflow.api.call(airflow.api.dags.get_dags_with_http_info, limit=1))
    headers = {name.lower(): value for name, value in (answer.headers or {}).items()}
    try:
        return parsedate_to_datetime(headers["date"]).astimezone(UTC)
    except (KeyError, ValueError):
        return datetime.now(UTC)


def _retrainings(found: Sequence[Any], challenge: str) -> list[Retraining]:
    pattern = re.compile(re.escape(_prefix(challenge)) + r"([a-z0-9-]{1,64})__([1-9]\d{0,5})")
    return [
        Retraining(
            run_id=run.dag_run_id,
            event=match[1],
            attempt=int(match[2]),
            state=str(run.state.value),
            started=run.run_after,
            sha=str((run.conf or {}).get("git_sha", "")),
        )
        for run in found
        if (match := pattern.fullmatch(run.dag_run_id))
    ]
