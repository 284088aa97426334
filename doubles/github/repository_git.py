"""The Git repository behind the double: what its branches hold, refs and tags, and merging."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from clients.git import Git


class Conflict(Exception):
    """The two commits cannot be merged."""


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
class Repository(Git):
    """A bare repository, or a working one whose branches are pushed to."""

    settings: Mapping[str, str] = field(
        default_factory=lambda: {"user.name": "GitHub", "user.email": "noreply@github.com"}
    )

    def head(self, branch: str) -> str:
        """The commit that a branch is at; empty when there is no such branch."""
        return self._try("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}^{{commit}}")

    def resolve(self, revision: str) -> str:
        """The commit of a SHA, branch or tag; empty when there is none."""
        return self._try("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")

    def contains(self, descendant: str, ancestor: str) -> bool:
        return self.succeeds("merge-base", "--is-ancestor", ancestor, descendant)

    def changes(self, base: str, head: str) -> dict[str, int]:
        """How a head differs from the base that it is to be merged into, in GitHub's terms."""
        summary = self.text("diff", "--shortstat", f"{base}...{head}")
        words = {"changed_files": "file", "additions": "insertion", "deletions": "deletion"}
        found = {name: re.search(rf"(\d+) {word}", summary) for name, word in words.items()}
        counts = {name: int(match[1]) if match else 0 for name, match in found.items()}
        return {"commits": int(self.text("rev-list", "--count", f"{base}..{head}")), **counts}

    def fetch(self, other: Path, sha: str, ref: str) -> None:
        self.text("fetch", "--quiet", str(other), f"+{sha}:{ref}")

    def merge(self, branch: str, head: str, message: str, method: str) -> str:
        """Move ``branch`` to a merge (or squashed) commit; the commit. Raises Conflict."""
        base = self.head(branch)
        tree = self._try("merge-tree", "--write-tree", base, head)
        if not tree:
            raise Conflict(f"{head} does not merge into {branch}")
        parents = ("-p", base) if method == "squash" else ("-p", base, "-p", head)
        merged = self.text("commit-tree", tree.splitlines()[0], *parents, "-m", message)
        self.text("update-ref", f"refs/heads/{branch}", merged, base)
        return merged

    def kind(self, sha: str) -> str:
        """commit, tree, blob or tag; empty when there is no such object."""
        return self._try("cat-file", "-t", sha) if re.fullmatch(r"[0-9a-f]{40}", sha) else ""

    def references(self, prefix: str) -> list[Reference]:
        """Those whose names start so, whether or not that is where a part of the name ends."""
        lines = self.text("for-each-ref", "--format=%(refname) %(objectname) %(objecttype)").splitlines()
        found = [Reference(*line.split(" ")) for line in lines]
        return [each for each in found if each.name.startswith(prefix)]

    def reference(self, name: str) -> Reference | None:
        return next((each for each in self.references(name) if each.name == name), None)

    def is_reference_name(self, name: str) -> bool:
        return self.succeeds("check-ref-format", name)

    def move_reference(self, name: str, sha: str, before: str) -> bool:
        """Point it at another object if it is where it is believed to be; before: zeros when it is to be made."""
        return self.succeeds("update-ref", name, sha, before)

    def delete_reference(self, name: str) -> None:
        self.text("update-ref", "-d", name)

    def make_tag(self, name: str, target: str, kind: str, message: str, tagger: str, email: str, date: str) -> str:
        """The SHA of the object, which no ref names yet."""
        seconds = int(datetime.fromisoformat(date).timestamp())
        content = f"object {target}\ntype {kind}\ntag {name}\ntagger {tagger} <{email}> {seconds} +0000\n\n{message}"
        return self.text("hash-object", "-t", "tag", "-w", "--stdin", given=content)

    def tag(self, sha: str) -> Tag:
        head, _, message = self.output("cat-file", "tag", sha).decode().partition("\n\n")
        fields = dict(line.split(" ", 1) for line in head.splitlines())
        person, _, moment = fields["tagger"].rpartition("> ")
        tagger, _, email = person.partition(" <")
        date = datetime.fromtimestamp(int(moment.split(" ")[0]), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return Tag(fields["tag"], sha, fields["object"], fields["type"], message, tagger, email, date)

    def files(self, revision: str, directory: str) -> set[tuple[str, str]]:
        """The path and the content's hash of every file below a directory of a commit."""
        lines = self.text("ls-tree", "-r", revision, f"{directory}/").splitlines()
        return {(path, entry.split(" ")[2]) for entry, _, path in (line.partition("\t") for line in lines)}

    def merges(self, base: str, head: str) -> bool:
        return bool(self._try("merge-tree", "--write-tree", base, head))

    def _try(self, *arguments: str) -> str:
        """What it prints; empty when it fails."""
        done = self.run(*arguments)
        return "" if done.returncode else done.stdout.decode().strip()
