"""Requests to a live API: time-outs, retries with backoff and jitter, `Retry-After`, and hidden keys."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import httpx
import msgspec

from clients.errors import ConfigurationError, PassingFault
from clients.patience import Patience

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, JITTER_SECONDS = 0.5, 10.0, 0.5
LONGEST_RETRY_AFTER_SECONDS = 60.0
LARGEST_ANSWER_BYTES = 64 * 2**20
_KEPT_HEADERS = ("content-type", "date", "last-modified", "etag", "server")
_PASSING_STATUSES = {408, 425, 429}

T = TypeVar("T")


class Secret(msgspec.Struct, frozen=True):
    """A key that goes into the query: the parameter, its value, and the environment variable that it came from."""

    parameter: str
    value: str
    variable: str

    def __repr__(self) -> str:
        return f"Secret({self.parameter}, from {self.variable})"


class Request(msgspec.Struct, frozen=True):
    """One page to ask for. ``address_variable`` is the environment variable that overrides the address."""

    url: str
    query: dict[str, str]
    address_variable: str
    secret: Secret | None = None

    @property
    def shown(self) -> str:
        """The whole URL as it may be logged and stored: without the key."""
        hidden = {self.secret.parameter: "hidden"} if self.secret else {}
        return str(httpx.URL(self.url, params={**self.query, **hidden}))


class Limits(msgspec.Struct, frozen=True):
    """How long and how often: ``timeout_seconds`` a read, ``total_seconds`` for all attempts and waits together."""

    timeout_seconds: float
    attempts: int
    total_seconds: float = 180.0


class Response(msgspec.Struct, frozen=True):
    """A complete answer with status 200; the URL is the one that may be shown."""

    url: str
    status: int
    headers: dict[str, str]
    body: bytes


class _TryAgain(Exception):
    """An attempt failed in a way that may pass; ``retry_after`` is the wait in seconds that the server asks for."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def fetch(client: httpx.Client, request: Request, limits: Limits) -> Response:
    """Ask until there is a complete answer with status 200.

    Raises PassingFault when the last attempt failed, when the total time is up, or when the server asks for a pause of
    more than a minute (the stage's own retry comes later), and ConfigurationError when asking again cannot help: a
    wrong key or address, or a query that the API refuses.
    """
    # At a lower level, both log the address of every request, key included.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    patience = Patience(limits.total_seconds)
    failed: list[_TryAgain] = []

    def passes(error: Exception) -> bool | float:
        if not isinstance(error, _TryAgain):
            return False
        failed.append(error)
        if len(failed) == limits.attempts or (error.retry_after or 0.0) > LONGEST_RETRY_AFTER_SECONDS:
            return False
        jitter = random.uniform(0.0, JITTER_SECONDS)  # noqa: S311 - not a secret
        if error.retry_after is not None:
            return error.retry_after + jitter
        return min(FIRST_PAUSE_SECONDS * 2.0 ** (len(failed) - 1) + jitter, LONGEST_PAUSE_SECONDS)

    def waiting(seconds: float) -> None:
        print(f"{failed[-1]}; again in {seconds:.1f} s", flush=True)

    try:
        return patience.ask(lambda: _ask_once(client, request, limits, patience.deadline), passes, waiting)
    except _TryAgain as error:
        tried = f"gave up after {len(failed)} of {limits.attempts} attempts"
        asked = f"; it asks to wait {error.retry_after:.0f} s" if error.retry_after is not None else ""
        raise PassingFault(f"{error} ({tried}{asked}). Run the stage again later.") from None


def paced(items: Iterable[T], seconds: float) -> Iterator[T]:
    """The items, at least ``seconds`` apart, so that a long history does not break the API's rate limit."""
    earliest = 0.0
    for item in items:
        time.sleep(max(earliest - time.monotonic(), 0.0))
        earliest = time.monotonic() + seconds
        yield item


def _ask_once(client: httpx.Client, request: Request, limits: Limits, deadline: float) -> Response:
    query = {**request.query, **({request.secret.parameter: request.secret.value} if request.secret else {})}
    try:
        with client.stream("GET", request.url, params=query, timeout=limits.timeout_seconds) as answer:
            body = _read(answer, request, deadline)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        message = f"{request.shown}: not an address that can be asked ({_redacted(str(error), request)})."
        raise ConfigurationError(f"{message} Check {request.address_variable}.") from None
    except (httpx.TransportError, httpx.DecodingError) as error:
        # The class says what happened where the text is empty, as for a time-out.
        message = f"{type(error).__name__} {_redacted(str(error), request)}".strip()
        raise _TryAgain(f"{request.shown}: {message}") from None
    if answer.status_code != 200:
        raise _failure(answer, body, request)
    headers = {name: answer.headers[name] for name in _KEPT_HEADERS if name in answer.headers}
    return Response(request.shown, answer.status_code, headers, body)


def _read(answer: httpx.Response, request: Request, deadline: float) -> bytes:
    """The whole body; an answer that trickles on past the deadline or the largest size is cut off here."""
    parts: list[bytes] = []
    size = 0
    for part in answer.iter_bytes():
        parts.append(part)
        size += len(part)
        if size > LARGEST_ANSWER_BYTES:
            raise _TryAgain(f"{request.shown}: the answer is larger than {LARGEST_ANSWER_BYTES:,} bytes")
        if time.monotonic() > deadline:
            raise _TryAgain(f"{request.shown}: the answer was not complete in the total time allowed")
    return b"".join(parts)


def _failure(answer: httpx.Response, body: bytes, request: Request) -> Exception:
    status = answer.status_code
    reason = _redacted(_reason(body), request)
    message = f"{request.shown} answered {status}{f' ({reason})' if reason else ''}"
    if status in _PASSING_STATUSES or status >= 500:
        return _TryAgain(message, _retry_after(answer.headers.get("retry-after", "")))
    if status in {401, 403}:
        unasked = f"It expects a key, and this source sends none: check {request.address_variable}."
        hint = f"Check the key in {request.secret.variable}." if request.secret else unasked
        return ConfigurationError(f"{message}. {hint}")
    return ConfigurationError(f"{message}. Check the challenge's [source] table and {request.address_variable}.")


def _reason(body: bytes) -> str:
    """What the API says went wrong: `reason` (Open-Meteo) or `message` (OpenWeatherMap), or the start of the text."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body[:200].decode("utf-8", errors="replace").strip()
    if isinstance(decoded, dict):
        return str(decoded.get("reason") or decoded.get("message") or "")
    return ""


def _retry_after(text: str) -> float | None:
    """Seconds to wait, from a `Retry-After` of seconds or an HTTP date; None when there is none that can be read."""
    if text.isascii() and text.strip().isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)


def _redacted(text: str, request: Request) -> str:
    return text.replace(request.secret.value, "hidden") if request.secret and request.secret.value else text
