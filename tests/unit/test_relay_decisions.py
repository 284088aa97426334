"""What is done with an alert: one event per challenge and cool-down."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec
import pytest

from monitoring.relay.decisions import Event, decide, event_id, event_of
from monitoring.relay.webhook import Alert

KNOWN = frozenset({"weather", "crypto"})
HOUR = 3600.0
NOW = 1_800_000_000.0
STARTED = datetime(2026, 11, 23, 12, tzinfo=UTC)


def alert(status: str = "firing", started: datetime = STARTED, summary: str = "", **labels: str) -> Alert:
    every = {"alertname": "ConceptDrift", "drift": "concept", "challenge": "weather", "version": "7", **labels}
    given = {name: value for name, value in every.items() if value}
    return Alert(status=status, labels=given, annotations={"summary": summary}, starts_at=started)


def last_event(sent: float | None) -> Event:
    return msgspec.structs.replace(event_of(alert(), "old", NOW - 24 * HOUR), sent=sent)


def done(found: Alert, last: Event | None = None, *, now: float = NOW, cooldown: float = 6 * HOUR) -> str:
    return decide(found, KNOWN, last, now=now, cooldown=cooldown).done


def test_the_first_drift_of_a_challenge_starts_an_event() -> None:
    decision = decide(alert(), KNOWN, None, now=NOW, cooldown=6 * HOUR)
    assert decision.done == "event"
    assert decision.event


@pytest.mark.parametrize("drift", ["inputs", "features", "concept"])
def test_any_drift_within_the_cooldown_belongs_to_the_event_before(drift: str) -> None:
    decision = decide(alert(drift=drift), KNOWN, last_event(NOW - 6 * HOUR + 1), now=NOW, cooldown=6 * HOUR)
    assert (decision.done, decision.event) == ("joined", "old")


def test_a_drift_that_still_fires_after_the_cooldown_starts_the_next_event() -> None:
    assert done(alert(), last_event(NOW - 6 * HOUR)) == "event"


def test_while_an_event_waits_for_github_no_other_is_started_however_long() -> None:
    assert done(alert(), last_event(None), now=NOW + 1000 * HOUR) == "joined"


def test_an_event_that_was_given_up_leaves_no_cooldown() -> None:
    assert done(alert(), last_event(0.0)) == "event"


def test_resolved_starts_nothing() -> None:
    assert done(alert(status="resolved")) == "resolved"


@pytest.mark.parametrize("year", [1971, 2026, 2099])
def test_the_senders_clock_decides_nothing(year: int) -> None:
    skewed = alert(started=datetime(year, 1, 1, tzinfo=UTC))
    assert done(skewed) == "event"
    assert done(skewed, last_event(NOW - 1)) == "joined"


@pytest.mark.parametrize(
    ("labels", "expected", "message"),
    [
        ({"drift": ""}, "kept", ""),
        ({"drift": "sideways"}, "no_drift", "inputs, features, concept"),
        ({"challenge": ""}, "no_challenge", "needs that label"),
        ({"challenge": "transit"}, "unknown_challenge", "crypto, weather; found 'transit'"),
        ({"challenge": "../weather"}, "unknown_challenge", "crypto, weather"),
        ({"alertname": "DatasourceNoData"}, "no_drift", "no drift"),
        ({"alertname": "DatasourceError"}, "no_drift", "no drift"),
    ],
)
def test_what_is_no_drift_of_a_known_challenge_starts_nothing_and_says_why(
    labels: dict[str, str], expected: str, message: str
) -> None:
    decision = decide(alert(**labels), KNOWN, None, now=NOW, cooldown=HOUR)
    assert decision.done == expected
    assert message in decision.message


def test_an_event_tells_github_seven_things_cut_to_a_bounded_length() -> None:
    event = event_of(alert(summary="two\nlines\x00 " + "x" * 5000, version="7" * 1000), "20261123t120000-abcd1234", NOW)
    payload = event.payload()
    assert payload == {
        "event": "20261123t120000-abcd1234", "challenge": "weather", "alert": "ConceptDrift", "drift": "concept",
        "summary": payload["summary"], "version": payload["version"], "started": "2026-11-23T12:00:00.000Z",
    }  # fmt: skip
    assert payload["summary"].startswith("two lines x")
    assert len(payload["summary"]) <= 500
    assert len(payload["version"]) <= 200


def test_event_ids_are_what_a_run_id_may_hold_and_differ() -> None:
    made = {event_id() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"[a-z0-9-]{1,64}", each) for each in made)
