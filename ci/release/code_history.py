"""The history of the code in a checkout: what is part of a commit, and what has changed by its messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from clients.errors import ConfigurationError
from clients.git import Git

Change = Literal["breaking", "feature", "fix", "other"]
_SUBJECT = re.compile(r"(?P<type>[A-Za-z]+)(?:\([^()]*\))?(?P<breaking>!)?: +(?P<rest>\S.*)")
_FOOTER = re.compile(r"^BREAKING[ -]CHANGE: ", re.MULTILINE)


@dataclass(frozen=True)
class Commit:
    """A commit and its kind of change, by https://www.conventionalcommits.org/en/v1.0.0/."""

    sha: str
    subject: str
    """Without the type, when it has one."""
    change: Change


@dataclass(frozen=True)
class History(Git):
    """A checkout with the whole history of a commit."""

    def require_whole(self) -> None:
        """Raises ConfigurationError when the checkout is shallow: what is part of a commit is then unknown."""
        if self.text("rev-parse", "--is-shallow-repository") == "true":
            hint = "check it out whole (actions/checkout with fetch-depth: 0), or run git fetch --unshallow"
            raise ConfigurationError(f"the checkout {self.directory} holds only a part of the history; {hint}")

    def holds(self, sha: str) -> bool:
        """Whether the commit is in this checkout at all."""
        return bool(re.fullmatch(r"[0-9a-f]{40}", sha)) and self.succeeds("cat-file", "-e", f"{sha}^{{commit}}")

    def is_part(self, sha: str, of: str) -> bool:
        """Whether a commit is ``of`` or one of its ancestors; a commit that is not in this checkout is not."""
        return self.holds(sha) and self.succeeds("merge-base", "--is-ancestor", sha, of)

    def tag_object(self, sha: str) -> bytes | None:
        """An annotated tag as Git stores it; None when it is not in this checkout."""
        done = self.run("cat-file", "tag", sha) if re.fullmatch(r"[0-9a-f]{40}", sha) else None
        return done.stdout if done and done.returncode == 0 else None

    def changes(self, since: str, sha: str) -> tuple[Commit, ...]:
        """The commits of ``sha`` that are not in ``since`` (a commit; empty: none are), newest first, no merges."""
        span = [f"{since}..{sha}"] if since else [sha]
        log = self.text("log", "--no-merges", "-z", "--format=%H%n%B", *span, "--")
        return tuple(_commit(*entry.split("\n", 1)) for entry in log.split("\0") if "\n" in entry)


def _commit(sha: str, message: str) -> Commit:
    subject = message.strip().partition("\n")[0].strip()
    found = _SUBJECT.fullmatch(subject)
    breaking = bool(_FOOTER.search(message)) or bool(found and found["breaking"])
    if not found:
        return Commit(sha, subject, "breaking" if breaking else "other")
    kind = found["type"].lower()
    change: Change = "feature" if kind == "feat" else "fix" if kind == "fix" else "other"
    return Commit(sha, found["rest"] if change != "other" else subject, "breaking" if breaking else change)
