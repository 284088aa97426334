"""The feed, as its own process, between the replayed API and a real service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from doubles.scripted_http import Scripted, ScriptedServer, scripted
from tests.conftest import wait_while
from tests.replay_fixture import END, Replay
from tests.serving import Running

ROOT = Path(__file__).parents[2]
ENDS_WITHIN_SECONDS = 60


@pytest.fixture
def command(service: Running) -> list[str]:
    return [sys.executable, "-u", "-m", "monitoring.feed", "--service", service.url, "--every", "0.1"]


def to_its_end(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=ENDS_WITHIN_SECONDS)


def time_of(now: str) -> Scripted:
    return Scripted(body=json.dumps({"now": now}).encode())


def clock(monkeypatch: pytest.MonkeyPatch, server: ScriptedServer) -> None:
    monkeypatch.setenv("RPS_CLOCK_URL", f"{server.url}/clock")


def test_one_refusal_of_the_source_is_waited_out(
    command: list[str], replay: Replay, service: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As when the hours that can be asked for move while a request is on its way."""
    log = tmp_path / "feed.log"
    with scripted(time_of("2014-06-01T00:00:00Z"), time_of(END)) as server, log.open("w") as output:
        clock(monkeypatch, server)
        with subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) as feed:
            try:
                wait_while(lambda: feed.poll() is None and len(server.asked) < 3, seconds=ENDS_WITHIN_SECONDS)
                assert feed.poll() is None, log.read_text()
            finally:
                feed.terminate()
    assert "out of allowed range" in log.read_text()
    assert service.get("/v1/series/EWR").json()["newest"] == END


def test_a_source_that_refuses_again_ends_the_feed_with_its_reason(
    command: list[str], replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted(time_of("2014-06-01T00:00:00Z")) as server:
        clock(monkeypatch, server)
        ended = to_its_end(command)
        assert len(server.asked) == 2
    assert ended.returncode == 64
    assert ended.stdout.startswith("waiting: ")
    assert ended.stderr.startswith("feed: ")
    assert "out of allowed range" in ended.stderr


def test_a_service_that_refuses_ends_the_feed_at_once(
    replay: Replay, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = {f"/v1/series/{each}": [Scripted(404)] for each in ("EWR", "JFK", "LGA")}
    with scripted(Scripted(401, b'{"detail": "no key"}'), by_path=unknown) as server:
        place = command.index("--service") + 1
        command[place] = server.url
        ended = to_its_end(command)
        assert server.asked.count("/v1/observations") == 1
    assert ended.returncode == 64
    assert "401" in ended.stderr
    assert "no key" in ended.stderr


def test_a_service_that_is_away_is_waited_for(command: list[str], replay: Replay) -> None:
    command[command.index("--service") + 1] = "http://127.0.0.1:9"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as feed:
        try:
            assert feed.stdout is not None
            assert [feed.stdout.readline().split(":")[0] for _ in range(2)] == ["waiting", "waiting"]
            assert feed.poll() is None
        finally:
            feed.terminate()
