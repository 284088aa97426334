"""From alert to event at GitHub: once, whatever GitHub, the disk, the clock and the process do meanwhile."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from doubles.github.fixture import Double
from tests.docker_engine import small_disk
from tests.integration.relay_process import ROOT, Receiver, alert, alertmanagers, dispatches, receiving, until

HOUR = 3600
DELIVERED = 'rps_alert_events_total{challenge="weather",outcome="delivered"}'
GIVEN_UP = 'rps_alert_events_total{challenge="weather",outcome="given_up"}'
FAILED = "for the next attempt"
"""In the log."""


@pytest.fixture
def receiver(tmp_path: Path, github_double: Double) -> Iterator[Receiver]:
    with receiving(tmp_path / "alerts", github_double.environment()) as found:
        yield found


def until_delivered(receiver: Receiver, double: Double, count: int = 1) -> None:
    """Until GitHub has taken so many events, and the receiver knows that none is left."""
    until(lambda: len(dispatches(double)) >= count, receiver)
    until(lambda: receiver.metrics()["rps_alert_events_waiting"] == 0, receiver)


def test_drift_is_reported_once_and_again_after_the_cooldown(receiver: Receiver, github_double: Double) -> None:
    assert receiver.take(alert(), alert(drift="inputs", alertname="InputsOutOfDistribution")) == ["event", "joined"]
    until(lambda: dispatches(github_double), receiver)
    (shown,) = dispatches(github_double)
    assert shown == {
        "event": shown["event"], "challenge": "weather", "alert": "ConceptDrift", "drift": "concept", "version": "7",
        "summary": "The live error is high.", "started": "2026-11-23T09:00:00.000Z",
    }  # fmt: skip
    assert receiver.take(alert(), alert("resolved"), alert(started="2026-11-23T11:00:00Z")) == [
        "joined", "resolved", "joined",
    ]  # fmt: skip
    until_delivered(receiver, github_double)
    assert receiver.stop() == 0
    receiver.age_events(6 * HOUR - 60)
    receiver.start()
    assert receiver.take(alert()) == ["joined"]
    assert receiver.stop() == 0
    receiver.age_events(60)
    receiver.start()
    assert receiver.take(alert(), alert()) == ["event", "joined"]
    until(lambda: len(dispatches(github_double)) == 2, receiver)
    assert len({each["event"] for each in dispatches(github_double)}) == 2
    written = [(line["status"], line["done"]) for line in receiver.lines()]
    joined = ("firing", "joined")
    assert written == [
        ("firing", "event"), joined, joined, ("resolved", "resolved"), joined, joined, ("firing", "event"), joined,
    ]  # fmt: skip


def test_while_github_is_down_the_event_is_kept_and_then_delivered_once_over_a_restart(
    receiver: Receiver, github_double: Double
) -> None:
    github_double.fault("server_error")
    assert receiver.take(alert()) == ["event"]
    until(lambda: FAILED in receiver.log.read_text(), receiver)
    assert receiver.metrics()["rps_alert_events_waiting"] == 1
    assert receiver.get("/health").json()["events_waiting"] == 1
    receiver.kill()
    receiver.start()
    assert receiver.take(alert(drift="features")) == ["joined"]
    assert dispatches(github_double) == []
    github_double.clear_faults()
    until_delivered(receiver, github_double)
    assert receiver.metrics()[DELIVERED] == 1
    assert receiver.stop() == 0
    receiver.start()
    assert receiver.metrics()["rps_alert_events_waiting"] == 0
    assert len(dispatches(github_double)) == 1


def test_an_event_that_github_refuses_is_reported_kept_and_delivered_once_that_is_mended(
    receiver: Receiver, github_double: Double
) -> None:
    github_double.fault("unauthorized", times=1)
    github_double.fault("not_found", after=1, times=1)
    github_double.fault("server_error", after=2, status=422)
    assert receiver.take(alert()) == ["event"]
    until(lambda: receiver.log.read_text().count(FAILED) >= 3, receiver)
    shown = ("GITHUB_TOKEN is wrong or has expired", "look at GITHUB_REPOSITORY", "GitHub answers 422")
    assert all(each in receiver.log.read_text() for each in shown)
    assert receiver.metrics()["rps_alert_events_waiting"] == 1
    github_double.clear_faults()
    until_delivered(receiver, github_double)
    assert len(dispatches(github_double)) == 1


def test_a_refused_event_blocks_no_other(tmp_path: Path, github_double: Double) -> None:
    challenges = tmp_path / "challenges"
    shutil.copytree(ROOT / "challenges", challenges)
    text = (challenges / "weather.toml").read_text(encoding="utf-8")
    (challenges / "harbour.toml").write_text(text.replace('name = "weather"', 'name = "harbour"', 1), encoding="utf-8")
    environment = {**github_double.environment(), "RPS_ALERTS_RETRY_SECONDS": "3600"}
    github_double.fault("unauthorized", times=1)
    with receiving(tmp_path / "alerts", environment, challenges=challenges) as receiver:
        assert receiver.take(alert(), alert(challenge="harbour")) == ["event", "event"]
        until(lambda: dispatches(github_double), receiver)
        assert [each["challenge"] for each in dispatches(github_double)] == ["harbour"]


def test_when_githubs_answer_is_lost_the_event_is_reported_again_under_the_same_name(
    receiver: Receiver, github_double: Double
) -> None:
    github_double.fault("cut", performed=True, times=1)
    receiver.take(alert())
    until_delivered(receiver, github_double, count=2)
    first, second = dispatches(github_double)
    assert first == second


def test_an_event_that_is_too_old_is_given_up_and_the_next_drift_starts_one(
    receiver: Receiver, github_double: Double
) -> None:
    github_double.fault("unauthorized")
    receiver.take(alert())
    until(lambda: FAILED in receiver.log.read_text(), receiver)
    receiver.kill()
    receiver.age_events(24 * HOUR + 1)
    receiver.start()
    until(lambda: receiver.metrics().get(GIVEN_UP) == 1, receiver)
    assert "is given up" in receiver.log.read_text()
    github_double.clear_faults()
    assert receiver.take(alert()) == ["event"]
    until_delivered(receiver, github_double)
    assert len(dispatches(github_double)) == 1


def test_a_clock_that_was_set_back_by_years_neither_doubles_nor_silences_drift(
    receiver: Receiver, github_double: Double
) -> None:
    receiver.take(alert())
    until_delivered(receiver, github_double)
    receiver.stop()
    years = 10 * 365 * 24 * HOUR  # as if the machine's clock had been ahead when the event was delivered
    receiver.age_events(-years)
    receiver.start()
    assert receiver.take(alert(drift="features")) == ["joined"]
    receiver.stop()
    receiver.start(RPS_ALERTS_COOLDOWN_HOURS="0.0003")  # a second
    until(lambda: receiver.take(alert()) == ["event"], receiver)
    until(lambda: len(dispatches(github_double)) == 2, receiver)


def test_sigterm_finishes_the_dispatch_that_is_at_work(receiver: Receiver, github_double: Double) -> None:
    github_double.fault("slow", delay=2.0, times=1)
    asked = threading.Event()
    github_double.server.meanwhile = lambda _method, _path: asked.set()
    receiver.take(alert())
    assert asked.wait(60)
    assert receiver.stop() == 0
    assert "is delivered" in receiver.log.read_text()
    receiver.start()
    assert receiver.metrics()["rps_alert_events_waiting"] == 0
    assert len(dispatches(github_double)) == 1


def test_a_process_that_is_killed_again_and_again_loses_no_alert_and_doubles_no_event(
    tmp_path: Path, github_double: Double
) -> None:
    """As Alertmanager does, the sender sends again what was not acknowledged, until it is; it may be written twice."""
    with receiving(tmp_path / "alerts", github_double.environment()) as receiver:
        acknowledged = kill_again_and_again(receiver)
        until_delivered(receiver, github_double)
        assert receiver.stop() == 0
        lines = receiver.lines()
    expected = {f"{number}.{each}" for number in acknowledged for each in range(20)}
    assert {line["labels"]["case"] for line in lines} == expected
    (event,) = {each["event"] for each in dispatches(github_double)}
    assert event in {line["event"] for line in lines}


def kill_again_and_again(receiver: Receiver) -> list[int]:
    """The numbers of the requests, of twenty alerts each, that were acknowledged; the tenth tells of drift."""
    acknowledged: list[int] = []
    stop = threading.Event()

    def send() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            drift = {} if number == 10 else {"drift": ""}
            body = alertmanagers(*(alert(case=f"{number}.{each}", **drift) for each in range(20)))
            while True:
                try:
                    if receiver.post(body).status_code == 200:
                        break
                except httpx.HTTPError:
                    stop.wait(0.05)
            acknowledged.append(number)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for round_ in range(1, 4):
            until(lambda round_=round_: len(acknowledged) >= 15 * round_, receiver)  # type: ignore[misc]
            receiver.kill()
            receiver.start()
    finally:
        stop.set()
        sender.join()
    return acknowledged


def test_on_a_full_disk_alerts_are_refused_until_there_is_room(tmp_path: Path, github_double: Double) -> None:
    with small_disk(tmp_path / "disk", megabytes=2) as disk:
        with receiving(disk / "alerts", github_double.environment()) as receiver:
            filler = disk / "filler"
            with filler.open("wb") as full:
                full.write(bytes(shutil.disk_usage(disk).free - 4096))
            many = [alert(drift="", case=str(number)) for number in range(2000)]
            answer = receiver.post(alertmanagers(*many, alert()))
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert "send it again" in answer.json()["detail"]
            filler.unlink()
            until(lambda: receiver.post(alertmanagers(alert())).status_code == 200, receiver)
            until(lambda: receiver.get("/health").status_code == 200, receiver)
            until_delivered(receiver, github_double)
            assert [line["done"] for line in receiver.lines()] == ["event"]
        assert len(dispatches(github_double)) == 1


def test_a_home_that_is_gone_is_reported_by_health_and_alerts_are_refused(receiver: Receiver) -> None:
    shutil.rmtree(receiver.home)
    assert receiver.post(alertmanagers(alert())).status_code == 503
    answer = receiver.get("/health")
    assert answer.status_code == 503
    assert f"{receiver.home} cannot be written" in answer.json()["detail"]
    receiver.home.mkdir()
    until(lambda: receiver.get("/health").status_code == 200, receiver)
    assert receiver.take(alert()) == ["event"]
