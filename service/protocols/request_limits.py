"""Limits, request id, security headers, count and log of every request.

One ASGI middleware around the Litestar application and the hot routes beside it: Litestar's own middleware does not see
a request that no route takes.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
import zlib
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPReceiveMessage, HTTPScope, Message, Receive, Scope, Send
from litestar.utils.path import normalize_path

from service.protocols.problems import MEDIA_TYPE, Disconnected, Problem
from service.service_settings import Settings
from service.watch.monitor import Monitor

NO_ROUTE = "(none)"
_VITAL = frozenset({"/health", "/metrics", "/ping", "/v2/health/live", "/v2/health/ready"})
"""Answered however many requests are in progress: a busy service must not look dead."""
_ENDLESS = frozenset({"/events"})
"""Streams that end with their client; they have a limit of their own."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_LOGGER = logging.getLogger("service.requests")
_SWEEP_SECONDS = 0.25
_ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
_ENCODINGS = {b"gzip": 31, b"deflate": 15}
"""zlib's window bits for each content encoding."""


class RequestLimits:
    """The ASGI application that a worker serves."""

    def __init__(self, settings: Settings, monitor: Monitor) -> None:
        self.settings = settings
        self.monitor = monitor
        self.closing = False
        self.in_flight = 0
        self._running: dict[asyncio.Task[Any], float] = {}
        """When each request began that has a time limit."""
        self._expired: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        """Known once the service runs: finding it out for each request takes a system call."""
        self._prefix = secrets.token_hex(6)
        self._numbers = count()
        self._app: ASGIApp
        self._hot: Mapping[str, ASGIApp] = {}
        self._places: dict[str, int] = {}

    def wrap(self, app: ASGIApp, routes: Iterable[str], hot: Mapping[str, ASGIApp]) -> None:
        """Serve ``app``, whose path templates are ``routes``, with the handlers of ``hot`` paths in front of it."""
        self._app, self._hot = app, hot
        self.monitor.routes = (*dict.fromkeys((*hot, *routes)), NO_ROUTE)
        self._places = {route: place for place, route in enumerate(self.monitor.routes)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        request = _Request(self, scope, receive, send)
        path = scope["path"]
        hot = self._hot.get(path) or self._hot.get(path := normalize_path(path))
        if hot is not None:
            scope["path_template"] = path
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._running[task] = request.started
        self.in_flight += 1
        try:
            if self.in_flight > self.settings.max_in_flight and path not in _VITAL:
                self.monitor.own.shed[0] += 1.0
                message = f"{self.settings.max_in_flight} requests are in progress already; try again in a second"
                await request.refuse(Problem(503, message, headers={"retry-after": "1"}))
            elif hot is not None and not self._asks_cors(request):
                await hot(request.scope, request.receive, request.send)
            else:
                await self._routed(request, task)
        except asyncio.CancelledError:
            if task not in self._expired:
                raise
            task.uncancel()
            message = f"the request took longer than {self.settings.request_seconds:g} s, its body's arrival included"
            await request.refuse(Problem(408, message, headers={"connection": "close"}))
        except Exception:  # after an answer began: its connection ends, the others go on
            _LOGGER.exception("request failed", extra={"request_id": request.id, "path": path})
        finally:
            if self._running.pop(task, None) is not None:
                self.in_flight -= 1
            self._expired.discard(task)
            self._count(request)

    async def sweep(self) -> None:
        """Cancel requests that take too long, until this is cancelled itself."""
        self._loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.monitor.own.in_flight[0] = float(self.in_flight)
            oldest = time.perf_counter() - self.settings.request_seconds
            for task, started in list(self._running.items()):
                if started < oldest and task not in self._expired:
                    self._expired.add(task)
                    task.cancel()

    async def refuse_crowd(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request on a connection too many."""
        assert scope["type"] == ScopeType.HTTP
        self.monitor.own.shed[0] += 1.0
        self.count_unrouted(503)
        most = self.settings.max_connections
        message = f"more than {most} connections are open already (RPS_MAX_CONNECTIONS); try again in a second"
        problem = Problem(503, message, headers={"retry-after": "1", "connection": "close"})
        await _Request(self, scope, receive, send).refuse(problem)

    def request_id(self, given: bytes | None) -> str:
        """The client's, when it is one, or a new one."""
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given.decode()
        return f"{self._prefix}-{next(self._numbers):x}"

    def count_unrouted(self, status: int) -> None:
        """Count an answer to what is not yet a request."""
        self.monitor.request(self._places[NO_ROUTE], status, 0.0)

    async def _routed(self, request: _Request, task: asyncio.Task[Any]) -> None:
        """Litestar's answer. Its routes take GET; HEAD is a GET whose body the server leaves out."""
        scope = request.scope
        if scope["path"] in _ENDLESS:
            del self._running[task]
            self.in_flight -= 1
        if request.method == "HEAD":
            request.scope = {**scope, "method": "GET"}  # the server's own scope still says HEAD
            request.head_only = True
        elif request.method == "OPTIONS" and not self._asks_cors(request):
            request.scope = {**scope, "method": "TRACE"}  # Litestar would answer OPTIONS itself; no route takes TRACE
        await self._app(request.scope, request.receive, request.send)
        await request.end()

    def _asks_cors(self, request: _Request) -> bool:
        """Whether a web page elsewhere asks what it may send: Litestar answers that, whatever the path."""
        return request.method == "OPTIONS" and b"origin" in request.headers and bool(self.settings.cors_origins)

    def _count(self, request: _Request) -> None:
        seconds = time.perf_counter() - request.started
        route = request.scope.get("path_template", NO_ROUTE)
        self.monitor.request(self._places.get(route, self._places[NO_ROUTE]), request.status, seconds)
        if request.status < 500 and not self.settings.access_log:
            return
        client = request.scope.get("client")
        extra = {
            "request_id": request.id,
            "method": request.method,
            "route": route,
            "status": request.status,
            "ms": round(1000 * seconds, 3),
            "client": client[0] if client else None,
        }
        _LOGGER.log(logging.ERROR if request.status >= 500 else logging.INFO, "request", extra=extra)


class _Request:
    """One request on its way through: what a handler receives and sends."""

    __slots__ = (
        "_begun", "_ended", "_limits", "_receive", "_send", "_unread",
        "head_only", "headers", "id", "method", "scope", "started", "status",
    )  # fmt: skip

    def __init__(self, limits: RequestLimits, scope: HTTPScope, receive: Receive, send: Send) -> None:
        self.started = time.perf_counter()
        self.headers = dict(scope["headers"])
        self.id = limits.request_id(self.headers.get(b"x-request-id"))
        self.scope = scope
        self.scope.setdefault("state", {})["request_id"] = self.id
        self.method = scope["method"]
        self.status = 499  # until an answer begins
        self.head_only = False
        self._limits = limits
        self._receive = receive
        self._send = send
        self._unread = self.method == "POST"
        self._begun = self._ended = False

    async def receive(self) -> HTTPReceiveMessage:
        """The whole body at once, unpacked, and then what the server says. Raises Problem."""
        if self._unread:
            self._unread = False
            body = await read_body(self.headers, self._receive, self._limits.settings.max_body_bytes)
            return {"type": "http.request", "body": body, "more_body": False}
        if self.head_only:
            return {"type": "http.disconnect"}  # so that a stream ends
        return await self._receive()  # type: ignore[return-value]

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            self.status = message["status"]
            message["headers"] = [*message["headers"], *added_headers(self.id)]
        elif not message.get("more_body"):
            self._ended = True
        await self._send(message)

    async def end(self) -> None:
        """End the answer to HEAD when it is that of a stream, which had no end of its own."""
        if self.head_only and not self._ended:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def refuse(self, problem: Problem) -> None:
        """Answer with a problem, unless an answer has begun."""
        if self._begun:
            return
        headers, body = problem_answer(problem, self.id)
        await self.send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})


def added_headers(request_id: str) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that every answer has."""
    return ((b"x-request-id", request_id.encode()), *_ALWAYS)


def problem_answer(problem: Problem, request_id: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """A problem's own headers, and its document."""
    body = problem.document(request_id)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(body))]
    return [*headers, *((name.encode(), value.encode()) for name, value in problem.headers.items())], body


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
    message = f"the body is larger than {most} bytes (RPS_MAX_BODY_BYTES); send it in parts"
    return Problem(413, message, headers={"connection": "close"})
