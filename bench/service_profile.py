"""Where the time of a request goes, by part of the service: stacks sampled while wrk asks, each counted to one part.

`python -m bench.service_profile [--seconds S]` prints Markdown. A sample belongs to the innermost of its frames that
a part below names; what C code does belongs to the Python function that calls it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.peer_environments import interpreter
from bench.report import BenchError, arguments, run, say, table
from bench.service import CONTESTANTS, bodies
from bench.service_model import CACHE, model
from bench.service_servers import Running, ours, running, wrk

RATE = 250
LEAD_SECONDS = 2
LISTED = 12
OTHER = "anything else"
PARTS = {
    "model": (
        "score (service/model/served.py", "(forecasting/models/quick_scorer.py", "(forecasting/models/portable.py",
    ),
    "features": (
        "row_at (service/model/served.py", "<origin_reader>", "(forecasting/", "missing_steps (service/model/served.py",
    ),
    "body decode and checks": (
        "(service/protocols/observation_bodies.py", "decode (service/", "_decode_quick (service/",
        "_requested (service/",
    ),
    "drift and metrics": ("(service/watch/monitor.py", "(forecasting/drift/distances.py"),
    "answer encode": (
        "encode (service/", "forecasts (service/model/served.py", "unusual_inputs (service/model/served.py",
    ),
    "writing the answer to the socket, its headers included": (
        "(service/write_batching.py", "send (uvicorn/protocols/",
    ),
    "the service's routes and middleware": ("(service/",),
    "Litestar": ("(litestar/",),
    "uvicorn": ("(uvicorn/protocols/", "(uvicorn/middleware/"),
    "event loop, reading sockets (uvloop)": ("(asyncio/", "(uvicorn/", "(uvloop/"),
}  # fmt: skip
"""By part, what its frames hold: `function (file:line)`. The first that fits a frame counts."""
_FRAME = re.compile(r";(?![^(]*\))")


Stacks = Counter[tuple[str, ...]]


def profile(server: Running, path: str, file: Path, seconds: int) -> tuple[float, Stacks]:
    """Requests a second while sampled, and how often each stack of the main thread was seen, outermost first."""
    samples = CACHE / "work" / "samples.txt"
    command = [
        str(interpreter("bench-service").with_name("py-spy")), "record", "--pid", str(server.process.pid),
        "--duration", str(seconds), "--rate", str(RATE), "--format", "raw", "--output", str(samples),
    ]  # fmt: skip
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(wrk, server.server, path, "post.lua", [str(file)], seconds + LEAD_SECONDS)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        figures = asking.result()
    if done.returncode:
        raise BenchError(f"py-spy cannot sample {server.server.name}:\n{done.stdout}{done.stderr}")
    return figures.per_second, _main_thread(samples.read_text(encoding="utf-8").splitlines())


def _main_thread(lines: Iterable[str]) -> Stacks:
    stacks: Stacks = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = tuple(_FRAME.split(stack))
        if not any(frame.startswith("Thread._bootstrap") for frame in frames):
            stacks[frames] += int(count)
    return stacks


def by_part(stacks: Stacks) -> Counter[str]:
    """How many samples each part has."""
    found: Counter[str] = Counter()
    for frames, count in stacks.items():
        found[next(_parts(frames), OTHER)] += count
    return found


def _parts(frames: tuple[str, ...]) -> Iterator[str]:
    for frame in reversed(frames):
        for part, marks in PARTS.items():
            if any(mark in frame for mark in marks):
                yield part


def report(seconds: int) -> list[str]:
    """Parts by route, and the functions that cost most by themselves."""
    profiles = sampled(seconds)
    parts = {path: by_part(stacks) for path, (_, stacks) in profiles.items()}
    rows = []
    for part in (*PARTS, OTHER):
        cells = [part]
        for path, (per_second, _) in profiles.items():
            share = parts[path][part] / max(parts[path].total(), 1)
            cells += [f"{share:.1%}", f"{share * 1e6 / per_second:.1f}"]
        rows.append(cells)
    heads = ["part", *(head for path in profiles for head in (f"`{path}`", "µs"))]
    lines = [
        f"py-spy, {RATE} samples a second for {seconds} s while `wrk -t1 -c8` asks; a sample counts for the innermost",
        "function that is one of ours or of the framework's, C code for the function that called it. Microseconds are",
        "the share of the time that passes between two answers.",
        "",
        *table("l" + "rr" * len(profiles), heads, rows),
    ]
    for path, (_, stacks) in profiles.items():
        innermost: Counter[str] = Counter()
        for frames, count in stacks.items():
            innermost[re.sub(r":\d+\)$", ")", frames[-1])] += count
        costly = ", ".join(f"`{name}` {count / stacks.total():.1%}" for name, count in innermost.most_common(LISTED))
        lines += ["", f"`{path}`, by function, without what it calls in Python: {costly}."]
    return lines


def sampled(seconds: int) -> dict[str, tuple[float, Stacks]]:
    """Each of our routes that is measured, by its path."""
    interpreter("bench-service")
    made = model()
    found = {}
    with running(ours(made)) as server:
        for one in (one for one in CONTESTANTS if one.server == "ours"):
            say(f"sampling {one.path}")
            found[one.path] = profile(server, one.path, bodies(one, made.asked), seconds)
    return found


if __name__ == "__main__":
    sys.exit(run(arguments(seconds=(8, "for each route")), report))
