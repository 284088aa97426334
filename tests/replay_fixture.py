"""The replay API as a fixture: a real process of its own on a free loopback port, reached over HTTP."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[1]
END = "2013-12-30T23:00:00Z"


@dataclass(frozen=True)
class Replay:
    """The running replay, and what a test may do to it."""

    url: str
    client: httpx.Client

    def fault(self, kind: str, **options: object) -> None:
        self.client.put(f"{self.url}/replay/faults", json={"kind": kind, **options}).raise_for_status()

    def clear_faults(self) -> None:
        self.client.delete(f"{self.url}/replay/faults").raise_for_status()

    def move_clock(self, now: str, speed: float = 0.0) -> None:
        self.client.put(f"{self.url}/replay/clock", json={"now": now, "speed": speed}).raise_for_status()


@pytest.fixture(scope="session")
def replay_process() -> Iterator[Replay]:
    """One replay for the whole session, its clock standing at the end of the recording."""
    command = [sys.executable, "-m", "doubles.replay", "--port", "0", "--as-of", END, "--speed", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            # It says where it listens once it does: "replay API on http://127.0.0.1:PORT, as of …".
            first_line = process.stdout.readline()
            # No TLS here: making it ready for each request takes twenty times as long as the request.
            with httpx.Client(verify=False, limits=httpx.Limits(max_keepalive_connections=0)) as client:
                yield Replay(first_line.split(" on ", 1)[1].split(",", 1)[0], client)
        finally:
            process.terminate()
            process.wait(timeout=10)


@pytest.fixture
def replay(replay_process: Replay, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replay]:
    """The replay without faults, standing at the end of the recording; the environment names it as source and clock."""
    replay_process.clear_faults()
    replay_process.move_clock(END)
    monkeypatch.setenv("OPEN_METEO_URL", replay_process.url)
    monkeypatch.setenv("OPEN_METEO_ARCHIVE_URL", replay_process.url)
    monkeypatch.setenv("RPS_CLOCK_URL", f"{replay_process.url}/replay/clock")
    yield replay_process
    replay_process.clear_faults()
    replay_process.move_clock(END)
