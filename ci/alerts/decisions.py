"""What is done with an alert, by the receiver's own clock and what it remembers of each challenge's last event."""

from __future__ import annotations

import secrets
import time
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from ci.alerts.payload import LONGEST_NAME, Alert, one_line, utc

Done = Literal["event", "joined", "resolved", "kept", "no_drift", "no_challenge", "unknown_challenge"]
DRIFTS = ("inputs", "features", "concept")
SUMMARY_LENGTH = 500
_NO_DATA = ("DatasourceNoData", "DatasourceError")
"""What Grafana calls an alert whose query gives nothing: it carries the rule's labels, and says nothing of drift."""


@dataclass(frozen=True)
class Remembered:
    """The last event of a challenge.

    settled: the receiver's time at which it was delivered; None while it waits. An event that was given up leaves no
    memory, as nothing came of it.
    """

    event: str
    settled: float | None


@dataclass(frozen=True)
class Decision:
    """What is done. told: why an alert that names a drift starts nothing, for the log."""

    done: Done
    event: str = ""
    told: str = ""


@dataclass(frozen=True)
class Event:
    """What GitHub is told: one drift of one challenge. id: the same in every attempt to tell it."""

    id: str
    challenge: str
    alert: str
    drift: str
    summary: str
    version: str
    started: str

    def payload(self) -> dict[str, str]:
        """The `client_payload` of the `repository_dispatch`; GitHub takes ten keys."""
        return {
            "event": self.id,
            "challenge": self.challenge,
            "alert": self.alert,
            "drift": self.drift,
            "summary": self.summary,
            "version": self.version,
            "started": self.started,
        }


def decide(
    alert: Alert, known: AbstractSet[str], last: Remembered | None, *, now: float, cooldown: float, new_event: str
) -> Decision:
    """What is done with one alert.

    known: the challenges of the checkout; last: of the alert's challenge; now, cooldown: seconds of the receiver's
    clock; new_event: the id that an event gets which the alert starts.
    """
    if alert.status == "resolved":
        return Decision("resolved")
    drift, challenge = alert.labels.get("drift", ""), alert.labels.get("challenge", "")
    if not drift:
        return Decision("kept")
    name = alert.labels.get("alertname", "")
    if name in _NO_DATA:
        return Decision("no_drift", told=f"{name} says that Grafana's query gave nothing, which is no drift")
    if drift not in DRIFTS:
        return Decision("no_drift", told=f"label drift: expected one of {', '.join(DRIFTS)}; found {drift!r:.80}")
    if not challenge:
        return Decision("no_challenge", told=f"{name!r:.80} names a drift, and no challenge: it needs that label")
    if challenge not in known:
        expected = ", ".join(sorted(known)) or "none"
        return Decision(
            "unknown_challenge", told=f"label challenge: expected one of {expected}; found {challenge!r:.80}"
        )
    if last is not None and (last.settled is None or now < last.settled + cooldown):
        return Decision("joined", last.event)
    return Decision("event", new_event)


def event_of(alert: Alert, identity: str) -> Event:
    """The event that an alert starts; what it tells is cut to a length that GitHub takes."""
    labels, annotations = alert.labels, alert.annotations or {}
    return Event(
        id=identity,
        challenge=labels["challenge"],
        alert=one_line(labels.get("alertname", ""), LONGEST_NAME),
        drift=labels["drift"],
        summary=one_line(annotations.get("summary", ""), SUMMARY_LENGTH),
        version=one_line(labels.get("version", ""), LONGEST_NAME),
        started=utc(alert.starts_at),
    )


def event_id(wall: float) -> str:
    """A new one, `[a-z0-9-]{1,64}`, that tells a person when it was: `20261123t210052-3f9a1c2b`."""
    return f"{datetime.fromtimestamp(wall, UTC):%Y%m%dt%H%M%S}-{secrets.token_hex(4)}"


class Clock:
    """Seconds that only ever grow, over restarts too, whatever is done to the machine's clock.

    It goes on from the latest that was remembered when the machine's clock says less, so that one that was set back
    makes a cool-down longer by at most the time for which the receiver was not running.
    """

    def __init__(self, remembered: float) -> None:
        self._start = begin(time.time(), remembered)
        self._origin = time.clock_gettime(time.CLOCK_BOOTTIME)  # counts while the machine sleeps, too

    def now(self) -> float:
        return self._start + time.clock_gettime(time.CLOCK_BOOTTIME) - self._origin


def begin(wall: float, remembered: float) -> float:
    """Where the clock begins: at the machine's time, but never before what was remembered."""
    return max(wall, remembered)
