"""What the double remembers, in memory and, if asked, in a JSON file that outlives it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from clients.disk import write_whole


class Account(msgspec.Struct, frozen=True):
    """Who a token stands for. access: what it may do with the repository."""

    login: str
    id: int
    type: str
    """`User`, or `Bot` for an app's token, such as the one that a workflow gets."""
    access: str
    """`read` (a fork's workflow), `write`, or `admin`."""


class Pull(msgspec.Struct):
    """What makes an issue a pull request. The commits are those of its end, once it is closed."""

    head_ref: str
    head_repository: str
    base_ref: str
    head_sha: str
    base_sha: str
    draft: bool = False
    merged_at: str | None = None
    merged_by: str | None = None
    merge_commit_sha: str | None = None


class Issue(msgspec.Struct):
    number: int
    id: int
    title: str
    body: str | None
    author: str
    created_at: str
    updated_at: str
    labels: list[str] = []
    state: str = "open"
    state_reason: str | None = None
    closed_at: str | None = None
    pull: Pull | None = None

    def set_state(self, state: str) -> None:
        self.state = state
        self.closed_at = now() if state == "closed" else None


class Comment(msgspec.Struct):
    id: int
    issue: int
    author: str
    body: str
    created_at: str
    updated_at: str


class Status(msgspec.Struct):
    id: int
    sha: str
    state: str
    context: str
    description: str | None
    target_url: str | None
    creator: str
    created_at: str


class Review(msgspec.Struct):
    id: int
    pull: int
    author: str
    state: str
    body: str
    commit_id: str
    submitted_at: str


class Ruleset(msgspec.Struct):
    id: int
    document: dict[str, Any]
    """`name`, `target`, `enforcement`, `conditions`, `rules`, `bypass_actors`."""
    created_at: str
    updated_at: str


class Asset(msgspec.Struct):
    id: int
    name: str
    label: str | None
    content_type: str
    content: bytes
    state: str
    """`uploaded`, or `starter` when only its beginning has come."""
    uploader: str
    created_at: str


class Release(msgspec.Struct):
    id: int
    tag_name: str
    target_commitish: str
    name: str | None
    body: str | None
    draft: bool
    prerelease: bool
    author: str
    created_at: str
    updated_at: str
    published_at: str | None = None
    assets: list[Asset] = []


class Dispatch(msgspec.Struct):
    """What was asked to be run: a workflow (a file's name), or what listens to a `repository_dispatch` event."""

    workflow: str
    ref: str
    event_type: str
    payload: dict[str, Any]
    """A workflow's inputs, or an event's payload."""


class State(msgspec.Struct):
    last_id: int = 1000
    last_number: int = 0
    issues: list[Issue] = []
    comments: list[Comment] = []
    statuses: list[Status] = []
    reviews: list[Review] = []
    rulesets: list[Ruleset] = []
    releases: list[Release] = []
    latest_release: int | None = None
    dispatches: list[Dispatch] = []
    logins: dict[str, Account] = {}

    def new_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def new_number(self) -> int:
        """Issues and pull requests share one series of numbers."""
        self.last_number += 1
        return self.last_number


def load(path: Path | None) -> State:
    if path is None or not path.exists():
        return State()
    return msgspec.json.decode(path.read_bytes(), type=State)


def save(state: State, path: Path | None) -> None:
    if path is not None:
        write_whole(path, msgspec.json.encode(state))


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
