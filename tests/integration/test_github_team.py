"""A team's way to master: the pull request that the branch rules ask for, and what the merge then starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from scripts.github_team import Team, team
from scripts.services import ROOT, StackError

WORKFLOWS = {
    ".github/workflows/branch-flow.yml": (ROOT / ".github/workflows/branch-flow.yml").read_text(),
    ".github/workflows/release.yml": """\
on:
  push:
    branches: [master]
jobs:
  release:
    runs-on: ubuntu-latest
    environment: production
    steps:
      - env:
          SEEN: ${{ github.sha }} ${{ vars.RPS_IMAGE }} ${{ vars.REGISTRY_USERNAME }} ${{ vars.RPS_BASE_IMAGE }}
          PASSWORD: ${{ secrets.REGISTRY_PASSWORD }}
        run: echo "seen $SEEN ${#PASSWORD} $DOCKER_HOST"
""",
}
ADDRESSES = {
    "RPS_IMAGE": "registry.invalid/ana/rps",
    "REGISTRY_USERNAME": "ana",
    "REGISTRY_PASSWORD": "swordfish",
    "RPS_BASE_IMAGE": "python:3.12-slim",
    "RPS_BUILD_NETWORK": "",
    "DOCKER_HOST": "unix:///nowhere/docker.sock",
}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Team]:
    """A repository whose test is a commit before its master, with the rules of `.github/rulesets`."""
    repository, home = tmp_path / "repository.git", tmp_path / "github"
    work = tmp_path / "work"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=master", str(repository)], check=True)
    subprocess.run(["git", "clone", "--quiet", str(repository), str(work)], check=True, capture_output=True)
    for name, text in {**WORKFLOWS, "README.md": "Weather\n"}.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text, encoding="utf-8")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    for arguments in (
        ["add", "."],
        [*identity, "commit", "-qm", "Start"],
        ["push", "--quiet", "origin", "HEAD:master"],
    ):
        subprocess.run(["git", "-C", str(work), *arguments], check=True)
    with team(home, repository, ADDRESSES) as made:
        made.make_branches(made.head("master"))
        made.commit("test", "feat: Tell the weather", {"README.md": {"Weather": "The weather"}})
        command = [sys.executable, "-m", "ci", "rules", "apply"]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **made.environment}, check=True, capture_output=True)
        yield made
        assert httpx.get(f"{made.runner.server_url}/_double/violations").json() == {"violations": []}


def test_a_merge_into_master_starts_the_release_of_the_merge_commit(here: Team) -> None:
    before = here.head("master")
    outcome = here.release("Release the weather")

    merged = here.head("master")
    assert merged != before
    assert outcome.jobs == {"release": "success"}
    seen = f"seen {merged} registry.invalid/ana/rps ana python:3.12-slim 9 unix:///nowhere/docker.sock"
    assert seen in outcome.output
    assert "RPS_BUILD_NETWORK" not in here.runner.variables
    assert "swordfish" not in outcome.output + repr(here)


def test_nothing_else_than_test_gets_into_master(here: Team) -> None:
    here.commit("dev", "fix: Tell it better", {"README.md": {"Weather": "Better weather"}})
    number = here.open_pull_request("dev", "master", "Not by this way")["number"]

    outcomes = here.run_workflows(here.pull_request(number))
    here.approve(number)

    assert {name: outcome.jobs for name, outcome in outcomes.items()} == {"branch-flow.yml": {"branch-flow": "failure"}}
    assert '"branch-flow" is failing' in here.merge(number)


def test_a_merge_that_github_refuses_ends_with_its_reason(here: Team) -> None:
    here.commit("test", "ci: Fail", {".github/workflows/branch-flow.yml": {"expected=test": "expected=nothing"}})
    before = here.head("master")

    with pytest.raises(StackError, match=r'#1 into master: .* check "branch-flow" is failing'):
        here.release("Release the weather")
    assert here.head("master") == before
