"""The gate from end to end: the real workflow files, run by act, on real Airflow, MLflow and S3; GitHub is the double.

The tests tell one story, in order: each pull request is judged against what the one before has left.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from mlflow.tracking import MlflowClient

from ci.dag_run import Airflow
from ci.progress import Log
from ci.settings import airflow_settings
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
from scripts.github_actions import run_on_dispatch, show_as_checks
from scripts.github_team import Team, team
from scripts.services import ROOT
from tests.e2e.conftest import Laptop

pytestmark = pytest.mark.timeout(1200)  # the first test waits for the stack, its environment and the first model
BOTH = {"model-gate", f"model-gate/{CHALLENGE}"}


@pytest.fixture(scope="module")
def here(laptop: Laptop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The team's repository on GitHub, with the rules of `.github/rulesets`; its branches hold a weak model."""
    laptop.git("switch", "--quiet", "--force-create", "checked-out")  # so that every other branch can be pushed to
    with team(tmp_path_factory.mktemp("github"), laptop.repository, laptop.stack.addresses) as made:
        made.make_branches(made.head("checked-out"))
        made.make_branches(made.commit("dev", "Start small", WEAK_START))
        command = [sys.executable, "-m", "ci", "rules", "apply"]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **made.environment}, check=True, capture_output=True)
        yield made
        assert httpx.get(f"{made.runner.server_url}/_double/violations").json() == {"violations": []}


@pytest.fixture(scope="module")
def registry(laptop: Laptop) -> Iterator[MlflowClient]:
    address = laptop.stack.addresses["MLFLOW_TRACKING_URI"]
    client = MlflowClient(tracking_uri=address, registry_uri=address)
    yield client
    client.delete_registered_model_alias(CHALLENGE, "production")


@pytest.fixture(scope="module")
def better(here: Team, laptop: Laptop, registry: MlflowClient) -> Judged:
    """The pull request of a better model than production's, judged."""
    first_production(here, laptop.stack, Log(sys.stdout, grouped=False))
    return judge(here, propose(here, BETTER))


@pytest.fixture(scope="module")
def released(better: Judged, laptop: Laptop) -> str:
    """That model in production; its version."""
    return release(laptop.stack, better.sha)


def gate_tag(registry: MlflowClient, sha: str) -> str:
    (version,) = registry.search_model_versions(f"name = '{CHALLENGE}' and tags.git_sha = '{sha}'")
    return version.tags["gate"]


def verdict_of(judged: Judged) -> dict:
    return json.loads((judged.workflow.artifacts / f"gate-{CHALLENGE}" / "verdict.json").read_text())


def states(judged: Judged) -> dict[str, str]:
    return {context: judged.statuses[context]["state"] for context in BOTH}


def dag_run_ids(laptop: Laptop, sha: str) -> dict[str, str]:
    """The runs of a commit, and their states."""
    api = Airflow(airflow_settings(laptop.stack.addresses)).api
    listed = api.call(api.runs.get_dag_runs, f"retrain_{CHALLENGE}", run_id_prefix_pattern=f"gate__{CHALLENGE}__{sha}")
    return {run.dag_run_id: run.state.value for run in listed.dag_runs}


def requests_of(here: Team) -> list[str]:
    return httpx.get(f"{here.runner.server_url}/_double/requests").json()["requests"]


def test_a_better_model_is_passed_with_its_numbers_in_one_comment(better: Judged, registry: MlflowClient) -> None:
    assert set(states(better).values()) == {"success"}
    assert better.workflow.jobs == {"plan": "success", f"gate ({CHALLENGE})": "success", "conclude": "success"}
    assert "better than production" in better.statuses["model-gate"]["description"]
    (comment,) = better.comments
    assert "RMSE" in comment
    assert better.sha[:7] in comment
    assert gate_tag(registry, better.sha) == "passed"


def test_what_was_judged_is_kept_with_the_workflow_and_shown_on_its_page(better: Judged) -> None:
    verdict = verdict_of(better)
    assert (verdict["outcome"], verdict["git_sha"]) == ("pass", better.sha)
    report = (better.workflow.artifacts / f"gate-{CHALLENGE}" / "report.md").read_text()
    assert report.strip() in better.workflow.summary


def test_a_judgement_by_hand_looks_at_the_same_run_again_and_leaves_the_comment(
    better: Judged, here: Team, laptop: Laptop
) -> None:
    inputs = {"sha": better.sha, "challenge": CHALLENGE, "pull_request": ""}
    outcome = run_on_dispatch(here.runner, "model-gate.yml", "test", inputs).wait()
    assert set(outcome.jobs.values()) == {"success"}
    assert "attached to the DAG run" in outcome.output
    assert list(dag_run_ids(laptop, better.sha).values()) == ["success"]
    assert here.statuses(better.sha)["model-gate"]["state"] == "success"
    assert tuple(comment["body"] for comment in here.comments(better.number)) == better.comments


def test_github_merges_what_has_passed_once_a_peer_approves(better: Judged, here: Team) -> None:
    assert "approving review" in here.merge(better.number)
    assert settle(here, better.number) == ""
    assert here.pull_request(better.number)["merged"]


def test_a_worse_model_is_blocked_however_its_pull_request_is_called(
    released: str, here: Team, laptop: Laptop, registry: MlflowClient
) -> None:
    trap = here.runner.home / "trapped"
    title = f"$(touch {trap}) `touch {trap}`; touch {trap} ${{{{ secrets.AIRFLOW_PASSWORD }}}} </details> @bea | x"
    number = propose(here, dataclasses.replace(WORSE, title=title))
    first = judge(here, number)
    assert set(states(first).values()) == {"failure"}
    assert first.workflow.jobs == {"plan": "success", f"gate ({CHALLENGE})": "failure", "conclude": "failure"}
    assert "worse than production" in first.statuses["model-gate"]["description"]
    assert gate_tag(registry, first.sha) == "blocked"
    assert not trap.exists()
    assert " @bea" not in first.comments[0]
    secret = laptop.stack.addresses["AIRFLOW_PASSWORD"]
    assert secret not in first.comments[0] + first.workflow.output + first.workflow.summary

    before = here.comments(number)
    again = judge(here, number)
    assert set(states(again).values()) == {"failure"}
    assert "attached to the DAG run" in again.workflow.output
    assert list(dag_run_ids(laptop, first.sha).values()) == ["success"]
    after = here.comments(number)
    assert [comment["id"] for comment in after] == [comment["id"] for comment in before]
    assert len(after) == 1

    assert '"model-gate" is failing' in settle(here, number)
    assert not here.pull_request(number)["merged"]


def test_a_cancelled_job_cancels_its_run_and_the_next_one_starts_anew_and_tells_of_bad_data(
    released: str, here: Team, laptop: Laptop, registry: MlflowClient
) -> None:
    number = propose(here, BAD_DATA)
    sha = here.pull_request(number)["head"]["sha"]
    with source_fault(laptop.stack, {"kind": "slow", "seconds": 120}):
        run = here.start_workflow(here.pull_request(number), "model-gate.yml")
        cancelling: list[threading.Thread] = []

        def cancel_once_at_work(_job: str, line: str) -> None:
            if "ingest" in line and "running" in line and not cancelling:
                cancelling.append(threading.Thread(target=run.cancel))
                cancelling[0].start()

        outcome = run.wait(cancel_once_at_work)
        cancelling[0].join()
    assert outcome.jobs == {"plan": "success", f"gate ({CHALLENGE})": "failure", "conclude": "failure"}
    assert {here.statuses(sha)[context]["state"] for context in BOTH} == {"error"}
    assert "cancelled by SIGINT" in here.statuses(sha)[f"model-gate/{CHALLENGE}"]["description"]
    assert dag_run_ids(laptop, sha) == {f"gate__{CHALLENGE}__{sha}__1": "failed"}

    with source_fault(laptop.stack, BAD_DATA.fault):
        judged = judge(here, number)
    assert set(states(judged).values()) == {"error"}
    assert dag_run_ids(laptop, sha)[f"gate__{CHALLENGE}__{sha}__2"] == "failed"
    assert "quality gate" in judged.statuses["model-gate"]["description"]
    (comment,) = judged.comments
    for told in ("validate", "temperature", "tasks/validate"):
        assert told in comment
    assert not registry.search_model_versions(f"name = '{CHALLENGE}' and tags.git_sha = '{sha}'")
    assert '"model-gate" is failing' in settle(here, number)


def test_only_dev_goes_into_test_and_only_test_into_master(here: Team) -> None:
    trap = here.runner.home / "trapped"
    feature = f"feature;touch${{IFS}}{trap};$(touch${{IFS}}{trap})"
    subprocess.run(["git", "-C", str(here.runner.repository), "branch", feature, "dev"], check=True)
    for head, base, fine in ((feature, "test", False), ("dev", "master", False), ("test", "master", True)):
        number = here.open_pull_request(head, base, f"{base} from another branch")["number"]
        pull = here.pull_request(number)
        outcome = here.start_workflow(pull, "branch-flow.yml").wait()
        assert outcome.jobs == {"branch-flow": "success" if fine else "failure"}
        show_as_checks(here.runner, pull["head"]["sha"], outcome)
        here.approve(number)
        if not fine:
            assert "only " in outcome.output
            assert '"branch-flow" is failing' in here.merge(number)
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
    told = {"name": "eve/weather", "directory": str(fork)}
    httpx.put(f"{here.runner.server_url}/_double/forks", json=told).raise_for_status()
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
    here.commit("dev", "Not yet", {"README.md": {"\n": "\n\n"}})
    number = here.open_pull_request("dev", "test", "Not yet", draft=True)["number"]
    before = requests_of(here)
    pull = here.pull_request(number)
    assert here.start_workflow(pull, "model-gate.yml").wait().jobs == {}
    assert requests_of(here)[len(before) :] == [f"GET /repos/{here.runner.name}/pulls/{number} 200"]
