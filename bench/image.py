"""The service's image: its size above its base and what that is made of, and how long its build takes.

On an engine (see `scripts.docker_engine`), with the benchmarks' bundle and the last commit.
`python -m bench.image [--runs N]` prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import msgspec

from bench.service_model import model
from ci.errors import CiError
from ci.progress import Log
from ci.release.context import Context, read_context
from ci.release.image import Base, Built, build, find_base, labels
from ci.release.plan import ModelVersion, Number, Plan
from scripts.base_image import base_image
from scripts.docker_engine import client, engine
from scripts.services import ROOT, StackError

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
_WEIGH = """
import json, os, sys
found = {}
for folder, _, names in os.walk("/app"):
    for name in names:
        path = os.path.join(folder, name)
        found[path] = os.lstat(path).st_size
print(json.dumps(found))
"""


@dataclass
class Bench:
    """Builds of one bundle from commits of one repository."""

    engine: docker.DockerClient
    base: Base
    repository: Path
    bundle: Path

    def build(self, *, cached: bool = True, patch: int = 0) -> Built:
        """Of the repository's last commit."""
        context = self.context
        quiet = Log(io.StringIO(), grouped=False)
        named = labels(_plan(context.sha, patch), context, self.base, "")
        return build(
            self.engine,
            context,
            tag=TAG,
            labels=named,
            base=self.base,
            log=quiet,
            network=os.environ.get("RPS_BUILD_NETWORK", "host"),
            cached=cached,
        )

    @property
    def context(self) -> Context:
        return read_context(self.repository, _git(self.repository, "rev-parse", "HEAD"), self.bundle)

    def change(self) -> None:
        """A commit that changes a line of the service."""
        with (self.repository / "service" / "__init__.py").open("a", encoding="utf-8") as file:
            file.write(f"# {time.time_ns()}\n")
        _git(self.repository, "commit", "--quiet", "--all", "--message", "Change a line")


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """An engine with the base, and a clone of this repository that may be changed."""
    with contextlib.ExitStack() as held:
        address = held.enter_context(engine(ENGINE))
        name = base_image(address)
        found = held.enter_context(contextlib.closing(client(address, timeout_seconds=600)))
        repository = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="rps-bench-"))) / "repository"
        subprocess.run(["git", "clone", "--quiet", ROOT, repository], check=True)
        base = find_base(found, name, Log(io.StringIO(), grouped=False))
        yield Bench(found, base, repository, model().bundle)


def size_section(bench: Bench) -> list[str]:
    """What the image holds above its base."""
    bench.build()
    below = bench.engine.images.get(bench.base.id).attrs["Size"] / _MEGABYTE
    above = bench.engine.images.get(TAG).attrs["Size"] / _MEGABYTE - below
    sizes = weighed(bench.engine)
    told = "met" if above <= GOAL_MEGABYTES else "not met"
    rows = [f"| {name} | {size / _MEGABYTE:.1f} |" for name, size in _grouped(sizes)]
    return [
        f"The image is {above:.1f} MB above its base ({bench.base.name}, {below:.0f} MB), the bundle and byte code",
        f"for all that is loaded included; goal ≤ {GOAL_MEGABYTES:.0f} MB: {told}.",
        "",
        "| what is in it | MB |",
        "| --- | ---: |",
        *rows,
    ]


def weighed(engine: docker.DockerClient) -> dict[str, int]:
    """Bytes of each file that the image adds, by its path."""
    told = engine.containers.run(TAG, ["-S", "-c", _WEIGH], entrypoint=["python3"], remove=True, network_mode="none")
    return msgspec.json.decode(told, type=dict[str, int])


def _grouped(sizes: dict[str, int]) -> list[tuple[str, float]]:
    """Largest first within the packages; then byte code, the service, the bundle."""
    packages: dict[str, float] = {}
    parts = dict.fromkeys((_OURS, _BUNDLE, _BYTE_CODE, _REST), 0.0)
    for path, size in sizes.items():
        place = path.removeprefix("/app/").removeprefix("pycache/app/").split("/")
        if place[0] == "packages" and not path.startswith("/app/pycache/"):
            name = place[1].split("-")[0].removesuffix(".libs").removesuffix(".py")
            packages[name] = packages.get(name, 0) + size
            continue
        part = {
            "service": _OURS,
            "forecasting": _OURS,
            "bundle": _BUNDLE,
            "packages": _BYTE_CODE,
            "pycache": _BYTE_CODE,
        }
        parts[part.get(place[0], _REST)] += size
    largest = sorted(packages.items(), key=lambda each: -each[1])
    rest = ("other distributions", sum(size for _, size in largest[LISTED:]))
    return [*largest[:LISTED], rest, *parts.items()]


def build_section(bench: Bench, runs: int) -> list[str]:
    """Seconds of a build, by what is there before it."""
    patches = iter(range(1, 1_000_000))
    measured = {
        "cold: the base alone, every package fetched": _timed(runs, lambda: bench.build(cached=False)),
        "warm, another commit of the service": _timed(runs, bench.build, before=bench.change),
        "warm, another version number": _timed(runs, lambda: bench.build(patch=next(patches))),
        "the same again: found": _timed(runs, bench.build, before=bench.build),
    }
    rows = [f"| {name} | {_told(seconds)} |" for name, seconds in measured.items()]
    return [
        f"Seconds from the call to the tagged image, by `ci.release.image`; median of {runs} (lowest – highest).",
        "",
        "| build | seconds |",
        "| --- | ---: |",
        *rows,
    ]


def _timed(runs: int, call: Callable[[], Built], before: Callable[[], object] = lambda: None) -> list[float]:
    seconds = []
    for _ in range(runs):
        before()
        began = time.monotonic()
        call()
        seconds.append(time.monotonic() - began)
    return seconds


def _told(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} – {max(seconds):.2f})"


def _plan(sha: str, patch: int) -> Plan:
    made = ModelVersion(
        name="weather", version=1, gate="passed", git_sha=sha, run_id="bench", mlflow_run="0" * 32, source="bench",
        metrics={}, tags={},
    )  # fmt: skip
    return Plan(challenge="weather", title="Bench", number=Number(0, 0, patch), sha=sha, model=made, withdraws=None)


def _git(repository: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@rps.example"]
    command = ["git", "-C", str(repository), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="builds of each kind (default: %(default)s)")
    options = parser.parse_args()
    try:
        with bench() as made:
            print("\n".join([*size_section(made), "", *build_section(made, options.runs)]))
    except (StackError, CiError) as error:
        print(f"bench.image: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(ENGINE / "data", ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
