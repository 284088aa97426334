"""GitHub as `ci` needs it: pull requests, statuses, one comment kept up to date, rulesets; faults are waited out.

What a release needs is in `clients.github_releases`, which builds on this.

Requests go through githubkit; of each answer only the fields that are used are looked at, so that GitHub Enterprise
and later versions of the API, which answer a little differently, do as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import msgspec

from clients.github_faults import Task, Unreadable, is_rate_limit, patiently, told_in_seconds
from clients.settings import GitHubSettings

if TYPE_CHECKING:
    from githubkit.response import Response

T = TypeVar("T")
API_VERSION = "2022-11-28"
"""What GitHub takes for its default, and every supported GitHub Enterprise Server understands."""
HEADERS = {"X-GitHub-Api-Version": API_VERSION}
STATUS_DESCRIPTION_LENGTH = 140
PER_PAGE = 100
_REQUEST_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class PullRequestState:
    """A pull request as it is now."""

    number: int
    title: str
    state: Literal["open", "closed"]
    merged: bool
    head_sha: str
    head_ref: str
    head_repository: str
    """`owner/name`; empty when the fork it came from is gone."""
    base_sha: str
    base_ref: str
    url: str


@dataclass(frozen=True)
class Status:
    """The newest status of a commit under one context."""

    state: str
    description: str
    target_url: str


@dataclass(frozen=True)
class Comment:
    """A comment on a pull request. own: whether it was written with the credentials that we have."""

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
        """patience_seconds: how long each call waits for faults to pass; note: told, in a line, when that is long."""
        import githubkit
        import httpx

        self.settings = settings
        self.note = note
        self._patience_seconds = patience_seconds
        self._owner, _, self._name = settings.repository.partition("/")
        self.client = githubkit.GitHub(
            settings.token,
            base_url=settings.api_url,
            user_agent="rps-ci",
            timeout=min(_REQUEST_SECONDS, patience_seconds),
            auto_retry=False,  # its waits know no limit of time
            http_cache=False,
            ssl_verify=httpx.create_ssl_context(),  # once: making it takes longer than a request
            event_hooks={"response": [told_in_seconds]},
            rest_api_validate_body=False,  # GitHub itself checks what it is sent, by the version that it runs
        )
        # The namespace holds the client by a weak reference only.
        self.rest = self.client.rest
        self._login: str | None = None

    def pull_request(self, number: int) -> PullRequestState:
        pull = self.patiently(
            f"reading pull request #{number}", "pull-requests: read",
            lambda: read(self.rest.pulls.get(*self.repository, number, headers=HEADERS), _Pull),
        )  # fmt: skip
        return PullRequestState(
            number=pull.number,
            title=pull.title,
            state=pull.state,
            merged=pull.merged,
            head_sha=pull.head.sha,
            head_ref=pull.head.ref,
            head_repository=pull.head.repo.full_name if pull.head.repo else "",
            base_sha=pull.base.sha,
            base_ref=pull.base.ref,
            url=pull.html_url,
        )

    def set_status(
        self,
        sha: str,
        *,
        state: str,
        context: str,
        description: str,
        target_url: str,
    ) -> None:
        """Set a commit status. A description that is longer than GitHub takes is cut; target_url may be empty.

        state: error, failure, pending or success. GitHub takes 1,000 statuses for one commit and context.
        """
        if len(description) > STATUS_DESCRIPTION_LENGTH:
            description = f"{description[: STATUS_DESCRIPTION_LENGTH - 1]}…"
        self.patiently(
            f"setting the status {context} of {sha[:12]}", "statuses: write",
            lambda: self.rest.repos.create_commit_status(
                *self.repository, sha, headers=HEADERS, state=cast(Any, state), context=context,
                description=description, target_url=target_url or None,
            ),
        )  # fmt: skip

    def statuses(self, sha: str) -> dict[str, Status]:
        """The newest status of each context."""

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

        There is one afterwards: if there are more of ours, the oldest is kept. Others' comments are never touched,
        whatever they say. After a fault it looks again before it makes one, as the answer that was lost may have been
        that the comment is there; and again once it has made one, as another gate may just have done the same.
        """

        def bring_up_to_date() -> str:
            ours = [comment for comment in self._comments(number) if comment.own and find(comment.body)]
            if not ours:
                created = self._create_comment(number, body)
                again = [comment for comment in self._comments(number) if comment.own and find(comment.body)]
                ours = sorted({comment.id: comment for comment in (created, *again)}.values(), key=lambda one: one.id)
            kept, *others = ours
            if kept.body != body:
                self.rest.issues.update_comment(*self.repository, kept.id, headers=HEADERS, body=body)
            for other in others:
                self._delete_comment(other.id)
            return kept.url

        return self.patiently(
            f"posting the comment on pull request #{number}", "pull-requests: write", bring_up_to_date
        )

    def rulesets(self) -> list[dict[str, Any]]:
        """The repository's own rulesets, whole, as GitHub's API has them; not those of its organization."""

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
            # Names are unique in a repository: this is how a second try finds what the first one made.
            known = {each.name: each.id for each in self._rulesets()}
            if (identity := known.get(str(definition["name"]))) is None:
                self.rest.repos.create_repo_ruleset(*self.repository, headers=HEADERS, data=data)
            else:
                self.rest.repos.update_repo_ruleset(*self.repository, identity, headers=HEADERS, data=data)

        self.patiently(f"setting the ruleset {definition['name']}", "administration: write", put)

    def wrote(self, author: Author | None) -> bool:
        """Whether this is who we are with the credentials that we have."""
        # An app's token (a workflow's is one) cannot ask who it is; that it is no person is known.
        return author is not None and (author.login == self._who() if self._who() else author.type == "Bot")

    @property
    def repository(self) -> tuple[str, str]:
        """Its owner and its name."""
        return self._owner, self._name

    def patiently(self, doing: str, permission: str, operation: Callable[[], T]) -> T:
        """Do it, again after a fault that may pass: it must be harmless to do it twice.

        doing, permission: what an error tells.
        """
        return patiently(
            Task(doing, permission, self.settings), operation, seconds=self._patience_seconds, note=self.note
        )

    def _rulesets(self) -> list[_Ruleset]:
        return read_all(self.rest.repos.get_repo_rulesets, *self.repository, kind=_Ruleset, includes_parents=False)

    def _comments(self, number: int) -> list[Comment]:
        found = read_all(self.rest.issues.list_comments, *self.repository, number, kind=_Comment)
        return [self._told(comment) for comment in found]

    def _create_comment(self, number: int, body: str) -> Comment:
        answer = self.rest.issues.create_comment(*self.repository, number, headers=HEADERS, body=body)
        return self._told(read(answer, _Comment))

    def _delete_comment(self, identity: int) -> None:
        from githubkit.exception import RequestFailed

        try:
            self.rest.issues.delete_comment(*self.repository, identity, headers=HEADERS)
        except RequestFailed as error:
            if error.response.status_code != 404:  # another gate was quicker
                raise

    def _told(self, comment: _Comment) -> Comment:
        return Comment(comment.id, comment.body or "", comment.html_url, self.wrote(comment.user))

    def _who(self) -> str:
        """The user that the token stands for; empty for an app."""
        if self._login is None:
            from githubkit.exception import RequestFailed

            try:
                self._login = read(self.rest.users.get_authenticated(headers=HEADERS), Author).login
            except RequestFailed as error:
                if error.response.status_code != 403 or is_rate_limit(error):
                    raise
                self._login = ""
        return self._login


class _Repo(msgspec.Struct):
    full_name: str


class _Branch(msgspec.Struct):
    ref: str
    sha: str
    repo: _Repo | None


class _Pull(msgspec.Struct):
    number: int
    title: str
    state: Literal["open", "closed"]
    merged: bool
    head: _Branch
    base: _Branch
    html_url: str


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
    """The fields of an answer that are used. Raises Unreadable."""
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"GitHub's answer cannot be read ({error})") from None


def read_all(ask: Callable[..., Response[Any]], *arguments: object, kind: type[T], **options: object) -> list[T]:
    """Every page of a list that ``ask`` gives."""
    return _all_pages(
        lambda number: read(
            ask(*arguments, headers=HEADERS, per_page=PER_PAGE, page=number, **options),
            list[kind],  # type: ignore[valid-type]
        )
    )


def _all_pages(page: Callable[[int], Sequence[T]]) -> list[T]:
    """What ``page(1)``, ``page(2)`` … hold, up to the first that is not full."""
    found: list[T] = []
    number = 1
    while True:
        some = page(number)
        found += some
        if len(some) < PER_PAGE:
            return found
        number += 1
