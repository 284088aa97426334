"""The Git repository behind the double: what its branches hold, refs and tags, and merging."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
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
class Reference:
    """A ref, and the object that it names: a commit, or the object of an annotated tag."""

    name: str
    """`refs/…`"""
    sha: str
    kind: str


@dataclass(frozen=True)
class Tag:
    """The object of an annotated tag. date: in ISO 8601."""

    name: str
    sha: str
    target: str
    kind: str
    """Of the target."""
    message: str
    tagger: str
    email: str
    date: str


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
        return self._git("merge-base", "--is-ancestor", ancestor, descendant).returncode == 0

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

    def kind(self, sha: str) -> str:
        """commit, tree, blob or tag; empty when there is no such object."""
        return self._try("cat-file", "-t", sha) if re.fullmatch(r"[0-9a-f]{40}", sha) else ""

    def references(self, prefix: str) -> list[Reference]:
        """Those whose names start so, whether or not that is where a part of the name ends."""
        told = self._run("for-each-ref", "--format=%(refname) %(objectname) %(objecttype)").splitlines()
        found = [Reference(*line.split(" ")) for line in told]
        return [each for each in found if each.name.startswith(prefix)]

    def reference(self, name: str) -> Reference | None:
        return next((each for each in self.references(name) if each.name == name), None)

    def is_reference_name(self, name: str) -> bool:
        return self._git("check-ref-format", name).returncode == 0

    def move_reference(self, name: str, sha: str, before: str) -> bool:
        """Point it at another object if it is where it is believed to be; before: zeros when it is to be made."""
        return self._git("update-ref", name, sha, before).returncode == 0

    def delete_reference(self, name: str) -> None:
        self._run("update-ref", "-d", name)

    def make_tag(self, name: str, target: str, kind: str, message: str, tagger: str, email: str, date: str) -> str:
        """The SHA of the object, which no ref names yet."""
        seconds = int(datetime.fromisoformat(date).timestamp())
        content = f"object {target}\ntype {kind}\ntag {name}\ntagger {tagger} <{email}> {seconds} +0000\n\n{message}"
        return self._run("hash-object", "-t", "tag", "-w", "--stdin", given=content)

    def tag(self, sha: str) -> Tag:
        head, _, message = self._git("cat-file", "tag", sha).stdout.partition("\n\n")
        said = dict(line.split(" ", 1) for line in head.splitlines())
        person, _, moment = said["tagger"].rpartition("> ")
        tagger, _, email = person.partition(" <")
        date = datetime.fromtimestamp(int(moment.split(" ")[0]), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return Tag(said["tag"], sha, said["object"], said["type"], message, tagger, email, date)

    def files(self, revision: str, directory: str) -> set[tuple[str, str]]:
        """The path and the content's hash of every file below a directory of a commit."""
        told = self._run("ls-tree", "-r", revision, f"{directory}/").splitlines()
        return {(path, entry.split(" ")[2]) for entry, _, path in (line.partition("\t") for line in told)}

    def merges(self, base: str, head: str) -> bool:
        return bool(self._try("merge-tree", "--write-tree", base, head))

    def _run(self, *arguments: str, given: str | None = None) -> str:
        done = self._git(*arguments, given=given)
        if done.returncode:
            raise RuntimeError(f"{' '.join(done.args)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _try(self, *arguments: str) -> str:
        """What it prints; empty when it fails."""
        done = self._git(*arguments)
        return done.stdout.strip() if done.returncode == 0 else ""

    def _git(self, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(self.directory), *arguments]
        return subprocess.run(command, input=given, check=False, capture_output=True, text=True)
