"""The relay: takes webhooks and sends the events that they start to GitHub."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from datetime import UTC, datetime
from itertools import product
from typing import TYPE_CHECKING, Any, cast, get_args

import msgspec
from prometheus_client import Counter, Gauge, disable_created_metrics

from clients.errors import RpsError
from clients.github import HEADERS
from clients.progress import Log
from monitoring.relay.decisions import Decision, Done, Event, decide, event_of
from monitoring.relay.journal import Journal
from monitoring.relay.webhook import Alert, Source, Webhook, utc
from records.drift_kinds import EVENT_TYPE

if TYPE_CHECKING:
    from clients.github import GitHub

GIVE_UP_HOURS = 24.0
_LINE_ENDS = "\x85\u2028\u2029"
"""JSON may contain them unescaped, and some programs take them for the end of a line."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the series of the counters
RECEIVED = Counter("rps_alerts_received", "Alerts in requests that were taken.", ["source", "status"])
DONE = Counter("rps_alerts_done", "Alerts by what was done with them.", ["done"])
EVENTS = Counter("rps_alert_events", "Events: started, delivered to GitHub, given up.", ["challenge", "outcome"])
WAITING = Gauge("rps_alert_events_waiting", "Events that GitHub has not taken yet.")
OLDEST = Gauge("rps_alert_oldest_event_seconds", "Age of the oldest event that waits.")
for _done in get_args(Done):
    DONE.labels(_done)
for _labels in product(get_args(Source), ("firing", "resolved")):
    RECEIVED.labels(*_labels)


class Relay:
    """Works in one event loop, so it decides requests one after the other."""

    def __init__(
        self, journal: Journal, github: GitHub, challenges: frozenset[str], *, cooldown: float, retry: float, log: Log
    ) -> None:
        """cooldown: of a challenge after an event; retry: between two attempts to send one; both in seconds."""
        self.journal = journal
        self._github = github
        self._challenges = challenges
        self._cooldown, self._retry = cooldown, retry
        self._log = log
        self._ahead = max(time.time(), journal.latest()) - time.monotonic()
        self._news = asyncio.Event()
        self._stopping = False
        WAITING.set_function(lambda: len(journal.waiting()))
        OLDEST.set_function(lambda: max((self._now() - each.created for each in journal.waiting()), default=0.0))

    def take(self, webhook: Webhook) -> list[dict[str, str]]:
        """What was done with each alert, all of which are in the file. Raises OSError: none was taken."""
        now, started, taken = self._now(), dict[str, Event](), list[tuple[Alert, Decision]]()
        for alert in webhook.alerts:
            challenge = alert.labels.get("challenge", "")
            last = started.get(challenge) or self.journal.events.get(challenge)
            decision = decide(alert, self._challenges, last, now=now, cooldown=self._cooldown)
            if decision.done == "event":
                started[challenge] = event_of(alert, decision.event, now)
            taken.append((alert, decision))
        received = utc(datetime.now(UTC))
        self.journal.record([_line(received, webhook.source, *each) for each in taken], list(started.values()))
        for alert, decision in taken:
            RECEIVED.labels(webhook.source, alert.status).inc()
            DONE.labels(decision.done).inc()
        for event in started.values():
            self._news.set()
            EVENTS.labels(event.challenge, "started").inc()
            self._log.line(f"event {event.id}: {event.drift} of {event.challenge} ({event.alert}: {event.summary})")
        for message in {decision.message for _, decision in taken if decision.message}:
            self._log.error(f"an alert starts nothing: {message}")
        if webhook.truncated:
            self._log.error(f"the sender left out {webhook.truncated} alerts (max_alerts of its webhook)")
        return [
            {"fingerprint": alert.fingerprint or "", "done": decision.done, "event": decision.event}
            for alert, decision in taken
        ]

    async def deliver(self) -> None:
        """Send what waits, again and again, until ``stop``. A restart tries at once."""
        while not self._stopping:
            self._news.clear()
            for event in self.journal.waiting():
                await self._attempt(event)
            if self.journal.fault:
                self._log.error(f"{self.journal.fault}; alerts are refused, and their senders try again")
                with contextlib.suppress(OSError):
                    self.journal.record(())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), self._retry)

    def stop(self) -> None:
        """Let ``deliver`` end after the attempts in progress."""
        self._stopping = True
        self._news.set()

    async def _attempt(self, event: Event) -> None:
        """After a lost answer the event is sent again: `ci retrain` makes one run of all that have the same id."""
        name, outcome, sent = f"event {event.id} of {event.challenge}", "delivered", 0.0
        if self._now() > event.created + GIVE_UP_HOURS * 3600:
            outcome = "given_up"
            self._log.error(f"{name} is given up: GitHub has not taken it for {GIVE_UP_HOURS:g} h")
        else:
            try:
                await asyncio.to_thread(send, self._github, event)
            except Exception as error:
                self._log.error(f"{name} waits {self._retry:g} s for the next attempt: {error}")
                if not isinstance(error, RpsError):
                    logging.getLogger(__name__).exception("an error in the receiver, not in GitHub's answer")
                return
            sent = self._now()
            self._log.line(f"{name} is delivered to {self._github.settings.repository}")
        self.journal.settle(event, sent)
        EVENTS.labels(event.challenge, outcome).inc()

    def _now(self) -> float:
        """Seconds that only grow, even across restarts: setting the clock back neither doubles nor silences drift."""
        return self._ahead + time.monotonic()


def send(github: GitHub, event: Event) -> None:
    """Raises ConfigurationError and GitHubFault."""
    data = cast(Any, {"event_type": EVENT_TYPE, "client_payload": event.payload()})
    github.patiently(
        f"sending the event {EVENT_TYPE}", "contents: write",
        lambda: github.rest.repos.create_dispatch_event(*github.repository, headers=HEADERS, data=data),
    )  # fmt: skip


def _line(received: str, source: Source, alert: Alert, decision: Decision) -> bytes:
    line = msgspec.json.encode({
        "received": received, "source": source, "status": alert.status, "labels": alert.labels,
        "annotations": alert.annotations or {}, "starts_at": utc(alert.starts_at),
        "ends_at": utc(alert.ended) if alert.ended else None, "fingerprint": alert.fingerprint or "",
        "done": decision.done, "event": decision.event,
    })  # fmt: skip
    for character in _LINE_ENDS:
        line = line.replace(character.encode(), f"\\u{ord(character):04x}".encode())
    return line + b"\n"
