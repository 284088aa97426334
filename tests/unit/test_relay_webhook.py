"""The webhooks as Alertmanager and Grafana publish them are read; what is wrong is reported by its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from litestar.exceptions import ClientException

from clients.errors import one_line
from monitoring.relay.webhook import read_webhook, utc

ALERT: dict[str, Any] = {
    "status": "firing",
    "labels": {"alertname": "ConceptDrift", "challenge": "weather", "drift": "concept"},
    "annotations": {"summary": "The error is high."},
    "startsAt": "2026-11-23T09:51:03.157076123+02:00",
    "endsAt": "0001-01-01T00:00:00Z",
    "generatorURL": "http://prometheus.example.org/graph?g0.expr=up",
    "fingerprint": "c6eadffa33fcdf37",
}


def read(document: object) -> Any:
    return read_webhook(document if isinstance(document, bytes) else json.dumps(document).encode())


def problem(document: object) -> ClientException:
    with pytest.raises(ClientException) as raised:
        read(document)
    return raised.value


def test_alertmanagers_webhook_is_read() -> None:
    webhook = read(
        {
            "version": "4", "groupKey": '{}:{alertname="ConceptDrift"}', "truncatedAlerts": 3, "status": "firing",
            "receiver": "rps", "groupLabels": {}, "commonLabels": {}, "commonAnnotations": {},
            "externalURL": "http://127.0.0.1:9093", "alerts": [ALERT],
        }
    )  # fmt: skip
    assert (webhook.source, webhook.truncated) == ("alertmanager", 3)
    (alert,) = webhook.alerts
    assert alert.labels == ALERT["labels"]
    assert utc(alert.starts_at) == "2026-11-23T07:51:03.157Z"
    assert alert.ended is None


def test_grafanas_webhook_is_read() -> None:
    own = {"values": {"B": 44.2}, "valueString": "[ … ]", "silenceURL": "", "dashboardURL": "", "panelURL": "",
           "imageURL": ""}  # fmt: skip
    ended = {**ALERT, **own, "status": "resolved", "endsAt": "2026-11-23T10:00:00Z", "values": None}
    webhook = read(
        {"orgId": 1, "version": "1", "title": "[FIRING:1]", "state": "alerting", "message": "…", "truncatedAlerts": 0,
         "alerts": [{**ALERT, **own}, ended]}
    )  # fmt: skip
    assert webhook.source == "grafana"
    assert utc(webhook.alerts[1].ended) == "2026-11-23T10:00:00.000Z"


@pytest.mark.parametrize(
    ("body", "status", "shown"),
    [
        (b"", 400, "expected JSON"),
        (b"alert!", 400, "expected JSON"),
        (b'{"alerts": [', 400, "expected JSON"),
        (b'{"alerts": []} {}', 400, "expected JSON"),
        (b'{"alerts": [{"labels": {"a": "\xff"}, "status": "firing"}]}', 400, "UTF-8"),
        (b'{"alerts": [], "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "nested too deeply"),
        (b'{"alerts": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}", 400, "nested too deeply"),
        ([], 422, "expected `object`"),
        ({}, 422, "missing required field `alerts`"),
        ({"alerts": {}}, 422, "/alerts: expected `array`"),
        ({"alerts": [], "version": "5"}, 422, "/version: expected '4'"),
        ({"alerts": [ALERT, 7]}, 422, "/alerts/1: expected `object`"),
        ({"alerts": [{**ALERT, "status": "pending"}]}, 422, "expected 'firing' or 'resolved'; found 'pending'"),
        ({"alerts": [{**ALERT, "labels": {"a": 1}}]}, 422, "/alerts/0/labels: expected `str`"),
        ({"alerts": [{**ALERT, "labels": None}]}, 422, "/alerts/0/labels: expected `object`"),
        ({"alerts": [{**ALERT, "labels": {str(n): "" for n in range(101)}}]}, 422, "/labels: expected `object`"),
        ({"alerts": [{**ALERT, "startsAt": "yesterday"}]}, 422, "/alerts/0/startsAt: invalid RFC3339"),
        ({"alerts": [{**ALERT, "startsAt": "2026-01-01T00:00:00"}]}, 422, "/alerts/0/startsAt: expected `datetime`"),
        ({"alerts": [{"status": "firing", "labels": {}}]}, 422, "missing required field `startsAt`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_reported_by_its_place(body: object, status: int, shown: str) -> None:
    found = problem(body)
    assert found.status_code == status
    assert shown in found.detail


def test_times_at_the_ends_of_the_calendar_are_reported() -> None:
    for moment in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        (alert,) = read({"alerts": [{**ALERT, "startsAt": moment}]}).alerts
        assert utc(alert.starts_at)[:4] == moment[:4]


def test_texts_are_bounded_and_on_one_line() -> None:
    assert one_line("a\nb\r\x1b[31m c", 80) == "a b [31m c"
    assert one_line("x" * 100, 10) == "x" * 9 + "…"
