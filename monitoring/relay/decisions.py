"""What an alert starts: at most one event per challenge and cool-down, whatever the times in the alerts say."""

from __future__ import annotations

import secrets
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import msgspec

from clients.errors import one_line
from monitoring.relay.webhook import Alert, utc
from records.drift_kinds import KINDS

Done = Literal["event", "joined", "resolved", "kept", "no_drift", "no_challenge", "unknown_challenge"]
SUMMARY_LENGTH, NAME_LENGTH = 500, 200
_NO_DATA = ("DatasourceNoData", "DatasourceError")
"""Grafana's alerts for a query without an answer: they carry the rule's labels but report no drift."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One drift of one challenge. created, sent: seconds of the relay's clock.

    sent: None until GitHub accepts it; 0 once given up, which leaves no cool-down.
    """

    id: str
    challenge: str
    alert: str
    drift: str
    summary: str
    version: str
    started: str
    created: float
    sent: float | None = None

    def payload(self) -> dict[str, str]:
        """The `client_payload` of the `repository_dispatch`, the same in every attempt; GitHub takes ten keys."""
        names = ("challenge", "alert", "drift", "summary", "version", "started")
        return {"event": self.id, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class Decision:
    """event: the id of the one it starts or joins; message: why an alert that names a drift starts nothing."""

    done: Done
    event: str = ""
    message: str = ""


def decide(alert: Alert, known: AbstractSet[str], last: Event | None, *, now: float, cooldown: float) -> Decision:
    """known: the challenges of the checkout; last: the last event of the alert's challenge; cooldown: in seconds."""
    if alert.status == "resolved":
        return Decision("resolved")
    name, drift, challenge = (alert.labels.get(label, "") for label in ("alertname", "drift", "challenge"))
    if not drift:
        return Decision("kept")
    if name in _NO_DATA:
        return Decision("no_drift", message=f"{name}: a query of Grafana gave nothing, which is no drift")
    if drift not in KINDS:
        return Decision("no_drift", message=f"label drift: expected one of {', '.join(KINDS)}; found {drift!r:.80}")
    if not challenge:
        return Decision("no_challenge", message=f"{name!r:.80} names a drift but no challenge: it needs that label")
    if challenge not in known:
        message = f"label challenge: expected one of {', '.join(sorted(known))}; found {challenge!r:.80}"
        return Decision("unknown_challenge", message=message)
    if last is not None and (last.sent is None or now < last.sent + cooldown):
        return Decision("joined", last.id)
    return Decision("event", event_id())


def event_of(alert: Alert, identity: str, now: float) -> Event:
    """The event that an alert starts; its texts are cut to a length that GitHub takes."""
    labels, annotations = alert.labels, alert.annotations or {}
    return Event(
        id=identity,
        challenge=labels["challenge"],
        alert=one_line(labels.get("alertname", ""), NAME_LENGTH),
        drift=labels["drift"],
        summary=one_line(annotations.get("summary", ""), SUMMARY_LENGTH),
        version=one_line(labels.get("version", ""), NAME_LENGTH),
        started=utc(alert.starts_at),
        created=now,
    )


def event_id() -> str:
    """A new id, `[a-z0-9-]{1,64}`, that starts with the time: `20261123t210052-3f9a1c2b`."""
    return f"{datetime.now(UTC):%Y%m%dt%H%M%S}-{secrets.token_hex(4)}"
