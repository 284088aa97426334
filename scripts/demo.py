"""`make demo`: start the laptop stack, run one challenge's pipeline on a commit through Airflow, show what came out.

Everything that is shown comes from Airflow's and MLflow's APIs, so it is the same for a stack that is not on this
machine.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ci.dag_run import Airflow, DagRun, TaskState
from ci.errors import CiError
from ci.settings import airflow_settings
from scripts.outcome import Outcome, find_outcome
from scripts.services import ROOT, StackError, laptop_stack
from scripts.stack import up

DEADLINE_SECONDS = 1800.0
LOG_LINES = 15
SIGNS = {
    "success": "done",
    "failed": "FAILED",
    "upstream_failed": "not run",
    "running": "running",
    "skipped": "skipped",
}


def demo(console: Console, challenge: str, sha: str, as_of: str) -> int:
    """Run it all; the exit code. Raises StackError and CiError."""
    commit = _commit(console, sha)
    _require_challenge(commit, challenge)
    stack = laptop_stack()
    console.print("Laptop stack:")
    up(stack)
    began = time.monotonic()
    run_id = f"demo__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}__{secrets.token_hex(2)}"
    parameters = {"git_sha": commit, "run_id": run_id, "as_of": as_of, "reason": "demo"}
    run = Airflow(airflow_settings(stack.addresses)).start(f"retrain_{challenge}", run_id, parameters)
    console.print(f"\nAirflow runs {run.dag_id} on commit {commit[:12]}: {run.url}", soft_wrap=True)
    tasks = _follow_live(console, run) if console.is_terminal else _follow_plainly(console, run)
    took = time.monotonic() - began
    failed = [task for task in tasks if task.state == "failed"]
    for task in failed:
        console.print(f"\nThe task {task.name} failed; the end of its log:")
        for line in run.log(task)[-LOG_LINES:]:
            console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)
    if failed or any(task.state != "success" for task in tasks):
        console.print(f"\nThe run failed after {took:.0f} s: {run.url}", soft_wrap=True)
        return 1
    _show(console, run, tasks, find_outcome(stack.addresses, challenge, run_id), took)
    return 0


def _commit(console: Console, sha: str) -> str:
    commit = _git("rev-parse", "--verify", f"{sha}^{{commit}}")
    if _git("status", "--porcelain", "--", ":(top,exclude)dvc.lock"):
        console.print("Note: there are uncommitted changes; the run is of the commit, and they are not in it.\n")
    return commit


def _require_challenge(commit: str, challenge: str) -> None:
    files = _git("ls-tree", "--name-only", commit, "challenges/").split()
    known = [name.removeprefix("challenges/").removesuffix(".toml") for name in files]
    if challenge not in known:
        told = f"expected a challenge of commit {commit[:12]}, one of {', '.join(known) or 'none'}; found {challenge!r}"
        raise StackError(f"{told}. A run is of a commit: is the file committed?")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _follow_plainly(console: Console, run: DagRun) -> list[TaskState]:
    seen: dict[str, tuple[str, int]] = {}
    tasks: list[TaskState] = []
    for tasks in run.changes(DEADLINE_SECONDS):
        for task in tasks:
            if seen.get(task.name) != (task.state, task.attempt) and task.state in {*SIGNS, "up_for_retry"}:
                told = SIGNS.get(task.state, "will be tried again")
                seconds = f" in {task.seconds:.1f} s" if task.state in {"success", "failed"} else ""
                console.print(f"  {datetime.now(UTC):%H:%M:%S}  {task.name:<10} {told}{seconds}", highlight=False)
            seen[task.name] = (task.state, task.attempt)
    return tasks


def _follow_live(console: Console, run: DagRun) -> list[TaskState]:
    tasks: list[TaskState] = []
    with Live(console=console, refresh_per_second=4) as live:
        for tasks in run.changes(DEADLINE_SECONDS):
            live.update(_task_table(tasks), refresh=True)
    return tasks


def _task_table(tasks: Iterable[TaskState]) -> Table:
    styles = {"success": "green", "failed": "bold red", "running": "yellow", "up_for_retry": "magenta"}
    table = Table("task", "state", "seconds", box=None)
    for task in tasks:
        seconds = f"{task.seconds:.1f}" if task.state in {"success", "failed"} else ""
        style = styles.get(task.state, "dim")
        table.add_row(task.name, f"[{style}]{SIGNS.get(task.state, task.state.replace('_', ' '))}[/]", seconds)
    return table


def _show(console: Console, run: DagRun, tasks: list[TaskState], outcome: Outcome, took: float) -> None:
    console.print(f"\nErrors on the hold-out, {outcome.unit}:")
    scores = Table("steps ahead", "model", "RMSE", "MAE", "R²")
    for row in outcome.scores:
        scores.add_row(row.horizon, row.model, f"{row.rmse:.3f}", f"{row.mae:.3f}", f"{row.r2:.3f}")
    console.print(scores)
    for name, value in (
        ("rows in", f"{outcome.rows:,}"),
        ("violations", outcome.violations),
        ("features", str(outcome.features)),
        ("coverage", f"{outcome.coverage:.1%} of the 90 % intervals hold the truth"),
        ("dataset", f"{outcome.dataset_md5} (branch data/{outcome.challenge}, {outcome.dataset_rev[:12]})"),
        ("model", f"{outcome.challenge} version {outcome.model_version}, gate={outcome.gate}"),
        ("seconds", f"{took:.1f} in all"),
        ("per task", " · ".join(f"{task.name} {task.seconds:.1f}" for task in tasks)),
        ("Airflow run", run.url),
        ("MLflow run", outcome.run_url),
        ("profile", outcome.profile_url),
    ):
        console.print(f"{name:<12} {value}", highlight=False, markup=False, soft_wrap=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.demo", description=__doc__)
    parser.add_argument("--challenge", default=os.environ.get("CHALLENGE", "weather"), help="default: %(default)s")
    parser.add_argument("--sha", default=os.environ.get("SHA", "HEAD"), help="the commit to run (default: %(default)s)")
    parser.add_argument("--as-of", default="", help="use no observation after this moment (default: the source's now)")
    options = parser.parse_args()
    # A log keeps whole lines: the width of a terminal is no measure for it.
    console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else 160)
    try:
        return demo(console, options.challenge, options.sha, options.as_of)
    except (StackError, CiError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The run goes on in Airflow; 'make down' ends the stack.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
