"""What is made of an event's payload, which anybody may have written."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ci.retrain.trigger import Trigger, read_trigger
from clients.errors import ConfigurationError

NOW = datetime(2026, 11, 23, 12, 0, 5, tzinfo=UTC)
GIVEN = dict.fromkeys(("event", "reason", "drift", "alert", "summary", "version", "started"), "")


def made(**given: str) -> Trigger:
    return read_trigger(**{**GIVEN, **given}, now=NOW)


def test_an_alert_is_taken_as_it_was_reported() -> None:
    trigger = made(
        event="concept-weather-1f", drift="concept", alert="ConceptDrift", summary="It is worse.", version="6",
        started="2026-11-23T06:00:00+02:00",
    )  # fmt: skip
    assert (trigger.event, trigger.reason, trigger.drift) == ("concept-weather-1f", "drift", "concept")
    assert trigger.started == datetime(2026, 11, 23, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    ("reason", "event"),
    [
        ("schedule", "schedule-20261123t120005z"),
        ("", "by-hand-20261123t120005z"),
        ("Neue Würfel! __1", "neue-w-rfel-1-20261123t120005z"),
        ("日本", "run-20261123t120005z"),
    ],
)
def test_without_an_event_one_is_made_of_reason_and_time(reason: str, event: str) -> None:
    assert made(reason=reason).event == event


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("event", "A"), ("event", "a__1"), ("event", "a" * 65), ("event", "a\nb"), ("event", "ä"), ("event", "$(id)"),
        ("drift", "everything"), ("drift", "concept\n"),
        ("reason", "x" * 101), ("reason", "a\nb"), ("reason", " "), ("reason", "a\x1b[31m"),
        ("started", "yesterday"), ("started", "2026-11-23T06:00:00"), ("started", "0001-01-01T00:00:00+23:59"),
    ],
)  # fmt: skip
def test_what_is_not_as_it_must_be_is_refused_by_name(option: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"--{option}: expected"):
        made(**{option: value})


def test_texts_are_cut_and_calm_nobody_is_called_by_them() -> None:
    trigger = made(summary="@everyone " + "long " * 500, alert="a\n::error::b", version="1\x00")
    assert len(trigger.summary) <= 502
    assert "@everyone" not in trigger.summary
    assert "\n" not in trigger.alert
    assert trigger.version == "1�"
