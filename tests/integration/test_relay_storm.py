"""Ten thousand alerts at once: one event, every alert in the file, and a receiver that still answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from doubles.github.fixture import Double
from tests.integration.relay_process import SECRET, Receiver, alert, alertmanagers, dispatches, receiving, until

ALERTS = 10_000
SENDERS = 50
MOST_MEGABYTES = 400


@pytest.fixture
def receiver(tmp_path: Path, github_double: Double) -> Iterator[Receiver]:
    with receiving(tmp_path / "alerts", github_double.environment()) as found:
        yield found


def all_is_well(receiver: Receiver, double: Double, *, times: int = 1) -> None:
    assert len(receiver.lines()) == times * ALERTS
    until(lambda: dispatches(double) and receiver.metrics()["rps_alert_events_waiting"] == 0, receiver)
    assert {line["labels"]["instance"] for line in receiver.lines()} == {str(number) for number in range(ALERTS)}
    assert receiver.resident_megabytes() < MOST_MEGABYTES
    assert receiver.stop() == 0
    assert len(dispatches(double)) == 1


def test_a_storm_in_one_request(receiver: Receiver, github_double: Double) -> None:
    body = alertmanagers(*(alert(instance=str(number)) for number in range(ALERTS)))
    answer = receiver.post(body)
    assert answer.status_code == 200
    assert [each["done"] for each in answer.json()["alerts"]] == ["event"] + ["joined"] * (ALERTS - 1)
    assert [each["done"] for each in receiver.post(body).json()["alerts"]] == ["joined"] * ALERTS
    all_is_well(receiver, github_double, times=2)


def test_a_storm_of_requests(receiver: Receiver, github_double: Double) -> None:
    statuses = asyncio.run(storm(receiver.port))
    assert statuses == {b"200": ALERTS}
    all_is_well(receiver, github_double)


async def storm(port: int) -> dict[bytes, int]:
    """How many answers had which status; meanwhile somebody asks for the health."""
    statuses: dict[bytes, int] = {}
    url = f"http://127.0.0.1:{port}/health"

    async def send(first: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(first, ALERTS, SENDERS):
            body = json.dumps(alertmanagers(alert(instance=str(number)))).encode()
            head = f"POST /v1/alerts HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRET}\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            head_of_answer = await reader.readuntil(b"\r\n\r\n")
            status = head_of_answer.split(b" ")[1]
            statuses[status] = statuses.get(status, 0) + 1
            length = head_of_answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
        writer.close()

    async with httpx.AsyncClient(timeout=30, verify=False) as client:
        senders = asyncio.gather(*(send(first) for first in range(SENDERS)))
        while not senders.done():
            assert (await client.get(url)).status_code == 200
            await asyncio.sleep(0.1)
        await senders
    return statuses
