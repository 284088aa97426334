"""The relay over HTTP: a Litestar application. Errors are problem documents (RFC 9457)."""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from litestar import Litestar, get, post
from litestar.connection import ASGIConnection
from litestar.exceptions import ClientException, HTTPException, NotAuthorizedException, ServiceUnavailableException
from litestar.handlers import BaseRouteHandler
from litestar.plugins.problem_details import ProblemDetailsConfig, ProblemDetailsException, ProblemDetailsPlugin
from litestar.plugins.prometheus import PrometheusController
from litestar.types import Message, Scope
from prometheus_client import Counter

from monitoring.relay.relay import Relay
from monitoring.relay.webhook import read_webhook

MOST_BYTES = 16 << 20
_ROUTES = "the routes are POST /v1/alerts, GET /health and GET /metrics"
_HINTS = {404: _ROUTES, 405: _ROUTES, 413: f"send fewer alerts at once; a body may have {MOST_BYTES} bytes"}
_Connection = ASGIConnection[Any, Any, Any, Any]
REQUESTS = Counter("rps_alert_requests", "Requests to /v1/alerts by the status of the answer.", ["status"])


def create_app(relay: Relay, secret: str) -> Litestar:
    def require_secret(connection: _Connection, _: BaseRouteHandler) -> None:
        if not hmac.compare_digest(_credentials(connection.headers.get("authorization", "")), secret.encode()):
            expected = "expected Authorization: Bearer with the secret, or Basic with the secret as password"
            headers = {"www-authenticate": 'Bearer realm="rps", Basic realm="rps"'}
            raise NotAuthorizedException(f"{expected} (RPS_ALERTS_SECRET)", headers=headers)

    @post("/v1/alerts", status_code=200, guards=[require_secret, require_json], request_max_body_size=MOST_BYTES)
    async def take_alerts(body: bytes) -> dict[str, list[dict[str, str]]]:
        webhook = read_webhook(body)
        try:
            return {"alerts": relay.take(webhook)}
        except OSError as error:
            detail = f"{relay.journal.fault}. Nothing was taken; send it again"
            raise ServiceUnavailableException(detail, headers={"retry-after": "5"}) from error

    @get("/health")
    async def health() -> dict[str, Any]:
        if relay.journal.fault:
            raise ServiceUnavailableException(relay.journal.fault)
        return {"status": "ok", "events_waiting": len(relay.journal.waiting())}

    @asynccontextmanager
    async def delivering(_: Litestar) -> AsyncIterator[None]:
        delivery = asyncio.create_task(relay.deliver())
        yield
        relay.stop()
        await delivery

    return Litestar(
        [take_alerts, health, PrometheusController],
        lifespan=[delivering],
        before_send=[_count],
        plugins=[ProblemDetailsPlugin(ProblemDetailsConfig(exception_to_problem_detail_map={Exception: _problem}))],
        openapi_config=None,
        logging_config=None,
    )


def require_json(connection: _Connection, _: BaseRouteHandler) -> None:
    kind = connection.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = connection.headers.get("content-encoding", "identity").lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise ClientException(f"content-type: expected application/json; found {kind!r:.80}", status_code=415)
    if encoding != "identity":
        raise ClientException(f"content-encoding: expected none; found {encoding!r:.80}", status_code=415)


def _credentials(header: str) -> bytes:
    """The secret in the header: a bearer's token, or the password of a user with any name."""
    kind, _, value = header.strip().partition(" ")
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return value.strip().encode() if kind.lower() == "bearer" else b""


def _problem(error: Exception) -> ProblemDetailsException:
    if not isinstance(error, HTTPException):
        logging.getLogger(__name__).error("a request failed", exc_info=error)
        error = HTTPException("an error in the receiver, not in the request; its log says more", status_code=500)
    hint = _HINTS.get(error.status_code)
    return ProblemDetailsException(
        detail=f"{error.detail}: {hint}" if hint else error.detail,
        status_code=error.status_code,
        title=HTTPStatus(error.status_code).phrase,
        type_="about:blank",
        headers={"connection": "close", **(error.headers or {})},  # the rest of the body is not read
        extra=error.extra,
    )


async def _count(message: Message, scope: Scope) -> None:
    if message["type"] == "http.response.start" and scope["path"] == "/v1/alerts":
        REQUESTS.labels(str(message["status"])).inc()
