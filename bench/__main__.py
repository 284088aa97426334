"""`make bench`: run every measurement and write `bench/results/`, with the machine that they were made on."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime

from bench.peer_environments import interpreter
from clients.git import Git
from scripts.services import ROOT

RESULTS = ROOT / "bench" / "results"
FILES: dict[str, tuple[str, dict[str, str]]] = {
    "pipeline": ("The pipeline, measured", {"The whole run": "bench.pipeline", "Features": "bench.features"}),
    "gate_speed": ("The gate's speed, measured", {"A verdict": "bench.gate_speed"}),
    "service": (
        "The service, measured",
        {
            "Requests a second": "bench.service",
            "Observations, memory, start": "bench.service_figures",
            "Where the time goes": "bench.service_profile",
        },
    ),
    "accuracy": (
        "The accuracy, measured",
        {
            "New York, 2013": "bench.accuracy new_york",
            "Another place: Greensboro": "bench.accuracy greensboro",
            "Another place and year: Ireland, 2016": "bench.accuracy ireland",
            "Faults of sensors": "bench.sensors",
        },
    ),
    "release": ("The release, measured", {"The image": "bench.image", "The whole release": "bench.release"}),
    "loop": (
        "Closing the loop, measured",
        {
            "A year under each policy": "bench.loop policies",
            "Other rules": "bench.loop rules",
            "From the change to the alert": "bench.loop changes",
            "From the alert to the new model": "bench.loop demo",
        },
    ),
}
"""By the name of the file that is written: its heading, and its sections with the module that measures each."""


def machine() -> str:
    """One line on where and when this was measured."""
    commit = Git(ROOT).text("rev-parse", "--short", "HEAD")
    cores = len(os.sched_getaffinity(0))
    versions = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {cores} cores"
    return f"Measured {datetime.now(UTC):%Y-%m-%d} at {commit}: {versions}. `make bench` makes it anew."


def section(title: str, command: str) -> str:
    print(f"{title} …", file=sys.stderr, flush=True)
    arguments = [sys.executable, "-m", *command.split()]
    if command == "bench.features":
        arguments += ["--peer", str(interpreter("bench"))]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as measuring:
        try:
            text, _ = measuring.communicate()
        except KeyboardInterrupt:
            measuring.wait()  # it gets the signal too, and ends what it started
            raise
    if measuring.returncode:
        raise SystemExit(f"{title}: `python -m {command}` ended with {measuring.returncode}; nothing is written.")
    return f"## {title}\n\n{text.strip()}\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", choices=FILES, help="measure and write this file alone")
    only = parser.parse_args().only
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in [only] if only else FILES:
        heading, sections = FILES[name]
        measured = [section(title, command) for title, command in sections.items()]
        path = RESULTS / f"{name}.md"
        path.write_text("\n".join([f"# {heading}", "", machine(), "", *measured]), encoding="utf-8")
        print(f"written: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
