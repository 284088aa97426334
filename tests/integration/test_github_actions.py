"""Workflows on this machine: what a step can see, how a job is cancelled, what is told when one cannot be run."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from clients.git import Git
from scripts.github_actions import (
    Runner,
    run_on_dispatch,
    run_on_pull_request,
    run_on_push,
    run_on_repository_dispatch,
    run_on_schedule,
)
from scripts.services import ROOT, StackError
from tests.docker_engine import Images

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
  pull_request:
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
    return Git(runner.repository).text(*arguments)


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


def used(action: str) -> str:
    """A step that uses an action, as the repository's own workflows have it."""
    lines = (ROOT / ".github/workflows/model-gate.yml").read_text(encoding="utf-8").splitlines()
    return "- " + next(line.strip().removeprefix("- ") for line in lines if f"{action}@" in line)


def test_a_runner_may_lie_in_a_folder_with_a_space(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    home, tools = tmp_path / "a runner", tmp_path / "its tools"
    home.mkdir()
    steps = f"""
      {used("checkout")}
      - run: mkdir seen && cp .github/workflows/try.yml seen/
      {used("upload-artifact")}
        with:
          name: what was seen
          path: seen
"""
    commit_workflow(runner, steps)
    for _ in range(2):  # the second finds the links of the first
        outcome = run_on_dispatch(dataclasses.replace(runner, home=home, tools=tools), "try.yml", "master", {}).wait()
        assert outcome.jobs == {"try": "success"}, outcome.output
        assert "what was seen" in (outcome.artifacts / "what was seen" / "try.yml").read_text(encoding="utf-8")
        assert outcome.artifacts.is_relative_to(home)


def test_a_link_to_another_folder_in_its_place_is_refused(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "links"))
    home = tmp_path / "a runner"
    for directory in (home, tmp_path / "links"):
        directory.mkdir()
    commit_workflow(runner, EVENT)
    run_on_dispatch(dataclasses.replace(runner, home=home), "try.yml", "master", {}).wait()
    (link,) = (tmp_path / "links").iterdir()
    link.unlink()
    link.symlink_to(tmp_path)
    with pytest.raises(StackError, match="remove what is there"):
        run_on_dispatch(dataclasses.replace(runner, home=home), "try.yml", "master", {})


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


def test_a_pull_requests_merge_is_checked_out_with_every_branch_at_hand(runner: Runner) -> None:
    steps = f"""
      {used("checkout")}
        with: {{fetch-depth: 0}}
      - run: git log -1 --format='seen %P' && git branch --remotes
"""
    commit_workflow(runner, steps)
    base = git(runner, "rev-parse", "HEAD")
    git(runner, "checkout", "--quiet", "-b", "change")
    git(runner, "-c", "user.name=a", "-c", "user.email=a@b.invalid", "commit", "-qm", "Change", "--allow-empty")
    head = git(runner, "rev-parse", "HEAD")
    pull = {"number": 7, "base": {"ref": "master", "sha": base}, "head": {"ref": "change", "sha": head}}

    outcome = run_on_pull_request(runner, "try.yml", pull).wait()

    assert outcome.jobs == {"try": "success"}, outcome.output
    for line in (f"seen {base} {head}", "origin/change", "origin/master"):
        assert f"try | {line}" in outcome.output


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


def read_yaml(path: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    return read


def refusal(step: dict[str, Any], **environment: str) -> str:
    """What a step's script prints before it fails; act at times loses the output of one that fails within moments."""
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    ended = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    return ended.stdout


def test_only_master_is_released(runner: Runner) -> None:
    shutil.copytree(ROOT / ".github", runner.repository / ".github")
    git(runner, "add", ".")
    git(runner, "-c", "user.name=a", "-c", "user.email=a@b.invalid", "commit", "-qm", "All workflows")
    git(runner, "branch", "dev")

    outcome = run_on_dispatch(runner, "release.yml", "dev", {"model_version": "3"}).wait()

    assert outcome.jobs == {"release": "failure"}
    assert "asked for Python" not in outcome.output
    step = read_yaml(".github/workflows/release.yml")["jobs"]["release"]["steps"][0]
    assert refusal(step, REF="refs/heads/dev").startswith("::error::only master is released; found refs/heads/dev.")


APT_GET = b"""#!/bin/sh
echo "apt-get $*"
"""
MAKE = b"""#!/bin/sh
echo "make $* with TESTS=$TESTS, RPS_NOTHING_LEFT_OUT=$RPS_NOTHING_LEFT_OUT"
echo "in $PWD of $(stat --format=%U .), as $(whoami), at $(cat ".git/$(sed -n 's/^ref: //p' .git/HEAD)")"
grep works state
"""


@pytest.fixture
def debian(runner: Runner, docker_host: str, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """A runner on which `debian:bookworm` is an image whose `apt-get` and `make` say what they are asked for.

    It is run without `--privileged`: they do not need it, and root may not have all of it here to give.
    """
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("the workflow calls docker: apt-get install docker.io")
    programs = {"/usr/local/bin/apt-get": APT_GET, "/usr/local/bin/make": MAKE}
    image = images.build(programs, f"RUN chmod +x {' '.join(programs)}")
    ours = tmp_path / "bin" / "docker"
    ours.parent.mkdir()
    ours.write_text(
        "#!/bin/bash\n"
        "test $UID != 0 || chown --recursive 1001 .\n"  # on GitHub the checkout is not root's
        f'set -- "${{@/#debian:bookworm/{image}}}"\n'
        f'exec {docker} "${{@/#--privileged/--rm}}"\n',
        encoding="utf-8",
    )
    ours.chmod(0o755)
    monkeypatch.setenv("PATH", str(ours.parent), prepend=os.pathsep)
    return dataclasses.replace(runner, docker_host=docker_host)


def test_the_system_tests_run_in_a_new_debian_on_what_a_pull_request_would_merge_and_on_the_default_branch(
    debian: Runner,
) -> None:
    for part in (".github/workflows", ".ci"):
        shutil.copytree(ROOT / part, debian.repository / part)

    def commit(state: str) -> str:
        (debian.repository / "state").write_text(state, encoding="utf-8")
        git(debian, "add", ".")
        git(debian, "-c", "user.name=a", "-c", "user.email=a@b.invalid", "commit", "-qm", state)
        return git(debian, "rev-parse", "HEAD")

    broken = commit("fails")
    git(debian, "checkout", "--quiet", "-b", "mend")
    pull = {"number": 7, "base": {"ref": "dev", "sha": broken}, "head": {"ref": "mend", "sha": commit("works")}}

    proposed = run_on_pull_request(debian, "system-tests.yml", pull).wait()
    nightly = run_on_schedule(debian, "system-tests.yml", "11 2 * * *").wait()

    merge = git(debian, "rev-parse", "refs/pull/7/merge")
    for outcome, sha, result in ((proposed, merge, "success"), (nightly, broken, "failure")):
        assert outcome.jobs == {"tests (integration)": result, "tests (e2e)": result}, outcome.output
        for lane in ("integration", "e2e"):
            said = [line for line in outcome.output.splitlines() if line.startswith(f"tests ({lane}) | ")]
            assert any(" chromium " in line for line in said if "apt-get install" in line)
            assert f"tests ({lane}) | make test with TESTS=tests/{lane}, RPS_NOTHING_LEFT_OUT=1" in said
            assert f"tests ({lane}) | in /rps of root, as root, at {sha}" in said


@pytest.mark.parametrize(("patience", "shown"), [(0, "SIGINT"), (1, "SIGTERM")])
def test_a_cancelled_job_gets_the_signals_that_github_sends_and_the_later_steps_run(
    runner: Runner, patience: int, shown: str
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
    assert f"received {shown}" in outcome.output
    assert "tidied" in outcome.output


def test_an_action_that_nothing_stands_in_for_is_reported_by_name(runner: Runner) -> None:
    commit_workflow(runner, f"      - uses: somebody/something@{'0' * 40} # v1\n")
    with pytest.raises(StackError, match="nothing that stands in for something"):
        run_on_dispatch(runner, "try.yml", "master", {})


def test_a_workflow_that_act_cannot_read_is_reported_with_what_it_said(runner: Runner) -> None:
    commit_workflow(runner, "      - run: [1\n")
    with pytest.raises(StackError, match="could not run the workflow"):
        run_on_dispatch(runner, "try.yml", "master", {}).wait()


def test_the_set_up_refuses_a_python_that_is_not_supported(runner: Runner) -> None:
    shutil.copytree(ROOT / ".github" / "actions", runner.repository / ".github" / "actions")
    steps = f"""
      {used("checkout")}
      - uses: ./.github/actions/setup
        with: {{python-version: '3.9; exit 0'}}
"""
    commit_workflow(runner, steps)
    outcome = run_on_dispatch(runner, "try.yml", "master", {}).wait()
    assert outcome.jobs == {"try": "failure"}
    step = read_yaml(".github/actions/setup/action.yml")["runs"]["steps"][0]
    message = "::error::python-version: expected 3.11, 3.12 or 3.13; found '3.9; exit 0'"
    assert refusal(step, PYTHON_VERSION="3.9; exit 0").strip() == message
