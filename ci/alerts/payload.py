"""The webhooks of Alertmanager (version 4) and of Grafana, as they are published; fields that are not used are ignored.

Alertmanager: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
Grafana: https://grafana.com/docs/grafana/latest/alerting/configure-notifications/manage-contact-points/integrations/webhook-notifier/
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from ci.alerts.problems import Problem

Source = Literal["alertmanager", "grafana"]
Aware = Annotated[datetime, Meta(tz=True)]
Labels = Annotated[dict[str, str], Meta(max_length=100)]
ALERTMANAGER_VERSION = "4"
LONGEST_NAME = 200
LONGEST_VALUE = 2000
"""Of a label or an annotation, in characters: what is longer is cut, here and in the file."""
_NEVER = 1
"""The year of Go's empty time, by which both say that there is no end yet."""
_T = TypeVar("_T")


class Alert(
    msgspec.Struct, frozen=True, kw_only=True, rename={"starts_at": "startsAt", "ends_at": "endsAt"}.get
):  # fmt: skip
    """One alert of a webhook."""

    status: Literal["firing", "resolved"]
    labels: Labels
    annotations: Labels | None = None
    starts_at: Aware
    ends_at: Aware | None = None
    fingerprint: str | None = None

    @property
    def ended(self) -> datetime | None:
        """When it was over; None while it lasts."""
        return None if self.ends_at is None or self.ends_at.year == _NEVER else self.ends_at

    def identity(self, source: Source) -> bytes:
        """The same for each repetition, whether a sender tries again or tells again that nothing has changed."""
        told = msgspec.json.encode([source, self.status, self.starts_at, self.labels], order="deterministic")
        return hashlib.blake2b(told, digest_size=16).digest()


@dataclass(frozen=True)
class Webhook:
    """One request: who sent it, and its alerts. truncated: how many the sender has left out."""

    source: Source
    alerts: tuple[Alert, ...]
    truncated: int = 0


class _Envelope(msgspec.Struct, kw_only=True, rename={"org_id": "orgId", "truncated": "truncatedAlerts"}.get):
    alerts: list[msgspec.Raw]
    version: str = ""
    org_id: int | None = None
    """Grafana alone has it."""
    truncated: Annotated[int, Meta(ge=0)] | None = None


def read_webhook(body: bytes, *, most_alerts: int) -> Webhook:
    """Raises Problem: 400 for what is no JSON, 413 for too many alerts, 422 for a wrong field, which it names."""
    envelope = _decoded(body, _Envelope, "")
    source: Source = "alertmanager" if envelope.org_id is None else "grafana"
    if source == "alertmanager" and envelope.version not in {"", ALERTMANAGER_VERSION}:
        told = (
            f"expected {ALERTMANAGER_VERSION!r}, the version of Alertmanager's webhook; found {envelope.version!r:.40}"
        )
        raise Problem(422, told, pointer="/version")
    if len(envelope.alerts) > most_alerts:
        found = len(envelope.alerts)
        told = f"expected at most {most_alerts} alerts in one request (RPS_ALERTS_MAX_ALERTS); found {found}"
        raise Problem(413, told, pointer="/alerts")
    alerts = tuple(_decoded(raw, Alert, f"/alerts/{place}") for place, raw in enumerate(envelope.alerts))
    return Webhook(source, alerts, envelope.truncated or 0)


def utc(moment: datetime) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:  # within a day of the first or last year that there is
        moment = moment.replace(tzinfo=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def one_line(text: str, longest: int) -> str:
    """The text without line breaks and other control characters, and cut when it is longer."""
    plain = " ".join("".join(each if each.isprintable() else " " for each in text[: 2 * longest]).split())
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"


def shortened(texts: dict[str, str]) -> dict[str, str]:
    """Labels or annotations with what is too long in them cut."""
    return {_cut(name, LONGEST_NAME): _cut(value, LONGEST_VALUE) for name, value in texts.items()}


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _decoded(body: bytes | msgspec.Raw, kind: type[_T], place: str) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        expected, _, path = str(error).partition(" - at `$")
        pointer = place + path.rstrip("`").replace("[...]", "").replace(".", "/")
        if expected.startswith("Invalid enum value"):
            expected = f"expected 'firing' or 'resolved'; found {expected.removeprefix('Invalid enum value '):.40}"
        raise Problem(422, f"{expected[:1].lower()}{expected[1:]}", pointer=pointer) from error
    except RecursionError as error:
        raise Problem(400, "the body is nested too deeply to be a webhook of Alertmanager or Grafana") from error
    except ValueError as error:  # UnicodeDecodeError among them
        raise Problem(400, f"the body is no JSON in UTF-8: {error}") from error
