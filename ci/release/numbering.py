"""The number of a release: by Conventional Commits since the last one, and never one that another release has taken.

A release reserves its number as a Git ref before it does anything under that name. GitHub creates refs atomically, so
two releases never have the same number, and an interrupted one finds its own again. A reservation
(`refs/rps/releases/v1.2.0`) and a release (`refs/tags/v1.2.0`) are annotated tags; trailers at the end of their message
say what they are of: https://git-scm.com/docs/git-interpret-trailers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ci.release.code_history import Commit, History
from ci.release.plan import Number, Plan, number_of
from clients.errors import NotReleased
from clients.github_releases import RESERVED, TAGS, Tag

FIRST = Number(1, 0, 0)
_TRAILER = re.compile(r"([A-Z][A-Za-z0-9-]*): (\S.*)")


@dataclass(frozen=True)
class Named:
    """A number that is taken: reserved, or released when it has its Git tag."""

    number: Number
    challenge: str
    sha: str
    model_version: int
    """0 when its annotation does not say."""
    released: bool
    image: str = ""
    """`repository@sha256:…`; empty when it is only reserved, or its annotation does not say."""
    withdraws: int | None = None
    """Of a roll-back: the newest version then; it and those between are not chosen again."""

    def is_of(self, challenge: str, sha: str, model_version: int) -> bool:
        return (self.challenge, self.sha, self.model_version) == (challenge, sha, model_version)


def message(plan: Plan, image: str = "") -> str:
    """Of the Git tag of a plan and its image; without an image, of its reservation."""
    trailers = {
        "Challenge": plan.challenge,
        "Model-Version": plan.model.version,
        "Model-Run": plan.model.mlflow_run,
        "Dataset-MD5": plan.model.dataset_md5 or "unknown",
        **({"Withdraws": plan.withdraws} if plan.withdraws is not None else {}),
        **({"Image": image} if image else {}),
    }
    subject = f"{plan.challenge} {plan.tag}{'' if image else ' is being released'}"
    return "\n".join([subject, "", *(f"{key}: {value}" for key, value in trailers.items()), ""])


def named(tag: Tag) -> Named | None:
    """The number that a ref takes; None for a ref that takes none.

    A tag that people made takes its number, but names no model and no image.
    """
    released = tag.ref.startswith(TAGS)
    number = number_of(tag.ref.removeprefix(TAGS if released else RESERVED))
    if number is None:
        return None
    last_paragraph = tag.message.strip().rpartition("\n\n")[2]
    lines = (_TRAILER.fullmatch(line.strip()) for line in last_paragraph.splitlines())
    trailers = {found[1]: found[2] for found in lines if found}
    version, withdraws = trailers.get("Model-Version", ""), trailers.get("Withdraws", "")
    return Named(
        number,
        trailers.get("Challenge", ""),
        tag.sha,
        int(version) if version.isdecimal() else 0,
        released,
        trailers.get("Image", ""),
        int(withdraws) if withdraws.isdecimal() else None,
    )


def own(taken: Sequence[Named], challenge: str, sha: str, model_version: int) -> Named | None:
    """The number of an earlier attempt at this very release, if it can be carried on.

    It cannot once a later number of the challenge was released: then this one would be older than production.
    """
    newest = max((each.number for each in taken if each.released and each.challenge == challenge), default=None)
    matching = [each for each in taken if each.is_of(challenge, sha, model_version)]
    able = [each for each in matching if newest is None or each.number >= newest]
    return max(able, key=lambda each: (each.number, each.released), default=None)


def next_number(taken: Sequence[Named], history: History, sha: str) -> Number:
    """The next number after the last release, by the commits since, that nobody has taken."""
    last = last_release(taken)
    number = FIRST if last is None else after(last.number, changes_since(last, history, sha))
    while number in {each.number for each in taken}:
        number = Number(number.major, number.minor, number.patch + 1)
    return number


def last_release(taken: Sequence[Named], challenge: str = "") -> Named | None:
    """The highest number that was released; of one challenge, when named."""
    released = [each for each in taken if each.released and challenge in ("", each.challenge)]
    return max(released, key=lambda each: each.number, default=None)


def changes_since(last: Named | None, history: History, sha: str) -> tuple[Commit, ...]:
    """The commits since the last release; all when there is none."""
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
        older = f"commit {sha[:12]} is older than {last.number.tag}, which was released from {last.sha[:12]}"
        raise NotReleased(f"{older}. To bring an earlier model back, run it on master with --model-version.")
