"""What else the service costs: observations a second, memory, and the time to its first answer.

`python -m bench.service_figures [--rounds N] [--seconds S]` prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import msgspec

from bench.service_model import Model, model
from bench.service_servers import (
    CONNECTIONS,
    HOST,
    BenchError,
    Server,
    end_on_signal,
    ours,
    running,
    say,
    started,
    wrk,
)

BATCH = 1_000
BATCHES = 20
STREAMED = 100
"""How many series the observations that are counted are of, in turn; their windows are full before."""
SERIES = 10_000
FIRST = datetime(2014, 1, 1, tzinfo=UTC)
STARTS = 7
GOAL_START_SECONDS = 1.0
ANSWER_SECONDS = 30.0
POLL_SECONDS = 0.005


def observations_section(model: Model, rounds: int, seconds: int) -> list[str]:
    """Observations a second, each the newest of its series and leading to its forecasts."""
    values = {name: column[-1] for name, column in model.asked.origins[0].window.items()}
    members = msgspec.json.encode(values).decode()[1:-1]
    single, batched = [], []
    with running(ours(model)) as server, _client(server.server) as client:
        hour = full_hours(model)
        for body in batches(STREAMED, range(hour), values):
            _observe(client, body)
        for number in range(rounds):
            since = str(int((FIRST + timedelta(hours=hour)).timestamp()))
            told = wrk(server.server, "/v1/observations", "observe.lua", [str(STREAMED), since, members], seconds)
            single.append(told.per_second)
            # What was on its way when wrk stopped may have been taken in, too.
            hour += (told.requests + CONNECTIONS) // STREAMED + 1
            more = BATCH * BATCHES // STREAMED
            bodies = list(batches(STREAMED, range(hour, hour + more), values))
            hour += more
            began = time.perf_counter()
            for body in bodies:
                _observe(client, body)
            batched.append(BATCH * len(bodies) / (time.perf_counter() - began))
            say(f"round {number + 1} of {rounds}: {single[-1]:,.0f} alone, {batched[-1]:,.0f} in batches")
    return [
        f"`POST /v1/observations`, each observation the newest of one of {STREAMED} series and followed by its",
        f"forecasts: alone with `wrk -t1 -c{CONNECTIONS}`, {seconds} s a round; in batches of {BATCH:,} from one",
        f"client, one after the other; medians of {rounds} rounds in turn.",
        "",
        "| | observations/s (median) | lowest – highest |",
        "| --- | ---: | ---: |",
        *(
            f"| {name} | {statistics.median(found):,.0f} | {min(found):,.0f} – {max(found):,.0f} |"
            for name, found in (("one a request", single), (f"{BATCH:,} a request", batched))
        ),
    ]


def memory_section(model: Model) -> list[str]:
    """Resident memory after the start, and with many series whose windows are full."""
    values = {name: column[-1] for name, column in model.asked.origins[0].window.items()}
    with running(ours(model, {"RPS_MAX_SERIES": str(2 * SERIES)})) as server, _client(server.server) as client:
        after_start = server.resident_mebibytes()
        began = time.monotonic()
        for body in batches(SERIES, range(full_hours(model)), values, by_series=True):
            _observe(client, body)
        say(f"{SERIES:,} series filled in {time.monotonic() - began:.0f} s")
        filled = server.resident_mebibytes()
    carried, hours = len({origin.unique_id for origin in model.asked.origins}), full_hours(model)
    return [
        "| resident memory of the process | MiB |",
        "| --- | ---: |",
        f"| ready, with the bundle's {carried} series | {after_start:.0f} |",
        f"| with {SERIES:,} series more, each of {hours} hours, which fills its window | {filled:.0f} |",
        "",
        f"That is {(filled - after_start) * 1024 / SERIES:.1f} KiB for each series.",
    ]


def start_section(model: Model) -> list[str]:
    """Seconds from the start of the process to its first 200."""
    found = []
    for number in range(STARTS):
        server = ours(model)
        began = time.perf_counter()
        with started(server) as process:
            while not _healthy(server):
                if not process.alive or time.perf_counter() - began > ANSWER_SECONDS:
                    raise BenchError(f"{server.name}: expected it to be ready after {ANSWER_SECONDS:.0f} s at most")
                time.sleep(POLL_SECONDS)
            found.append(time.perf_counter() - began)
        say(f"start {number + 1} of {STARTS}: {found[-1]:.2f} s")
    median = statistics.median(found)
    met = "met" if median <= GOAL_START_SECONDS else "**not met**"
    spread = f"lowest {min(found):.2f}, highest {max(found):.2f}"
    return [
        "From the start of the process to the first 200 of `/health`, byte code compiled: median of",
        f"{STARTS} {median:.2f} s ({spread}); goal ≤ {GOAL_START_SECONDS} s: {met}.",
    ]


def full_hours(model: Model) -> int:
    """How many hours fill a series' window, and see its first forecasts come true."""
    return len(model.asked.origins[0].ds) + max(model.asked.horizons)


def batches(series: int, hours: Iterable[int], values: dict[str, float], *, by_series: bool = False) -> Iterator[bytes]:
    """Bodies of BATCH observations of the series S00001 … at these hours after FIRST, in order of time or of series."""
    names = [f"S{number:05d}" for number in range(1, series + 1)]
    times = [FIRST + timedelta(hours=hour) for hour in hours]
    pairs = ((n, t) for n in names for t in times) if by_series else ((n, t) for t in times for n in names)
    batch = []
    for unique_id, ds in pairs:
        batch.append({"unique_id": unique_id, "ds": ds, **values})
        if len(batch) == BATCH:
            yield msgspec.json.encode({"observations": batch})
            batch = []
    if batch:
        yield msgspec.json.encode({"observations": batch})


def _client(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.address, timeout=60.0, headers={"Content-Type": "application/json"})


def _observe(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/v1/observations", content=body)
    if not answer.is_success:
        raise BenchError(f"/v1/observations: expected 2xx; found {answer.status_code}: {answer.text[:500]}")


def _healthy(server: Server) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, server.port), timeout=1.0) as connection:
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        return connection.recv(64).startswith(b"HTTP/1.1 200")
    return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.service_figures", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of observations (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="how long each is (default: %(default)s)")
    options = parser.parse_args()
    end_on_signal()
    try:
        made = model()
        sections = [
            observations_section(made, options.rounds, options.seconds),
            memory_section(made),
            start_section(made),
        ]
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print("\n\n".join("\n".join(lines) for lines in sections))
    return 0


if __name__ == "__main__":
    sys.exit(main())
