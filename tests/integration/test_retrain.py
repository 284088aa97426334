"""`python -m ci retrain` as a workflow runs it, against a real Airflow and a real MLflow, and the double of GitHub."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from airflow_client.client.exceptions import NotFoundException

from clients.airflow_api import AirflowApi
from clients.dag_run import Airflow, DagRun
from doubles.airflow_faults import airflow_behind_faults
from doubles.github.fixture import Double
from scripts.github_actions import run_on_repository_dispatch, run_on_schedule
from scripts.github_team import team
from scripts.services import ROOT
from tests.conftest import wait_while
from tests.integration.airflow_server import AirflowServer
from tests.integration.scripted_runs import Done, ScriptedRuns, scripted_dags

CHALLENGES = 15
"""As many as tests use, or more: each has one to itself."""
SECONDS = 180
RELEASE = "on: workflow_dispatch\njobs: {}\n"
DRIFT = (
    "--reason=drift", "--drift=concept", "--alert=ConceptDrift", "--model-version=6", "--started=2026-11-23T04:00:00Z",
    "--summary=The live error is 1.7 times the folds'.",
)  # fmt: skip


@pytest.fixture(scope="module")
def airflow(airflow_server: AirflowServer) -> AirflowServer:
    airflow_server.add_dags("retrained", scripted_dags("retrained", CHALLENGES))
    return airflow_server


@dataclass(frozen=True)
class Drifting(ScriptedRuns):
    """A repository whose master has one challenge, whose model drifts."""

    def run_id(self, event: str) -> str:
        return f"retrain__{self.challenge}__{event}__1"

    def options(self, event: str, *more: str) -> list[str]:
        return [
            "--challenge", self.challenge, f"--event={event}", "--repository", str(self.root / "checkout"),
            "--output", str(self.root / "out"), *DRIFT, *more,
        ]  # fmt: skip

    def retrain(self, event: str, *more: str, **given: object) -> Done:
        return self.ci("retrain", *self.options(event, *more), **given)

    def in_background(self, event: str, *, until: str = "") -> subprocess.Popen[str]:
        """A retraining in a process of its own that has got as far as to tell this."""
        process = subprocess.Popen(
            [sys.executable, "-m", "ci", "retrain", *self.options(event)], env=self.environment, cwd=self.root,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        if until and not any(until in line for line in process.stdout):
            pytest.fail(f"the retraining ended before it told: {until}")
        return process

    def start_run(self, event: str) -> DagRun:
        """What another command for another event has started."""
        return Airflow(self.airflow.settings).start(f"retrain_{self.challenge}", self.run_id(event), {})

    def end_run(self, event: str) -> None:
        assert Airflow(self.airflow.settings).cancel(f"retrain_{self.challenge}", self.run_id(event))

    def ended_run(self, event: str) -> None:
        run = self.start_run(event)
        assert list(run.changes(SECONDS))
        assert run.state == "success"

    def runs(self) -> dict[str, Any]:
        api = AirflowApi(self.airflow.settings, request_seconds=30.0)
        try:
            runs = api.pages("dag_runs", api.runs.get_dag_runs, f"retrain_{self.challenge}")
            return {run.dag_run_id: run for run in runs}
        except NotFoundException:  # nor does Airflow know the DAG
            return {}

    def issues(self) -> list[dict[str, Any]]:
        return self.double.request("GET", "issues", state="all").json()

    def issue(self) -> dict[str, Any]:
        (issue,) = self.issues()
        return issue

    def dispatches(self) -> list[tuple[str, str, dict[str, str]]]:
        shown = httpx.get(f"{self.double.url}/_double/dispatches").json()["dispatches"]
        return [(one["workflow"], one["ref"], one["payload"]) for one in shown]


_used = iter(range(CHALLENGES))


@pytest.fixture
def drifting(airflow: AirflowServer, tracking_env: str, github_double: Double, tmp_path: Path) -> Drifting:
    challenge = f"retrained_{next(_used)}"
    text = (ROOT / "challenges" / "weather.toml").read_text(encoding="utf-8")
    files = {
        f"challenges/{challenge}.toml": text.replace('name = "weather"', f'name = "{challenge}"', 1),
        ".github/workflows/release.yml": RELEASE,
    }
    sha = github_double.commit("master", files)
    subprocess.run(["git", "clone", "--quiet", str(github_double.git), str(tmp_path / "checkout")], check=True)
    return Drifting(challenge, sha, github_double, airflow, tracking_env, tmp_path)


def test_a_model_that_passes_is_offered_for_release_once_however_often_the_event_comes(drifting: Drifting) -> None:
    version = drifting.left_candidate(drifting.run_id("e1")).version
    first = drifting.retrain("e1")
    assert first.returncode == 0, first.out
    offered = [("release.yml", "master", {"challenge": drifting.challenge, "model_version": version})]
    assert drifting.dispatches() == offered
    issue = drifting.issue()
    assert (issue["title"], issue["state"]) == (f"Model drift: {drifting.challenge}", "closed")
    assert [label["name"] for label in issue["labels"]] == ["model-drift"]
    assert "✅ Retrained, and passed" in issue["body"]
    assert "The live error is 1.7 times the folds'." in issue["body"]
    assert drifting.version_tags(version)["gate"] == "passed"
    assert json.loads((drifting.root / "out" / "verdict.json").read_text())["outcome"] == "pass"
    assert drifting.double.statuses(drifting.sha) == []
    (run,) = drifting.runs().values()
    assert (run.conf["reason"], run.conf["git_sha"]) == ("drift", drifting.sha)

    drifting.double.commit("master", {"README.md": "Later\n"})
    subprocess.run(["git", "-C", str(drifting.root / "checkout"), "pull", "--quiet"], check=True)
    again = drifting.retrain("e1")
    assert again.returncode == 0, again.out
    assert f"attached to the DAG run {drifting.run_id('e1')}" in again.out

    drifting.release(version)  # the candidate's own figures do not meet production any more
    late = drifting.retrain("e1")
    assert late.returncode == 0, late.out
    assert "What was decided before that holds" in late.out
    assert drifting.dispatches() == offered
    assert list(drifting.runs()) == [drifting.run_id("e1")]
    assert drifting.issue()["number"] == issue["number"]
    assert drifting.issue()["state"] == "closed"


def test_a_worse_model_is_blocked_and_what_people_wrote_stays(drifting: Drifting) -> None:
    drifting.release(drifting.left_candidate("release__1", "f" * 40).version)
    version = drifting.left_candidate(
        drifting.run_id("e1"), **{"learning_rate = 0.05": "learning_rate = 0.001"}
    ).version
    body = f"Before.\n<!-- rps:drift {drifting.challenge} -->\nold\n<!-- rps:notes -->\nThe sensor was moved."
    asked = {"title": "Renamed", "body": body}
    made = drifting.double.request("POST", "issues", asked, token=drifting.double.token).json()
    drifting.double.request("PATCH", f"issues/{made['number']}", {"state": "closed"})

    done = drifting.retrain("e1")

    assert done.returncode == 1, done.out
    assert drifting.version_tags(version)["gate"] == "blocked"
    assert drifting.dispatches() == []
    issue = drifting.issue()
    assert (issue["number"], issue["title"], issue["state"]) == (made["number"], "Renamed", "open")
    assert "❌ Retrained, and blocked" in issue["body"]
    assert "worse than production" in issue["body"]
    assert issue["body"].startswith("Before.\n")
    assert issue["body"].endswith("The sensor was moved.\n")


def test_data_that_is_rejected_is_reported_with_what_is_wrong_with_it(drifting: Drifting) -> None:
    drifting.left_rejected(drifting.run_id("e1"))
    drifting.task("validate", "echo 'error: nulls: temperature'; exit 65")
    done = drifting.retrain("e1")
    assert done.returncode == 2, done.out
    issue = drifting.issue()
    assert issue["state"] == "open"
    assert "retraining cannot fix the data" in issue["body"]
    assert "`temperature`" in issue["body"]
    assert drifting.dispatches() == []


def test_limits_hold_back_a_routine_in_silence_and_drift_with_an_issue_that_says_until_when(drifting: Drifting) -> None:
    drifting.ended_run("earlier")
    routine = drifting.retrain("run-1", "--reason=schedule", "--drift=")
    assert routine.returncode == 0, routine.out
    assert "not started: a cool-down" in routine.out
    assert drifting.issues() == []

    held = drifting.retrain("e2")
    assert held.returncode == 0, held.out
    assert "not started: a cool-down of 47 h" in held.out
    assert drifting.issue()["state"] == "open"
    assert "⏸️ Not retrained" in drifting.issue()["body"]

    daily = drifting.retrain("e2", "--by-hand", "--daily-limit=1")
    assert daily.returncode == 0
    assert "not started: a limit of 1 retraining in 24 h" in daily.out
    assert list(drifting.runs()) == [drifting.run_id("earlier")]

    by_hand = drifting.retrain("e3", "--by-hand", "--reason=by hand", "--drift=", "--cool-down-hours=1000")
    assert by_hand.returncode == 2, by_hand.out  # the run left nothing to judge
    assert drifting.run_id("e3") in drifting.runs()


def test_a_killed_command_leaves_its_run_and_the_same_event_finishes_what_it_left_undone(drifting: Drifting) -> None:
    drifting.left_candidate(drifting.run_id("e1"))
    drifting.double.fault("server_error", methods=["POST"], path="/dispatches")
    killed = drifting.in_background("e1")
    asked = lambda: [each for each in drifting.double.requests() if "/dispatches" in each]  # noqa: E731
    assert wait_while(lambda: not asked() and killed.poll() is None, seconds=SECONDS)
    killed.kill()
    killed.communicate()
    assert asked()
    assert drifting.dispatches() == []
    drifting.double.clear_faults()
    drifting.double.fault("server_error", times=2, path="/issues")

    done = drifting.retrain("e1")

    assert done.returncode == 0, done.out
    assert len(drifting.dispatches()) == 1
    assert drifting.issue()["state"] == "closed"
    assert list(drifting.runs()) == [drifting.run_id("e1")]


def test_while_one_is_at_work_no_other_is_started_and_a_cancelled_one_ends_its_run(drifting: Drifting) -> None:
    drifting.task("validate", "exec sleep 120")
    first = drifting.in_background("e1", until="validate   running")

    other = drifting.retrain("e2", "--by-hand")
    assert other.returncode == 0, other.out
    assert f"not started: {drifting.run_id('e1')} has been running" in other.out

    first.send_signal(signal.SIGTERM)
    out, _ = first.communicate(timeout=60)
    assert first.returncode == 2, out
    assert f"cancelled the DAG run {drifting.run_id('e1')}" in out
    assert [run.state.value for run in drifting.runs().values()] == ["failed"]
    assert drifting.issues() == []


def test_of_two_events_that_see_nobody_at_work_the_younger_run_is_withdrawn(drifting: Drifting) -> None:
    drifting.task("validate", "exec sleep 120")
    with airflow_behind_faults(drifting.airflow.settings.url) as proxy:

        def other_starts() -> None:
            drifting.start_run("e1")
            proxy.switch_off()

        proxy.switch_on(status=503, method="POST", path="/dagRuns$")
        second = drifting.retrain("e2", until="gives no good answer", then=other_starts, AIRFLOW_API_URL=proxy.url)
    assert second.returncode == 0, second.out
    assert f"not started: {drifting.run_id('e1')} has been running" in second.out
    states = {run_id: run.state.value for run_id, run in drifting.runs().items()}
    assert states[drifting.run_id("e2")] == "failed"
    assert states[drifting.run_id("e1")] in {"queued", "running"}
    drifting.end_run("e1")


def test_a_hostile_event_is_text_and_a_run_without_evidence_asks_for_a_person(drifting: Drifting) -> None:
    summary = "</details><script>x</script> @everyone\n::error::taken\n# big <!-- rps:notes --> `$(touch pwned)` | a"
    done = drifting.retrain("e1", f"--summary={summary}", "--alert=::notice::x\n::error::y", GITHUB_ACTIONS="true")
    assert done.returncode == 2, done.out
    assert not re.search(r"^::error::(taken|y)", done.out, re.MULTILINE)
    issue = drifting.issue()
    assert issue["state"] == "open"
    assert "⚠️ Retrained without a verdict" in issue["body"]
    for part in ("<script", "@everyone", "\n# big", "\n::error::"):
        assert part not in issue["body"]
    assert issue["body"].count("<!-- rps:notes -->") == 1
    assert not list(drifting.root.glob("**/pwned"))


def test_what_is_refused_starts_nothing_and_tells_nobody(drifting: Drifting) -> None:
    for more, shown in (
        (["--challenge=nowhere"], f"expected one of {drifting.challenge}; found 'nowhere'"),
        (["--challenge=../../etc"], f"expected one of {drifting.challenge}"),
        (["--event=../x"], "--event: expected"),
        (["--started=soon"], "--started: expected"),
    ):
        done = drifting.retrain("e1", *more)
        assert done.returncode == 64, done.out
        assert shown in done.out
    assert "AIRFLOW_API_URL" in drifting.retrain("e1", AIRFLOW_API_URL="").out
    assert drifting.runs() == {}
    assert drifting.double.requests() == []


def test_an_airflow_that_refuses_us_is_reported_in_the_issue(drifting: Drifting) -> None:
    done = drifting.retrain("e1", AIRFLOW_PASSWORD="wrong")
    assert done.returncode == 64, done.out
    assert "check AIRFLOW\\_USERNAME" in drifting.issue()["body"]
    assert drifting.issue()["state"] == "open"


def test_the_plan_names_the_challenges_and_talks_to_nobody(drifting: Drifting) -> None:
    command = [sys.executable, "-m", "ci", "retrain", "--plan", "--repository", str(drifting.root / "checkout")]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f'challenges=["{drifting.challenge}"]'


SET_UP = """\
runs:
  using: composite
  steps:
    - id: environment
      shell: bash
      run: echo "python={python}" >> "$GITHUB_OUTPUT"
outputs:
  python:
    value: ${{{{ steps.environment.outputs.python }}}}
"""
"""In place of the set-up, which installs for a minute what is here already."""


def test_the_workflow_answers_an_event_within_the_limits(drifting: Drifting, tmp_path: Path) -> None:
    work = tmp_path / "checkout"
    for folder in ("ci", "clients", "forecasting", "records"):
        shutil.copytree(ROOT / folder, work / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".github/workflows/retrain.yml", work / ".github/workflows")
    (work / ".github/actions/setup").mkdir(parents=True)
    (work / ".github/actions/setup/action.yml").write_text(SET_UP.format(python=sys.executable), encoding="utf-8")
    for arguments in (
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b.invalid", "commit", "-qm", "All that the workflow needs"],
        ["push", "--quiet", "origin", "HEAD:master"],
    ):
        subprocess.run(["git", "-C", str(work), *arguments], check=True)
    drifting.ended_run("earlier")
    payload = {
        "event": "concept-1", "challenge": drifting.challenge, "alert": "ConceptDrift", "drift": "concept",
        "summary": "It errs; $(touch pwned) `more`.", "version": "6", "started": "2026-11-23T04:00:00Z",
    }  # fmt: skip
    addresses = {
        name: value for name, value in drifting.environment.items() if name.startswith(("AIRFLOW_", "MLFLOW_"))
    }
    with team(tmp_path / "github", drifting.double.git, addresses) as here:
        outcome = run_on_repository_dispatch(here.runner, "retrain.yml", "model-drift", payload).wait()
        unknown = {**payload, "challenge": "nowhere"}
        refused = run_on_repository_dispatch(here.runner, "retrain.yml", "model-drift", unknown).wait()
        headers = {"Authorization": f"Bearer {here.owner_token}"}
        issues = httpx.get(f"{here.runner.api_url}/repos/{here.runner.name}/issues", headers=headers).json()
    assert outcome.jobs == {"plan": "success", f"retrain ({drifting.challenge})": "success"}, outcome.output
    assert "::notice::not started: a cool-down" in outcome.output
    assert "⏸️ Not retrained" in outcome.summary
    assert refused.jobs == {"plan": "failure"}
    assert f"expected one of {drifting.challenge}; found 'nowhere'" in refused.output
    (issue,) = issues
    assert "It errs; $(touch pwned)" in re.sub(r"</?span>", "", issue["body"])
    assert not list(tmp_path.glob("**/pwned"))


def test_a_fork_that_has_set_no_airflow_is_not_bothered_by_the_schedule(drifting: Drifting, tmp_path: Path) -> None:
    text = (ROOT / ".github/workflows/retrain.yml").read_text(encoding="utf-8")
    drifting.double.commit(
        "master", {".github/workflows/retrain.yml": text, ".github/actions/setup/action.yml": SET_UP}
    )
    with team(tmp_path / "github", drifting.double.git, {}) as here:
        outcome = run_on_schedule(here.runner, "retrain.yml", "41 4 * * 0").wait()
    assert outcome.jobs == {}
