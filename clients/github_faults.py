"""Faults of GitHub: wait and try again, or end with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from clients.errors import ConfigurationError, GitHubFault
from clients.patience import Patience
from clients.settings import GitHubSettings

if TYPE_CHECKING:
    import httpx
    from githubkit.exception import GitHubException, RequestFailed

T = TypeVar("T")
_UNSTATED_LIMIT_SECONDS = 60.0
"""How long to wait when GitHub limits the rate without saying for how long."""
_WORTH_A_NOTE_SECONDS = 5.0


@dataclass(frozen=True)
class Task:
    """What is being done, for messages; the permission that it needs; where."""

    doing: str
    permission: str
    settings: GitHubSettings


class Unreadable(Exception):
    """A good status with the wrong body: a proxy's page, half an answer."""


class Overtaken(Exception):
    """Another client has changed the same thing at the same time; looking again settles it."""


def patiently(task: Task, operation: Callable[[], T], *, seconds: float, note: Callable[[str], None]) -> T:
    """Do it; again, from its start, after a fault that may pass. It must be harmless to do it twice.

    seconds: how long, in all; a rate limit that holds for longer ends it at once.
    Raises ConfigurationError or GitHubFault.
    """
    from githubkit.exception import GitHubException

    faults = (GitHubException, Unreadable, Overtaken)
    passing: _Passing | None = None

    def passes(error: Exception) -> bool | float:
        nonlocal passing
        passing = None
        if not isinstance(error, faults):
            return False
        passing = _passing(error, task)
        return True if passing.wait is None else passing.wait

    def waiting(wait: float) -> None:
        if passing and wait >= _WORTH_A_NOTE_SECONDS:
            note(f"{task.doing}: {passing.what}; trying again in {wait:.0f} s")

    patience = Patience(seconds, first_pause=1.0, longest_pause=30.0)
    try:
        return patience.ask(operation, passes, waiting)
    except faults:
        if passing is None:  # a bug, not a fault
            raise
        what = passing.what
        if passing.wait is not None:
            what += f" until {datetime.now(UTC) + timedelta(seconds=passing.wait):%Y-%m-%d %H:%M:%S} UTC"
        limit = f"longer than the {seconds:.0f} s of patience; run it again later"
        raise GitHubFault(f"{task.doing}: {what}, {limit}") from None


@contextmanager
def unless_gone() -> Iterator[None]:
    """While the block deletes something: another client may have been quicker."""
    from githubkit.exception import RequestFailed

    try:
        yield
    except RequestFailed as error:
        if error.response.status_code != 404:
            raise


def is_rate_limit(error: RequestFailed) -> bool:
    """Whether GitHub refused because of too many requests, however it says so."""
    from githubkit.exception import RateLimitExceeded

    status = error.response.status_code
    return (
        isinstance(error, RateLimitExceeded)
        or status == 429
        or (status == 403 and "rate limit" in _message(error.response.raw_response.content))
    )


def retry_after_in_seconds(response: httpx.Response) -> None:
    """Turn a `Retry-After` that is a date, as proxies write it, into the seconds that githubkit expects."""
    after = response.headers.get("retry-after", "0")
    if not after.isdecimal():
        try:
            left = parsedate_to_datetime(after) - datetime.now(UTC)
        except (ValueError, TypeError):  # no date, or one without a time zone
            left = timedelta(seconds=_UNSTATED_LIMIT_SECONDS)
        response.headers["retry-after"] = str(max(round(left.total_seconds()), 0))


@dataclass(frozen=True)
class _Passing:
    """A fault that may pass. wait: how many seconds GitHub asks to wait, if it says so."""

    what: str
    wait: float | None = None


def _passing(error: GitHubException | Unreadable | Overtaken, task: Task) -> _Passing:
    """What may pass. Raises the RpsError to end with, or ``error`` itself when it is a bug."""
    import httpx
    from githubkit.exception import PrimaryRateLimitExceeded, RateLimitExceeded, RequestError, RequestFailed

    if isinstance(error, Unreadable | Overtaken):
        return _Passing(str(error))
    if isinstance(error, RateLimitExceeded):
        kind = "primary" if isinstance(error, PrimaryRateLimitExceeded) else "secondary"
        # GitHub gives whole seconds; one more, so as not to come too early.
        return _Passing(f"GitHub's {kind} rate limit holds", error.retry_after.total_seconds() + 1)
    if isinstance(error, RequestFailed):
        return _refusal(error, task)
    if isinstance(error, RequestError):
        address = task.settings.api_url
        if isinstance(error.exc, httpx.UnsupportedProtocol | httpx.InvalidURL):
            expected = "expected an address such as https://api.github.com"
            raise ConfigurationError(f"GITHUB_API_URL: {expected}; found {address!r}") from None
        if isinstance(error.exc, httpx.HTTPError):
            return _Passing(f"GitHub does not answer at {address} ({str(error.exc) or type(error.exc).__name__})")
    raise error


def _refusal(error: RequestFailed, task: Task) -> _Passing:
    status, headers, repository = error.response.status_code, error.response.headers, task.settings.repository
    if status >= 500:
        after = headers.get("retry-after")
        return _Passing(f"GitHub answers {status}", float(after) if after else None)
    if is_rate_limit(error):
        return _Passing("GitHub limits our rate", _UNSTATED_LIMIT_SECONDS)
    answer = f"{task.doing}: GitHub answers {status} ({_message(error.response.raw_response.content)})"
    if status == 401:
        raise ConfigurationError(f"{answer}: GITHUB_TOKEN is wrong or has expired; make a new one") from None
    if status == 403:
        needed = headers.get("x-accepted-github-permissions") or task.permission
        lacks = f"GITHUB_TOKEN lacks a permission on {repository}; it needs {needed}"
        raise ConfigurationError(f"{answer}: {lacks}") from None
    if status == 404:
        unseen = f"it is not in {repository}, or GITHUB_TOKEN may not see it"
        check = f"look at GITHUB_REPOSITORY, and that the token has {task.permission}"
        raise ConfigurationError(f"{answer}: {unseen}; {check}") from None
    raise GitHubFault(answer) from None


class _Error(msgspec.Struct):
    message: str = ""
    errors: list[Any] | str | None = None


def _message(body: bytes) -> str:
    """GitHub's own words, in one line."""
    try:
        error = msgspec.json.decode(body, type=_Error)
    except msgspec.MsgspecError:
        return "without a message"
    details = [error.errors] if isinstance(error.errors, str) else error.errors or []
    parts = [error.message, *(_detail(detail) for detail in details)]
    return " ".join("; ".join(each for each in parts if each).split())


def _detail(detail: object) -> str:
    if isinstance(detail, dict):
        return str(detail.get("message") or " ".join(str(detail.get(key, "")) for key in ("field", "code")))
    return str(detail)
