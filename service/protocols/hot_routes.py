"""The routes that clients call all the time, as plain ASGI handlers in front of the Litestar application.

A typed Litestar handler costs 60 µs a request, twice what the forecast does (docs/decisions/0007). Every other route is
such a handler, in a controller. `openapi` adds these to the application's OpenAPI document.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

import msgspec
from litestar.config.cors import CORSConfig
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from service.protocols.forecasts import Forecasts
from service.protocols.inference import Inference
from service.protocols.problems import Problem, problem_for, wrong_field
from service.protocols.request_limits import problem_answer

OBSERVATIONS, FORECAST = "/v1/observations", "/v1/forecast"
_JSON = b"application/json"
_HEADER_LENGTH = b"inference-header-content-length"
_ENCODER = msgspec.json.Encoder()


_Headers = tuple[tuple[bytes, bytes], ...]
_Endpoint = Callable[[dict[bytes, bytes], bytes, bytes], Awaitable[tuple[bytes, _Headers]]]
"""From headers (by name in lower case), query and body to the answer's body and its headers."""
_IS_JSON: _Headers = ((b"content-type", _JSON),)


def infer_paths(model_name: str, model_version: str) -> tuple[str, str]:
    """Where the model is asked, without and with its version."""
    return f"/v2/models/{model_name}/infer", f"/v2/models/{model_name}/versions/{model_version}/infer"


def hot_routes(
    forecasts: Forecasts, inference: Inference, infer: tuple[str, str], api_key: str, cors: CORSConfig | None
) -> dict[str, ASGIApp]:
    """The handlers by path; all take POST. infer: see ``infer_paths``."""
    key = api_key.encode()

    async def take_observations(headers: dict[bytes, bytes], _: bytes, body: bytes) -> tuple[bytes, _Headers]:
        _require_key(headers, key)
        _require_json(headers)
        return _ENCODER.encode(await forecasts.take_observations(body)), _IS_JSON

    async def forecast_window(headers: dict[bytes, bytes], query: bytes, body: bytes) -> tuple[bytes, _Headers]:
        _require_json(headers)
        features = bool(query) and _wants_features(query)
        return _ENCODER.encode(forecasts.from_window(body, features=features)), _IS_JSON

    async def infer_rows(headers: dict[bytes, bytes], _: bytes, body: bytes) -> tuple[bytes, _Headers]:
        length = headers.get(_HEADER_LENGTH)
        if length is None:
            _require_json(headers)
        answer, json_length = inference.infer(body, None if length is None else length.decode("latin-1"))
        if json_length is None:
            return answer, _IS_JSON
        return answer, ((b"content-type", b"application/octet-stream"), (_HEADER_LENGTH, b"%d" % json_length))

    endpoints = {OBSERVATIONS: take_observations, FORECAST: forecast_window, **dict.fromkeys(infer, infer_rows)}
    return {path: _handler(endpoint, cors) for path, endpoint in endpoints.items()}


def _handler(endpoint: _Endpoint, cors: CORSConfig | None) -> ASGIApp:
    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == ScopeType.HTTP
        status = 200
        try:
            if scope["method"] != "POST":
                raise Problem(405, f"expected POST; found {scope['method']}", headers={"allow": "POST"})
            message = await receive()
            found: bytes = message["body"]  # type: ignore[typeddict-item]
            body, added = await endpoint(dict(scope["headers"]), scope["query_string"], found)
            headers = [*added, (b"content-length", b"%d" % len(body))]
        except Exception as error:  # noqa: BLE001 - each becomes a problem document
            request_id = scope["state"]["request_id"]
            problem = problem_for(error, scope["path"], request_id)
            status = problem.status
            headers, body = problem_answer(problem, request_id)
        if cors is not None:
            headers += _cors_headers(scope, cors)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return handle


def _cors_headers(scope: Scope, cors: CORSConfig) -> list[tuple[bytes, bytes]]:
    """As Litestar has them on its own routes: what a web page elsewhere may read, if its origin is allowed."""
    origin = dict(scope["headers"]).get(b"origin", b"").decode("latin-1")
    if not origin or not cors.is_origin_allowed(origin):
        return []
    allowed = "*" if cors.is_allow_all_origins else origin
    return [
        (b"access-control-allow-origin", allowed.encode("latin-1")),
        (b"access-control-expose-headers", ", ".join(cors.expose_headers).encode()),
        (b"vary", b"Origin"),
    ]


def _require_key(headers: dict[bytes, bytes], key: bytes) -> None:
    """Raises Problem 401; compares in a time that does not tell how much of a key was right."""
    if not key:
        return
    given = headers.get(b"x-api-key", b"")
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        given = token.strip()
    if not hmac.compare_digest(given, key):
        message = "expected the service's key, as 'Authorization: Bearer …' or 'X-API-Key: …'"
        raise Problem(401, message, headers={"www-authenticate": "Bearer"})


def _require_json(headers: dict[bytes, bytes]) -> None:
    """Raises Problem 415 when the request names another content type."""
    given = headers.get(b"content-type", b"")
    if given == _JSON:
        return
    named = given.split(b";", 1)[0].strip().lower().decode("latin-1")
    if named and named != "application/json" and not named.endswith("+json"):
        raise Problem(415, f"content-type: expected application/json; found {named!r}")


def _wants_features(query: bytes) -> bool:
    asked = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("features", ["false"])[-1]
    if asked not in {"true", "false"}:
        raise wrong_field("features", f"expected true or false; found {asked[:50]!r}")
    return asked == "true"
