"""The whole DAG run on the bundled year: seconds in all and per stage, peak memory, and Airflow's own share.

On a laptop stack of its own, with the services running and the environment made: the first run makes it and is not
counted. `python -m bench.pipeline [--runs N]` prints a Markdown table.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import boto3

from bench.report import arguments, run, say, table
from ci.gate.evidence import fetch_evidence
from ci.gate.policy import commit_of
from clients.dag_run import Airflow, TaskState, busy_seconds
from clients.git import Git
from clients.settings import airflow_settings, mlflow_settings
from records.stages import dag_id
from scripts.services import ROOT, Stack, StackError, separate_stack, set_clock
from scripts.stack import down, up

DEADLINE_SECONDS = 900.0
GOAL_SECONDS = 60.0
GOAL_MEBIBYTES = 1024.0
RECORDING_ENDS = "2013-12-30T23:00:00Z"
DONE = re.compile(r"(?:done|carried) in [\d.]+ s, peak memory (\d+) MiB")


@dataclass(frozen=True)
class Measured:
    """One whole run: seconds from the trigger to the end as a caller of the API sees it, and its tasks."""

    seconds: float
    rows: int
    tasks: dict[str, TaskState]
    peaks: dict[str, float]

    @property
    def outside_tasks(self) -> float:
        """Seconds in which no task was at work: Airflow's own delays, and ours in asking."""
        return self.seconds - busy_seconds(self.tasks.values())


@contextlib.contextmanager
def recorded_stack(home: Path, repository: Path) -> Iterator[Stack]:
    """A laptop stack of its own, whose clock stands where the recording ends."""
    stack = separate_stack(home, repository)
    try:
        up(stack)
        set_clock(stack.replay or "", speed=0.0, now=RECORDING_ENDS)
        yield stack
    finally:
        down(stack)


def measure(runs: int) -> Iterator[Measured]:
    """That many runs, one after the other, after one that makes the environment. Each sees the whole year as new."""
    with tempfile.TemporaryDirectory(prefix="rps-bench-") as scratch:
        repository = Git(ROOT).clone(Path(scratch) / "repository").directory
        with recorded_stack(Path(scratch) / "home", repository) as stack:
            sha = commit_of(repository, "HEAD")
            _run(stack.addresses, sha, "warm-up")
            for number in range(runs):
                _forget(stack.addresses)
                yield _run(stack.addresses, sha, str(number))


def _forget(addresses: dict[str, str]) -> None:
    """Remove what earlier runs collected, so that the next one collects the whole year."""
    s3 = boto3.session.Session(
        aws_access_key_id=addresses["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=addresses["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    ).resource("s3", endpoint_url=addresses["AWS_ENDPOINT_URL"])
    bucket = s3.Bucket(addresses["RPS_STORE"].removeprefix("s3://"))
    for prefix in ("raw/", "history/"):
        bucket.objects.filter(Prefix=prefix).delete()


def _run(addresses: dict[str, str], sha: str, name: str) -> Measured:
    run_id = f"bench__{datetime.now(UTC):%H%M%S}__{name}"
    began = time.monotonic()
    started = Airflow(airflow_settings(addresses)).start(dag_id("weather"), run_id, {"git_sha": sha, "reason": "bench"})
    *_, tasks = started.changes(DEADLINE_SECONDS)
    took = time.monotonic() - began
    if any(task.state != "success" for task in tasks):
        failed = next(task for task in tasks if task.state == "failed")
        raise StackError(f"the task {failed.name} failed:\n" + "\n".join(started.log(failed)[-20:]))
    logs = {task.name: DONE.findall("\n".join(started.log(task))) for task in tasks}
    peaks = {name: max(map(float, found)) for name, found in logs.items() if found}
    data = fetch_evidence(mlflow_settings(addresses), "weather", run_id, sha).data
    say(f"{run_id}: {took:.1f} s")
    return Measured(took, data.rows, {task.name: task for task in tasks}, peaks)


def report(runs: int) -> list[str]:
    """Medians over the runs, goals beside them."""
    measured = list(measure(runs))
    seconds = [each.seconds for each in measured]
    outside = statistics.median(each.outside_tasks for each in measured)
    spread = f"lowest {min(seconds):.1f}, highest {max(seconds):.1f}; goal {GOAL_SECONDS:.0f}"
    tasks = measured[0].tasks
    rows = []
    for name in sorted(tasks, key=lambda name: tasks[name].started or datetime.max.replace(tzinfo=UTC)):
        median = statistics.median(each.tasks[name].seconds for each in measured)
        peaks = [each.peaks[name] for each in measured if name in each.peaks]
        rows.append((name, f"{median:.1f}", f"{max(peaks):.0f}" if peaks else "–"))
    return [
        f"The DAG `retrain_weather` on {measured[0].rows:,} rows, all of them new to each of {len(measured)} runs, the",
        f"folds included, the services running, the environment made: median {statistics.median(seconds):.1f} s from",
        f"the trigger to the end ({spread}),",
        f"in {outside:.1f} s of which no task was at work.",
        "",
        *table("lrr", ("stage", "seconds (median)", f"peak memory, MiB (highest; goal {GOAL_MEBIBYTES:.0f})"), rows),
    ]


if __name__ == "__main__":
    sys.exit(run(arguments(runs=(3, "how many")), report))
