"""`make gate-demo`: three pull requests into test, judged by the real workflow: a better model, a worse one, bad data.

Airflow, MLflow and S3 are real, on ports of their own; act runs `model-gate.yml` as it is; GitHub is the double.
All of them end with the demo. State and logs stay in `.rps/gate-demo/`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from clients.dag_run import Airflow
from clients.git import Git
from clients.progress import Log
from clients.settings import airflow_settings
from records.mlflow_names import PRODUCTION, VersionTag
from records.stages import dag_id
from scripts.demo_frame import print_document, print_line, run_alone
from scripts.github_actions import Outcome
from scripts.github_team import Team, team
from scripts.services import ROOT, Stack, StackError, output_of, separate_stack, set_clock
from scripts.stack import down, up

CHALLENGE = "weather"
CHALLENGE_FILE = f"challenges/{CHALLENGE}.toml"
RUN_SECONDS = 900.0
WEAK_START = {CHALLENGE_FILE: {"max_iter = 100": "max_iter = 50", "count = 12": "count = 4"}}
"""What production starts from: so few trees that there is something to gain, and not so few that the baseline is better
or the gate finds the better model's predictions too slow. Four folds tell the three proposals apart, in a third of the
time of twelve."""


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
    body="Fifty trees were too few.",
    changes={CHALLENGE_FILE: {"max_iter = 50": "max_iter = 100"}},
    expected="success",
)
WORSE = Proposal(
    title="Tidy up the features",
    body="Fewer features are simpler; but the hour of the day has got lost among them, and the latest temperatures.",
    changes={
        CHALLENGE_FILE: {
            'calendar = ["hour_of_day", "day_of_year"]': 'calendar = ["day_of_year"]',
            'products = ["hour_of_day"]': "products = []",
            'variable = "temperature"\nsteps = [0]': 'variable = "temperature"\nsteps = [48]',
            'statistics = ["mean", "min", "max"]\nrelative = true': 'statistics = ["mean"]',
            "steps = [1, 2, 3, 6, 19, 20, 24]": "steps = [24]",
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


def demo(console: Console, home: Path) -> list[str]:
    """All three; which did not get the status that they must get. Raises RpsError."""
    judged: list[tuple[Proposal, Judged, str]] = []
    with stack_and_team(console, home, WEAK_START) as (stack, here):
        console.rule("The first model in production")
        version = first_production(here, stack, Log(sys.stdout, grouped=False))
        console.print(f"{CHALLENGE} version {version}, of few trees, is in production.", highlight=False)
        for proposal in (BETTER, WORSE, BAD_DATA):
            console.rule(f"Pull request: {proposal.title}")
            console.print(f"[dim]{proposal.body}[/]", highlight=False)
            number = propose(here, proposal)
            with source_fault(stack, proposal.fault):
                outcome = judge(here, number, partial(print_line, console))
            held = settle(here, number)
            judged.append((proposal, outcome, held))
            _show(console, outcome, held)
            if not held:
                version = release(stack, outcome.sha)
                console.print(f"The release makes version {version} production (here: its alias is moved).\n")
    _summarise(console, judged)
    return [
        f"{proposal.title!r} was to end in {proposal.expected}."
        for proposal, outcome, _ in judged
        if outcome.state != proposal.expected
    ]


@contextlib.contextmanager
def stack_and_team(
    console: Console,
    home: Path,
    changes: Mapping[str, Mapping[str, str]],
    *,
    settings: Mapping[str, str] | None = None,
    clock: str = "",
) -> Iterator[tuple[Stack, Team]]:
    """A stack, and a team whose dev, test and master are at one commit, until the block ends.

    changes: of that commit to the checkout's; settings: further ones of the team's repository; clock: the data's time,
    which then stands still; else it runs. Raises StackError.
    """
    console.rule("The stack")
    stack, repository = _fresh(home)
    try:
        up(stack)
        if clock:
            set_clock(stack.replay or "", speed=0.0, now=clock)
        addresses = {**stack.addresses, **(settings or {})}
        with team(home / "github", repository, addresses, tools=home.parent / "tools") as here:
            _start_branches(console, here, changes)
            yield stack, here
    finally:
        console.rule("The end")
        down(stack)


def _fresh(home: Path) -> tuple[Stack, Path]:
    """A stack and a Git repository without a past; environments that were made once are kept."""
    repository = home / "repository.git"
    stack = separate_stack(home / "stack", repository)
    down(stack)  # what an earlier demo that was killed has left
    for path in (home / "stack", repository, home / "github" / "runs", home / "github" / "work"):
        shutil.rmtree(path, ignore_errors=True)
    stack.home.mkdir(mode=0o700)
    environments = home.parent / "envs"
    environments.mkdir(exist_ok=True)
    (stack.home / "envs").symlink_to(environments)
    Git(home).text("init", "--quiet", "--bare", "--initial-branch=master", repository.name)
    Git(repository).text("fetch", "--quiet", "--update-shallow", str(ROOT), "HEAD:refs/heads/master")
    return stack, repository


def _start_branches(console: Console, here: Team, changes: Mapping[str, Mapping[str, str]]) -> None:
    """Make the branches, under the rules of `.github/rulesets`."""
    console.rule("The repository on GitHub")
    here.make_branches(here.head("master"))
    if changes:
        here.make_branches(here.commit("dev", "Start small", changes))
    command = [sys.executable, "-m", "ci", "rules", "apply"]
    applied = output_of(command, environment={**os.environ, **here.environment}, directory=ROOT)
    console.print(applied.strip(), highlight=False)


def _show(console: Console, outcome: Judged, held: str) -> None:
    for comment in outcome.comments:
        print_document(console, f"The comment on #{outcome.number}", comment)
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


if __name__ == "__main__":
    sys.exit(run_alone("gate-demo", demo))
