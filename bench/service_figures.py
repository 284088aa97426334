"""What else the service costs: observations a second, memory, and the time to its first answer.

`python -m bench.service_figures [--rounds N] [--seconds S]` prints Markdown.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import msgspec

from bench.report import BenchError, arguments, met, run, say, table
from bench.service_model import Model, model
from bench.service_servers import CONNECTIONS, Running, ours, running, started, wrk
from scripts.processes import wait_while

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
    values = _values(model)
    members = msgspec.json.encode(values).decode()[1:-1]
    single, batched = [], []
    with running(ours(model)) as server, _client(server) as client:
        hour = full_hours(model)
        for body in batches(STREAMED, range(hour), values):
            _observe(client, body)
        for number in range(rounds):
            since = str(int((FIRST + timedelta(hours=hour)).timestamp()))
            asked = wrk(server.server, "/v1/observations", "observe.lua", [str(STREAMED), since, members], seconds)
            single.append(asked.per_second)
            # What was on its way when wrk stopped may have been taken in, too.
            hour += (asked.requests + CONNECTIONS) // STREAMED + 1
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
        *table(
            "lrr",
            ("", "observations/s (median)", "lowest – highest"),
            (
                (name, f"{statistics.median(found):,.0f}", f"{min(found):,.0f} – {max(found):,.0f}")
                for name, found in (("one a request", single), (f"{BATCH:,} a request", batched))
            ),
        ),
    ]


def memory_section(model: Model) -> list[str]:
    """Resident memory after the start, and with many series whose windows are full."""
    with running(ours(model, {"RPS_MAX_SERIES": str(2 * SERIES)})) as server, _client(server) as client:
        after_start = server.resident_mebibytes()
        began = time.monotonic()
        for body in batches(SERIES, range(full_hours(model)), _values(model), by_series=True):
            _observe(client, body)
        say(f"{SERIES:,} series filled in {time.monotonic() - began:.0f} s")
        filled = server.resident_mebibytes()
    carried, hours = len({origin.unique_id for origin in model.asked.origins}), full_hours(model)
    return [
        *table(
            "lr",
            ("resident memory of the process", "MiB"),
            (
                (f"ready, with the bundle's {carried} series", f"{after_start:.0f}"),
                (f"with {SERIES:,} series more, each of {hours} hours, which fills its window", f"{filled:.0f}"),
            ),
        ),
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
            waiting = lambda: process.alive and not server.is_ready  # noqa: E731, B023 - called in this round alone
            if not wait_while(waiting, seconds=ANSWER_SECONDS, pause=POLL_SECONDS) or not process.alive:
                raise BenchError(f"{server.name}: expected it to be ready after {ANSWER_SECONDS:.0f} s at most")
            found.append(time.perf_counter() - began)
        say(f"start {number + 1} of {STARTS}: {found[-1]:.2f} s")
    median = statistics.median(found)
    spread = f"lowest {min(found):.2f}, highest {max(found):.2f}"
    return [
        "From the start of the process to the first 200 of `/health`, byte code compiled: median of",
        f"{STARTS} {median:.2f} s ({spread}); goal ≤ {GOAL_START_SECONDS} s: {met(well=median <= GOAL_START_SECONDS)}.",
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


def _values(model: Model) -> dict[str, float]:
    return {name: column[-1] for name, column in model.asked.origins[0].window.items()}


def _client(server: Running) -> httpx.Client:
    return httpx.Client(base_url=server.server.address, timeout=60.0, headers={"Content-Type": "application/json"})


def _observe(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/v1/observations", content=body)
    if not answer.is_success:
        raise BenchError(f"/v1/observations: expected 2xx; found {answer.status_code}: {answer.text[:500]}")


def report(rounds: int, seconds: int) -> Iterator[str]:
    made = model()
    yield from (*observations_section(made, rounds, seconds), "", *memory_section(made), "", *start_section(made))


if __name__ == "__main__":
    sys.exit(run(arguments(rounds=(5, "of observations"), seconds=(4, "how long each is")), report))
