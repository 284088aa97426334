"""GitHub as `ci` needs it: pull requests, statuses, one comment kept up to date, rulesets; faults are waited out.

`clients.github_releases` builds on this. Requests go through githubkit; only the fields in use are read of each answer,
so that GitHub Enterprise and later versions of the API work as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import msgspec

from clients.errors import one_line
from clients.github_faults import Task, Unreadable, is_rate_limit, patiently, retry_after_in_seconds, unless_gone
from clients.settings import GitHubSettings

if TYPE_CHECKING:
    from githubkit.response import Response

T = TypeVar("T")
HEADERS = {"X-GitHub-Api-Version": "2022-11-28"}
"""GitHub's default version, which every supported GitHub Enterprise Server understands."""
STATUS_DESCRIPTION_LENGTH = 140
PER_PAGE = 100


class Repository(msgspec.Struct, frozen=True):
    """A repository by its name, `owner/name`."""

    full_name: str


class Branch(msgspec.Struct, frozen=True):
    """A branch and its newest commit; the repository is None when it was a fork that is gone."""

    ref: str
    sha: str
    repo: Repository | None


class PullRequestState(msgspec.Struct, frozen=True):
    """A pull request as it is now."""

    number: int
    title: str
    state: Literal["open", "closed"]
    merged: bool
    head: Branch
    base: Branch


@dataclass(frozen=True)
class Status:
    """The newest status of a commit under one context."""

    state: str
    description: str
    target_url: str


@dataclass(frozen=True)
class Comment:
    """A comment on a pull request. own: whether it was written with our credentials."""

    id: int
    body: str
    url: str
    own: bool


class GitHub:
    """One repository of GitHub, through its REST API.

    Every method raises ConfigurationError when GitHub refuses the token or does not know the repository, and
    GitHubFault when it refuses what was asked, or when a fault does not pass within ``patience_seconds``.
    """

    def __init__(
        self, settings: GitHubSettings, *, patience_seconds: float = 300.0, note: Callable[[str], None] = print
    ) -> None:
        """patience_seconds: how long each call waits for faults to pass; note: gets a line about a long wait."""
        import githubkit
        import httpx

        self.settings = settings
        self.note = note
        self._patience_seconds = patience_seconds
        owner, _, name = settings.repository.partition("/")
        self.repository = (owner, name)
        self.client = githubkit.GitHub(
            settings.token,
            base_url=settings.api_url,
            user_agent="rps-ci",
            timeout=min(20.0, patience_seconds),
            auto_retry=False,  # its waits have no time limit
            http_cache=False,
            ssl_verify=httpx.create_ssl_context(),  # once: making it takes longer than a request
            event_hooks={"response": [retry_after_in_seconds]},
            rest_api_validate_body=False,  # GitHub checks bodies itself, by its own version
        )
        # The namespace holds the client by a weak reference only.
        self.rest = self.client.rest
        self._login: str | None = None

    def pull_request(self, number: int) -> PullRequestState:
        return self.patiently(
            f"reading pull request #{number}", "pull-requests: read",
            lambda: read(self.rest.pulls.get(*self.repository, number, headers=HEADERS), PullRequestState),
        )  # fmt: skip

    def set_status(self, sha: str, *, state: str, context: str, description: str, target_url: str) -> None:
        """Set a commit status: error, failure, pending or success; at most 1,000 for one commit and context.

        A description that is too long for GitHub is cut; target_url may be empty.
        """
        self.patiently(
            f"setting the status {context} of {sha[:12]}", "statuses: write",
            lambda: self.rest.repos.create_commit_status(
                *self.repository, sha, headers=HEADERS, state=cast(Any, state), context=context,
                description=one_line(description, STATUS_DESCRIPTION_LENGTH), target_url=target_url or None,
            ),
        )  # fmt: skip

    def statuses(self, sha: str) -> dict[str, Status]:
        def page(number: int) -> list[_Status]:
            answer = self.rest.repos.get_combined_status_for_ref(
                *self.repository, sha, headers=HEADERS, per_page=PER_PAGE, page=number
            )
            return read(answer, _Combined).statuses

        found = self.patiently(f"reading the statuses of {sha[:12]}", "statuses: read", lambda: _all_pages(page))
        return {each.context: Status(each.state, each.description or "", each.target_url or "") for each in found}

    def comments(self, number: int) -> list[Comment]:
        """The comments of a pull request, oldest first."""
        return self.patiently(
            f"reading the comments of pull request #{number}", "pull-requests: read", lambda: self._comments(number)
        )

    def upsert_comment(self, number: int, body: str, find: Callable[[str], bool]) -> str:
        """Bring our comment whose body ``find`` accepts up to date, or make it; its URL.

        One remains: the oldest of ours; others' comments are never touched. After a fault it looks again before it
        makes one, as the lost answer may have been that the comment is there; and again once it has made one, as
        another gate may just have done the same.
        """

        def ours() -> list[Comment]:
            return [comment for comment in self._comments(number) if comment.own and find(comment.body)]

        def bring_up_to_date() -> str:
            found = ours()
            if not found:
                answer = self.rest.issues.create_comment(*self.repository, number, headers=HEADERS, body=body)
                made = read(answer, _Comment)
                created = Comment(made.id, made.body or "", made.html_url, own=True)
                found = sorted({one.id: one for one in (created, *ours())}.values(), key=lambda one: one.id)
            kept, *others = found
            if kept.body != body:
                self.rest.issues.update_comment(*self.repository, kept.id, headers=HEADERS, body=body)
            for other in others:
                with unless_gone():
                    self.rest.issues.delete_comment(*self.repository, other.id, headers=HEADERS)
            return kept.url

        doing = f"posting the comment on pull request #{number}"
        return self.patiently(doing, "pull-requests: write", bring_up_to_date)

    def rulesets(self) -> list[dict[str, Any]]:
        """The repository's own rulesets, whole, in the API's form; not those of its organization."""

        def whole() -> list[dict[str, Any]]:
            return [
                read(self.rest.repos.get_repo_ruleset(*self.repository, each.id, headers=HEADERS), dict[str, Any])
                for each in self._rulesets()
            ]

        return self.patiently("reading the rulesets", "administration: read", whole)

    def put_ruleset(self, definition: Mapping[str, object]) -> None:
        """Bring the ruleset of this name up to date, or make it. definition: the body of GitHub's `POST …/rulesets`."""
        data = cast(Any, dict(definition))

        def put() -> None:
            # Names are unique in a repository: so a second try finds what the first one made.
            known = {each.name: each.id for each in self._rulesets()}
            if (identity := known.get(str(definition["name"]))) is None:
                self.rest.repos.create_repo_ruleset(*self.repository, headers=HEADERS, data=data)
            else:
                self.rest.repos.update_repo_ruleset(*self.repository, identity, headers=HEADERS, data=data)

        self.patiently(f"setting the ruleset {definition['name']}", "administration: write", put)

    def wrote(self, author: Author | None) -> bool:
        """Whether our credentials are this author's."""
        # An app's token (a workflow's is one) cannot ask for its user; it is a bot in any case.
        return author is not None and (author.login == self._who() if self._who() else author.type == "Bot")

    def patiently(self, doing: str, permission: str, operation: Callable[[], T]) -> T:
        """Do it, again after a fault that may pass: it must be harmless to do it twice.

        doing, permission: for error messages.
        """
        task = Task(doing, permission, self.settings)
        return patiently(task, operation, seconds=self._patience_seconds, note=self.note)

    def _rulesets(self) -> list[_Ruleset]:
        return read_all(self.rest.repos.get_repo_rulesets, *self.repository, kind=_Ruleset, includes_parents=False)

    def _comments(self, number: int) -> list[Comment]:
        found = read_all(self.rest.issues.list_comments, *self.repository, number, kind=_Comment)
        return [Comment(one.id, one.body or "", one.html_url, self.wrote(one.user)) for one in found]

    def _who(self) -> str:
        """The token's user; empty for an app."""
        if self._login is None:
            from githubkit.exception import RequestFailed

            try:
                self._login = read(self.rest.users.get_authenticated(headers=HEADERS), Author).login
            except RequestFailed as error:
                if error.response.status_code != 403 or is_rate_limit(error):
                    raise
                self._login = ""
        return self._login


class _Status(msgspec.Struct):
    state: str
    context: str
    description: str | None
    target_url: str | None


class _Combined(msgspec.Struct):
    statuses: list[_Status]


class Author(msgspec.Struct):
    """Who wrote something on GitHub."""

    login: str
    type: str


class _Comment(msgspec.Struct):
    id: int
    html_url: str
    user: Author | None
    body: str | None = None


class _Ruleset(msgspec.Struct):
    id: int
    name: str


def read(answer: Response[Any], kind: type[T]) -> T:
    """The fields in use of an answer. Raises Unreadable."""
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"GitHub's answer cannot be read ({error})") from None


def read_all(ask: Callable[..., Response[Any]], *arguments: object, kind: type[T], **options: object) -> list[T]:
    """Every page of the list from ``ask``."""

    def page(number: int) -> list[T]:
        answer = ask(*arguments, headers=HEADERS, per_page=PER_PAGE, page=number, **options)
        return read(answer, list[kind])  # type: ignore[valid-type]

    return _all_pages(page)


def _all_pages(page: Callable[[int], Sequence[T]]) -> list[T]:
    """The items of ``page(1)``, ``page(2)`` …, up to the first that is not full."""
    found: list[T] = []
    for number in count(1):
        some = page(number)
        found += some
        if len(some) < PER_PAGE:
            break
    return found
