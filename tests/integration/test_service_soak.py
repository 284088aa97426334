"""Load above capacity, for a bounded time: requests are answered or refused, memory stays, and it passes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecasting.models.bundle import read_bundle
from tests import serving
from tests.conftest import wait_while
from tests.serving import SPEC, Running

SECONDS = 12.0
WARM_SECONDS = 3.0
CLIENTS = 48
HOLDERS = 24
MOST_IN_FLIGHT = 16
MOST_GROWTH_BYTES = 32 << 20
"""Of resident memory, from the warm service to the one after the load."""
ANSWER_SECONDS = 30.0


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    environment = {"RPS_MAX_IN_FLIGHT": str(MOST_IN_FLIGHT), "RPS_REQUEST_SECONDS": "3", "RPS_MAX_SERIES": "200"}
    with serving.running(bundle, tmp_path_factory.mktemp("service") / "log", environment) as found:
        yield found


def posted(path: str, document: Any) -> bytes:
    body = json.dumps(document).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def got(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


def requests_of(window: dict[str, Any]) -> list[bytes]:
    """One of each kind, from small to large."""
    width = len(SPEC.columns)
    rows = [[1.0] * width] * 1000
    tensor = {"name": "features", "shape": [1000, width], "datatype": "FP64", "data": rows}
    series = [
        {"unique_id": f"soak-{number}", "ds": f"2013-07-{day:02}T{hour:02}:00:00Z", "temperature": 20.0}
        for number in range(20) for day in (1, 2) for hour in range(24)
    ]  # fmt: skip
    return [
        got("/v1/forecasts/EWR"),
        posted("/v1/forecast", window),
        posted("/v1/observations", {"observations": series[:1]}),
        posted("/v1/observations", {"observations": series}),
        posted("/v2/models/weather/infer", {"inputs": [tensor]}),
        posted("/invocations", {"inputs": rows[:100]}),
        got("/metrics"),
        got("/"),
        got("/v1/series/soak-1"),
    ]


async def ask_again_and_again(port: int, requests: list[bytes], until: float, statuses: Counter[int]) -> None:
    """One client, ``requests`` in turn on one connection; when the service closes it, on another."""
    place = 0
    while time.monotonic() < until:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while time.monotonic() < until:
                writer.write(requests[place % len(requests)])
                place += 1
                async with asyncio.timeout(ANSWER_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    await reader.readexactly(length)
                statuses[int(head.split()[1])] += 1
        writer.close()


async def hold_again_and_again(port: int, until: float, statuses: Counter[int]) -> None:
    """A client that sends half a body and falls silent."""
    head = b"POST /v1/observations HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{"
    while time.monotonic() < until:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.write(head)
            async with asyncio.timeout(ANSWER_SECONDS):
                statuses[int((await reader.readline()).split()[1])] += 1
        writer.close()
        await asyncio.sleep(0.05)


async def load(port: int, requests: list[bytes], seconds: float, holders: int) -> tuple[Counter[int], Counter[int]]:
    until = time.monotonic() + seconds
    asked: Counter[int] = Counter()
    held: Counter[int] = Counter()
    turned = [requests[place % len(requests) :] + requests[: place % len(requests)] for place in range(CLIENTS)]
    await asyncio.gather(
        *(ask_again_and_again(port, each, until, asked) for each in turned),
        *(hold_again_and_again(port, until, held) for _ in range(holders)),
    )
    return asked, held


def resident_bytes(service: Running) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def test_load_above_capacity_is_refused_in_bounds_and_passes(service: Running, bundle: Path) -> None:
    whole = read_bundle(bundle)
    observed = whole.manifest.example.observations
    columns = zip(*observed.values, strict=True)
    window = {
        "ds": [ds.isoformat() for ds in observed.ds],
        "values": {name: list(column) for name, column in zip(SPEC.variables, columns, strict=True)},
    }
    requests = requests_of(window)
    warm, _ = asyncio.run(load(service.port, requests, WARM_SECONDS, 0))
    assert warm[200] > 0
    before = resident_bytes(service)

    asked, held = asyncio.run(load(service.port, requests, SECONDS, HOLDERS))

    assert set(asked) == {200, 503}, asked
    assert set(held) <= {408, 503}, held
    assert held[408] > 0
    assert wait_while(lambda: service.metrics()["rps_requests_in_flight"] > 0, seconds=ANSWER_SECONDS)
    assert resident_bytes(service) - before < MOST_GROWTH_BYTES
    assert service.metrics()["rps_requests_shed_total"] >= asked[503]
    assert service.get("/health").status_code == 200
    answer = service.post("/v1/forecast", json=window).json()
    expected = [(each.value, each.lower, each.upper) for each in whole.forecast_window(observed)]
    found = [(each["value"], each["lower"], each["upper"]) for each in answer["forecasts"]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert service.get("/v1/series/soak-1").json()["newest"] == "2013-07-02T23:00:00Z"
    assert "Traceback" not in service.log.read_text()
    assert service.stop() == 0
