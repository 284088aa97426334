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

from clients.git import Git
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
    commit = Git(ROOT).text("rev-parse", "--short", "HEAD")
    cores = len(os.sched_getaffinity(0))
    versions = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {cores} cores"
    return f"Measured {datetime.now(UTC):%Y-%m-%d} at {commit}: {versions}. `make bench` makes it anew."


def section(title: str, command: list[str | Path]) -> str:
    print(f"{title} …", file=sys.stderr, flush=True)
    arguments = [sys.executable, *command]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as measuring:
        try:
            told, _ = measuring.communicate()
        except KeyboardInterrupt:
            measuring.wait()  # it hears the same, and has to end what it started
            raise
    if measuring.returncode:
        raise subprocess.CalledProcessError(measuring.returncode, arguments)
    return f"## {title}\n\n{told.strip()}\n"


def pipeline_sections() -> list[str]:
    peer = peer_interpreter()
    return [
        section("The whole run", ["-m", "bench.pipeline"]),
        section("Features", ["-m", "bench.features", "--peer", peer]),
    ]


def gate_sections() -> list[str]:
    return [section("Error rates", ["-m", "bench.gate"]), section("Speed", ["-m", "bench.gate_speed"])]


def service_sections() -> list[str]:
    return [
        section("Requests a second", ["-m", "bench.service"]),
        section("Observations, memory, start", ["-m", "bench.service_figures"]),
        section("Where the time goes", ["-m", "bench.service_profile"]),
    ]


def loop_sections() -> list[str]:
    return [
        section("A year under each policy", ["-m", "bench.loop", "policies"]),
        section("Other rules", ["-m", "bench.loop", "rules"]),
        section("From the change to the alert", ["-m", "bench.loop", "changes"]),
        section("From the alert to the new model", ["-m", "bench.loop", "demo"]),
    ]


def release_sections() -> list[str]:
    return [section("The image", ["-m", "bench.image"]), section("The whole release", ["-m", "bench.release"])]


FILES: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "pipeline": ("The pipeline, measured", pipeline_sections),
    "gate": ("The gate, measured", gate_sections),
    "service": ("The service, measured", service_sections),
    "release": ("The release, measured", release_sections),
    "loop": ("Closing the loop, measured", loop_sections),
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
