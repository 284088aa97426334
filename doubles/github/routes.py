"""What every route of the double has in common: the request, the answer, refusals, pages, and who may do what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

from doubles.github.documents import Documents
from doubles.github.repository_git import Repository
from doubles.github.state import Account, Issue, Pull, State

T = TypeVar("T")
REPOSITORY = "/repos/{owner}/{repo}"
DOCUMENTATION = "https://docs.github.com/rest"
LONGEST_BODY = 65_536


@dataclass
class World:
    """All that a route works on. forks: the Git repositories of forks, by full name."""

    state: State
    git: Repository
    documents: Documents
    forks: dict[str, Repository] = field(default_factory=dict)

    def issue(self, request: Request) -> Issue:
        """The issue that is asked for. Raises Refused."""
        return the_one(issue for issue in self.state.issues if issue.number == request.number("issue_number"))

    def pull(self, request: Request) -> tuple[Issue, Pull]:
        """The pull request that is asked for. Raises Refused."""
        number = request.number("pull_number")
        return the_one((each, each.pull) for each in self.state.issues if each.number == number and each.pull)

    def created(self, path: str, document: object) -> Answer:
        """path: of what was made, below the repository's address."""
        return Answer(201, document, {"Location": f"{self.documents.api}/{path}"})

    def page(self, request: Request, items: Sequence[T], show: Callable[[T], object]) -> Answer:
        """One page of a list, with the links to the others."""
        number, size = max(int(request.query.get("page", 1)), 1), request.page_size
        last = max(-(-len(items) // size), 1)
        targets = {"prev": number - 1, "next": number + 1, "last": last, "first": 1}
        links = ", ".join(
            f'<{self.documents.url}{request.path}?{urlencode({**request.query, "page": target})}>; rel="{name}"'
            for name, target in targets.items()
            if 1 <= target <= last and (target < number if name in {"prev", "first"} else target > number)
        )
        some = items[(number - 1) * size : number * size]
        return Answer(200, [show(each) for each in some], {"Link": links} if links else {})


@dataclass(frozen=True)
class Request:
    """A request that fits GitHub's description."""

    account: Account
    path: str
    values: dict[str, str]
    query: dict[str, str]
    body: Any
    content_type: str = ""
    """Of a file that is sent, whose bytes are the body."""
    accept: str = ""

    def number(self, name: str) -> int:
        return int(self.values[name])

    @property
    def page_size(self) -> int:
        return min(max(int(self.query.get("per_page", 30)), 1), 100)

    def ordered(self, issues: Iterable[Issue], direction: str) -> list[Issue]:
        """By what the query says. direction: unless it names one."""
        by_update = self.query.get("sort") == "updated"
        return sorted(
            issues,
            key=lambda issue: (issue.updated_at if by_update else issue.created_at, issue.number),
            reverse=self.query.get("direction", direction) == "desc",
        )

    def require_served(self, *names: str) -> None:
        """The double must not ignore a filter that GitHub would heed."""
        if left := set(self.query) - {"page", "per_page", *names}:
            raise NotImplementedError(f"the double does not serve {', '.join(sorted(left))} of {self.path}")


@dataclass(frozen=True)
class Answer:
    status: int
    document: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    file: bytes | None = None
    """In place of a document."""


class Refused(Exception):
    """GitHub's answer to what it will not do."""

    def __init__(
        self, status: int, message: str, errors: Sequence[object] = (), headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.document: dict[str, object] = {
            "message": message,
            "documentation_url": DOCUMENTATION,
            "status": str(status),
        }
        if errors:
            self.document["errors"] = list(errors)


Handler = Callable[[World, Request], Answer]


@dataclass(frozen=True)
class Route:
    handler: Handler
    needs: str
    permission: str


ROUTES: dict[tuple[str, str], Route] = {}


def serves(method: str, template: str, *, needs: str = "read", permission: str = "") -> Callable[[Handler], Handler]:
    """Register a route. needs: `read`, `comment`, `write` or `admin`; permission: its name at GitHub, for apps."""

    def register(handler: Handler) -> Handler:
        ROUTES[method, template] = Route(handler, needs, permission)
        return handler

    return register


def require_access(route: Route, account: Account) -> None:
    """Raises Refused. An app, such as a workflow's token, may write at most what its job was given."""
    allowed = {
        "read": True,
        "comment": account.access != "read" or account.type == "User",
        "write": account.access != "read",
        "admin": account.access == "admin",
    }
    if allowed[route.needs]:
        return
    if account.type == "Bot":
        headers = {"x-accepted-github-permissions": route.permission}
        raise Refused(403, "Resource not accessible by integration", headers=headers)
    # GitHub hides from a person what they may not administer.
    raise Refused(404, "Not Found") if route.needs == "admin" else Refused(403, "Must have push access to Repository.")


def not_found() -> Refused:
    return Refused(404, "Not Found")


def invalid(resource: str, field_name: str, message: str, code: str = "custom") -> Refused:
    error = {"resource": resource, "code": code, "field": field_name, "message": message}
    return Refused(422, "Validation Failed", [error])


def the_one(items: Iterable[T | None]) -> T:
    """The first of them. Raises Refused when there is none."""
    found = next(iter(items), None)
    if found is None:
        raise not_found()
    return found
