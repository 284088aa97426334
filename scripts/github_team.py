"""A team's repository on the GitHub double: branches, pull requests, the workflows that they start, reviews and merges.

It is what people and GitHub itself do; what `ci` does, the workflows do.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from clients.git import Git
from scripts.github_actions import Outcome, Runner, WorkflowRun, run_on_pull_request, run_on_push, show_as_checks
from scripts.services import Service, StackError, answers, free_ports, running

BRANCHES = ("dev", "test", "master")
ON_PULL_REQUEST = {"test": ("branch-flow.yml", "model-gate.yml"), "master": ("branch-flow.yml",)}
"""The workflows that a pull request into a branch starts, in the order in which they are run."""
ON_RELEASE = "release.yml"
"""What a push to master starts, beside the tests that any push starts."""
VARIABLES = (
    "AIRFLOW_API_URL", "AIRFLOW_USERNAME", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "REGISTRY_USERNAME",
    "RPS_BASE_IMAGE", "RPS_BUILD_NETWORK", "RPS_CHALLENGE", "RPS_IMAGE",
)  # fmt: skip
SECRETS = ("AIRFLOW_PASSWORD", "AIRFLOW_TOKEN", "MLFLOW_TRACKING_PASSWORD", "REGISTRY_PASSWORD")
_ANA = {"user.name": "Ana", "user.email": "ana@rps.invalid"}


@dataclass(frozen=True)
class Team:
    """ana, who owns the repository and opens pull requests; bea, who reviews them; and a runner for the workflows."""

    runner: Runner
    owner_token: str
    reviewer_token: str
    fork_token: str
    """What the workflow of a fork's pull request gets: it may only read."""

    @property
    def environment(self) -> dict[str, str]:
        """What `python -m ci` needs to act at GitHub as the owner."""
        return {
            "GITHUB_API_URL": self.runner.api_url,
            "GITHUB_SERVER_URL": self.runner.server_url,
            "GITHUB_REPOSITORY": self.runner.name,
            "GITHUB_TOKEN": self.owner_token,
        }

    def make_branches(self, commit: str) -> None:
        """dev, test and master at one commit."""
        for branch in BRANCHES:
            self._git.text("branch", "--force", branch, commit)

    def head(self, branch: str) -> str:
        return self._git.text("rev-parse", "--verify", f"refs/heads/{branch}^{{commit}}")

    def commit(self, branch: str, title: str, changes: Mapping[str, Mapping[str, str]]) -> str:
        """A commit on a branch that is there: in each file, texts replaced by others; its SHA."""
        work = self._work(branch)
        for name, replaced in changes.items():
            path = work.directory / name
            text = path.read_text(encoding="utf-8")
            for old, new in replaced.items():
                if old not in text:
                    raise StackError(f"{name} of {branch}: expected {old!r} in it, to replace it")
                text = text.replace(old, new, 1)
            path.write_text(text, encoding="utf-8")
        work.text("commit", "--quiet", "--all", "--message", title)
        return _pushed(work, branch)

    def take_back(self, branch: str) -> str:
        """Revert the last commit of a branch; the SHA of the commit that does it."""
        work = self._work(branch)
        work.text("revert", "--no-edit", "HEAD")
        return _pushed(work, branch)

    def open_pull_request(
        self, head: str, base: str, title: str, body: str = "", *, draft: bool = False
    ) -> dict[str, Any]:
        """head: a branch, or `owner:branch` of a fork that the double knows."""
        asked = {"title": title, "body": body, "head": head, "base": base, "draft": draft}
        made: dict[str, Any] = self._ask("POST", "pulls", asked)
        return made

    def pull_request(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", f"pulls/{number}")
        return found

    def start_workflow(self, pull: Mapping[str, Any], workflow: str, action: str = "opened") -> WorkflowRun:
        """As GitHub does on an event of the pull request: a fork's gets a token that may only read, and no secret."""
        runner = self.runner
        if pull["head"]["repo"]["full_name"] != runner.name:
            runner = replace(runner, token=self.fork_token, secrets={})
        return run_on_pull_request(runner, workflow, pull, action)

    def run_workflows(
        self, pull: Mapping[str, Any], action: str = "opened", on_line: Callable[[str, str], None] = lambda *_: None
    ) -> dict[str, Outcome]:
        """All that the pull request starts, to the end; their jobs' results become checks of its head."""
        outcomes = {}
        for workflow in ON_PULL_REQUEST[pull["base"]["ref"]]:
            outcomes[workflow] = self.start_workflow(pull, workflow, action).wait(on_line)
            show_as_checks(self.runner, pull["head"]["sha"], outcomes[workflow])
        return outcomes

    def approve(self, number: int) -> None:
        self._ask("POST", f"pulls/{number}/reviews", {"event": "APPROVE"}, token=self.reviewer_token)

    def merge(self, number: int) -> str:
        """Merge it; what GitHub holds against it, empty when it is merged."""
        answer = self._request("PUT", f"pulls/{number}/merge", {"merge_method": "merge"})
        if answer.status_code == 405:
            return str(answer.json()["message"])
        if answer.is_error:
            raise StackError(f"#{number} is not merged: {answer.status_code} {answer.text}")
        return ""

    def merge_into_master(self, title: str, on_line: Callable[[str, str], None] = lambda *_: None) -> str:
        """Bring `test` into `master` as the branch rules want it; the commit. Raises StackError when GitHub refuses."""
        number = self.open_pull_request("test", "master", title)["number"]
        self.run_workflows(self.pull_request(number), on_line=on_line)
        self.approve(number)
        if held := self.merge(number):
            raise StackError(f"GitHub does not merge #{number} into master: {' '.join(held.split())}")
        return self.head("master")

    def start_release(self, sha: str = "") -> WorkflowRun:
        """What the push of a commit to master starts; of its newest by default."""
        return run_on_push(self.runner, ON_RELEASE, "master", sha)

    def release(self, title: str, on_line: Callable[[str, str], None] = lambda *_: None) -> Outcome:
        """Merge `test` into `master`, and run the release that this starts, to the end."""
        sha = self.merge_into_master(title, on_line)
        return self.start_release(sha).wait(on_line)

    def close(self, number: int) -> None:
        self._ask("PATCH", f"pulls/{number}", {"state": "closed"})

    def statuses(self, sha: str) -> dict[str, dict[str, Any]]:
        """The newest of each context."""
        found = self._ask("GET", f"commits/{sha}/status")["statuses"]
        return {status["context"]: status for status in found}

    def comments(self, number: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask("GET", f"issues/{number}/comments")
        return found

    def issues(self, label: str) -> list[dict[str, Any]]:
        """Open and closed ones."""
        found: list[dict[str, Any]] = self._ask("GET", f"issues?state=all&labels={label}")
        return found

    @property
    def _git(self) -> Git:
        return Git(self.runner.repository, settings=_ANA)

    def _work(self, branch: str) -> Git:
        """A clone that has the newest commit of a branch checked out."""
        work = replace(self._git, directory=self.runner.home / "work")
        if not work.directory.exists():
            self._git.clone(work.directory, "--shared", "--no-checkout")
        work.text("fetch", "--quiet", "origin")
        work.text("checkout", "--quiet", "--force", "--detach", f"origin/{branch}")
        return work

    def _ask(self, method: str, path: str, body: object = None, token: str = "") -> Any:  # noqa: ANN401 - any JSON
        answer = self._request(method, path, body, token)
        if answer.is_error:
            raise StackError(f"{method} {answer.request.url}: {answer.status_code} {answer.text}")
        return answer.json()

    def _request(self, method: str, path: str, body: object = None, token: str = "") -> httpx.Response:
        url = f"{self.runner.api_url}/repos/{self.runner.name}/{path}"
        headers = {"Authorization": f"Bearer {token or self.owner_token}"}
        return httpx.request(method, url, json=body, headers=headers, timeout=30.0)


@contextlib.contextmanager
def team(
    home: Path, repository: Path, addresses: Mapping[str, str], name: str = "ana/weather", tools: Path | None = None
) -> Iterator[Team]:
    """Start the double in front of a Git repository; it ends with the block.

    home: for the double's log and the runner; addresses: of Airflow, MLflow and the registry, by the names that the
    workflows give them, which become the repository's variables and secrets; tools: as of ``Runner``. `DOCKER_HOST` is
    the runner's engine.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    tokens = [f"token-{secrets.token_hex(12)}" for _ in range(4)]
    workflow_token, fork_token, owner_token, reviewer_token = tokens
    port = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "doubles.github", "--port", str(port), "--repository", str(repository),
        "--name", name, "--token", workflow_token, "--read-token", fork_token, "--admin-token", owner_token,
        "--user", f"bea:{reviewer_token}",
    ]  # fmt: skip
    with running(Service("github", command, url, partial(answers, f"{url}/_double/requests")), home):
        runner = Runner(
            home=home,
            repository=repository,
            name=name,
            api_url=f"{url}/api/v3",
            server_url=url,
            token=workflow_token,
            variables={each: addresses[each] for each in VARIABLES if addresses.get(each)},
            secrets={each: addresses[each] for each in SECRETS if addresses.get(each)},
            docker_host=addresses.get("DOCKER_HOST") or os.environ.get("DOCKER_HOST", ""),
            tools=tools,
        )
        yield Team(runner, owner_token, reviewer_token, fork_token)


def _pushed(work: Git, branch: str) -> str:
    """Push what is checked out; its SHA."""
    work.text("push", "--quiet", "origin", f"HEAD:refs/heads/{branch}")
    return work.text("rev-parse", "HEAD")
