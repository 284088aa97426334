"""May a model be retrained now? One at a time, a pause after each, so many in a day: what Airflow's own list says.

Nothing else is remembered. Times are Airflow's, by Airflow's own clock: a runner's clock has no part in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from ci import wording
from clients.dag_run import ENDED_RUN, Airflow
from clients.errors import RpsError
from records.stages import dag_id

DAY = timedelta(days=1)
AFTER_FAILURE = timedelta(hours=6)
"""What failed may be tried again sooner than a model that was trained would be trained anew."""


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """A DAG run `retrain__<challenge>__<event>__<attempt>`. started: when it was requested; sha: its commit."""

    run_id: str
    event: str
    attempt: int
    state: str
    started: datetime
    sha: str


@dataclass(frozen=True)
class Seen:
    """The retrainings of one challenge that matter, the oldest first, and Airflow's time when they were listed."""

    runs: tuple[Retraining, ...]
    now: datetime

    @property
    def at_work(self) -> list[Retraining]:
        return [run for run in self.runs if run.state not in ENDED_RUN]


@dataclass(frozen=True, kw_only=True)
class Limits:
    cool_down: timedelta
    """From the start of a retraining to the next one's; at most AFTER_FAILURE after one that failed."""
    daily: int
    """How many starts within 24 hours."""


@dataclass(frozen=True)
class Wait:
    """A limit is reached. limit: which, in words; next: when a retraining may be started again."""

    limit: str
    next: datetime


class NotStarted(RpsError):
    """Another retraining of the challenge is at work: rightly, nothing is done."""

    exit_code = 0

    def __init__(self, other: Retraining) -> None:
        since = f"{other.started:%Y-%m-%d %H:%M} UTC"
        super().__init__(f"{other.run_id} has been running since {since}, and only one runs at a time")


def stem_of(challenge: str, event: str = "") -> str:
    """The DAG run's id without the attempt; without an event, what all ids of the challenge begin with."""
    return f"retrain__{challenge}__{event}"


def look(airflow: Airflow, challenge: str, event: str, limits: Limits) -> Seen:
    """The retrainings that are under way, of this event, or young enough for a limit.

    Raises NoVerdict and ConfigurationError as `Airflow.persist` does.
    """
    now, stem = _now(airflow), stem_of(challenge)
    asked: tuple[dict[str, Any], ...] = (
        {"run_id_prefix_pattern": stem, "run_after_gte": now - max(DAY, limits.cool_down)},
        {"run_id_prefix_pattern": stem, "state": ["queued", "running"]},
        {"run_id_prefix_pattern": f"{stem}{event}__"},
    )
    found = [run for filters in asked for run in airflow.runs(dag_id(challenge), **filters)]
    pattern = re.compile(re.escape(stem) + r"([a-z0-9-]{1,64})__([1-9]\d{0,5})")
    runs = [
        Retraining(
            run_id=run.dag_run_id,
            event=match[1],
            attempt=int(match[2]),
            state=str(run.state.value),
            started=run.run_after,
            sha=str((run.conf or {}).get("git_sha", "")),
        )
        for run in {run.dag_run_id: run for run in found}.values()
        if (match := pattern.fullmatch(run.dag_run_id))
    ]
    return Seen(tuple(sorted(runs, key=lambda run: (run.started, run.run_id))), now)


def decide(seen: Seen, event: str, limits: Limits, *, by_hand: bool) -> Retraining | Wait | None:
    """What holds an event back; or its own run, to attach to; None: start one. by_hand: there is no cool-down.

    Raises NotStarted while another one is at work.
    """
    own = max((run for run in seen.runs if run.event == event), key=lambda run: run.attempt, default=None)
    if own is not None and own.state != "failed":
        return own
    if seen.at_work:
        raise NotStarted(seen.at_work[0])
    waits = []
    if len(seen.runs) >= limits.daily:
        limit = f"a limit of {wording.counted(limits.daily, 'retraining')} in 24 h"
        waits.append(Wait(limit, seen.runs[-limits.daily].started + DAY))
    for run in () if by_hand else seen.runs:
        failed = run.state == "failed"
        pause = min(limits.cool_down, AFTER_FAILURE) if failed else limits.cool_down
        what = "a retraining that failed" if failed else "each retraining"
        waits.append(Wait(f"a cool-down of {pause.total_seconds() / 3600:g} h after {what}", run.started + pause))
    return max((wait for wait in waits if wait.next > seen.now), key=lambda wait: wait.next, default=None)


def overtaken(seen: Seen, run_id: str) -> Retraining | None:
    """The older retraining at work beside the one just started, which has to go; both see the same one as the older."""
    return seen.at_work[0] if any(run.run_id == run_id for run in seen.at_work[1:]) else None


def _now(airflow: Airflow) -> datetime:
    """Airflow's clock, to the second; ours where its answers do not say."""
    answer = airflow.persist(lambda: airflow.api.call(airflow.api.dags.get_dags_with_http_info, limit=1))
    headers = {name.lower(): value for name, value in (answer.headers or {}).items()}
    try:
        return parsedate_to_datetime(headers["date"]).astimezone(UTC)
    except (KeyError, ValueError):
        return datetime.now(UTC)
