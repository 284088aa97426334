"""One request from its headers to its answer: limits, request id, errors as problem documents, and its count.

Every route is a plain ASGI handler of the Litestar application: a typed route of the framework costs 60 µs more, which
is more than the forecast itself.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

from litestar.enums import ScopeType
from litestar.types import HTTPScope, Receive, Scope, Send

from service.monitor import Monitor
from service.problems import MEDIA_TYPE, Problem
from service.settings import Settings
from service.stores import StoreUnavailable

JSON = b"application/json"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_LOGGER = logging.getLogger("service.requests")
_SWEEP_SECONDS = 0.25
_ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
_ENCODINGS = {b"gzip": 31, b"deflate": 15}
"""zlib's window bits for each content encoding."""


class Call(NamedTuple):
    """What an endpoint is given. ``body`` is empty for a GET; header names are in lower case."""

    scope: HTTPScope
    headers: dict[bytes, bytes]
    body: bytes
    request_id: str


class Answer(NamedTuple):
    """What an endpoint gives back."""

    body: bytes
    media_type: bytes = JSON
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Stream(NamedTuple):
    """An answer without an end of its own; it ends with its client, or when the service stops."""

    chunks: AsyncGenerator[bytes, None]
    media_type: bytes


Endpoint = Callable[[Call], Awaitable[Answer | Stream]]


class Disconnected(Exception):
    """The client went away before its request was whole."""


@dataclass
class Door:
    """What all routes of a worker share: how many requests are at work, until when, and whether it is closing."""

    settings: Settings
    monitor: Monitor
    closing: bool = False
    in_flight: int = 0
    loop: asyncio.AbstractEventLoop | None = None
    """Known once the service runs: to find it out for each request takes a system call."""
    running: dict[asyncio.Task[Any], float] = field(default_factory=dict)
    expired: set[asyncio.Task[Any]] = field(default_factory=set)
    _prefix: str = field(default_factory=lambda: secrets.token_hex(6))
    _numbers: count[int] = field(default_factory=count)

    def request_id(self, given: bytes | None) -> str:
        """The client's, when it is one, or a new one."""
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given.decode()
        return f"{self._prefix}-{next(self._numbers):x}"

    def unrouted(self, status: int) -> None:
        """Count what was answered before any route had it."""
        self.monitor.request(len(self.monitor.routes) - 1, status, 0.0)

    async def sweep(self) -> None:
        """Cancel the requests that take too long, until this is cancelled itself."""
        self.loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.monitor.own.in_flight[0] = float(self.in_flight)
            oldest = time.perf_counter() - self.settings.request_seconds
            for task, started in list(self.running.items()):
                if started < oldest and task not in self.expired:
                    self.expired.add(task)
                    task.cancel()


class Route:
    """An ASGI handler for one path and method."""

    def __init__(self, door: Door, place: int, path: str, method: str, endpoint: Endpoint, *, vital: bool) -> None:
        """vital: it is answered however many requests are at work."""
        self.path = path
        self._door = door
        self._place = place
        self._methods = {method, "HEAD"} if method == "GET" else {method}
        self._has_body = method == "POST"
        self._endpoint = endpoint
        self._vital = vital

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        assert scope["type"] == ScopeType.HTTP  # the application refuses the others
        door = self._door
        headers = dict(scope["headers"])
        request_id = door.request_id(headers.get(b"x-request-id"))
        task = asyncio.current_task(door.loop)
        assert task is not None
        door.running[task] = started
        door.in_flight += 1
        status = 499
        try:
            answer = await self._answer(scope, headers, receive, request_id, task)
            if isinstance(answer, Stream):
                status = 200
                del door.running[task]
                door.in_flight -= 1  # it is bounded by its own limit
                try:
                    await _send_stream(answer, request_id, scope, receive, send)
                finally:
                    door.in_flight += 1
                return
            status = answer.status
            sent = answer_headers(answer, request_id)
            await send({"type": "http.response.start", "status": status, "headers": sent})
            await send({"type": "http.response.body", "body": answer.body, "more_body": False})
        except Disconnected:
            pass
        finally:
            door.running.pop(task, None)
            door.expired.discard(task)
            door.in_flight -= 1
            seconds = time.perf_counter() - started
            door.monitor.request(self._place, status, seconds)
            if status >= 500 or door.settings.access_log:
                self._log(scope, request_id, status, seconds)

    async def _answer(
        self, scope: HTTPScope, headers: dict[bytes, bytes], receive: Receive, request_id: str, task: asyncio.Task[Any]
    ) -> Answer | Stream:
        """What the endpoint gives, or the problem it has, as an answer."""
        door = self._door
        try:
            if scope["method"] not in self._methods:
                raise _wrong_method(scope["method"], self._methods)
            if door.in_flight > door.settings.max_in_flight and not self._vital:
                door.monitor.own.shed[0] += 1.0
                told = f"{door.settings.max_in_flight} requests are at work already; try again in a second"
                raise Problem(503, told, headers={"retry-after": "1"})
            body = await read_body(headers, receive, door.settings.max_body_bytes) if self._has_body else b""
            return await self._endpoint(Call(scope, headers, body, request_id))
        except Problem as problem:
            return problem_answer(problem, request_id)
        except StoreUnavailable as error:
            _LOGGER.warning("state unavailable", extra={"request_id": request_id, "detail": str(error)})
            told = f"{error}. Send the request again: what was kept of it already counts once"
            return problem_answer(Problem(503, told, headers={"retry-after": "1"}), request_id)
        except Disconnected:
            raise
        except asyncio.CancelledError:
            if task not in door.expired:
                raise
            task.uncancel()
            told = f"the request took longer than {door.settings.request_seconds:g} s, its body's arrival included"
            return problem_answer(Problem(408, told, headers={"connection": "close"}), request_id)
        except Exception:  # the last resort: told whole in the log, and its connection and the others go on
            _LOGGER.exception("request failed", extra={"request_id": request_id, "route": self.path})
            told = f"an error of the service, not of the request; its log tells more under {request_id}"
            return problem_answer(Problem(500, told), request_id)

    def _log(self, scope: HTTPScope, request_id: str, status: int, seconds: float) -> None:
        client = scope.get("client")
        told = {
            "request_id": request_id,
            "method": scope["method"],
            "route": self.path,
            "status": status,
            "ms": round(1000 * seconds, 3),
            "client": client[0] if client else None,
        }
        _LOGGER.log(logging.ERROR if status >= 500 else logging.INFO, "request", extra=told)


def answer_headers(answer: Answer, request_id: str) -> list[tuple[bytes, bytes]]:
    """The headers that go with an answer."""
    return [
        (b"content-type", answer.media_type),
        (b"content-length", b"%d" % len(answer.body)),
        (b"x-request-id", request_id.encode()),
        *_ALWAYS,
        *answer.headers,
    ]


def problem_answer(problem: Problem, request_id: str) -> Answer:
    """A problem as an answer."""
    headers = tuple((name.encode(), value.encode()) for name, value in problem.headers.items())
    return Answer(problem.document(request_id), MEDIA_TYPE, problem.status, headers)


async def read_body(headers: dict[bytes, bytes], receive: Receive, most: int) -> bytes:
    """The whole body, unpacked. Raises Problem (too large, an encoding that is not known) and Disconnected."""
    length = headers.get(b"content-length")
    if length is not None and (not length.isdigit() or int(length) > most):
        raise _too_large(most)
    message = await receive()
    if message["type"] != "http.request":
        raise Disconnected
    body = message.get("body", b"")
    if message.get("more_body"):
        parts, size = [body], len(body)
        while message.get("more_body"):
            message = await receive()
            if message["type"] != "http.request":
                raise Disconnected
            size += len(message.get("body", b""))
            if size > most:
                raise _too_large(most)
            parts.append(message.get("body", b""))
        body = b"".join(parts)
    if len(body) > most:
        raise _too_large(most)
    encoding = headers.get(b"content-encoding")
    return body if encoding is None else _unpacked(body, encoding.strip().lower(), most)


def media_type(headers: dict[bytes, bytes]) -> str:
    """The content type that a request names, without parameters; "" when it names none."""
    return headers.get(b"content-type", b"").split(b";", 1)[0].strip().lower().decode("latin-1")


def require_json(headers: dict[bytes, bytes]) -> None:
    """Raises Problem 415 when the request names another content type."""
    if headers.get(b"content-type") == JSON:
        return
    named = media_type(headers)
    if named and named != "application/json" and not named.endswith("+json"):
        raise Problem(415, f"content-type: expected application/json; found {named!r}")


def _unpacked(body: bytes, encoding: bytes, most: int) -> bytes:
    if encoding == b"identity":
        return body
    bits = _ENCODINGS.get(encoding)
    if bits is None:
        raise Problem(415, f"content-encoding: expected gzip, deflate or none; found {encoding.decode('latin-1')!r}")
    unpacker = zlib.decompressobj(bits)
    try:
        unpacked = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise Problem(400, f"the body is not the {encoding.decode()} that content-encoding says: {error}") from error
    if len(unpacked) > most:
        raise _too_large(most)
    if unpacker.unused_data:
        raise Problem(400, f"the body goes on after its {encoding.decode()} has ended; pack it as one")
    if not unpacker.eof:
        raise Problem(400, f"the body ends before its {encoding.decode()} does")
    return unpacked


def _too_large(most: int) -> Problem:
    told = f"the body is larger than {most} bytes (RPS_MAX_BODY_BYTES); send it in parts"
    return Problem(413, told, headers={"connection": "close"})


def _wrong_method(found: str, methods: set[str]) -> Problem:
    allowed = ", ".join(sorted(methods))
    return Problem(405, f"expected {allowed}; found {found}", headers={"allow": allowed})


async def _send_stream(stream: Stream, request_id: str, scope: HTTPScope, receive: Receive, send: Send) -> None:
    """Send what comes until it ends or the client has gone."""
    headers = [(b"content-type", stream.media_type), (b"x-request-id", request_id.encode()), *_ALWAYS]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["method"] == "HEAD":
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    sent, gone = asyncio.create_task(_send_chunks(stream, send)), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((sent, gone), return_when=asyncio.FIRST_COMPLETED)
        if sent.done():
            sent.result()
    finally:
        sent.cancel()
        gone.cancel()
        await asyncio.gather(sent, gone, return_exceptions=True)
        await stream.chunks.aclose()  # its end gives back what it holds, such as a viewer's place


async def _send_chunks(stream: Stream, send: Send) -> None:
    async for chunk in stream.chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
