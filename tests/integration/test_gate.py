"""`python -m ci gate` as a workflow runs it, against a real Airflow and a real MLflow, and the double of GitHub."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from doubles.github.fixture import Double, add_commit, serving
from pipelines.carrier.registry import Registered
from scripts.services import ROOT
from tests.integration.airflow_server import AirflowServer
from tests.integration.scripted_runs import Done, ScriptedRuns, scripted_dags

CHALLENGES = 15
"""As many as tests use, or more: each has one to itself."""
STATUS = "model-gate"
WORKING = "validate   running"
"""What a gate tells once the first task is at work."""


@pytest.fixture(scope="module")
def airflow(airflow_server: AirflowServer) -> AirflowServer:
    airflow_server.add_dags("gated", scripted_dags("gated", CHALLENGES))
    return airflow_server


@dataclass(frozen=True)
class Team(ScriptedRuns):
    """A repository with one challenge of its own, its services, and the pull request that is judged."""

    branch: str
    number: int

    @property
    def run_id(self) -> str:
        return f"gate__{self.challenge}__{self.sha}__1"

    @property
    def checkout(self) -> Path:
        return self.root / "checkout"

    @property
    def options(self) -> list[str]:
        """Of each gate: what is judged."""
        return ["--challenge", self.challenge, "--sha", self.sha, "--repository", str(self.checkout)]

    @property
    def reported(self) -> list[str]:
        """Of a gate that reports to the pull request."""
        return [*self.options, "--pull-request", str(self.number), "--output", str(self.root / "out")]

    def gate(self, *more: str, **given: object) -> Done:
        return self.ci("gate", *self.reported, *more, **given)

    def gate_in_background(self, until: str) -> subprocess.Popen[str]:
        """A gate in a process of its own that has got as far as to tell this."""
        process = subprocess.Popen(
            [sys.executable, "-m", "ci", "gate", *self.reported], env=self.environment, cwd=self.root, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if until in line:
                return process
        pytest.fail(f"the gate ended before it told: {until}")

    def pushed(self, files: dict[str, str]) -> Team:
        """The team after a push to the pull request."""
        sha = self.double.commit(self.branch, files)
        subprocess.run(["git", "-C", str(self.checkout), "fetch", "--quiet"], check=True)
        return replace(self, sha=sha)

    def candidate(self, run_id: str = "", sha: str = "", **edits: str) -> Registered:
        """What the DAG run that the gate is going to start would have left."""
        return self.left_candidate(run_id or self.run_id, sha, **edits)

    def rejected(self) -> None:
        self.left_rejected(self.run_id)

    def status(self) -> tuple[str, str]:
        """State and description of the newest status of the commit."""
        statuses = [each for each in self.double.statuses(self.sha) if each["context"] == STATUS]
        return statuses[0]["state"], statuses[0]["description"]

    def states(self) -> list[str]:
        """Every state that the status was in, the oldest first."""
        return [each["state"] for each in reversed(self.double.statuses(self.sha)) if each["context"] == STATUS]

    def comment(self) -> str:
        (comment,) = self.double.comments(self.number)
        return str(comment["body"])

    def verdict_tag(self, version: str) -> str:
        return self.version_tags(version)["gate"]

    def verdict(self, output: str = "out") -> dict:
        """What the gate has written for machines."""
        return json.loads((self.root / output / "verdict.json").read_text(encoding="utf-8"))


_used = iter(range(CHALLENGES))


def new_team(
    double: Double, airflow: AirflowServer, tracking: str, root: Path, *, title: str = "A better model",
    branch: str = "dev", head: dict[str, str] | None = None,
) -> Team:  # fmt: skip
    """head: texts of the challenge file that the pull request replaces, by what."""
    challenge = f"gated_{next(_used)}"
    path = f"challenges/{challenge}.toml"
    text = (ROOT / "challenges" / "weather.toml").read_text(encoding="utf-8")
    base = text.replace('name = "weather"', f'name = "{challenge}"', 1)
    changed = base + "\n# A change.\n"
    for old, new in (head or {}).items():
        assert old in changed
        changed = changed.replace(old, new, 1)
    double.commit("test", {path: base}, start="master")
    sha = double.commit(branch, {path: changed}, start="test")
    number = double.open_pull_request(branch, "test", title)
    subprocess.run(["git", "clone", "--quiet", str(double.git), str(root / "checkout")], check=True)
    return Team(challenge, sha, double, airflow, tracking, root, branch, number)


@pytest.fixture
def team(airflow: AirflowServer, tracking_env: str, github_double: Double, tmp_path: Path) -> Team:
    return new_team(github_double, airflow, tracking_env, tmp_path)


@dataclass(frozen=True)
class First:
    """A team's first model, of a pull request that tries to bend the gate: judged by itself, then for GitHub."""

    team: Team
    version: str
    alone: Done
    statuses_after_alone: list[dict]
    reported: Done
    states: list[str]
    comment: str


@pytest.fixture(scope="module")
def first(airflow: AirflowServer, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[First]:
    root = tmp_path_factory.mktemp("first")
    git = root / "github.git"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=master", str(git)], check=True)
    add_commit(git, "master", {"README.md": "Weather\n"})
    with serving(git) as double, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
        one = new_team(
            double, airflow, mlflow_server, root,
            title="</details><script>alert(1)</script> @everyone ![x](http://evil) `$(touch pwned)` | a | b",
            branch="feature/$(touch${IFS}pwned)",
            head={"max_bundle_bytes = 20_000_000": "max_bundle_bytes = 900_000_000"},
        )  # fmt: skip
        version = one.candidate().version
        alone = one.ci("gate", *one.options, "--output", str(root / "alone"), github=False)
        untold = double.statuses(one.sha)
        reported = one.gate()
        yield First(one, version, alone, untold, reported, one.states(), one.comment())


def test_without_a_production_model_a_candidate_passes_that_beats_the_baseline(first: First) -> None:
    assert first.reported.returncode == 0, first.reported.out
    assert first.states == ["pending", "success"]
    assert "no production model yet" in first.comment
    assert first.team.verdict_tag(first.version) == "passed"
    shown = first.team.verdict()
    assert (shown["outcome"], shown["git_sha"], shown["verdict"]["opponent"]) == ("pass", first.team.sha, "baseline")


def test_a_commit_is_judged_without_github(first: First) -> None:
    assert first.alone.returncode == 0, first.alone.out
    assert f"started the DAG run {first.team.run_id}" in first.alone.out
    assert "no production model yet" in first.alone.out
    assert first.statuses_after_alone == []
    shown = first.team.verdict("alone")
    assert 0 < shown["task_seconds"] <= shown["seconds"]


def test_a_gate_on_a_fresh_run_of_the_same_commit_attaches_to_it(first: First) -> None:
    assert f"attached to the DAG run {first.team.run_id}" in first.reported.out
    assert first.team.verdict()["task_seconds"] == 0


def test_a_pull_request_is_judged_by_the_base_branchs_policy_and_its_own_is_shown(first: First) -> None:
    shown = first.team.verdict()
    assert shown["policy"]["max_bundle_bytes"] == 20_000_000
    assert [change["key"] for change in shown["policy_changes"]] == ["gate.max_bundle_bytes"]
    assert "900000000" in first.comment


def test_a_hostile_title_and_branch_stay_text(first: First) -> None:
    assert "<script" not in first.comment
    assert not re.search(r"(?<![\\\w])@everyone", first.comment)
    assert "](http://evil" not in first.comment
    assert not list(first.team.root.glob("**/pwned"))


def test_statuses_before_and_after_the_gates(first: First) -> None:
    one = first.team
    frame = ["--sha", one.sha, "--repository", str(one.checkout)]
    planned = one.ci("plan", *frame)
    assert planned.out.splitlines()[-1] == f'challenges=["{one.challenge}"]'
    assert one.status()[0] == "pending"
    assert one.ci("conclude", *frame).returncode == 2
    assert one.status()[0] == "error"
    assert one.gate("--context", f"{STATUS}/{one.challenge}").returncode == 0
    assert one.ci("conclude", *frame).returncode == 0
    assert one.status()[0] == "success"


def test_a_worse_candidate_is_blocked_and_one_like_production_passes_in_the_same_comment(team: Team) -> None:
    team.release(team.candidate("release__1", "f" * 40).version)
    version = team.candidate(**{"learning_rate = 0.05": "learning_rate = 0.001"}).version
    first = team.gate()
    assert first.returncode == 1, first.out
    assert team.status()[0] == "failure"
    assert "worse than production" in team.status()[1]
    assert team.verdict_tag(version) == "blocked"
    again = team.gate()
    assert again.returncode == 1
    assert f"attached to the DAG run {team.run_id}" in again.out
    assert "Blocked" in team.comment()

    mended = team.pushed({"README.md": "Mended\n"})
    mended.candidate()
    mended.double.fault("secondary_limit", seconds=3)
    done = mended.gate()
    assert done.returncode == 0, done.out
    assert mended.status()[0] == "success", "a rate limit that ends in time is waited for"
    assert "Blocked" not in mended.comment()


def test_rejected_data_is_an_error_with_the_table_of_violations(team: Team) -> None:
    team.rejected()
    team.task("validate", "echo 'error: nulls: temperature'; exit 65")
    done = team.gate()
    assert done.returncode == 2, done.out
    assert team.status()[0] == "error"
    assert "the data failed the quality gate" in team.status()[1]
    comment = team.comment()
    assert "validate" in comment
    assert "temperature" in comment
    assert f"/dags/retrain_{team.challenge}/runs/" in comment


def test_a_failed_task_is_reported_with_the_end_of_its_log(team: Team) -> None:
    team.task("register", "echo 'the disk is full'; exit 64")
    done = team.gate()
    assert done.returncode == 2
    assert team.status()[0] == "error"
    assert "the task register failed" in team.status()[1]
    assert "the disk is full" in team.comment()


def test_the_log_that_is_posted_holds_no_credentials(team: Team) -> None:
    team.task("register", "echo 'git fetch of https://bot:TOKEN@host/x.git failed'; exit 75")
    done = team.gate()
    assert done.returncode == 2
    assert "https://host/x.git" in team.comment()
    assert "TOKEN" not in f"{done.out}{team.comment()}{team.status()}"


def test_a_run_that_left_nothing_in_mlflow_gives_no_verdict(team: Team) -> None:
    done = team.gate()
    assert done.returncode == 2
    assert team.states() == ["pending", "error"]


def test_a_cancelled_gate_cancels_its_run_and_sets_the_status(team: Team) -> None:
    team.task("validate", "exec sleep 90")
    gate = team.gate_in_background(until=WORKING)
    gate.send_signal(signal.SIGINT)
    out, _ = gate.communicate(timeout=30)
    assert gate.returncode == 2, out
    assert team.states() == ["pending", "error"]
    assert "cancelled by SIGINT" in team.status()[1]
    assert f"cancelled the DAG run {team.run_id}" in out
    assert team.double.comments(team.number) == []


def test_a_pull_request_that_is_pushed_to_ends_the_gate_and_its_run(team: Team) -> None:
    team.task("validate", "exec sleep 90")
    done = team.gate(until=WORKING, then=lambda: team.double.commit("dev", {"more.txt": "pushed"}))
    assert done.returncode == 2, done.out
    assert team.status()[0] == "error"
    assert "was pushed to" in team.status()[1]
    assert f"cancelled the DAG run {team.run_id}" in done.out


def test_a_pull_request_that_is_closed_before_the_verdict_gets_none(team: Team) -> None:
    def close() -> None:
        answer = team.double.request("PATCH", f"pulls/{team.number}", {"state": "closed"})
        assert answer.status_code == 200

    team.candidate()
    done = team.gate(until="the run has ended", then=close)
    assert done.returncode == 2, done.out
    assert team.status() == ("error", f"no verdict: pull request #{team.number} is closed: nothing is to be judged")


def test_the_deadline_ends_the_run_without_a_verdict(team: Team) -> None:
    team.task("validate", "exec sleep 90")
    done = team.gate("--deadline-minutes", "0.1")
    assert done.returncode == 2
    assert "not done after" in team.status()[1]
    assert f"cancelled the DAG run {team.run_id}" in done.out


def test_missing_settings_are_named_before_any_work(team: Team) -> None:
    done = team.gate(AIRFLOW_API_URL="", AIRFLOW_PASSWORD="")
    assert done.returncode == 64
    assert "AIRFLOW_API_URL, AIRFLOW_PASSWORD" in done.out
    assert team.double.statuses(team.sha) == []


def test_two_gates_on_one_commit_share_a_run_and_a_comment(team: Team) -> None:
    team.candidate()
    both_wait = team.root / "both-wait"
    team.task("validate", f"until [ -e {both_wait} ]; do sleep 0.1; done")
    other = team.gate_in_background(until=f"the DAG run {team.run_id}")
    mine = team.gate(until=f"the DAG run {team.run_id}", then=both_wait.touch)
    out, _ = other.communicate(timeout=60)
    assert (mine.returncode, other.returncode) == (0, 0), (mine.out, out)
    assert team.status()[0] == "success"
    assert len(team.double.comments(team.number)) == 1
