"""`make bench`: run every measurement and write `bench/results/`, with the machine that they were made on."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
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


def main() -> int:
    argparse.ArgumentParser(prog="python -m bench", description=__doc__).parse_args()
    peer = peer_interpreter()
    sections = [
        section("The whole run", ["-m", "bench.pipeline"]),
        section("Features", ["-m", "bench.features", "--peer", peer]),
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "pipeline.md"
    path.write_text("\n".join(["# The pipeline, measured", "", machine(), "", *sections]), encoding="utf-8")
    print(f"written: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
