"""The receiver over HTTP: a Litestar application with three routes. Errors are problem documents (RFC 9457)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from litestar import Litestar, Request, Response, get, post
from litestar.exceptions import HTTPException
from prometheus_client.exposition import choose_encoder

from ci.alerts.delivery import Delivery
from ci.alerts.metrics import Metrics
from ci.alerts.problems import MEDIA_TYPE, Problem
from ci.alerts.receiver import Receiver
from ci.alerts.settings import AlertSettings
from ci.alerts.store import StoreBroken
from ci.progress import Log

BODIES_AT_ONCE = 4
"""How many of the largest bodies may be held at once; smaller ones, accordingly more."""
RETRY_SECONDS = 5
WRONG_SECRET_SECONDS = 60.0
"""How often a wrong secret is told in the log."""
_LOGGER = logging.getLogger("ci.alerts")
_Request = Request[Any, Any, Any]


@dataclass(frozen=True)
class Parts:
    """What lives as long as the application."""

    settings: AlertSettings
    receiver: Receiver
    delivery: Delivery
    metrics: Metrics
    log: Log


class Gone(Exception):
    """The client has closed the connection before its request was whole."""


class Door:
    """Who may come in, and with how much."""

    def __init__(self, parts: Parts) -> None:
        self._settings = parts.settings
        self._log = parts.log
        self._secret = _digest(parts.settings.secret.encode())
        self._room = BODIES_AT_ONCE * parts.settings.max_body_bytes
        self._told = -WRONG_SECRET_SECONDS

    def require_secret(self, request: _Request) -> None:
        """Raises Problem 401."""
        given = _credentials(dict(request.scope["headers"]).get(b"authorization", b""))
        if given is not None and hmac.compare_digest(_digest(given), self._secret):
            return
        if time.monotonic() >= self._told + WRONG_SECRET_SECONDS:
            self._told = time.monotonic()
            client = request.client.host if request.client else "somebody"
            self._log.error(f"{client} does not know the secret (RPS_ALERTS_SECRET); told at most once a minute")
        what = "no credentials came" if given is None else "the secret is wrong"
        expected = "expected Authorization: Bearer with the secret, or Basic with the secret as password"
        headers = {"www-authenticate": 'Bearer realm="rps", Basic realm="rps"', "connection": "close"}
        raise Problem(401, f"{what}; {expected} (RPS_ALERTS_SECRET)", headers=headers)

    async def body(self, request: _Request) -> bytes:
        """The whole body. Raises Problem: 408, 413, 415, and 503 when too much is at work; Gone."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind and kind != "application/json" and not kind.endswith("+json"):
            raise Problem(415, f"content-type: expected application/json; found {kind!r:.80}", headers=_CLOSE)
        if (encoding := request.headers.get("content-encoding", "identity").lower()) != "identity":
            raise Problem(415, f"content-encoding: expected none; found {encoding!r:.80}", headers=_CLOSE)
        self._check_size(int(request.headers.get("content-length", "0")))
        held, size = [], 0
        try:
            async with asyncio.timeout(self._settings.request_seconds):
                async for chunk in _chunks(request):
                    held.append(chunk)
                    size += len(chunk)
                    self._room -= len(chunk)
                    self._check_size(size)
                    if self._room < 0:
                        told = "too much is at work; try again in a few seconds"
                        raise Problem(503, told, headers={"retry-after": str(RETRY_SECONDS), **_CLOSE})
            return b"".join(held)
        except TimeoutError:
            told = f"the body took longer than {self._settings.request_seconds:g} s (RPS_ALERTS_REQUEST_SECONDS)"
            raise Problem(408, told, headers=_CLOSE) from None
        finally:
            self._room += size

    def _check_size(self, size: int) -> None:
        most = self._settings.max_body_bytes
        if size > most:
            told = f"the body is larger than {most} bytes (RPS_ALERTS_MAX_BODY_BYTES); send fewer alerts at once"
            raise Problem(413, told, headers=_CLOSE)


_CLOSE = {"connection": "close"}
"""The rest of the body is not read."""


async def _chunks(request: _Request) -> AsyncIterator[bytes]:
    while True:
        message = await request.receive()
        if message["type"] != "http.request":
            raise Gone
        yield message["body"]
        if not message["more_body"]:
            return


def create_app(parts: Parts, lifespan: AbstractAsyncContextManager[None]) -> Litestar:
    """The application. lifespan: what runs beside it."""
    door, started = Door(parts), time.time()
    metrics, receiver = parts.metrics, parts.receiver

    @post("/v1/alerts")
    async def take_alerts(request: _Request) -> Response[bytes]:
        try:
            door.require_secret(request)
            answer = await receiver.take(await door.body(request))
        except Problem as problem:
            return counted(_problem(problem))
        except StoreBroken as error:
            told = f"{error}. Nothing was taken; send it again"
            return counted(_problem(Problem(503, told, headers={"retry-after": str(RETRY_SECONDS)})))
        except Gone:
            return counted(_problem(Problem(400, "the connection was closed before the body was whole")))
        except Exception:  # the last resort: told whole in the log
            _LOGGER.exception("request failed")
            return counted(_problem(Problem(500, "an error of the receiver, not of the request; its log tells more")))
        return counted(Response(answer, status_code=200, media_type="application/json"))

    def counted(answer: Response[bytes]) -> Response[bytes]:
        metrics.requests.labels(str(answer.status_code)).inc()
        return answer

    @get("/health")
    async def tell_health() -> Response[Any]:
        if receiver.fault:
            return _problem(Problem(503, receiver.fault))
        told = {
            "status": "ok",
            "events_waiting": parts.delivery.waiting,
            "uptime_seconds": round(time.time() - started, 3),
        }
        return Response(told)

    @get("/metrics")
    async def tell_metrics(request: _Request) -> Response[bytes]:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.registry), headers={"content-type": kind})

    @asynccontextmanager
    async def living(_: Litestar) -> AsyncIterator[None]:
        async with lifespan:
            yield

    return Litestar(
        [take_alerts, tell_health, tell_metrics],
        lifespan=[living],
        exception_handlers={HTTPException: _no_route},
        openapi_config=None,
        logging_config=None,
    )


def _no_route(request: _Request, error: HTTPException) -> Response[bytes]:
    """What the framework refuses: a path that is not there, another method."""
    told = f"{request.method} {request.scope['path'][:200]!r}: {error.detail}"
    routes = "POST /v1/alerts, GET /health and GET /metrics are what there is"
    return _problem(Problem(error.status_code, f"{told}; {routes}", headers={**(error.headers or {}), **_CLOSE}))


def _problem(problem: Problem) -> Response[Any]:
    return Response(problem.document(), status_code=problem.status, media_type=MEDIA_TYPE, headers=problem.headers)


def _credentials(header: bytes) -> bytes | None:
    """What the sender says it knows: a bearer's token, or the password of a user whose name does not matter."""
    kind, _, told = header.strip().partition(b" ")
    if kind.lower() == b"bearer":
        return told.strip()
    if kind.lower() == b"basic":
        try:
            return base64.b64decode(told.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return None
    return None


def _digest(secret: bytes) -> bytes:
    """Of one length for all, so that comparing takes one time for all."""
    return hashlib.sha256(secret).digest()
