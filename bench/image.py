"""The service's image: its size above its base and what that is made of, and how long its build takes.

On an engine (see `scripts.docker_engine`), with the benchmarks' bundle and the last commit.
`python -m bench.image [--runs N]` prints Markdown.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench.report import arguments, met, run, table
from bench.service_model import model
from clients.git import Git
from doubles.release_image import Building, Source, made_building
from scripts.base_image import base_image
from scripts.docker_engine import client, engine
from scripts.services import ROOT

GOAL_MEGABYTES = 150.0
LISTED = 8
"""The largest distributions, by name; the others are one line."""
TAG = "rps-bench/image:bench"
ENGINE = ROOT / ".rps" / "bench" / "engine"
_MEGABYTE = 1e6
_OURS = "the service and the domain, with byte code"
_BUNDLE = "the bundle"
_BYTE_CODE = "byte code of the distributions and of what is loaded of the standard library"
_REST = "the licence, the list of wheels, the time"
_PARTS = {"service": _OURS, "forecasting": _OURS, "bundle": _BUNDLE, "packages": _BYTE_CODE, "pycache": _BYTE_CODE}
"""By folder in the image."""
_WEIGH = """
import json, os, sys
found = {}
for folder, _, names in os.walk("/app"):
    for name in names:
        path = os.path.join(folder, name)
        found[path] = os.lstat(path).st_size
print(json.dumps(found))
"""


@contextlib.contextmanager
def bench_engine() -> Iterator[str]:
    """The address of an engine of its own, whose images are removed with it."""
    with contextlib.ExitStack() as held:
        held.callback(shutil.rmtree, ENGINE / "data", ignore_errors=True)
        yield held.enter_context(engine(ENGINE))


@contextlib.contextmanager
def building() -> Iterator[Building]:
    """An engine with the base, and a clone of this repository that may be changed."""
    with contextlib.ExitStack() as held:
        address = held.enter_context(bench_engine())
        base = base_image(address)
        found = held.enter_context(contextlib.closing(client(address, timeout_seconds=600)))
        scratch = held.enter_context(tempfile.TemporaryDirectory(prefix="rps-bench-"))
        source = Source(Git(ROOT).clone(Path(scratch) / "repository").directory)
        yield made_building(found, base, model().bundle, source, TAG)


def change(made: Building) -> None:
    """A commit that changes a line of the service."""
    path = "service/__init__.py"
    made.source = Source(made.source.repository, datetime.now(UTC).isoformat(timespec="seconds"))
    text = (made.source.repository / path).read_text(encoding="utf-8")
    made.source.commit({path: f"{text}# {time.time_ns()}\n"})


def size_section(made: Building) -> list[str]:
    """What the image holds above its base."""
    made.build()
    below = made.client.images.get(made.base.id).attrs["Size"] / _MEGABYTE
    above = made.client.images.get(TAG).attrs["Size"] / _MEGABYTE - below
    weighed = made.client.containers.run(
        TAG, ["-S", "-c", _WEIGH], entrypoint=["python3"], remove=True, network_mode="none"
    )
    sizes = _grouped(msgspec.json.decode(weighed, type=dict[str, int]))
    return [
        f"The image is {above:.1f} MB above its base ({made.base.name}, {below:.0f} MB), the bundle and byte code",
        f"for all that is loaded included; goal ≤ {GOAL_MEGABYTES:.0f} MB: {met(well=above <= GOAL_MEGABYTES)}.",
        "",
        *table("lr", ("what is in it", "MB"), ((name, f"{size / _MEGABYTE:.1f}") for name, size in sizes)),
    ]


def _grouped(sizes: dict[str, int]) -> list[tuple[str, float]]:
    """By part, the bytes of the files that the image adds: the packages, largest first, then the others.

    sizes: by path.
    """
    packages: dict[str, float] = {}
    parts = dict.fromkeys((_OURS, _BUNDLE, _BYTE_CODE, _REST), 0.0)
    for path, size in sizes.items():
        place = path.removeprefix("/app/").removeprefix("pycache/app/").split("/")
        if place[0] == "packages" and not path.startswith("/app/pycache/"):
            name = place[1].split("-")[0].removesuffix(".libs").removesuffix(".py")
            packages[name] = packages.get(name, 0) + size
            continue
        parts[_PARTS.get(place[0], _REST)] += size
    largest = sorted(packages.items(), key=lambda each: -each[1])
    rest = ("other distributions", sum(size for _, size in largest[LISTED:]))
    return [*largest[:LISTED], rest, *parts.items()]


def build_section(made: Building, runs: int) -> list[str]:
    """Seconds of a build, by what is there before it."""
    patches = iter(range(1, 1_000_000))
    builds: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "cold: the base alone, every package fetched": (lambda: None, lambda: made.build(cached=False)),
        "warm, another commit of the service": (lambda: change(made), made.build),
        "warm, another version number": (lambda: None, lambda: made.build(patch=next(patches))),
        "the same again: found": (made.build, made.build),
    }
    rows = []
    for name, (prepare, build) in builds.items():
        seconds = []
        for _ in range(runs):
            prepare()
            seconds.append(seconds_of(build))
        rows.append((name, f"{statistics.median(seconds):.2f} ({min(seconds):.2f} – {max(seconds):.2f})"))
    return [
        f"Seconds from the call to the tagged image, by `ci.release.build`; median of {runs} (lowest – highest).",
        "",
        *table("lr", ("build", "seconds"), rows),
    ]


def seconds_of(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def report(runs: int) -> list[str]:
    with building() as made:
        return [*size_section(made), "", *build_section(made, runs)]


if __name__ == "__main__":
    sys.exit(run(arguments(runs=(3, "how often each is built")), report))
