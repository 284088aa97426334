"""From requests to what is stored: decisions, events and lines in one transaction, then the lines into the file.

It runs on the one thread that uses the store; requests that come together share a transaction.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from ci.alerts.alert_file import AlertFile
from ci.alerts.challenges import Challenges
from ci.alerts.decisions import Clock, Decision, Event, decide, event_id, event_of
from ci.alerts.metrics import Metrics
from ci.alerts.payload import Alert, Source, Webhook, one_line, read_webhook, shortened, utc
from ci.alerts.problems import Problem
from ci.alerts.settings import AlertSettings
from ci.alerts.store import Store, StoreBroken
from ci.progress import Log

LINES_AT_ONCE = 1000
MOST_LINES_WAITING = 50_000
"""Alerts that are kept for a file that cannot be written; what comes on top is refused, and its sender tries again."""
SHORTEST_REPEAT_SECONDS = 3600.0
"""For so long at least an alert that is told again is no new one, however short the cool-down."""
_MOST_TOLD = 5
_LINE_ENDS = "\x85\u2028\u2029"
"""What some programs take for the end of a line, and JSON may hold as it is."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """An alert in the file."""

    received: str
    source: Source
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]
    starts_at: str
    ends_at: str | None
    fingerprint: str
    done: str
    event: str


class Outcome(msgspec.Struct, frozen=True):
    """An alert in the answer: what was done with it; repeated: it was known, and is not in the file again."""

    fingerprint: str
    done: str
    event: str
    repeated: bool


class Answer(msgspec.Struct, frozen=True):
    """The answer to a webhook, in the order of its alerts."""

    alerts: list[Outcome]


@dataclass
class _Batch:
    """The requests of one transaction: when, and what counters and log are told of it once it is stored."""

    now: float
    wall: float
    known: frozenset[str]
    received: Counter[tuple[str, str]] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    truncated: int = 0
    events: list[Event] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)


class Intake:
    """Takes alerts.

    fault: why the file cannot be written at the moment, empty when it can; started: how many events there have been.
    """

    def __init__(
        self,
        settings: AlertSettings,
        store: Store,
        file: AlertFile,
        *,
        challenges: Challenges,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self._settings = settings
        self._store = store
        self._file = file
        self._challenges = challenges
        self._metrics = metrics
        self._log = log
        self._repeat_seconds = max(settings.cooldown, SHORTEST_REPEAT_SECONDS)
        self.clock = Clock(store.clock())
        self.fault = ""
        self.started = 0
        if store.file_bytes() is None:
            store.begin_file(self.clock.now(), file.size())

    def take(self, bodies: Sequence[bytes]) -> list[bytes | Problem]:
        """The answers to requests, whose alerts are on disk when this returns. Raises StoreBroken: none was taken."""
        if self.fault and self._store.count_lines() > MOST_LINES_WAITING:
            raise StoreBroken(self.fault)
        webhooks = [self._read(body) for body in bodies]
        batch = _Batch(self.clock.now(), time.time(), self._challenges.known())
        answers: list[bytes | Problem] = []
        with self._store.transaction():
            self._store.remember_clock(batch.now)
            for webhook in webhooks:
                if isinstance(webhook, Problem):
                    answers.append(webhook)
                else:
                    batch.truncated += webhook.truncated
                    outcomes = [self._alert(webhook.source, alert, batch) for alert in webhook.alerts]
                    answers.append(msgspec.json.encode(Answer(outcomes)))
        self._tell(batch)
        return answers

    def write_lines(self) -> bool:
        """Write some of the alerts that are not in the file yet; whether there may be more. Raises StoreBroken."""
        rows = self._store.lines(LINES_AT_ONCE)
        if not rows:
            self._metrics.lines.set(0)
            return False
        counted = self._store.file_bytes() or 0
        try:
            if self._file.full(counted):
                self._file.put_aside()
                self._store.written(0, 0)
                counted = 0
            written, counted = self._file.append([line for _, line in rows], counted)
        except OSError as error:
            if not self.fault:
                self._log.error(f"{self._file.path} cannot be written: {error.strerror}; its lines are kept meanwhile")
            self.fault = f"{self._file.path} cannot be written: {error.strerror}"
            return False
        self._store.written(rows[written - 1][0], counted)
        self.fault = ""
        return True

    def tidy(self) -> None:
        """Forget what is not needed any more, and see whether the store works. Raises StoreBroken."""
        self._store.tidy(self.clock.now(), self._repeat_seconds)
        self._metrics.lines.set(self._store.count_lines())

    def _read(self, body: bytes) -> Webhook | Problem:
        try:
            return read_webhook(body, most_alerts=self._settings.max_alerts)
        except Problem as problem:
            return problem

    def _alert(self, source: Source, alert: Alert, batch: _Batch) -> Outcome:
        decision = decide(
            alert,
            batch.known,
            self._store.last_event(alert.labels.get("challenge", "")),
            now=batch.now,
            cooldown=self._settings.cooldown,
            new_event=event_id(batch.wall),
        )
        if decision.done == "event":
            event = event_of(alert, decision.event)
            self._store.add_event(event, batch.now)
            batch.events.append(event)
        anew = self._store.see(alert.identity(source), batch.now, self._repeat_seconds) or decision.done == "event"
        if anew:
            self._store.add_lines([_line(source, alert, decision, batch.wall)])
            if decision.told:
                batch.notes.setdefault(decision.told)
        batch.received[source, alert.status] += 1
        batch.done[decision.done] += 1
        batch.repeated += not anew
        return Outcome(alert.fingerprint or "", decision.done, decision.event, repeated=not anew)

    def _tell(self, batch: _Batch) -> None:
        for (source, status), count in batch.received.items():
            self._metrics.received.labels(source, status).inc(count)
        for done, count in batch.done.items():
            self._metrics.done.labels(done).inc(count)
        self._metrics.repeated.inc(batch.repeated)
        if batch.truncated:
            self._metrics.truncated.inc(batch.truncated)
            self._log.line(f"{batch.truncated} alerts were left out by their sender (max_alerts of its webhook)")
        self.started += len(batch.events)
        for event in batch.events:
            self._metrics.events.labels(event.challenge, "started").inc()
            self._log.line(f"event {event.id}: {event.drift} of {event.challenge} ({event.alert}: {event.summary})")
        for note in list(batch.notes)[:_MOST_TOLD]:
            self._log.error(f"an alert starts nothing: {one_line(note, 300)}")
        if len(batch.notes) > _MOST_TOLD:
            self._log.error(
                f"and {len(batch.notes) - _MOST_TOLD} more that start nothing; all are in {self._file.path}"
            )


def _line(source: Source, alert: Alert, decision: Decision, wall: float) -> bytes:
    line = Line(
        received=utc(datetime.fromtimestamp(wall, UTC)),
        source=source,
        status=alert.status,
        labels=shortened(alert.labels),
        annotations=shortened(alert.annotations or {}),
        starts_at=utc(alert.starts_at),
        ends_at=utc(alert.ended) if alert.ended else None,
        fingerprint=one_line(alert.fingerprint or "", 64),
        done=decision.done,
        event=decision.event,
    )
    encoded = msgspec.json.encode(line)
    for character in _LINE_ENDS:
        encoded = encoded.replace(character.encode(), f"\\u{ord(character):04x}".encode())
    return encoded + b"\n"
