"""The gate from end to end: the real workflow files, run by act, on real Airflow, MLflow and S3; GitHub is the double.

A pull request is judged against what the one before has left, so each fixture begins where the one that it names has
ended, and notes what later ones change.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from clients.dag_run import Airflow, DagRun, TaskState
from clients.progress import Log
from clients.settings import airflow_settings
from scripts.gate_demo import (
    BAD_DATA,
    BETTER,
    CHALLENGE,
    WEAK_START,
    WORSE,
    Judged,
    first_production,
    judge,
    propose,
    release,
    settle,
    source_fault,
)
from scripts.github_actions import Outcome, run_on_dispatch, show_as_checks
from scripts.github_team import Team, team
from scripts.services import ROOT
from tests.conftest import wait_while
from tests.e2e.conftest import Laptop

pytestmark = pytest.mark.timeout(1200)  # the first test waits for the stack, its environment and the first model
BOTH = {"model-gate", f"model-gate/{CHALLENGE}"}
AFTER_VALIDATE = ("transform", "profile", "version", "train", "evaluate", "register")


@dataclass(frozen=True)
class Cancelled:
    """A pull request whose gate was cancelled while the pipeline was at work on it."""

    number: int
    sha: str
    outcome: Outcome
    statuses: Mapping[str, Mapping[str, str]]
    dag_runs: Mapping[str, str]
    at_work: Sequence[psutil.Process]
    """The stage's processes."""


@dataclass(frozen=True)
class Rejected:
    """A judgement of data that the quality gate rejects, and what GitHub then holds against the merge."""

    judged: Judged
    held: str


@dataclass(frozen=True)
class Blocked:
    """A worse model's pull request, judged twice, and what GitHub then holds against the merge."""

    trap: Path
    """What its title would make if it were a command."""
    first: Judged
    again: Judged
    comments: Sequence[Sequence[int]]
    """Their numbers, after each judgement."""
    held: str


@pytest.fixture(scope="module")
def here(laptop: Laptop, kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The team's repository on GitHub, with the rules of `.github/rulesets`; its branches hold a weak model."""
    home = tmp_path_factory.mktemp("github")
    with team(home, laptop.repository, laptop.stack.addresses, tools=kept / "tools") as made:
        made.make_branches(made.head("checked-out"))
        made.make_branches(made.commit("dev", "Start small", WEAK_START))
        command = [sys.executable, "-m", "ci", "rules", "apply"]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **made.environment}, check=True, capture_output=True)
        yield made
        assert httpx.get(f"{made.runner.server_url}/_double/violations").json() == {"violations": []}


@pytest.fixture(scope="module")
def weak(here: Team, laptop: Laptop) -> str:
    """The weak model in production, although the data's source failed at first; its commit."""
    with source_fault(laptop.stack, {"kind": "server_error", "times": 5}):
        first_production(here, laptop.stack, Log(sys.stdout, grouped=False))
    return here.head("test")


@pytest.fixture(scope="module")
def better(here: Team, weak: str) -> Judged:
    """The pull request of a better model than production's, judged."""
    return judge(here, propose(here, BETTER))


@pytest.fixture(scope="module")
def by_hand(better: Judged, here: Team) -> Outcome:
    """A judgement of the same commit, by hand."""
    inputs = {"sha": better.sha, "challenge": CHALLENGE, "pull_request": ""}
    return run_on_dispatch(here.runner, "model-gate.yml", "test", inputs).wait()


@pytest.fixture(scope="module")
def merged(better: Judged, by_hand: Outcome, here: Team) -> tuple[str, str]:
    """What GitHub holds against the merge before a peer has approved, and afterwards."""
    return here.merge(better.number), settle(here, better.number)


@pytest.fixture(scope="module")
def released(better: Judged, merged: tuple[str, str], laptop: Laptop) -> str:
    """The better model in production; its version."""
    return release(laptop.stack, better.sha)


@pytest.fixture(scope="module")
def cancelled(released: str, here: Team, laptop: Laptop) -> Cancelled:
    """A gate that is cancelled while its run waits for a slow source."""
    number = propose(here, BAD_DATA)
    sha = here.pull_request(number)["head"]["sha"]
    at_work: list[psutil.Process] = []
    with source_fault(laptop.stack, {"kind": "slow", "seconds": 120}):
        run = here.start_workflow(here.pull_request(number), "model-gate.yml")
        cancelling: list[threading.Thread] = []

        def cancel() -> None:
            wait_while(lambda: not processes_of("ingest", sha), seconds=120)
            at_work.extend(processes_of("ingest", sha))
            run.cancel()

        def cancel_once_at_work(_job: str, line: str) -> None:
            if "ingest" in line and "running" in line and not cancelling:
                cancelling.append(threading.Thread(target=cancel))
                cancelling[0].start()

        outcome = run.wait(cancel_once_at_work)
        assert cancelling, outcome.output
        cancelling[0].join()
        wait_while(lambda: any(process.is_running() for process in at_work), seconds=60)
    return Cancelled(number, sha, outcome, here.statuses(sha), dag_run_ids(laptop, sha), at_work)


@pytest.fixture(scope="module")
def rejected(cancelled: Cancelled, here: Team, laptop: Laptop) -> Rejected:
    """The same pull request, judged while the source's answers are bad."""
    with source_fault(laptop.stack, BAD_DATA.fault):
        judged = judge(here, cancelled.number)
    return Rejected(judged, settle(here, cancelled.number))


@pytest.fixture(scope="module")
def blocked(rejected: Rejected, here: Team) -> Blocked:
    """The pull request of a worse model than production's, on good data."""
    trap = here.runner.home / "trapped"
    title = f"$(touch {trap}) `touch {trap}`; touch {trap} ${{{{ secrets.AIRFLOW_PASSWORD }}}} </details> @bea | x"
    number = propose(here, dataclasses.replace(WORSE, title=title))
    judged, comments = [], []
    for _ in range(2):
        judged.append(judge(here, number))
        comments.append([comment["id"] for comment in here.comments(number)])
    return Blocked(trap, *judged, comments, settle(here, number))


def gate_tags(laptop: Laptop, sha: str) -> list[str]:
    """Of the model versions made from a commit."""
    versions = laptop.mlflow.search_model_versions(f"name = '{CHALLENGE}' and tags.git_sha = '{sha}'")
    return [version.tags["gate"] for version in versions]


def verdict_of(judged: Judged) -> dict:
    return json.loads((judged.workflow.artifacts / f"gate-{CHALLENGE}" / "verdict.json").read_text())


def states(judged: Judged) -> dict[str, str]:
    return {context: judged.statuses[context]["state"] for context in BOTH}


def dag_run_ids(laptop: Laptop, sha: str) -> dict[str, str]:
    """The runs of a commit, and their states."""
    api = Airflow(airflow_settings(laptop.stack.addresses)).api
    listed = api.call(api.runs.get_dag_runs, f"retrain_{CHALLENGE}", run_id_prefix_pattern=f"gate__{CHALLENGE}__{sha}")
    return {run.dag_run_id: run.state.value for run in listed.dag_runs}


def ended_run(laptop: Laptop, run_id: str) -> tuple[DagRun, dict[str, TaskState]]:
    run = laptop.start(run_id)
    assert run.attached
    return run, laptop.wait(run)


def processes_of(stage: str, sha: str) -> list[psutil.Process]:
    """What runs a stage in a workspace of a commit's gate."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if stage in (process.info["cmdline"] or ()) and sha in (process.info["cwd"] or "")
    ]


def requests_of(here: Team) -> list[str]:
    return httpx.get(f"{here.runner.server_url}/_double/requests").json()["requests"]


def test_a_passing_fault_is_retried_until_it_has_passed(weak: str, laptop: Laptop) -> None:
    _, tasks = ended_run(laptop, f"first__{weak[:12]}")
    assert tasks["ingest"].attempt == 2
    assert {task.state for task in tasks.values()} == {"success"}


def test_a_better_model_is_passed_with_its_numbers_in_one_comment(better: Judged, laptop: Laptop) -> None:
    assert set(states(better).values()) == {"success"}, better.statuses
    assert better.workflow.jobs == {"plan": "success", f"gate ({CHALLENGE})": "success", "conclude": "success"}
    assert "better than production" in better.statuses["model-gate"]["description"]
    (comment,) = better.comments
    assert "RMSE" in comment
    assert better.sha[:7] in comment
    assert gate_tags(laptop, better.sha) == ["passed"]


def test_what_was_judged_is_kept_with_the_workflow_and_shown_on_its_page(better: Judged) -> None:
    verdict = verdict_of(better)
    assert (verdict["outcome"], verdict["git_sha"]) == ("pass", better.sha)
    report = (better.workflow.artifacts / f"gate-{CHALLENGE}" / "report.md").read_text()
    assert report.strip() in better.workflow.summary


def test_a_judgement_by_hand_looks_at_the_same_run_again_and_leaves_the_comment(
    better: Judged, by_hand: Outcome, here: Team, laptop: Laptop
) -> None:
    assert set(by_hand.jobs.values()) == {"success"}
    assert "attached to the DAG run" in by_hand.output
    assert list(dag_run_ids(laptop, better.sha).values()) == ["success"]
    assert here.statuses(better.sha)["model-gate"]["state"] == "success"
    assert tuple(comment["body"] for comment in here.comments(better.number)) == better.comments


def test_github_merges_what_has_passed_once_a_peer_approves(
    better: Judged, merged: tuple[str, str], here: Team
) -> None:
    before, after = merged
    assert "approving review" in before
    assert after == ""
    assert here.pull_request(better.number)["merged"]


def test_a_worse_model_is_blocked_however_its_pull_request_is_called(
    blocked: Blocked, here: Team, laptop: Laptop
) -> None:
    first = blocked.first
    assert set(states(first).values()) == {"failure"}
    assert first.workflow.jobs == {"plan": "success", f"gate ({CHALLENGE})": "failure", "conclude": "failure"}
    assert "worse than production" in first.statuses["model-gate"]["description"]
    assert gate_tags(laptop, first.sha) == ["blocked"]
    assert not blocked.trap.exists()
    assert " @bea" not in first.comments[0]
    secret = laptop.stack.addresses["AIRFLOW_PASSWORD"]
    assert secret not in first.comments[0] + first.workflow.output + first.workflow.summary
    assert '"model-gate" is failing' in blocked.held
    assert not here.pull_request(first.number)["merged"]


def test_a_blocked_model_that_is_judged_again_stays_blocked_by_the_same_run_in_the_same_comment(
    blocked: Blocked, laptop: Laptop
) -> None:
    assert set(states(blocked.again).values()) == {"failure"}
    assert "attached to the DAG run" in blocked.again.workflow.output
    assert list(dag_run_ids(laptop, blocked.first.sha).values()) == ["success"]
    before, after = blocked.comments
    assert after == before
    assert len(after) == 1


def test_a_cancelled_job_cancels_its_run_and_ends_the_stage_that_is_at_work(cancelled: Cancelled) -> None:
    jobs = {"plan": "success", f"gate ({CHALLENGE})": "failure", "conclude": "failure"}
    assert cancelled.outcome.jobs == jobs
    assert {cancelled.statuses[context]["state"] for context in BOTH} == {"error"}
    assert "cancelled by SIGINT" in cancelled.statuses[f"model-gate/{CHALLENGE}"]["description"]
    assert cancelled.dag_runs == {f"gate__{CHALLENGE}__{cancelled.sha}__1": "failed"}
    assert cancelled.at_work
    assert not [process for process in cancelled.at_work if process.is_running()]


def test_the_gate_after_a_cancelled_one_starts_anew_and_tells_of_bad_data(
    cancelled: Cancelled, rejected: Rejected, laptop: Laptop
) -> None:
    judged, sha = rejected.judged, cancelled.sha
    assert set(states(judged).values()) == {"error"}
    assert dag_run_ids(laptop, sha)[f"gate__{CHALLENGE}__{sha}__2"] == "failed"
    assert "quality gate" in judged.statuses["model-gate"]["description"]
    (comment,) = judged.comments
    for shown in ("validate", "temperature", "tasks/validate"):
        assert shown in comment
    assert gate_tags(laptop, sha) == []
    assert '"model-gate" is failing' in rejected.held


def test_data_that_fails_the_quality_gate_stops_everything_after_it_without_a_retry(
    cancelled: Cancelled, rejected: Rejected, laptop: Laptop
) -> None:
    run, tasks = ended_run(laptop, f"gate__{CHALLENGE}__{cancelled.sha}__2")
    assert (tasks["validate"].state, tasks["validate"].attempt) == ("failed", 1)
    assert {tasks[stage].state for stage in AFTER_VALIDATE} == {"upstream_failed"}
    assert any("temperature" in line for line in run.log(tasks["validate"]))


def test_the_same_data_without_the_fault_passes_the_next_time(
    rejected: Rejected, blocked: Blocked, laptop: Laptop
) -> None:
    (run_id,) = dag_run_ids(laptop, blocked.first.sha)
    _, tasks = ended_run(laptop, run_id)
    assert {task.state for task in tasks.values()} == {"success"}


def test_only_dev_goes_into_test_and_only_test_into_master(merged: tuple[str, str], here: Team) -> None:
    trap = here.runner.home / "trapped"
    feature = f"feature;touch${{IFS}}{trap};$(touch${{IFS}}{trap})"
    subprocess.run(["git", "-C", str(here.runner.repository), "branch", feature, "test"], check=True)
    here.commit(feature, "Beside dev", {"README.md": {"\n": "\n\n"}})
    for head, base, fine in ((feature, "test", False), ("dev", "master", False), ("test", "master", True)):
        number = here.open_pull_request(head, base, f"{base} from another branch")["number"]
        pull = here.pull_request(number)
        outcome = here.start_workflow(pull, "branch-flow.yml").wait()
        assert outcome.jobs == {"branch-flow": "success" if fine else "failure"}
        show_as_checks(here.runner, pull["head"]["sha"], outcome)
        here.approve(number)
        if not fine:  # the step's message is not looked at: act loses the output of one that ends in milliseconds
            assert '"branch-flow" is failing' in here.merge(number)
            here.close(number)
        else:
            assert here.merge(number) == ""
    assert not trap.exists()


def test_a_fork_gets_a_message_and_nothing_is_asked_of_anybody(here: Team, tmp_path: Path) -> None:
    fork = tmp_path / "fork.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", str(here.runner.repository), str(fork)], check=True)
    commit = subprocess.run(
        ["git", "-C", str(fork), "-c", "user.name=Eve", "-c", "user.email=eve@rps.invalid",
         "commit-tree", "refs/heads/test^{tree}", "-p", "refs/heads/test", "-m", "Trust me"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    subprocess.run(["git", "-C", str(fork), "update-ref", "refs/heads/dev", commit], check=True)
    shown = {"name": "eve/weather", "directory": str(fork)}
    httpx.put(f"{here.runner.server_url}/_double/forks", json=shown).raise_for_status()
    number = here.open_pull_request("eve:dev", "test", "Trust me")["number"]
    pull = here.pull_request(number)
    before = requests_of(here)
    outcome = here.start_workflow(pull, "model-gate.yml").wait()
    assert requests_of(here) == before
    assert outcome.jobs == {"fork": "success"}
    assert "comes from a fork" in outcome.summary
    flow = here.start_workflow(pull, "branch-flow.yml").wait()
    assert flow.jobs == {"branch-flow": "failure"}
    assert here.statuses(pull["head"]["sha"]) == {}
    here.approve(number)
    assert '"model-gate" is expected' in here.merge(number)


def test_a_draft_is_not_judged_before_it_is_ready(here: Team) -> None:
    subprocess.run(["git", "-C", str(here.runner.repository), "branch", "not-yet", "test"], check=True)
    here.commit("not-yet", "Not yet", {"README.md": {"\n": "\n\n"}})
    number = here.open_pull_request("not-yet", "test", "Not yet", draft=True)["number"]
    before = requests_of(here)
    pull = here.pull_request(number)
    assert here.start_workflow(pull, "model-gate.yml").wait().jobs == {}
    assert requests_of(here)[len(before) :] == [f"GET /repos/{here.runner.name}/pulls/{number} 200"]
