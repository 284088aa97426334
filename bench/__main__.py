"""`make bench`: run every measurement and write `bench/results/`, with the machine that they were made on."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from scripts.services import ROOT

RESULTS = ROOT / "bench" / "results"
PEERS = ROOT / ".rps" / "envs" / "bench"


def peer_interpreter() -> Path:
    """An environment with the peers, made once from requirements/bench.txt."""
    python = PEERS / "bin" / "python"
    uv: list[str | Path] = [sys.executable, "-m", "uv"]
    subprocess.run(
        [*uv, "venv", "--quiet", "--no-project", "--allow-existing", "--python", sys.executable, PEERS], check=True
    )
    requirements: list[str | Path] = [
        "--require-hashes",
        "--compile-bytecode",
        "-r",
        ROOT / "requirements" / "bench.txt",
    ]
    subprocess.run([*uv, "pip", "install", "--quiet", "--no-config", "--python", python, *requirements], check=True)
    return python


def machine() -> str:
    """One line on where and when this was measured."""
    commit = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    cores = len(os.sched_getaffinity(0))
    versions = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {cores} cores"
    return f"Measured {datetime.now(UTC):%Y-%m-%d} at {commit.stdout.strip()}: {versions}. `make bench` makes it anew."


def section(title: str, command: list[str | Path]) -> str:
    print(f"{title} …", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return f"## {title}\n\n{done.stdout.strip()}\n"


def pipeline_sections() -> list[str]:
    peer = peer_interpreter()
    return [
        section("The whole run", ["-m", "bench.pipeline"]),
        section("Features", ["-m", "bench.features", "--peer", peer]),
    ]


def gate_sections() -> list[str]:
    return [section("Error rates", ["-m", "bench.gate"]), section("Speed", ["-m", "bench.gate_speed"])]


FILES: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "pipeline": ("The pipeline, measured", pipeline_sections),
    "gate": ("The gate, measured", gate_sections),
}
"""What is written: by the file's name, its heading, and what measures its sections."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", choices=FILES, help="measure and write this file alone")
    only = parser.parse_args().only
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in [only] if only else FILES:
        heading, measure = FILES[name]
        path = RESULTS / f"{name}.md"
        path.write_text("\n".join([f"# {heading}", "", machine(), "", *measure()]), encoding="utf-8")
        print(f"written: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
