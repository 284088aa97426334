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
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from bench.pipeline import RECORDING_ENDS
from bench.report_command import print_report
from clients.git import Git
from clients.progress import Log
from scripts.gate_demo import CHALLENGE, CHALLENGE_FILE, first_production
from scripts.github_team import Team, team
from scripts.services import ROOT, StackError, separate_stack
from scripts.stack import down, up

GOAL_SECONDS = 90.0
GOAL_OVERHEAD_SECONDS = 15.0


@dataclass(frozen=True)
class Verdict:
    """One gate: seconds in all, and those in which at least one task of its DAG run was at work."""

    seconds: float
    task_seconds: float

    @property
    def overhead(self) -> float:
        return self.seconds - self.task_seconds


def measure(runs: int) -> list[Verdict]:
    """That many pull requests, one after the other, against a production model that was made before."""
    with tempfile.TemporaryDirectory(prefix="rps-bench-") as scratch:
        home = Path(scratch)
        repository = Git(ROOT).clone(home / "repository.git", "--bare").directory
        stack = separate_stack(home / "stack", repository)
        try:
            up(stack)
            httpx.put(stack.addresses["RPS_CLOCK_URL"], json={"now": RECORDING_ENDS, "speed": 0.0}).raise_for_status()
            with team(home / "github", repository, stack.addresses) as here:
                here.make_branches(Git(ROOT).text("rev-parse", "HEAD"))
                first_production(here, stack, Log(sys.stderr, grouped=False))
                return [_judged(here, home, stack.addresses, number) for number in range(runs)]
        finally:
            down(stack)


def _judged(here: Team, home: Path, addresses: dict[str, str], number: int) -> Verdict:
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
    told = msgspec.json.decode((output / "verdict.json").read_bytes())
    return Verdict(took, float(told["task_seconds"]))


def report(measured: list[Verdict]) -> str:
    """The Markdown: medians over the pull requests, goals beside them."""
    lines = [
        f"`python -m ci gate` on {len(measured)} pull requests against a production model, one after the other, on the",
        "bundled year: from the start of the process to its end, the comment posted and the status set.",
        "",
        "| | seconds (median) | lowest | highest | goal |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, values, goal in (
        ("in all", [each.seconds for each in measured], f"≤ {GOAL_SECONDS:.0f}"),
        ("tasks of the DAG at work", [each.task_seconds for each in measured], ""),
        ("the rest: Airflow between tasks, the gate itself", [each.overhead for each in measured],
         f"≤ {GOAL_OVERHEAD_SECONDS:.0f}"),
    ):  # fmt: skip
        lines.append(f"| {name} | {statistics.median(values):.1f} | {min(values):.1f} | {max(values):.1f} | {goal} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(print_report("bench.gate_speed", __doc__, lambda runs: report(measure(runs))))
