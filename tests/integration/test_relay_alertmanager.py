"""A real Alertmanager, configured as it is shipped, in front of the receiver."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from doubles.github.fixture import Double
from monitoring.alertmanager_files import alertmanager_configuration
from scripts.services import free_ports
from tests.integration.relay_process import DEADLINE_SECONDS, SECRET, Receiver, dispatches, receiving, until

HOUR_A_SECOND = 3600.0


@contextmanager
def alertmanager(home: Path, receiver: Receiver) -> Iterator[str]:
    """Its address."""
    program = shutil.which("prometheus-alertmanager")
    if program is None:
        pytest.skip("prometheus-alertmanager is missing: apt-get install prometheus-alertmanager")
    home.mkdir()
    (home / "secret").write_text(f"{SECRET}\n")
    configuration = alertmanager_configuration(
        f"{receiver.url}/v1/alerts", home / "secret", pace=HOUR_A_SECOND
    )  # fmt: skip
    (home / "alertmanager.yml").write_text(configuration, encoding="utf-8")
    address = f"127.0.0.1:{free_ports(1)}"
    command = [
        program, f"--config.file={home / 'alertmanager.yml'}", f"--storage.path={home / 'data'}",
        f"--web.listen-address={address}", "--cluster.listen-address=",
    ]  # fmt: skip
    with (home / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield f"http://{address}"
        finally:
            process.kill()


def tell(address: str, drift: str, ends: datetime) -> None:
    """As Prometheus does, to Alertmanager's API."""
    labels = {"alertname": "Drift", "severity": "warning", "drift": drift, "challenge": "weather", "version": "7"}
    alert = {
        "labels": labels,
        "annotations": {"summary": f"The {drift} has drifted."},
        "startsAt": (ends - timedelta(hours=2)).isoformat(),
        "endsAt": ends.isoformat(),
    }
    transport = httpx.HTTPTransport(verify=False, retries=8)  # it may still be starting
    with httpx.Client(transport=transport, timeout=DEADLINE_SECONDS) as client:
        client.post(f"{address}/api/v2/alerts", json=[alert]).raise_for_status()


def test_alertmanager_tries_until_the_receiver_is_there_and_drift_becomes_one_event(
    tmp_path: Path, github_double: Double
) -> None:
    now = datetime.now(UTC)
    with receiving(tmp_path / "alerts", github_double.environment()) as receiver:
        assert receiver.stop() == 0
        with alertmanager(tmp_path / "alertmanager", receiver) as address:
            tell(address, "concept", now + timedelta(hours=1))
            tell(address, "features", now + timedelta(hours=1))
            failed = 'alertmanager_notification_requests_failed_total{integration="webhook"}'
            until(lambda: any(
                line.startswith(failed) and not line.endswith(" 0")
                for line in httpx.get(f"{address}/metrics", timeout=30, verify=False).text.splitlines()
            ), receiver)  # fmt: skip
            receiver.start()
            until(lambda: len(receiver.lines()) >= 2, receiver)
            until(lambda: dispatches(github_double), receiver)
            for drift in ("concept", "features"):
                tell(address, drift, now)
            until(lambda: sum(line["status"] == "resolved" for line in receiver.lines()) == 2, receiver)
        firing = [line for line in receiver.lines() if line["status"] == "firing"]
        assert {line["labels"]["drift"] for line in firing} == {"concept", "features"}
        assert [line["done"] for line in firing] == ["event"] + ["joined"] * (len(firing) - 1)
        assert all(line["source"] == "alertmanager" and line["fingerprint"] for line in receiver.lines())
        assert all(line["ends_at"] for line in receiver.lines() if line["status"] == "resolved")
        (shown,) = dispatches(github_double)
        assert shown["summary"] in {"The concept has drifted.", "The features has drifted."}
        assert receiver.stop() == 0
