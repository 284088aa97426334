"""The Git repository behind the double: what its branches hold, and merging."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path


class Conflict(Exception):
    """The two commits cannot be merged."""


@dataclass(frozen=True)
class Commit:
    """What `git log` tells of one commit."""

    sha: str
    tree: str
    parents: tuple[str, ...]
    name: str
    email: str
    date: str
    message: str


@dataclass(frozen=True)
class Changes:
    """How a head differs from the base it is to be merged into."""

    commits: int
    files: int
    additions: int
    deletions: int


@dataclass(frozen=True)
class Git:
    """A bare repository, or a working one whose branches are pushed to."""

    directory: Path

    def head(self, branch: str) -> str:
        """The commit that a branch is at; empty when there is no such branch."""
        return self._try("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}^{{commit}}")

    def resolve(self, revision: str) -> str:
        """The commit of a SHA, branch or tag; empty when there is none."""
        return self._try("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")

    def commit(self, sha: str) -> Commit:
        told = self._run("log", "-1", "--date=iso-strict", "--format=%T%n%P%n%an%n%ae%n%cI%n%B", sha)
        tree, parents, name, email, date, message = told.split("\n", 5)
        return Commit(sha, tree, tuple(parents.split()), name, email, date, message.strip())

    def contains(self, descendant: str, ancestor: str) -> bool:
        command = ("git", "-C", str(self.directory), "merge-base", "--is-ancestor", ancestor, descendant)
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def changes(self, base: str, head: str) -> Changes:
        told = self._run("diff", "--shortstat", f"{base}...{head}")
        files, additions, deletions = (
            int(found[1]) if (found := re.search(rf"(\d+) {word}", told)) else 0
            for word in ("file", "insertion", "deletion")
        )
        return Changes(int(self._run("rev-list", "--count", f"{base}..{head}")), files, additions, deletions)

    def fetch(self, other: Path, sha: str, ref: str) -> None:
        self._run("fetch", "--quiet", str(other), f"+{sha}:{ref}")

    def merge(self, branch: str, head: str, message: str, method: str) -> str:
        """Move ``branch`` to a merge (or squashed) commit; the commit. Raises Conflict."""
        base = self.head(branch)
        tree = self._try("merge-tree", "--write-tree", base, head)
        if not tree:
            raise Conflict(f"{head} does not merge into {branch}")
        parents = ("-p", base) if method == "squash" else ("-p", base, "-p", head)
        identity = ("-c", "user.name=GitHub", "-c", "user.email=noreply@github.com")
        merged = self._run(*identity, "commit-tree", tree.splitlines()[0], *parents, "-m", message)
        self._run("update-ref", f"refs/heads/{branch}", merged, base)
        return merged

    def merges(self, base: str, head: str) -> bool:
        return bool(self._try("merge-tree", "--write-tree", base, head))

    def _run(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.directory), *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _try(self, *arguments: str) -> str:
        """What it prints; empty when it fails."""
        command = ["git", "-C", str(self.directory), *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""
