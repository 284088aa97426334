"""One issue that is kept up to date, found by a mark in its body even when people change its title and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import msgspec

from clients.errors import ConfigurationError
from clients.github import HEADERS, Author, GitHub, read, read_all

T = TypeVar("T")


class _Label(msgspec.Struct):
    name: str = ""


class Issue(msgspec.Struct, frozen=True, rename={"url": "html_url"}):
    """An issue as it is now."""

    number: int
    title: str
    state: Literal["open", "closed"]
    url: str
    user: Author | None
    labels: list[_Label | str]
    body: str | None = None
    pull_request: dict[str, Any] | None = None


@dataclass(frozen=True)
class Written:
    """A body that GitHub takes. aside: what does not fit, for a comment."""

    body: str
    aside: str = ""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The issue as it should be. Its title is set once, then people may change it; their labels stay."""

    marker: str
    """A line of the body; of several issues of ours with it, the oldest counts."""
    title: str
    label: str
    is_open: bool
    write: Callable[[str], Written]
    """The body, from the one before it; idempotent."""


class Issues:
    """The issues of one repository.

    Every method raises ConfigurationError when GitHub refuses the token or has issues switched off, and GitHubFault
    when it refuses what was asked, or when a fault does not pass for as long as ``github`` is patient.
    """

    def __init__(self, github: GitHub) -> None:
        self._github = github
        self._rest, self._repository = github.rest, github.repository

    def put(self, wanted: Wanted, *, create: bool = True) -> Issue | None:
        """Bring our issue up to date, open or close it, or make it; None when there is none and ``create`` is false.

        One remains: another that was made at the same time gets a link to the older one, and is closed. Issues of
        others are never touched.
        """

        def bring_up_to_date() -> Issue | None:
            found = self._find(wanted)
            if not found and not create:
                return None
            if not found:
                made = self._create(wanted)
                # Another command may just have done the same: both keep the older one.
                every = {one.number: one for one in (made, *self._find(wanted))}
                found = [every[number] for number in sorted(every)]
            kept, *others = found
            for other in others:
                self._give_up(other, kept, wanted)
            return self._update(kept, wanted)

        return self._patiently(f"updating the issue {wanted.title!r}", bring_up_to_date)

    def _find(self, wanted: Wanted) -> list[Issue]:
        """Ours, the oldest first. Searches all issues only when none has the label (any more)."""
        return self._ours(wanted, label=wanted.label) or self._ours(wanted, label="")

    def _ours(self, wanted: Wanted, label: str) -> list[Issue]:
        from githubkit.utils import UNSET

        every = read_all(
            self._rest.issues.list_for_repo, *self._repository, kind=Issue,
            state="all", sort="created", direction="asc", labels=label or UNSET,
        )  # fmt: skip
        found = [
            one
            for one in every
            if one.pull_request is None
            # By its title, too: people may have rewritten the whole body.
            and (wanted.marker in (one.body or "") or one.title == wanted.title)
            and self._github.wrote(one.user)
        ]
        return sorted(found, key=lambda one: one.number)

    def _create(self, wanted: Wanted) -> Issue:
        body, labels = wanted.write("").body, [wanted.label]
        answer = self._rest.issues.create(
            *self._repository, headers=HEADERS, title=wanted.title, body=body, labels=labels
        )
        return read(answer, Issue)

    def _update(self, issue: Issue, wanted: Wanted) -> Issue:
        changes: dict[str, Any] = {}
        before = issue.body or ""
        written = wanted.write(before)
        if written.aside:
            self._rest.issues.create_comment(*self._repository, issue.number, headers=HEADERS, body=written.aside)
        if written.body != before:
            changes["body"] = written.body
        state = "open" if wanted.is_open else "closed"
        if state != issue.state:
            changes |= {"state": state, "state_reason": "reopened" if wanted.is_open else "completed"}
        labels = [label if isinstance(label, str) else label.name for label in issue.labels]
        if wanted.label not in labels:
            changes["labels"] = [*labels, wanted.label]
        return self._change(issue, changes) if changes else issue

    def _give_up(self, issue: Issue, kept: Issue, wanted: Wanted) -> None:
        """Close a second one, under another title and without the mark, so that it is never found again."""
        body = f"This goes on in #{kept.number}.\n\n{(issue.body or '').replace(wanted.marker, '')}"
        changes = {"title": f"{issue.title} (see #{kept.number})", "body": body, "state": "closed"}
        self._change(issue, {**changes, "state_reason": "not_planned"})

    def _change(self, issue: Issue, changes: dict[str, Any]) -> Issue:
        data = cast(Any, changes)
        answer = self._rest.issues.update(*self._repository, issue.number, headers=HEADERS, data=data)
        return read(answer, Issue)

    def _patiently(self, doing: str, operation: Callable[[], T]) -> T:
        from githubkit.exception import RequestFailed

        def unless_switched_off() -> T:
            try:
                return operation()
            except RequestFailed as error:
                if error.response.status_code != 410:
                    raise
                hint = "switch them on under Settings → General → Features; a fork has none at first"
                raise ConfigurationError(f"{doing}: the repository's issues are switched off: {hint}") from None

        return self._github.patiently(doing, "issues: write", unless_switched_off)
