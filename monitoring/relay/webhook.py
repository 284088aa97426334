"""The webhooks of Alertmanager (version 4) and of Grafana, as they are published; unused fields are ignored.

Alertmanager: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
Grafana: https://grafana.com/docs/grafana/latest/alerting/configure-notifications/manage-contact-points/integrations/webhook-notifier/
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar

import msgspec
from litestar.exceptions import ClientException
from msgspec import Meta

Source = Literal["alertmanager", "grafana"]
Aware = Annotated[datetime, Meta(tz=True)]
Labels = Annotated[dict[str, str], Meta(max_length=100)]
T = TypeVar("T")


class Alert(msgspec.Struct, frozen=True, kw_only=True, rename={"starts_at": "startsAt", "ends_at": "endsAt"}.get):
    """One alert of a webhook."""

    status: Literal["firing", "resolved"]
    labels: Labels
    annotations: Labels | None = None
    starts_at: Aware
    ends_at: Aware | None = None
    fingerprint: str | None = None

    @property
    def ended(self) -> datetime | None:
        """None while it lasts, for which both senders write Go's zero time, of the year 1."""
        return None if self.ends_at is None or self.ends_at.year == 1 else self.ends_at


@dataclass(frozen=True)
class Webhook:
    """One request. truncated: how many alerts the sender has left out."""

    source: Source
    alerts: tuple[Alert, ...]
    truncated: int


class _Envelope(msgspec.Struct, kw_only=True, rename={"org_id": "orgId", "truncated": "truncatedAlerts"}.get):
    alerts: list[msgspec.Raw]
    version: str = ""
    org_id: int | None = None
    """Only Grafana sends it."""
    truncated: Annotated[int, Meta(ge=0)] | None = None


def read_webhook(body: bytes) -> Webhook:
    """Raises ClientException: 400 for invalid JSON, 422 for a wrong field, which it names."""
    envelope = _decoded(body, _Envelope, "")
    source: Source = "alertmanager" if envelope.org_id is None else "grafana"
    if source == "alertmanager" and envelope.version not in {"", "4"}:
        raise _wrong_field("/version", f"expected '4'; found {envelope.version!r:.40}")
    alerts = tuple(_decoded(raw, Alert, f"/alerts/{place}") for place, raw in enumerate(envelope.alerts))
    return Webhook(source, alerts, envelope.truncated or 0)


def utc(moment: datetime) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:  # within a day of the first or last year that datetime knows
        moment = moment.replace(tzinfo=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _decoded(body: bytes | msgspec.Raw, kind: type[T], place: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        problem = problem.replace("Invalid enum value", "expected 'firing' or 'resolved'; found")
        pointer = place + path.rstrip("`").replace("[...]", "").replace(".", "/")
        raise _wrong_field(pointer, f"{problem[:1].lower()}{problem[1:120]}") from error
    except RecursionError as error:
        raise ClientException("the body is nested too deeply to be a webhook of Alertmanager or Grafana") from error
    except ValueError as error:  # UnicodeDecodeError among them
        raise ClientException(f"expected JSON in UTF-8; the body is not: {error}") from error


def _wrong_field(pointer: str, problem: str) -> ClientException:
    """pointer: where in the body (RFC 6901)."""
    errors = [{"pointer": pointer, "detail": problem}]
    return ClientException(f"{pointer}: {problem}" if pointer else problem, status_code=422, extra={"errors": errors})
