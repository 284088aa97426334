"""Requests a second of the service beside the bare framework and other servers with the same trees.

`python -m bench.service [--rounds N] [--seconds S] [--only NAME …]` prints Markdown. Every server is one worker, is
started once, answers alike (which is checked) and is stopped (SIGSTOP) while it is not its turn; each round asks all
of them in turn, with one thread of wrk on eight connections.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bench.peer_environments import pinned_version
from bench.report import BenchError, arguments, met, run, say, table
from bench.service_model import CACHE, TOLERANCE, Asked, Model, Origin, model
from bench.service_servers import (
    Figures,
    Running,
    Server,
    bentoml,
    fastapi,
    floor,
    mlflow_server,
    mlserver,
    ours,
    running,
    wrk,
    wrk_program,
)

WARM_UP_SECONDS = 1
GOAL_SHARE = 0.80
GOAL_P99 = 1.5

Body = Callable[[Origin], dict[str, Any]]
Read = Callable[[Any], list[float]]


@dataclass(frozen=True)
class Contestant:
    """One route of one server."""

    label: str
    server: str
    path: str
    body: Body
    reads: Read | None = None
    """The change (of ours: the value) by horizon in its answer; None for a constant."""
    goal: float | None = None
    """How many times as fast ours must be."""


def tensor(origin: Origin) -> dict[str, Any]:
    row = {"name": "features", "shape": [1, len(origin.features)], "datatype": "FP64", "data": origin.features}
    return {"inputs": [row]}


def window(origin: Origin) -> dict[str, Any]:
    return {"unique_id": origin.unique_id, "ds": origin.ds, "values": origin.window}


OURS, OURS_WINDOW = "this service, `/v2/models/weather/infer`", "this service, `/v1/forecast`"
FLOOR, FLOOR_WINDOW = "bare Litestar, same body as infer", "bare Litestar, same body as forecast"
LEAN, LEAN_WINDOW = (f"Litestar, a bare ASGI route, same body as {route}" for route in ("infer", "forecast"))
SERVERS: dict[str, Callable[[Model], Server]] = {
    "floor": floor,
    "ours": ours,
    "mlserver": mlserver,
    "fastapi": fastapi,
    "bentoml": bentoml,
    "mlflow": mlflow_server,
}
INFER, FORECAST = "/v2/models/weather/infer", "/v1/forecast"
CONTESTANTS = (
    Contestant(FLOOR, "floor", INFER, tensor),
    Contestant(
        OURS,
        "ours",
        INFER,
        tensor,
        lambda answer: next(one["data"] for one in answer["outputs"] if one["name"] == "forecast"),
    ),
    Contestant(FLOOR_WINDOW, "floor", FORECAST, window),
    Contestant(OURS_WINDOW, "ours", FORECAST, window, lambda answer: [one["value"] for one in answer["forecasts"]]),
    Contestant(
        "MLServer, scikit-learn runtime", "mlserver", INFER, tensor, lambda answer: answer["outputs"][0]["data"], goal=9
    ),
    Contestant(
        "FastAPI, scikit-learn",
        "fastapi",
        "/predict",
        lambda origin: {"features": origin.features},
        lambda answer: answer["prediction"],
        goal=14,
    ),
    Contestant(
        "BentoML, scikit-learn",
        "bentoml",
        "/predict",
        lambda origin: {"features": [origin.features]},
        lambda answer: answer[0],
        goal=14,
    ),
    Contestant(
        "`mlflow models serve`, scikit-learn",
        "mlflow",
        "/invocations",
        lambda origin: {"inputs": [origin.features]},
        lambda answer: answer["predictions"][0],
        goal=20,
    ),
    Contestant(LEAN, "floor", "/lean/infer", tensor),
    Contestant(LEAN_WINDOW, "floor", "/lean/forecast", window),
)
BESIDE = {OURS: (FLOOR, LEAN), OURS_WINDOW: (FLOOR_WINDOW, LEAN_WINDOW)}
"""The bare route of which ours must reach a share, and the leanest one, which has no goal."""


@dataclass(frozen=True)
class Result:
    """Medians over the rounds; times in milliseconds."""

    per_second: float
    lowest: float
    highest: float
    p50: float
    p99: float


def compete(model: Model, names: list[str], rounds: int, seconds: int) -> dict[str, Result]:
    """By contestant, of those servers. Raises BenchError when one answers wrongly or not at all."""
    those = [one for one in CONTESTANTS if one.server in names]
    files = {one.label: bodies(one, model.asked) for one in those}
    with contextlib.ExitStack() as stack:
        servers: dict[str, Running] = {}
        for name in names:
            began = time.monotonic()
            servers[name] = stack.enter_context(running(SERVERS[name](model)))
            say(f"{servers[name].server.name}: ready after {time.monotonic() - began:.1f} s")
            for one in those:
                if one.server == name:
                    _check(one, servers[name].server, model.asked)
            servers[name].pause()
        figures: dict[str, list[Figures]] = {one.label: [] for one in those}
        for number in range(rounds):
            for one in those:
                figures[one.label].append(_measure(one, servers[one.server], files[one.label], seconds))
            rates = ", ".join(f"{figures[one.label][-1].per_second:,.0f}" for one in those)
            say(f"round {number + 1} of {rounds}: {rates} requests/s")
    return {label: _result(rounds_of) for label, rounds_of in figures.items()}


def bodies(one: Contestant, asked: Asked) -> Path:
    """A file with a body a line."""
    path = CACHE / "work" / f"{one.server}{one.path.replace('/', '-')}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(msgspec.json.encode(one.body(origin)) + b"\n" for origin in asked.origins))
    return path


def _check(one: Contestant, server: Server, asked: Asked) -> None:
    """Whether it answers each body with 200, and as scikit-learn would."""
    for origin in asked.origins:
        answer = httpx.post(
            server.address + one.path,
            content=msgspec.json.encode(one.body(origin)),
            headers={"Content-Type": "application/json"},
            timeout=30.0,
        )
        if answer.status_code != 200:
            raise BenchError(f"{one.label}: expected 200; found {answer.status_code}: {answer.text[:500]}")
        if one.reads is None:
            continue
        base = origin.features[asked.origin_column] if one.server == "ours" else 0.0
        found = one.reads(msgspec.json.decode(answer.content))
        differ = [abs(each - base - change) for each, change in zip(found, origin.change, strict=True)]
        if not max(differ) <= TOLERANCE:
            raise BenchError(
                f"{one.label}: expected scikit-learn's predictions to {TOLERANCE:g}; found {max(differ):g}"
            )


def _measure(one: Contestant, server: Running, file: Path, seconds: int) -> Figures:
    server.resume()
    try:
        wrk(server.server, one.path, "post.lua", [str(file)], WARM_UP_SECONDS)
        return wrk(server.server, one.path, "post.lua", [str(file)], seconds)
    finally:
        server.pause()


def _result(rounds: list[Figures]) -> Result:
    per_second = [one.per_second for one in rounds]
    return Result(
        per_second=statistics.median(per_second),
        lowest=min(per_second),
        highest=max(per_second),
        p50=statistics.median(one.p50 for one in rounds) / 1e3,
        p99=statistics.median(one.p99 for one in rounds) / 1e3,
    )


def report(rounds: int, seconds: int, only: list[str]) -> list[str]:
    """Every contestant, and the goals beside what was reached."""
    wrk_program()
    measured = model()
    results = compete(measured, only, rounds, seconds)
    origin = measured.asked.origins[0]
    rows = (
        (label, f"{one.per_second:,.0f}", f"{one.lowest:,.0f} – {one.highest:,.0f}", f"{one.p50:.2f}", f"{one.p99:.2f}")
        for label, one in results.items()
    )
    lines = [
        f"The weather challenge's model of three horizons, and the same rows of {len(origin.features)} numbers, or for",
        f"`/v1/forecast` the {len(origin.ds)} hours that they follow from. One worker each; `wrk -t1 -c8` on the",
        f"same cores; medians of {rounds} rounds of {seconds} s in turn, each after {WARM_UP_SECONDS} s to warm up; a",
        "server whose turn it is not is stopped. Every server's predictions were checked to be scikit-learn's to 1e-9.",
        "The peers run as their documentations say, from pinned environments of their own; with `OMP_NUM_THREADS=1`,",
        "with which none is slower here and most are faster; the model as one `MultiOutputRegressor` of three.",
        f"Versions: {', '.join(_versions())}.",
        "",
        *table("lrrrr", ("server", "requests/s (median)", "lowest – highest", "p50, ms", "p99, ms"), rows),
    ]
    goals = _goals(results)
    return [*lines, "", *table("lrrl", ("what", "reached", "goal", ""), goals)] if goals else lines


def _versions() -> list[str]:
    of_ours, of_peers = ("litestar", "uvicorn"), ("scikit-learn", "fastapi", "bentoml", "mlflow")
    pinned = [("service", name) for name in of_ours] + [("bench-service", name) for name in of_peers]
    return [f"{name} {pinned_version(file, name)}" for file, name in (*pinned, ("bench-mlserver", "mlserver"))]


def _goals(results: dict[str, Result]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for label, (bare, _) in BESIDE.items():
        if label in results and bare in results:
            share = results[label].per_second / results[bare].per_second
            rows.append(_goal(f"{label}: requests/s, share of the bare route's", share, "≥", GOAL_SHARE))
            slower = results[label].p99 / results[bare].p99
            rows.append(_goal(f"{label}: p99, times the bare route's", slower, "≤", GOAL_P99))
    for label, (_, lean) in BESIDE.items():
        if label in results and lean in results:
            share = results[label].per_second / results[lean].per_second
            rows.append((f"{label}: requests/s, share of a bare ASGI route's", f"{share:.2f}", "", "for information"))
    for one in CONTESTANTS:
        if one.goal and one.label in results and OURS in results:
            times = results[OURS].per_second / results[one.label].per_second
            rows.append(_goal(f"{OURS}: times as many as {one.label}", times, "≥", one.goal))
    return rows


def _goal(what: str, reached: float, sign: str, goal: float) -> tuple[str, ...]:
    return what, f"{reached:.2f}", f"{sign} {goal:g}", met(well=reached >= goal if sign == "≥" else reached <= goal)


if __name__ == "__main__":
    parser = arguments(rounds=(5, "how many"), seconds=(4, "how long each is"))
    parser.add_argument("--only", nargs="+", choices=SERVERS, default=list(SERVERS), help="only these servers")
    sys.exit(run(parser, report))
