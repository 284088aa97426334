"""The receiver as a real process, which tests kill, fill and start again; and the webhooks that are sent to it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from doubles.github.fixture import Double
from tests.conftest import wait_while

ROOT = Path(__file__).resolve().parents[2]
SECRET = "correct horse battery staple"
NOBODY = {"GITHUB_API_URL": "http://127.0.0.1:9", "GITHUB_REPOSITORY": "ana/weather", "GITHUB_TOKEN": "none"}
"""A GitHub that does not answer."""
DEADLINE_SECONDS = 60.0
QUICK = {"RPS_ALERTS_RETRY_SECONDS": "0.2"}


@dataclass
class Receiver:
    """One home, and the process that has it at the moment."""

    home: Path
    environment: dict[str, str]
    challenges: Path = ROOT / "challenges"
    port: int = 0
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.home.with_suffix(".log")

    def launch(self, **changes: str) -> subprocess.Popen[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RPS_", "GITHUB_"))}
        own = {"RPS_ALERTS_SECRET": SECRET, "RPS_ALERTS_HOME": str(self.home), **QUICK, **self.environment, **changes}
        command = [
            sys.executable,
            "-m",
            "monitoring.relay",
            "--port",
            str(self.port),
            "--challenges",
            str(self.challenges),
        ]
        with self.log.open("a") as log:
            return subprocess.Popen(command, cwd=ROOT, env={**inherited, **own}, stdout=log, stderr=log, text=True)

    def start(self, **changes: str) -> None:
        """Start it, on the same port as before, and wait until it takes alerts."""
        before = self.log.read_text() if self.log.exists() else ""
        self.process = process = self.launch(**changes)

        def silent() -> bool:
            found = re.search(r"running on http://127\.0\.0\.1:(\d+)", self.log.read_text()[len(before) :])
            self.port = int(found[1]) if found else self.port
            return process.poll() is None and not (found and self._answers())

        assert wait_while(silent, seconds=DEADLINE_SECONDS, pause=0.02), self.log.read_text()
        assert process.poll() is None, self.log.read_text()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=DEADLINE_SECONDS)

    def post(self, body: object, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        shown = {"authorization": f"Bearer {SECRET}", "content-type": "application/json", **headers}
        return self.request("POST", "/v1/alerts", content=content, headers=shown)

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """On a connection of its own, without TLS: making that ready would take longer than the request."""
        return httpx.request(method, f"{self.url}{path}", timeout=DEADLINE_SECONDS, verify=False, **options)

    def take(self, *alerts: dict[str, Any]) -> list[str]:
        """What is done with alerts that must be taken."""
        answer = self.post(alertmanagers(*alerts))
        assert answer.status_code == 200, answer.text
        return [each["done"] for each in answer.json()["alerts"]]

    def metrics(self) -> dict[str, float]:
        text = self.get("/metrics").text
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    def lines(self, path: Path | None = None) -> list[dict[str, Any]]:
        """What is in the file, or in one that was put aside, up to the end of its last whole line."""
        path = path or self.home / "alerts.jsonl"
        written = path.read_bytes() if path.exists() else b""
        return [json.loads(line) for line in written.split(b"\n")[:-1]]

    def age_events(self, seconds: float) -> None:
        """Do to the events, while no process has them, what the passing of so much time would have done."""
        events = self.lines(self.home / "events.jsonl")
        assert events
        for event in events:
            event["created"] -= seconds
            event["sent"] = event["sent"] and event["sent"] - seconds
        (self.home / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))

    def resident_megabytes(self) -> float:
        assert self.process is not None
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def _answers(self) -> bool:
        try:
            return self.get("/metrics").status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def receiving(home: Path, environment: dict[str, str], **changes: Any) -> Iterator[Receiver]:
    """A receiver that has been started, and is ended with the block."""
    receiver = Receiver(home, environment, **changes)
    receiver.start()
    try:
        yield receiver
    finally:
        if receiver.process is not None and receiver.process.poll() is None:
            receiver.kill()


def until(condition: Any, receiver: Receiver) -> None:
    """Wait for what must come; if it does not, the receiver's log says why."""
    assert wait_while(lambda: not condition(), seconds=DEADLINE_SECONDS, pause=0.05), receiver.log.read_text()[-3000:]


def alert(status: str = "firing", started: str = "2026-11-23T09:00:00Z", **labels: str) -> dict[str, Any]:
    """A drift of the weather, unless other labels are given; an empty one is left out."""
    every = {"alertname": "ConceptDrift", "drift": "concept", "challenge": "weather", "version": "7", **labels}
    return {
        "status": status,
        "labels": {name: value for name, value in every.items() if value},
        "annotations": {"summary": "The live error is high.", "runbook_url": "docs/runbooks/ConceptDrift.md"},
        "startsAt": started,
        "endsAt": "0001-01-01T00:00:00Z" if status == "firing" else "2026-11-23T10:00:00Z",
        "generatorURL": "http://prometheus.example.org/graph",
        "fingerprint": "c6eadffa33fcdf37",
    }


def alertmanagers(*alerts: dict[str, Any]) -> dict[str, Any]:
    """Alertmanager's webhook, version 4."""
    return {
        "version": "4", "groupKey": '{}:{alertname="ConceptDrift"}', "truncatedAlerts": 0, "status": "firing",
        "receiver": "rps", "groupLabels": {"alertname": "ConceptDrift"}, "commonLabels": {}, "commonAnnotations": {},
        "externalURL": "http://alertmanager.example.org", "alerts": list(alerts),
    }  # fmt: skip


def dispatches(double: Double) -> list[dict[str, Any]]:
    """The payloads of the events that GitHub has taken."""
    taken = double.server.world.state.dispatches
    assert all(each.event_type == "model-drift" for each in taken)
    return [dict(each.payload) for each in taken]
