"""Workflows on this machine: what a step can see, how a job is cancelled, what is told when one cannot be run."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from scripts.github_actions import Runner, run_on_dispatch, run_on_push, run_on_repository_dispatch, run_on_schedule
from scripts.services import ROOT, StackError

HEAD = """\
on:
  push:
    branches: [master]
  workflow_dispatch:
    inputs:
      sha: {type: string}
  repository_dispatch:
    types: [model-drift]
  schedule:
    - cron: "17 4 * * 1"
jobs:
  try:
    runs-on: ubuntu-latest
    steps:
"""


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """A runner for a repository of one branch, `master`, which `commit_workflow` fills."""
    repository = tmp_path / "repository"
    subprocess.run(["git", "init", "--quiet", "--initial-branch=master", str(repository)], check=True)
    home = tmp_path / "runner"
    home.mkdir()
    return Runner(
        home=home,
        repository=repository,
        name="ana/weather",
        api_url="http://127.0.0.1:9/api/v3",
        server_url="http://127.0.0.1:9",
        token="workflow-token",
        variables={"AIRFLOW_API_URL": "http://airflow.invalid"},
        secrets={"AIRFLOW_PASSWORD": "swordfish"},
    )


def commit_workflow(runner: Runner, steps: str) -> None:
    path = runner.repository / ".github" / "workflows" / "try.yml"
    path.parent.mkdir(parents=True)
    path.write_text(HEAD + steps, encoding="utf-8")
    for command in (["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b.invalid", "commit", "-qm", "Try"]):
        subprocess.run(["git", "-C", str(runner.repository), *command], check=True)


def git(runner: Runner, *arguments: str) -> str:
    command = ["git", "-C", str(runner.repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_step_sees_what_the_workflow_gives_it_and_nothing_else_of_ours(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "from-the-shell")
    monkeypatch.setenv("GITHUB_TOKEN", "from-the-shell")
    steps = """
      - env:
          GIVEN: ${{ vars.AIRFLOW_API_URL }} ${{ github.repository }} ${{ inputs.sha }}
          SECRET: ${{ secrets.AIRFLOW_PASSWORD }}
        run: |
          echo "given $GIVEN"
          echo "secret $SECRET ${#SECRET}"
          echo "not given [$MLFLOW_TRACKING_PASSWORD$GITHUB_TOKEN]"
          echo "home $HOME"
          echo "a summary" >> "$GITHUB_STEP_SUMMARY"
"""
    commit_workflow(runner, steps)
    outcome = run_on_dispatch(runner, "try.yml", "master", {"sha": "abc"}).wait()
    assert outcome.jobs == {"try": "success"}
    assert "try | given http://airflow.invalid ana/weather abc" in outcome.output
    assert "secret *** 9" in outcome.output
    assert "not given []" in outcome.output
    assert f"home {runner.home}" in outcome.output
    assert outcome.summary.strip() == "a summary"
    for path in (runner.home / "runs").rglob("secrets"):
        assert path.stat().st_mode & 0o077 == 0


EVENT = """
      - env:
          EVENT: ${{ github.event_name }} ${{ github.ref }} ${{ github.sha }} ${{ github.event.after }}
        run: echo "seen $EVENT"
"""


def test_a_push_is_of_its_branch_and_commit_also_when_another_has_come_since(runner: Runner) -> None:
    commit_workflow(runner, EVENT)
    pushed = git(runner, "rev-parse", "HEAD")
    git(runner, "-c", "user.name=a", "-c", "user.email=a@b.invalid", "commit", "-qm", "Later", "--allow-empty")
    later = git(runner, "rev-parse", "HEAD")

    for sha, seen in ((pushed, pushed), ("", later)):
        outcome = run_on_push(runner, "try.yml", "master", sha).wait()
        assert outcome.jobs == {"try": "success"}
        assert f"seen push refs/heads/master {seen} {seen}" in outcome.output


def test_a_workflow_that_is_started_by_hand_sees_from_which_branch(runner: Runner) -> None:
    commit_workflow(runner, EVENT)
    git(runner, "branch", "dev")

    outcome = run_on_dispatch(runner, "try.yml", "dev", {}).wait()

    assert f"seen workflow_dispatch refs/heads/dev {git(runner, 'rev-parse', 'dev')}" in outcome.output


def test_an_event_and_a_schedule_run_the_newest_commit_of_the_default_branch(runner: Runner) -> None:
    steps = """
      - env:
          EVENT: ${{ github.event_name }} ${{ github.ref }} ${{ github.sha }}
          TOLD: ${{ github.event.action }} ${{ github.event.client_payload.summary }} ${{ github.event.schedule }}
        run: echo "seen $EVENT; $TOLD"
"""
    commit_workflow(runner, steps)
    git(runner, "checkout", "--quiet", "-b", "dev")
    git(runner, "-c", "user.name=a", "-c", "user.email=a@b.invalid", "commit", "-qm", "Later", "--allow-empty")
    master = git(runner, "rev-parse", "master")

    event = run_on_repository_dispatch(runner, "try.yml", "model-drift", {"summary": "$(id) `x`"}).wait()
    week = run_on_schedule(runner, "try.yml", "17 4 * * 1").wait()

    assert f"seen repository_dispatch refs/heads/master {master}; model-drift $(id) `x`" in event.output
    assert f"seen schedule refs/heads/master {master};   17 4 * * 1" in week.output


def test_an_event_that_a_workflow_does_not_listen_to_starts_nothing(runner: Runner) -> None:
    commit_workflow(runner, EVENT)
    with pytest.raises(StackError, match=r"try\.yml does not listen to repository_dispatch: somebody-else"):
        run_on_repository_dispatch(runner, "try.yml", "somebody-else", {})


def test_the_steps_find_the_runners_container_engine(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///of/the/shell.sock")
    commit_workflow(runner, '      - run: echo "engine [$DOCKER_HOST]"\n')

    with_one = dataclasses.replace(runner, docker_host=f"unix://{runner.home}/engine.sock")

    assert f"engine [unix://{runner.home}/engine.sock]" in run_on_push(with_one, "try.yml", "master").wait().output
    assert "engine []" in run_on_push(runner, "try.yml", "master").wait().output


def test_only_master_is_released(runner: Runner) -> None:
    shutil.copytree(ROOT / ".github", runner.repository / ".github")
    git(runner, "add", ".")
    git(runner, "-c", "user.name=a", "-c", "user.email=a@b.invalid", "commit", "-qm", "All workflows")
    git(runner, "branch", "dev")

    outcome = run_on_dispatch(runner, "release.yml", "dev", {"model_version": "3"}).wait()

    assert outcome.jobs == {"release": "failure"}
    assert "::error::only master is released; found refs/heads/dev." in outcome.output
    assert "asked for Python" not in outcome.output


@pytest.mark.parametrize(("patience", "told"), [(0, "SIGINT"), (1, "SIGTERM")])
def test_a_cancelled_job_gets_the_signals_that_github_sends_and_the_later_steps_run(
    runner: Runner, patience: int, told: str
) -> None:
    steps = f"""
      - shell: bash
        run: |
          exec python3 -c '
          import os, signal, sys, time
          def received(number, _frame, seen=[]):
              os.write(1, f"received {{signal.Signals(number).name}}\\n".encode())
              seen.append(number)
              if len(seen) > {patience}:
                  sys.exit(3)
          signal.signal(signal.SIGINT, received)
          signal.signal(signal.SIGTERM, received)
          print("at work", flush=True)
          time.sleep(60)'
      - if: always()
        run: echo tidied
"""
    commit_workflow(runner, steps)
    run = run_on_dispatch(runner, "try.yml", "master", {})
    cancelling = threading.Thread(target=run.cancel)

    def cancel_once_at_work(_job: str, line: str) -> None:
        if line == "at work":
            cancelling.start()

    outcome = run.wait(cancel_once_at_work)
    cancelling.join()
    assert outcome.jobs == {"try": "failure"}
    assert f"received {told}" in outcome.output
    assert "tidied" in outcome.output


def test_an_action_that_nothing_stands_in_for_is_told_by_name(runner: Runner) -> None:
    commit_workflow(runner, f"      - uses: somebody/something@{'0' * 40} # v1\n")
    with pytest.raises(StackError, match="nothing that stands in for something"):
        run_on_dispatch(runner, "try.yml", "master", {})


def test_a_workflow_that_act_cannot_read_is_told_with_what_it_said(runner: Runner) -> None:
    commit_workflow(runner, "      - run: [1\n")
    with pytest.raises(StackError, match="could not run the workflow"):
        run_on_dispatch(runner, "try.yml", "master", {}).wait()


def test_the_set_up_refuses_a_python_that_is_not_supported(runner: Runner) -> None:
    shutil.copytree(ROOT / ".github" / "actions", runner.repository / ".github" / "actions")
    checkout = next(
        line.strip() for line in (ROOT / ".github/workflows/ci.yml").read_text().splitlines() if "checkout@" in line
    )
    steps = (
        f"      {checkout}\n      - uses: ./.github/actions/setup\n        with: {{python-version: '3.9; exit 0'}}\n"
    )
    commit_workflow(runner, steps)
    outcome = run_on_dispatch(runner, "try.yml", "master", {}).wait()
    assert outcome.jobs == {"try": "failure"}
    assert "python-version: expected 3.11, 3.12 or 3.13; found '3.9; exit 0'" in outcome.output
