"""The double as a fixture: a real server on a free loopback port, in front of a real Git repository."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from clients.git import Git
from clients.settings import GitHubSettings
from doubles.github.__main__ import accounts
from doubles.github.double_server import GitHubDouble
from doubles.github.state import Account
from doubles.threaded_server import serving_in_thread

NAME = "ana/weather"
SOMEBODY = dict.fromkeys(("user.name", "user.email"), "a@b.example")
"""An author, as Git's settings, where it does not matter who it is."""


@dataclass
class Double:
    """The running double, and what a test may do to it and ask of it."""

    server: GitHubDouble
    git: Path
    """The bare repository."""
    token: str = "ghs_workflow0123456789"
    """What a workflow has."""
    read_token: str = "ghs_fork0123456789"
    """What the workflow of a fork's pull request has."""
    admin_token: str = "ghp_ana0123456789"
    """Of the owner, who also opens the pull requests, unless another token is given."""
    peer_token: str = "ghp_bea0123456789"
    """Of bea, who may write, and approves."""
    outsider_token: str = "ghp_carl0123456789"
    """Of carl, who may only read and comment."""
    expected_violations: list[str] = field(default_factory=list)
    """Parts of the violations that the test provokes."""

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def name(self) -> str:
        return self.server.name

    def settings(self, token: str | None = None) -> GitHubSettings:
        return GitHubSettings(f"{self.url}/api/v3", self.url, self.name, self.token if token is None else token)

    def environment(self, token: str | None = None) -> dict[str, str]:
        """What GitHub Actions would set for it."""
        return {
            "GITHUB_API_URL": f"{self.url}/api/v3",
            "GITHUB_SERVER_URL": self.url,
            "GITHUB_REPOSITORY": self.name,
            "GITHUB_TOKEN": self.token if token is None else token,
        }

    def request(
        self, method: str, path: str, body: object = None, *, token: str | None = None, **query: object
    ) -> httpx.Response:
        """path: below the repository, as `pulls/1`; or from the root, as `/user`. token: the owner's, if None."""
        address = f"{self.url}{path}" if path.startswith("/") else f"{self.url}/repos/{self.name}/{path}".rstrip("/")
        token = self.admin_token if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # No TLS here, and making it ready takes longer than the request.
        return httpx.request(
            method, address, json=body, headers=headers, params=query or None, timeout=30, verify=False
        )

    def open_pull_request(self, head: str, base: str, title: str = "A change", *, token: str | None = None) -> int:
        """Its number. head: a branch, or `owner:branch` of a fork."""
        answer = self.request("POST", "pulls", {"title": title, "head": head, "base": base}, token=token)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["number"])

    def comments(self, number: int) -> list[dict[str, Any]]:
        comments: list[dict[str, Any]] = self.request("GET", f"issues/{number}/comments", per_page=100).json()
        return comments

    def statuses(self, sha: str) -> list[dict[str, Any]]:
        """All that were set, the newest first."""
        statuses: list[dict[str, Any]] = self.request("GET", f"commits/{sha}/statuses", per_page=100).json()
        return statuses

    def approve(self, number: int, token: str | None = None) -> None:
        answer = self.request("POST", f"pulls/{number}/reviews", {"event": "APPROVE"}, token=token or self.peer_token)
        assert answer.status_code == 200, answer.text

    def fault(self, kind: str, **options: object) -> None:
        answer = httpx.put(f"{self.url}/_double/faults", json={"kind": kind, **options}, verify=False)
        assert answer.status_code == 200, answer.text

    def clear_faults(self) -> None:
        httpx.delete(f"{self.url}/_double/faults", verify=False).raise_for_status()

    def requests(self) -> list[str]:
        """`METHOD path status` of every request so far; in place of the status, the fault that it met."""
        return list(self.server.requests)

    def head(self, branch: str) -> str:
        return Git(self.git).text("rev-parse", f"refs/heads/{branch}")

    def commit(self, branch: str, files: dict[str, str], *, start: str = "") -> str:
        """Put a commit with these files onto a branch, as a push would. start: where a new branch begins."""
        return add_commit(self.git, branch, files, start=start)


def add_commit(directory: Path, branch: str, files: dict[str, str], *, start: str = "") -> str:
    """Put a commit onto a branch of a bare repository without a working tree; the commit."""
    index = directory / f"index-{threading.get_ident()}"
    git = Git(directory, settings=SOMEBODY, environment={"GIT_INDEX_FILE": str(index)})
    known = git.text("for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}")
    parent = known or (git.text("rev-parse", f"{start}^{{commit}}") if start else "")
    try:
        if parent:
            git.text("read-tree", parent)
        for path, text in files.items():
            blob = git.text("hash-object", "-w", "--stdin", given=text)
            git.text("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
        tree = git.text("write-tree")
    finally:
        index.unlink(missing_ok=True)
    parents = ("-p", parent) if parent else ()
    sha = git.text("commit-tree", tree, *parents, "-m", f"Change {', '.join(files)}")
    git.text("update-ref", f"refs/heads/{branch}", sha)
    return sha


def made_repository(directory: Path) -> Path:
    """A new bare repository without commits."""
    Git(directory.parent).text("init", "--quiet", "--bare", "--initial-branch=master", directory.name)
    return directory


@contextlib.contextmanager
def serving(git: Path, *, name: str = NAME, state_file: Path | None = None) -> Iterator[Double]:
    """The double in front of a Git repository. What GitHub's description forbids, either way, fails the test."""
    tokens = accounts(name, Double.token, Double.read_token, Double.admin_token, [f"bea:{Double.peer_token}"])
    tokens[Double.outsider_token] = Account("carl", 9, "User", "read")
    server = GitHubDouble(directory=git, name=name, tokens=tokens, state_file=state_file)
    with serving_in_thread(server):
        double = Double(server, git)
        yield double
    unexpected = [
        violation
        for violation in server.violations
        if not any(expected in violation for expected in double.expected_violations)
    ]
    assert not unexpected, f"GitHub's description does not allow: {unexpected}"
    assert not server.broken, f"the double answered what GitHub does not: {server.broken}"


@pytest.fixture
def github_double(tmp_path: Path) -> Iterator[Double]:
    """The double in front of a bare repository in which `master`, `test` and `dev` start from one commit."""
    repository = made_repository(tmp_path / "github.git")
    add_commit(repository, "master", {"README.md": "Weather\n"})
    for branch in ("test", "dev"):
        Git(repository).text("branch", branch, "master")
    with serving(repository) as double:
        yield double
