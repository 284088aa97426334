"""How long a verdict takes, and how much of that is not the pipeline's own work.

On a stack of its own, the environments made: each pull request is judged by `python -m ci gate`, from the start of its
process to the end, the report posted and the status set. `python -m bench.gate_speed [--runs N]` prints Markdown.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.pipeline import recorded_stack
from bench.report import arguments, run, table
from clients.git import Git
from clients.progress import Log
from scripts.gate_demo import CHALLENGE, CHALLENGE_FILE, first_production
from scripts.github_team import Team, team
from scripts.services import ROOT, StackError

GOAL_SECONDS = 90.0
GOAL_OVERHEAD_SECONDS = 15.0


def measure(runs: int) -> Iterator[tuple[float, float]]:
    """Of pull requests, one after the other, against a production model that was made before.

    Seconds in all, and those in which at least one task of the DAG run was at work.
    """
    with tempfile.TemporaryDirectory(prefix="rps-bench-") as scratch:
        home = Path(scratch)
        repository = Git(ROOT).clone(home / "repository.git", "--bare").directory
        with (
            recorded_stack(home / "stack", repository) as stack,
            team(home / "github", repository, stack.addresses) as here,
        ):
            here.make_branches(Git(ROOT).text("rev-parse", "HEAD"))
            first_production(here, stack, Log(sys.stderr, grouped=False))
            for number in range(runs):
                yield _judged(here, home, stack.addresses, number)


def _judged(here: Team, home: Path, addresses: dict[str, str], number: int) -> tuple[float, float]:
    sha = here.commit("dev", f"Change {number}", {CHALLENGE_FILE: {"seed = ": f"seed = {number + 1}"}})
    pull = here.open_pull_request("dev", "test", f"Change {number}")["number"]
    checkout = Git(here.runner.repository).clone(home / f"checkout-{number}").directory
    output = home / f"out-{number}"
    command = [
        sys.executable, "-m", "ci", "gate", "--challenge", CHALLENGE, "--sha", sha, "--pull-request", str(pull),
        "--repository", str(checkout), "--output", str(output),
    ]  # fmt: skip
    environment = {**os.environ, **addresses, **here.environment}
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr, check=False)
    took = time.monotonic() - began
    if done.returncode not in {0, 1}:
        raise StackError(f"the gate gave no verdict (exit code {done.returncode}); its output is above")
    here.close(pull)
    judgement = msgspec.json.decode((output / "verdict.json").read_bytes())
    return took, float(judgement["task_seconds"])


def report(runs: int) -> list[str]:
    """Medians over the pull requests, goals beside them."""
    measured = list(measure(runs))
    figures = (
        ("in all", [whole for whole, _ in measured], f"≤ {GOAL_SECONDS:.0f}"),
        ("tasks of the DAG at work", [tasks for _, tasks in measured], ""),
        ("the rest: Airflow between tasks, the gate itself", [whole - tasks for whole, tasks in measured],
         f"≤ {GOAL_OVERHEAD_SECONDS:.0f}"),
    )  # fmt: skip
    rows = [
        (name, *(f"{each:.1f}" for each in (statistics.median(seconds), min(seconds), max(seconds))), goal)
        for name, seconds, goal in figures
    ]
    return [
        f"`python -m ci gate` on {len(measured)} pull requests against a production model, one after the other, on the",
        "bundled year: from the start of the process to its end, the comment posted and the status set.",
        "",
        *table("lrrrr", ("", "seconds (median)", "lowest", "highest", "goal"), rows),
    ]


if __name__ == "__main__":
    sys.exit(run(arguments(runs=(3, "how many")), report))
