"""Where the time of a request goes, by part of the service: stacks sampled while wrk asks, each counted to one part.

`python -m bench.service_profile [--seconds S]` prints Markdown. A sample belongs to the innermost of its frames that
is told by name below; what C code does belongs to the Python function that calls it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.service import CONTESTANTS, bodies
from bench.service_model import CACHE, Model, model
from bench.service_servers import BenchError, Running, end_on_signal, interpreter, ours, running, say, wrk

RATE = 250
SECONDS = 8
LEAD_SECONDS = 2
TOLD = 12
OTHER = "anything else"
PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "trees",
        ("score (service/model/served.py", "(forecasting/models/quick_scorer.py", "(forecasting/models/trees.py"),
    ),
    (
        "features",
        (
            "row_at (service/model/served.py",
            "<origin_reader>",
            "(forecasting/",
            "missing_steps (service/model/served.py",
        ),
    ),
    (
        "body decode and checks",
        (
            "(service/protocols/observation_bodies.py",
            "decode (service/",
            "_decode_quick (service/",
            "_requested (service/",
        ),
    ),
    ("drift and metrics", ("(service/watch/monitor.py", "(forecasting/drift/distances.py")),
    (
        "answer encode",
        ("encode (service/", "forecasts (service/model/served.py", "unusual_inputs (service/model/served.py"),
    ),
    (
        "writing the answer to the socket, its headers included",
        ("(service/write_batching.py", "send (uvicorn/protocols/"),
    ),
    ("the service's routes and middleware", ("(service/",)),
    ("Litestar", ("(litestar/",)),
    ("uvicorn", ("(uvicorn/protocols/", "(uvicorn/middleware/")),
    ("event loop, reading sockets (uvloop)", ("(asyncio/", "(uvicorn/", "(uvloop/")),
)
"""By part, what its frames hold: `function (file:line)`. The first that fits a frame counts."""
_FRAME = re.compile(r";(?![^(]*\))")


def profile(server: Running, path: str, file: Path, seconds: int) -> tuple[float, Counter[tuple[str, ...]]]:
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
        raise BenchError(f"py-spy cannot sample {server.server.name}; it said:\n{done.stdout}{done.stderr}")
    return figures.per_second, _main_thread(samples.read_text(encoding="utf-8").splitlines())


def _main_thread(lines: Iterable[str]) -> Counter[tuple[str, ...]]:
    stacks: Counter[tuple[str, ...]] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = tuple(_FRAME.split(stack))
        if not any(frame.startswith("Thread._bootstrap") for frame in frames):
            stacks[frames] += int(count)
    return stacks


def by_part(stacks: Counter[tuple[str, ...]]) -> Counter[str]:
    """How many samples each part has."""
    found: Counter[str] = Counter()
    for frames, count in stacks.items():
        found[next(_parts(frames), OTHER)] += count
    return found


def _parts(frames: tuple[str, ...]) -> Iterator[str]:
    for frame in reversed(frames):
        for part, marks in PARTS:
            if any(mark in frame for mark in marks):
                yield part


def report(profiles: dict[str, tuple[float, Counter[tuple[str, ...]]]], seconds: int) -> str:
    """The Markdown: parts by route, and the functions that cost most by themselves."""
    parts = {path: by_part(stacks) for path, (_, stacks) in profiles.items()}
    lines = [
        f"py-spy, {RATE} samples a second for {seconds} s while `wrk -t1 -c8` asks; a sample counts for the innermost",
        "function that is one of ours or of the framework's, C code for the function that called it. Microseconds are",
        "the share of the time that passes between two answers.",
        "",
        "| part | " + " | ".join(f"`{path}` | µs" for path in profiles) + " |",
        "| --- |" + " ---: |" * (2 * len(profiles)),
    ]
    for part in (*(name for name, _ in PARTS), OTHER):
        cells = []
        for path, (per_second, _) in profiles.items():
            share = parts[path][part] / max(parts[path].total(), 1)
            cells.append(f"{share:.1%} | {share * 1e6 / per_second:.1f}")
        lines.append(f"| {part} | {' | '.join(cells)} |")
    for path, (_, stacks) in profiles.items():
        innermost: Counter[str] = Counter()
        for frames, count in stacks.items():
            innermost[re.sub(r":\d+\)$", ")", frames[-1])] += count
        told = ", ".join(f"`{name}` {count / stacks.total():.1%}" for name, count in innermost.most_common(TOLD))
        lines += ["", f"`{path}`, by function, without what it calls in Python: {told}."]
    return "\n".join(lines)


def sampled(model: Model, seconds: int) -> dict[str, tuple[float, Counter[tuple[str, ...]]]]:
    """Each of our routes that is measured, by its path."""
    interpreter("bench-service")
    found = {}
    with running(ours(model)) as server:
        for one in (one for one in CONTESTANTS if one.server == "ours"):
            say(f"sampling {one.path}")
            found[one.path] = profile(server, one.path, bodies(one, model.asked), seconds)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.service_profile", description=__doc__)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for each route (default: %(default)s)")
    options = parser.parse_args()
    end_on_signal()
    try:
        print(report(sampled(model(), options.seconds), options.seconds))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
