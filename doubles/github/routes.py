"""What every route of the double has in common: the request, the answer, refusals, pages, and who may do what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

from doubles.github.documents import Documents
from doubles.github.repository_git import Repository
from doubles.github.state import Account, Issue, State

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


def issue_of(world: World, request: Request, name: str = "issue_number") -> Issue:
    """Raises Refused."""
    number = request.number(name)
    found = next((issue for issue in world.state.issues if issue.number == number), None)
    if found is None or (name == "pull_number" and found.pull is None):
        raise not_found()
    return found


def page(world: World, request: Request, items: Sequence[T], show: Callable[[T], Any]) -> Answer:
    """One page of a list, with the links to the others."""
    number = max(int(request.query.get("page", 1)), 1)
    size = page_size(request)
    last = max(-(-len(items) // size), 1)
    links = {"prev": number - 1, "next": number + 1, "last": last, "first": 1}
    shown = {
        name: target
        for name, target in links.items()
        if 1 <= target <= last and (target < number if name in {"prev", "first"} else target > number)
    }
    told = ", ".join(
        f'<{world.documents.url}{request.path}?{urlencode({**request.query, "page": target})}>; rel="{name}"'
        for name, target in shown.items()
    )
    some = items[(number - 1) * size : number * size]
    return Answer(200, [show(each) for each in some], {"Link": told} if told else {})


def page_size(request: Request) -> int:
    return min(max(int(request.query.get("per_page", 30)), 1), 100)


def require_served(request: Request, *names: str) -> None:
    """The double must not ignore a filter that GitHub would heed."""
    left = set(request.query) - {"page", "per_page", *names}
    if left:
        raise NotImplementedError(f"the double does not serve {', '.join(sorted(left))} of {request.path}")
