"""The number of a release: by Conventional Commits since the last one, and never one that another release has taken.

A release reserves its number as a Git ref before it does anything under that name; creating a ref is atomic at GitHub,
so two releases never have the same number, and one that was interrupted finds its own again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ci.release.code_history import Commit, History
from ci.release.plan import Number
from clients.errors import NotReleased

FIRST = Number(1, 0, 0)


@dataclass(frozen=True)
class Named:
    """A number that is taken: reserved, or released when it has its Git tag."""

    number: Number
    challenge: str
    sha: str
    """The commit that it names."""
    model_version: int
    """0 when its annotation does not say."""
    released: bool
    image: str = ""
    """`repository@sha256:…`; empty when it is only reserved, or its annotation does not say."""
    withdraws: int | None = None
    """Of a roll-back: the newest version that was there, and is not chosen again; nor are those between."""

    def is_of(self, challenge: str, sha: str, model_version: int) -> bool:
        return (self.challenge, self.sha, self.model_version) == (challenge, sha, model_version)


def own(taken: Sequence[Named], challenge: str, sha: str, model_version: int) -> Named | None:
    """The number that an earlier attempt at this very release has taken, if it can be carried on.

    It cannot once a later number of the challenge was released: then this one would be older than production.
    """
    newest = max((each.number for each in taken if each.released and each.challenge == challenge), default=None)
    matching = [each for each in taken if each.is_of(challenge, sha, model_version)]
    able = [each for each in matching if newest is None or each.number >= newest]
    return max(able, key=lambda each: (each.number, each.released), default=None)


def next_number(taken: Sequence[Named], history: History, sha: str) -> Number:
    """What comes after the last release, by what was committed since; the first number that nobody has taken."""
    last = last_release(taken)
    number = FIRST if last is None else after(last.number, changes_since(last, history, sha))
    held = {each.number for each in taken}
    while number in held:
        number = Number(number.major, number.minor, number.patch + 1)
    return number


def last_release(taken: Sequence[Named], challenge: str = "") -> Named | None:
    """The highest number that was released; of one challenge, when named."""
    released = [each for each in taken if each.released and challenge in ("", each.challenge)]
    return max(released, key=lambda each: each.number, default=None)


def newest_image(taken: Sequence[Named], challenge: str) -> Named | None:
    """The newest release of a challenge that says which model and image it is; people's own tags do not."""
    told = [each for each in taken if each.image and each.model_version]
    return last_release(told, challenge)


def changes_since(last: Named | None, history: History, sha: str) -> tuple[Commit, ...]:
    """What was committed since the last release; everything before the first one."""
    return history.changes(last.sha if last and history.holds(last.sha) else "", sha)


def after(number: Number, changes: Sequence[Commit]) -> Number:
    """The next number: major for a breaking change, minor for a feature, patch for all else, a new model included."""
    kinds = {commit.change for commit in changes}
    if "breaking" in kinds:
        return Number(number.major + 1, 0, 0)
    if "feature" in kinds:
        return Number(number.major, number.minor + 1, 0)
    return Number(number.major, number.minor, number.patch + 1)


def require_not_older(last: Named | None, history: History, sha: str) -> None:
    """Raises NotReleased when the commit is older than the one that was released last."""
    if last and last.sha != sha and history.is_part(sha, last.sha):
        told = f"commit {sha[:12]} is older than {last.number.tag}, which was released from {last.sha[:12]}"
        raise NotReleased(f"{told}. To bring an earlier model back, run it on master with --model-version.")
