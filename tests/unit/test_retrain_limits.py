"""When a retraining may start, from what Airflow lists."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ci.retrain.limits import Limits, NotStarted, Retraining, Seen, Wait, decide, look, overtaken
from clients.dag_run import Airflow
from clients.settings import AirflowSettings

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LIMITS = Limits(cool_down=timedelta(hours=6), daily=4)


def run(event: str, hours_ago: float, state: str = "success", attempt: int = 1) -> Retraining:
    return Retraining(
        run_id=f"retrain__weather__{event}__{attempt}",
        event=event,
        attempt=attempt,
        state=state,
        started=NOW - timedelta(hours=hours_ago),
        sha="a" * 40,
    )


def decided(
    *runs: Retraining, event: str = "new", by_hand: bool = False, limits: Limits = LIMITS
) -> Retraining | Wait | None:
    seen = Seen(tuple(sorted(runs, key=lambda one: one.started)), NOW)
    return decide(seen, event, limits, by_hand=by_hand)


def test_the_first_event_starts_a_run() -> None:
    assert decided() is None


def test_an_event_that_comes_again_finds_its_run_whatever_the_limits_say() -> None:
    for state in ("queued", "running", "success"):
        own = run("new", 0.1, state)
        assert decided(own, run("other", 1), run("third", 2), run("fourth", 3), run("fifth", 4)) == own


def test_an_event_whose_run_failed_is_held_to_the_limits() -> None:
    assert decided(run("new", 7, "failed")) is None
    assert isinstance(decided(run("new", 1, "failed")), Wait)
    again = run("new", 2, "success", attempt=2)
    assert decided(run("new", 9, "failed"), again) == again


def test_of_one_challenge_one_is_retrained_at_a_time_also_by_hand() -> None:
    for state in ("queued", "running"):
        for by_hand in (False, True):
            at_work = run("other", 30, state)
            with pytest.raises(NotStarted, match=f"^{at_work.run_id} has been running since 2026-11-22 06:00 UTC"):
                decided(at_work, by_hand=by_hand)


def test_after_a_retraining_comes_a_cool_down_which_a_person_may_pass_over() -> None:
    for state in ("success", "failed"):
        decision = decided(run("other", 5.9, state))
        assert isinstance(decision, Wait)
        assert decision.next == NOW + timedelta(hours=0.1)
        assert "cool-down of 6 h" in decision.limit
        assert decided(run("other", 5.9, state), by_hand=True) is None
        assert decided(run("other", 6, state)) is None


def test_a_failed_run_is_waited_for_less_than_one_that_did_not_fail() -> None:
    limits = Limits(cool_down=timedelta(hours=47), daily=4)
    failed = decided(run("other", 5, "failed"), limits=limits)
    assert isinstance(failed, Wait)
    assert failed.next == NOW + timedelta(hours=1)
    assert "6 h after a retraining that failed" in failed.limit
    assert decided(run("other", 6, "failed"), limits=limits) is None
    both = decided(run("other", 40), run("later", 7, "failed"), limits=limits)
    assert isinstance(both, Wait)
    assert both.next == NOW + timedelta(hours=7)
    assert "47 h after each retraining" in both.limit


def test_a_day_has_so_many_retrainings_and_no_more_also_by_hand() -> None:
    four = [run(f"e{hours}", hours) for hours in (23, 20, 15, 8)]
    for by_hand in (False, True):
        decision = decided(*four, by_hand=by_hand)
        assert isinstance(decision, Wait)
        assert decision.next == NOW + timedelta(hours=1)
        assert "4 retrainings in 24 h" in decision.limit
    assert decided(*four[1:]) is None
    assert decided(run("old", 24), *four[1:]) is None


def test_of_two_limits_the_later_one_is_reported() -> None:
    decision = decided(*[run(f"e{hours}", hours) for hours in (23.5, 20, 15, 1)])
    assert isinstance(decision, Wait)
    assert decision.next == NOW + timedelta(hours=5)


def test_a_run_from_the_future_of_a_wrong_clock_is_as_one_of_now() -> None:
    assert isinstance(decided(run("other", -0.5)), Wait)


def test_of_two_that_were_started_at_once_the_younger_goes_and_the_older_stays() -> None:
    older, younger = run("a", 0.1, "running"), run("b", 0, "queued")
    seen = Seen((older, younger), NOW)
    assert overtaken(seen, younger.run_id) == older
    assert overtaken(seen, older.run_id) is None

    first, second = run("a", 0, "queued"), run("b", 0, "queued")
    assert overtaken(Seen((first, second), NOW), second.run_id) == first
    assert overtaken(Seen((first, second), NOW), first.run_id) is None

    assert overtaken(Seen((run("a", 1, "failed"), younger), NOW), younger.run_id) is None


class AirflowOfAnotherTime(BaseHTTPRequestHandler):
    """Has no DAG and no run, and a clock of its own."""

    asked: list[str]

    def date_time_string(self, timestamp: float | None = None) -> str:
        return "Mon, 01 Jan 2035 12:00:00 GMT"

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body = b'{"dags": [], "dag_runs": [], "total_entries": 0}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def test_the_time_is_airflows_whatever_ours_is() -> None:
    asked: list[str] = []
    handler = type("Handler", (AirflowOfAnotherTime,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        settings = AirflowSettings(f"http://127.0.0.1:{server.server_port}", "token", "", "")
        seen = look(Airflow(settings), "weather", "new", LIMITS)
        server.shutdown()
        thread.join()
    assert seen == Seen((), datetime(2035, 1, 1, 12, tzinfo=UTC))
    assert any("run_after_gte=2034-12-31T12" in path for path in asked)
