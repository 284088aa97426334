"""`python -m ci gate` as a workflow runs it, against a real Airflow and a real MLflow, and the double of GitHub."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.register import Registered
from scripts.services import ROOT
from tests.doubles.github.fixture import Double
from tests.integration.airflow_server import AirflowServer, airflow_server
from tests.integration.scripted_runs import ScriptedRuns, scripted_dags

GATE_SECONDS = 120
STATUS = "model-gate"


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowServer]:
    home = tmp_path_factory.mktemp("airflow")
    (home / "scripts").mkdir()
    with airflow_server(home) as server:
        server.add_dags("gated", scripted_dags("gated", 30))
        yield server


@dataclass(frozen=True)
class Team(ScriptedRuns):
    """A repository with one challenge of its own, its services, and the pull request that is judged."""

    number: int

    @property
    def run_id(self) -> str:
        return f"gate__{self.challenge}__{self.sha}__1"

    def command(self, *more: str) -> list[str]:
        return [
            sys.executable, "-m", "ci", "gate", "--challenge", self.challenge, "--sha", self.sha,
            "--pull-request", str(self.number), "--repository", str(self.root / "checkout"),
            "--output", str(self.root / "out"), *more,
        ]  # fmt: skip

    def gate(self, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*more), env={**self.environment, **environment}, cwd=self.root, capture_output=True, text=True,
            timeout=GATE_SECONDS, check=False,
        )  # fmt: skip

    def gate_in_background(self, until: str = "validate   running") -> subprocess.Popen[str]:
        """A gate that has got as far as to tell this."""
        process = subprocess.Popen(
            self.command(), env=self.environment, cwd=self.root, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if until in line:
                return process
        pytest.fail(f"the gate ended before it told: {until}")

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


_used = iter(range(30))


@pytest.fixture
def team(airflow: AirflowServer, tracking_env: str, github_double: Double, tmp_path: Path) -> Callable[..., Team]:
    """Makes the team; head: texts of the challenge file that the pull request replaces, by what."""

    def make(*, title: str = "A better model", branch: str = "dev", head: dict[str, str] | None = None) -> Team:
        challenge = f"gated_{next(_used)}"
        path = f"challenges/{challenge}.toml"
        text = (ROOT / "challenges" / "weather.toml").read_text(encoding="utf-8")
        base = text.replace('name = "weather"', f'name = "{challenge}"', 1)
        changed = base + "\n# A change.\n"
        for old, new in (head or {}).items():
            assert old in changed
            changed = changed.replace(old, new, 1)
        github_double.commit("test", {path: base})
        sha = github_double.commit(branch, {path: changed}, start="test")
        number = github_double.open_pull_request(branch, "test", title)
        subprocess.run(["git", "clone", "--quiet", str(github_double.git), str(tmp_path / "checkout")], check=True)
        return Team(challenge, sha, github_double, airflow, tracking_env, tmp_path, number)

    return make


def test_without_a_production_model_a_candidate_passes_that_beats_persistence(team: Callable[..., Team]):
    one = team()
    version = one.candidate().version
    done = one.gate()
    assert done.returncode == 0, done.stdout + done.stderr
    assert one.states() == ["pending", "success"]
    assert "no production model yet" in one.comment()
    assert one.verdict_tag(version) == "passed"
    told = json.loads((one.root / "out" / "verdict.json").read_text())
    assert (told["outcome"], told["git_sha"], told["verdict"]["opponent"]) == ("pass", one.sha, "persistence")
    assert 0 <= told["task_seconds"] <= told["seconds"]


def test_a_worse_candidate_is_blocked_and_a_rerun_attaches_and_updates_the_one_comment(team: Callable[..., Team]):
    one = team()
    one.release(one.candidate("release__1", "f" * 40).version)
    version = one.candidate(**{"learning_rate = 0.05": "learning_rate = 0.001"}).version
    first = one.gate()
    assert first.returncode == 1, first.stdout + first.stderr
    assert one.status()[0] == "failure"
    assert "worse than production" in one.status()[1]
    assert one.verdict_tag(version) == "blocked"
    second = one.gate()
    assert second.returncode == 1
    assert f"attached to the DAG run {one.run_id}" in second.stdout
    assert "Blocked" in one.comment()


def test_a_model_like_production_passes(team: Callable[..., Team]):
    one = team()
    one.release(one.candidate("release__1", "f" * 40).version)
    one.candidate()
    done = one.gate()
    assert done.returncode == 0, done.stdout + done.stderr
    assert one.status()[0] == "success"


def test_a_pull_request_is_judged_by_the_base_branchs_policy_and_its_own_is_shown(team: Callable[..., Team]):
    one = team(head={"max_bundle_bytes = 20_000_000": "max_bundle_bytes = 900_000_000"})
    one.candidate()
    done = one.gate()
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((one.root / "out" / "verdict.json").read_text())
    assert told["policy"]["max_bundle_bytes"] == 20_000_000
    assert [change["key"] for change in told["policy_changes"]] == ["gate.max_bundle_bytes"]
    assert "900000000" in one.comment()


def test_rejected_data_is_an_error_with_the_table_of_violations(team: Callable[..., Team]):
    one = team()
    one.rejected()
    one.task("validate", "echo 'error: nulls: temperature'; exit 65")
    done = one.gate()
    assert done.returncode == 2, done.stdout + done.stderr
    assert one.status()[0] == "error"
    assert "the data failed the quality gate" in one.status()[1]
    comment = one.comment()
    assert "validate" in comment
    assert "temperature" in comment
    assert f"/dags/retrain_{one.challenge}/runs/" in comment


def test_a_failed_task_is_told_with_the_end_of_its_log(team: Callable[..., Team]):
    one = team()
    one.task("register", "echo 'the disk is full'; exit 64")
    done = one.gate()
    assert done.returncode == 2
    assert one.status()[0] == "error"
    assert "the task register failed" in one.status()[1]
    assert "the disk is full" in one.comment()


def test_a_run_that_left_nothing_in_mlflow_gives_no_verdict(team: Callable[..., Team]):
    one = team()
    done = one.gate()
    assert done.returncode == 2
    assert one.states() == ["pending", "error"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cancelled_gate_cancels_its_run_and_sets_the_status(team: Callable[..., Team], number: signal.Signals):
    one = team()
    one.task("validate", "exec sleep 90")
    gate = one.gate_in_background()
    gate.send_signal(number)
    out, _ = gate.communicate(timeout=30)
    assert gate.returncode == 2, out
    assert one.states() == ["pending", "error"]
    assert f"cancelled by {number.name}" in one.status()[1]
    assert f"cancelled the DAG run {one.run_id}" in out
    assert one.double.comments(one.number) == []


def test_a_pull_request_that_is_pushed_to_ends_the_gate_and_its_run(team: Callable[..., Team]):
    one = team()
    one.task("validate", "exec sleep 90")
    gate = one.gate_in_background()
    one.double.commit("dev", {"more.txt": "pushed"})
    out, _ = gate.communicate(timeout=60)
    assert gate.returncode == 2, out
    assert one.status()[0] == "error"
    assert "was pushed to" in one.status()[1]
    assert f"cancelled the DAG run {one.run_id}" in out


def test_a_pull_request_that_is_closed_before_the_verdict_gets_none(team: Callable[..., Team]):
    one = team()
    one.candidate()
    one.task("validate", "sleep 3")
    gate = one.gate_in_background()
    answer = one.double.request("PATCH", f"pulls/{one.number}", {"state": "closed"})
    assert answer.status_code == 200
    out, _ = gate.communicate(timeout=60)
    assert gate.returncode == 2, out
    assert one.status() == ("error", f"no verdict: pull request #{one.number} is closed: nothing is to be judged")


def test_the_deadline_ends_the_run_without_a_verdict(team: Callable[..., Team]):
    one = team()
    one.task("validate", "exec sleep 90")
    done = one.gate("--deadline-minutes", "0.1")
    assert done.returncode == 2
    assert "not done after" in one.status()[1]
    assert f"cancelled the DAG run {one.run_id}" in done.stdout


def test_a_rate_limit_that_ends_in_time_is_waited_for(team: Callable[..., Team]):
    one = team()
    one.candidate()
    one.double.fault("secondary_limit", seconds=3)
    done = one.gate()
    assert done.returncode == 0, done.stdout + done.stderr
    assert one.status()[0] == "success"


def test_a_hostile_title_and_branch_stay_text(team: Callable[..., Team]):
    branch = "feature/$(touch${IFS}pwned)"
    title = "</details><script>alert(1)</script> @everyone ![x](http://evil) `$(touch pwned)` | a | b"
    one = team(title=title, branch=branch)
    one.candidate()
    done = one.gate()
    assert done.returncode == 0, done.stdout + done.stderr
    comment = one.comment()
    assert "<script" not in comment
    assert not re.search(r"(?<![\\\w])@everyone", comment)
    assert "](http://evil" not in comment
    assert not list(one.root.glob("**/pwned"))


def test_a_commit_is_judged_without_github(team: Callable[..., Team]):
    one = team()
    one.candidate()
    command = [part for part in one.command() if part not in {"--pull-request", str(one.number)}]
    environment = {name: value for name, value in one.environment.items() if not name.startswith("GITHUB_")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=GATE_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no production model yet" in done.stdout
    assert one.double.statuses(one.sha) == []


def test_missing_settings_are_named_before_any_work(team: Callable[..., Team]):
    one = team()
    done = one.gate(AIRFLOW_API_URL="", AIRFLOW_PASSWORD="")
    assert done.returncode == 64
    assert "AIRFLOW_API_URL, AIRFLOW_PASSWORD" in done.stdout
    assert one.double.statuses(one.sha) == []


def test_statuses_before_and_after_the_gates(team: Callable[..., Team]):
    one = team()
    one.candidate()
    frame = ["--sha", one.sha, "--repository", str(one.root / "checkout")]

    def ci(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ci", *arguments, *frame]
        return subprocess.run(command, env=one.environment, cwd=one.root, capture_output=True, text=True, check=False)

    planned = ci("plan")
    assert planned.stdout.splitlines()[-1] == f'challenges=["{one.challenge}"]'
    assert one.status()[0] == "pending"
    assert ci("conclude").returncode == 2
    assert one.status()[0] == "error"
    assert one.gate("--context", f"{STATUS}/{one.challenge}").returncode == 0
    assert ci("conclude").returncode == 0
    assert one.status()[0] == "success"


def test_two_gates_on_one_commit_share_a_run_and_a_comment(team: Callable[..., Team]):
    one = team()
    one.candidate()
    one.task("validate", "sleep 4")
    gates = [one.gate_in_background(f"the DAG run {one.run_id}") for _ in range(2)]
    outs = [gate.communicate(timeout=60)[0] for gate in gates]
    assert [gate.returncode for gate in gates] == [0, 0], outs
    assert one.status()[0] == "success"
    assert len(one.double.comments(one.number)) == 1
