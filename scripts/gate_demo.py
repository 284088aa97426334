"""`make gate-demo`: three pull requests into test, judged by the real workflow: a better model, a worse one, bad data.

Airflow, MLflow and S3 are real, on ports of their own; act runs `model-gate.yml` as it is; GitHub is the double.
All of it ends with the demo. State and logs stay in `.rps/gate-demo/`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import httpx
import msgspec
from filelock import FileLock, Timeout
from rich.console import Console
from rich.markdown import Markdown
from rich.panel import Panel
from rich.table import Table

from clients.dag_run import Airflow
from clients.errors import RpsError
from clients.git import Git
from clients.progress import Log
from clients.settings import airflow_settings
from records.mlflow_names import PRODUCTION, VersionTag
from records.stages import dag_id
from scripts.github_actions import Outcome
from scripts.github_team import Team, team
from scripts.services import ROOT, Stack, StackError, separate_stack
from scripts.stack import down, up

CHALLENGE = "weather"
CHALLENGE_FILE = f"challenges/{CHALLENGE}.toml"
RUN_SECONDS = 900.0
WEAK_START = {CHALLENGE_FILE: {"max_iter = 100": "max_iter = 20"}}
"""What production starts from: so few trees that there is something to gain."""


@dataclass(frozen=True)
class Proposal:
    """A pull request of the demo, and the status that its model must get."""

    title: str
    body: str
    changes: Mapping[str, Mapping[str, str]]
    """In each file, texts replaced by others."""
    expected: str
    fault: Mapping[str, object] | None = None
    """What goes wrong at the data's source meanwhile."""


BETTER = Proposal(
    title="Grow more trees",
    body="Twenty trees were too few.",
    changes={CHALLENGE_FILE: {"max_iter = 20": "max_iter = 100"}},
    expected="success",
)
WORSE = Proposal(
    title="Tidy up the features",
    body="Fewer features are simpler; but the hour of the day has got lost among them, and the latest temperatures.",
    changes={
        CHALLENGE_FILE: {
            'calendar = ["hour_of_day", "day_of_year"]': 'calendar = ["day_of_year"]',
            "steps = [0, 1, 2, 3, 6, 12, 18, 19, 20, 21, 24, 42, 43, 44, 48]": "steps = [48]",
            "windows = [3, 6, 12, 24]": "windows = [24]",
            "steps = [1, 3, 6, 24]": "steps = [24]",
        }
    },
    expected="failure",
)
BAD_DATA = Proposal(
    title="Say what a comment meant",
    body="No model changes, but two days of the source's answers are empty.",
    changes={CHALLENGE_FILE: {"# Every time is UTC.": "# Every time in this file is UTC."}},
    expected="error",
    fault={"kind": "null_burst", "hours": 48},
)


@dataclass(frozen=True)
class Judged:
    """A proposal's pull request, once its workflows have run."""

    number: int
    sha: str
    statuses: Mapping[str, Mapping[str, str]]
    comments: tuple[str, ...]
    workflow: Outcome
    """Of the gate."""

    @property
    def state(self) -> str:
        return self.statuses["model-gate"]["state"] if "model-gate" in self.statuses else "missing"

    @property
    def task_seconds(self) -> float:
        """How much of the gate's time the pipeline's tasks were at work."""
        verdict = self.workflow.artifacts / f"gate-{CHALLENGE}" / "verdict.json"
        return float(msgspec.json.decode(verdict.read_bytes())["task_seconds"]) if verdict.exists() else 0.0


def first_production(here: Team, stack: Stack, log: Log) -> str:
    """Train the first model on `test` and make it production, as a release would; its version in the registry."""
    sha = here.head("test")
    run_id = f"first__{sha[:12]}"
    run = Airflow(airflow_settings(stack.addresses), note=log.line).start(
        dag_id(CHALLENGE), run_id, {"git_sha": sha, "reason": "first model"}
    )
    for tasks in run.changes(RUN_SECONDS):
        log.tasks(f"the DAG run {run_id}", tasks)
    if run.state != "success":
        raise StackError(f"the first model was not made: {run.url} is {run.state}")
    return release(stack, sha)


def release(stack: Stack, sha: str) -> str:
    """Point the alias `production` at the newest version made from a commit; the version."""
    from mlflow.tracking import MlflowClient

    address = stack.addresses["MLFLOW_TRACKING_URI"]
    client = MlflowClient(tracking_uri=address, registry_uri=address)
    versions = client.search_model_versions(f"name = '{CHALLENGE}' and tags.{VersionTag.GIT_SHA} = '{sha}'")
    if not versions:
        raise StackError(f"MLflow at {address} has no version of {CHALLENGE} from commit {sha}")
    newest = max(versions, key=lambda version: int(version.version))
    client.set_registered_model_alias(CHALLENGE, PRODUCTION, newest.version)
    return str(newest.version)


def propose(here: Team, proposal: Proposal) -> int:
    """Commit to dev, and open the pull request into test; its number."""
    here.commit("dev", proposal.title, proposal.changes)
    number: int = here.open_pull_request("dev", "test", proposal.title, proposal.body)["number"]
    return number


def judge(here: Team, number: int, on_line: Callable[[str, str], None] = lambda _job, _line: None) -> Judged:
    """Run the workflows that the pull request starts."""
    pull = here.pull_request(number)
    outcomes = here.run_workflows(pull, on_line=on_line)
    comments = tuple(comment["body"] for comment in here.comments(number))
    sha = pull["head"]["sha"]
    return Judged(number, sha, here.statuses(sha), comments, outcomes["model-gate.yml"])


def settle(here: Team, number: int) -> str:
    """Approve and try to merge; if GitHub refuses, close it and take its commit back: why, or empty when merged."""
    here.approve(number)
    held = here.merge(number)
    if held:
        here.close(number)
        here.take_back("dev")
    return held


@contextlib.contextmanager
def source_fault(stack: Stack, fault: Mapping[str, object] | None) -> Iterator[None]:
    """The data's source has this fault while the block runs."""
    url = f"{stack.addresses['OPEN_METEO_URL']}/replay/faults"
    if fault is None:
        yield
        return
    httpx.put(url, json=dict(fault), timeout=10.0).raise_for_status()
    try:
        yield
    finally:
        httpx.delete(url, timeout=10.0).raise_for_status()


def demo(console: Console, home: Path) -> int:
    """All three; 0 when each got the status that it must get. Raises RpsError."""
    began = time.monotonic()
    stack, repository = fresh(home)
    log = Log(sys.stdout, grouped=False)
    judged: list[tuple[Proposal, Judged, str]] = []
    try:
        console.rule("The stack")
        up(stack)
        with team(home / "github", repository, stack.addresses, tools=home.parent / "tools") as here:
            start_branches(console, here, WEAK_START)
            console.rule("The first model in production")
            version = first_production(here, stack, log)
            console.print(f"{CHALLENGE} version {version}, of few trees, is in production.", highlight=False)
            for proposal in (BETTER, WORSE, BAD_DATA):
                console.rule(f"Pull request: {proposal.title}")
                console.print(f"[dim]{proposal.body}[/]", highlight=False)
                number = propose(here, proposal)
                with source_fault(stack, proposal.fault):
                    outcome = judge(here, number, lambda job, line: print_line(console, job, line))
                held = settle(here, number)
                judged.append((proposal, outcome, held))
                _show(console, outcome, held)
                if not held:
                    version = release(stack, outcome.sha)
                    console.print(f"The release makes version {version} production (here: its alias is moved).\n")
    finally:
        console.rule("The end")
        down(stack)
    _summarise(console, judged)
    wrong = [proposal for proposal, outcome, _ in judged if outcome.state != proposal.expected]
    for proposal in wrong:
        console.print(f"Not as it must be: {proposal.title!r} was to end in {proposal.expected}.")
    console.print(f"{time.monotonic() - began:.0f} s in all. Logs and artifacts stay in {home}.", soft_wrap=True)
    return 1 if wrong else 0


def fresh(home: Path) -> tuple[Stack, Path]:
    """A stack and a Git repository without a past; environments that were made once are kept."""
    stack = separate_stack(home / "stack", home / "repository.git")
    down(stack)  # what an earlier demo that was killed has left
    for path in (home / "stack", home / "repository.git", home / "github" / "runs", home / "github" / "work"):
        shutil.rmtree(path, ignore_errors=True)
    stack.home.mkdir(mode=0o700)
    environments = home.parent / "envs"
    environments.mkdir(exist_ok=True)
    (stack.home / "envs").symlink_to(environments)
    repository = home / "repository.git"
    Git(home).text("init", "--quiet", "--bare", "--initial-branch=master", repository.name)
    Git(repository).text("fetch", "--quiet", "--update-shallow", str(ROOT), "HEAD:refs/heads/master")
    return stack, repository


def start_branches(console: Console, here: Team, changes: Mapping[str, Mapping[str, str]]) -> None:
    """dev, test and master at one commit, changed so from the checkout's, under the rules of `.github/rulesets`."""
    console.rule("The repository on GitHub")
    here.make_branches(here.head("master"))
    if changes:
        here.make_branches(here.commit("dev", "Start small", changes))
    command = [sys.executable, "-m", "ci", "rules", "apply"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **here.environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise StackError(f"python -m ci rules apply: {done.stdout}{done.stderr}")
    console.print(done.stdout.strip(), highlight=False)


def print_line(console: Console, job: str, line: str) -> None:
    console.print(f"  [dim]{job:<14}[/] ", end="")
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _show(console: Console, outcome: Judged, held: str) -> None:
    for comment in outcome.comments:
        console.print(Panel(Markdown(comment), title=f"The comment on #{outcome.number}", width=_width(console)))
    table = Table("status", "state", "description", box=None)
    for context, status in sorted(outcome.statuses.items()):
        table.add_row(context, _coloured(status["state"]), status["description"] or "")
    console.print(table)
    if held:
        console.print(f"\nGitHub does not merge #{outcome.number}:")
        for line in filter(None, held.splitlines()):
            console.print(f"  {line}", markup=False, highlight=False)
    else:
        console.print(f"\nGitHub has merged #{outcome.number} into test.")


def _summarise(console: Console, judged: list[tuple[Proposal, Judged, str]]) -> None:
    table = Table("#", "pull request", "model-gate", "why", "merge", "seconds", "of them pipeline")
    for proposal, outcome, held in judged:
        why = outcome.statuses.get("model-gate", {}).get("description", "")
        merge = "refused" if held else "merged"
        seconds = f"{outcome.workflow.seconds:.0f}", f"{outcome.task_seconds:.0f}"
        table.add_row(str(outcome.number), proposal.title, _coloured(outcome.state), why, merge, *seconds)
    console.print(table)


def _coloured(state: str) -> str:
    colour = {"success": "green", "failure": "red", "error": "red", "pending": "yellow"}.get(state, "yellow")
    return f"[{colour}]{state}[/]"


def _width(console: Console) -> int:
    return min(console.width, 120)


def run_alone(name: str, demo: Callable[[Console, Path], int]) -> int:
    """Run a demo in a folder of its own name below `.rps`, unless one is at work there; its exit code.

    SIGTERM ends it as SIGINT does: what it has started is ended.
    """
    home = Path(os.environ.get("RPS_HOME") or ROOT / ".rps").resolve() / name
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    signal.signal(signal.SIGTERM, _interrupt)
    # A log keeps whole lines: the width of a terminal is no measure for it.
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        with FileLock(home / "demo.lock", timeout=0):
            return demo(console, home)
    except Timeout:
        print(f"{name}: another one is running in {home}", file=sys.stderr)
        return 1
    except RpsError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; what was started has been ended.", file=sys.stderr)
        return 130


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run_alone("gate-demo", demo))
