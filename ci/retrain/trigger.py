"""What a retraining answers: a drift alert, the schedule, or a person. An event's payload is anybody's to write."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from ci import markdown
from clients.errors import ConfigurationError
from records.drift_kinds import KINDS, DriftKind
from records.mlflow_names import Reason

_EVENT = re.compile(r"[a-z0-9-]{1,64}")
_REASON_LENGTH, _NAME_LENGTH, _SUMMARY_LENGTH = 100, 80, 500


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """Why the model is retrained. The texts are others': they are escaped wherever they are shown."""

    event: str
    """The same for every delivery of the same event."""
    reason: str
    """What the run's tag `rps.reason` says."""
    drift: DriftKind | None = None
    alert: str = ""
    summary: str = ""
    version: str = ""
    """The version of the model that has drifted, as its service reports it."""
    started: datetime | None = None
    """Since when the alert fires, UTC."""


def read_trigger(
    *, event: str, reason: str, drift: str, alert: str, summary: str, version: str, started: str, now: datetime
) -> Trigger:
    """The options of the command; without an event, one is made of reason and time. Raises ConfigurationError."""
    if drift and drift not in KINDS:
        raise ConfigurationError(f"--drift: expected one of {', '.join(KINDS)}, or nothing; found {drift[:80]!r}")
    if event and not _EVENT.fullmatch(event):
        expected = "1 to 64 of the characters a-z, 0-9 and -"
        raise ConfigurationError(f"--event: expected {expected}; found {event[:80]!r}")
    reason = reason or (Reason.DRIFT if drift else "by hand")
    if len(reason) > _REASON_LENGTH or not reason.isprintable() or not reason.strip():
        expected = f"one line of at most {_REASON_LENGTH} characters"
        raise ConfigurationError(f"--reason: expected {expected}; found {reason[:120]!r}")
    word = re.sub(r"[^a-z0-9]+", "-", reason.lower()).strip("-")[:40].strip("-")
    return Trigger(
        event=event or f"{word or 'run'}-{now.astimezone(UTC):%Y%m%dt%H%M%Sz}",
        reason=reason.strip(),
        drift=next((kind for kind in KINDS if kind == drift), None),
        alert=markdown.clean(alert, _NAME_LENGTH),
        summary=markdown.clean(summary, _SUMMARY_LENGTH),
        version=markdown.clean(version, _NAME_LENGTH),
        started=_moment(started),
    )


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    with contextlib.suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    raise ConfigurationError(f"--started: expected ISO 8601 with a zone, as 2026-01-31T06:00:00Z; found {text[:80]!r}")
