"""The Litestar application around one bundle: the table of routes, and what lives as long as the application."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import threading
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any

from litestar import Litestar, Request, Response
from litestar.config.cors import CORSConfig
from litestar.enums import HttpMethod, ScopeType
from litestar.exceptions import HTTPException
from litestar.handlers import ASGIRouteHandler, BaseRouteHandler, HTTPRouteHandler
from litestar.response.base import ASGIResponse
from litestar.types import ExceptionHandlersMap, Receive, Scope, Send

from forecasting.bundle import Bundle
from service import examples, mlflow_protocol, open_inference
from service.board import MOST_SERIES, Boards, Layout
from service.bodies import Bodies
from service.bundle_source import load_bundle
from service.exposition import Exposition
from service.forecasts import ForecastAnswer, Forecasts, ObservationsAnswer, SeriesAnswer, SeriesListAnswer
from service.http import Answer, Call, Door, Route, answer_headers, problem_answer
from service.inference import Inference
from service.log import configure_logging
from service.model import Model
from service.monitor import Monitor
from service.open_inference_types import InferAnswer, InferBody, Live, ModelMetadata, Ready, ServerMetadata
from service.openapi import Described, openapi
from service.operation import HealthAnswer, Operation
from service.page import Page
from service.problems import Problem
from service.settings import Settings, SettingsError, read_settings
from service.stores import MemoryStore, SeriesStore, StateUnreadable
from service.stream import warm

VERSION = "1"
"""Of the service's own interface."""
NO_ROUTE = "(none)"
_METHODS = [HttpMethod.GET, HttpMethod.HEAD, HttpMethod.POST, HttpMethod.PUT, HttpMethod.PATCH, HttpMethod.DELETE]
_METHODS += [HttpMethod.OPTIONS]
"""All of them, so that our own routes say which they take."""
_LOGGER = logging.getLogger("service")
_JSON, _CSV, _OCTETS = "application/json", "text/csv", "application/octet-stream"
_OPEN_INFERENCE = "Open Inference Protocol"
_BINARY: dict[str, Any] = {_OCTETS: {"type": "string", "format": "binary"}}
_TEXT: dict[str, Any] = {"text/plain": {"type": "string"}}


def create_app() -> Application:
    """The application as the environment asks for it: what a worker calls. Raises SettingsError and BundleError."""
    settings = read_settings()
    configure_logging(settings)
    bundle, version = load_bundle(settings)
    return Application(bundle, version, settings)


class Application:
    """An ASGI application, and the hand on its door."""

    def __init__(self, bundle: Bundle, version: str, settings: Settings) -> None:
        model = Model(bundle, version)
        layout = Layout(
            features=len(model.columns),
            horizons=len(model.horizons),
            drift_window=settings.drift_window or bundle.manifest.drift.window_rows,
            live_window=settings.live_window,
            series=min(len(bundle.manifest.series), MOST_SERIES),
        )
        monitor = Monitor(model, Boards(layout, Path(settings.boards) if settings.boards else None))
        self.model = model
        self.store = _store(model, settings)
        self.door = Door(settings, monitor)
        self._routes = routes = _routes(model, self.store, monitor, self.door)
        monitor.routes = (*(route.label for route in routes), NO_ROUTE)
        self._app = Litestar(
            [_handler(self.door, place, route) for place, route in enumerate(routes)],
            openapi_config=None,
            lifespan=[self._lifespan],
            cors_config=_cors(settings.cors_origins) if settings.cors_origins else None,
            exception_handlers={HTTPException: self._no_route},
            logging_config=None,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.WEBSOCKET:
            await send({"type": "websocket.close", "code": 1003, "reason": "no websockets here"})
            return
        await self._app(scope, receive, send)

    def stop(self) -> None:
        """Say that the service is stopping: readiness ends, and so do the streams. Safe in a signal handler."""
        self.door.closing = True

    async def refuse_crowd(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - an ASGI application
        """What a request on a connection too many is answered with."""
        assert scope["type"] == ScopeType.HTTP
        most = self.door.settings.max_connections
        told = f"more than {most} connections are open already (RPS_MAX_CONNECTIONS); try again in a second"
        self.door.monitor.own.shed[0] += 1.0
        self.door.unrouted(503)
        request_id = self.door.request_id(dict(scope["headers"]).get(b"x-request-id"))
        refusal = Problem(503, told, headers={"retry-after": "1", "connection": "close"})
        answer = problem_answer(refusal, request_id)
        await send({"type": "http.response.start", "status": 503, "headers": answer_headers(answer, request_id)})
        await send({"type": "http.response.body", "body": answer.body, "more_body": False})

    def _notice_stop(self) -> None:
        """Hear of a signal to stop before the server waits for the requests in flight, among them endless streams."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            earlier = signal.getsignal(number)

            def heard(found: int, frame: FrameType | None, earlier: Any = earlier) -> None:  # noqa: ANN401
                self.stop()
                if callable(earlier):
                    earlier(found, frame)

            signal.signal(number, heard)

    def _no_route(self, request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
        """What the framework refuses before any route has it, such as a path that is not there."""
        given = request.headers.get("x-request-id")
        request_id = self.door.request_id(given.encode("latin-1") if given else None)
        told = error.detail
        if error.status_code == HTTPStatus.NOT_FOUND:
            told = f"nothing is at {request.scope['path'][:200]!r}; GET /schema lists what is"
        allowed: dict[str, str] = {}
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            methods = sorted({each.method for each in self._routes if each.matches(request.scope["path"])})
            allowed = {"allow": ", ".join(["GET, HEAD" if method == "GET" else method for method in methods])}
        answer = problem_answer(Problem(error.status_code, told, headers=allowed), request_id)
        self.door.unrouted(answer.status)
        headers = {name.decode(): value.decode() for name, value in answer_headers(answer, request_id)}
        return Response(answer.body, status_code=answer.status, headers=headers, media_type=headers.pop("content-type"))

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Litestar) -> AsyncIterator[None]:
        await _warmed(self.model, self.store)
        self._notice_stop()
        sweeper = asyncio.create_task(self.door.sweep())
        gc.collect()
        gc.freeze()  # what is there now stays: the collector need not look at it again
        try:
            yield
        finally:
            self.stop()
            sweeper.cancel()
            await self.store.close()


def _cors(origins: tuple[str, ...]) -> CORSConfig:
    return CORSConfig(
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        expose_headers=["x-request-id", "retry-after", open_inference.HEADER_LENGTH],
    )


def _store(model: Model, settings: Settings) -> SeriesStore:
    if settings.state == "memory":
        return MemoryStore(model)
    from service.redis_store import RedisStore

    try:
        return RedisStore(model, settings.state)
    except ValueError as error:
        raise SettingsError(f"RPS_STATE: expected the address of a Redis: {error}") from error


async def _warmed(model: Model, store: SeriesStore) -> None:
    """Fill the states from the bundle's last observations; one that is none is told and left for its owner to see."""
    for unique_id, window in model.bundle.observations.items():
        try:
            await store.change(unique_id, lambda state, window=window: warm(model, state, window))  # type: ignore[misc]
        except StateUnreadable as error:
            _LOGGER.error("state unreadable", extra={"detail": str(error)})


class _Served(ASGIResponse):
    """An answer that one of our routes gives itself."""

    def __init__(self, serve: Route) -> None:
        super().__init__()
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._serve(scope, receive, send)


class _Handler(ASGIRouteHandler):
    """Litestar 2.25 works out anew for each request which exception handlers a route has; this remembers them."""

    _exception_handlers: ExceptionHandlersMap | None = None

    def resolve_exception_handlers(self) -> ExceptionHandlersMap:
        if self._exception_handlers is None:
            self._exception_handlers = super().resolve_exception_handlers()
        return self._exception_handlers


def _handler(door: Door, place: int, route: Described) -> BaseRouteHandler:
    serve = Route(door, place, route.label, route.method, route.endpoint, vital=route.vital)
    if "{" not in route.path:
        return _Handler(route.path, copy_scope=False)(serve.__call__)

    # Litestar 2.25 cannot find a plain ASGI handler whose path has parameters.
    async def handle_parameters() -> _Served:
        return _Served(serve)

    return HTTPRouteHandler(route.path, http_method=_METHODS)(handle_parameters)


def _routes(model: Model, store: SeriesStore, monitor: Monitor, door: Door) -> list[Described]:
    """Every route of the service, the OpenAPI document's last."""
    settings = door.settings
    bodies = Bodies(model, settings.max_batch)
    forecasts = Forecasts(model, store, monitor, settings, bodies)
    inference = Inference(model, monitor, settings, VERSION)
    operation = Operation(model, store, door, Exposition(model, monitor, one_worker=settings.workers == 1), VERSION)
    page = Page(model, store, monitor, forecasts, door)
    own = f"/v2/models/{model.name}"
    other = "/v2/models/{name:str}"
    keyed = (401,) if settings.api_key else ()
    known = {"unique_id": min(model.bundle.observations)} if model.bundle.observations else {}
    routes = [
        Described(
            "POST", "/v1/observations", forecasts.take_observations, "Stream in observations of series", "Forecasts",
            {_JSON: bodies.observations}, {_JSON: ObservationsAnswer}, (400, *keyed, 413, 415, 422),
            secured=bool(keyed), examples={_JSON: examples.observations(model)},
        ),
        Described(
            "GET", "/v1/forecasts/{unique_id:str}", forecasts.forecast_series, "Forecast from the state of a series",
            "Forecasts", {}, {_JSON: ForecastAnswer}, (404, 409), examples=known,
        ),
        Described(
            "POST", "/v1/forecast", forecasts.forecast_window, "Forecast from a window of observations", "Forecasts",
            {_JSON: bodies.window}, {_JSON: ForecastAnswer}, (400, 409, 413, 415, 422),
            examples={_JSON: examples.window(model)},
        ),
        Described(
            "GET", "/v1/series", forecasts.list_series, "The series that are known", "Forecasts", {},
            {_JSON: SeriesListAnswer},
        ),
        Described(
            "GET", "/v1/series/{unique_id:str}", forecasts.show_series, "What is known of a series", "Forecasts", {},
            {_JSON: SeriesAnswer}, (404,), examples=known,
        ),
        Described("GET", "/v2", inference.describe_server, "The server", _OPEN_INFERENCE, {}, {_JSON: ServerMetadata}),
        Described(
            "GET", "/v2/health/live", operation.tell_live, "Alive", _OPEN_INFERENCE, {}, {_JSON: Live}, vital=True,
        ),
        Described(
            "GET", "/v2/health/ready", operation.tell_ready, "Ready", _OPEN_INFERENCE, {}, {_JSON: Ready}, vital=True,
        ),
        Described("GET", own, inference.describe_model, "The model", _OPEN_INFERENCE, {}, {_JSON: ModelMetadata}),
        Described("GET", f"{own}/ready", operation.tell_ready, "Model ready", _OPEN_INFERENCE, {}, {_JSON: Ready}),
        Described(
            "POST", f"{own}/infer", inference.infer, "Forecast from features", _OPEN_INFERENCE,
            {_JSON: InferBody, **_BINARY}, {_JSON: InferAnswer, **_BINARY}, (400, 413, 415, 422),
            examples={_JSON: examples.infer(model)},
        ),
        *(
            Described(method, f"{own}/versions/{model.version}{path}", endpoint, "", "", shown=False)
            for method, path, endpoint in (
                ("GET", "", inference.describe_model),
                ("GET", "/ready", operation.tell_ready),
                ("POST", "/infer", inference.infer),
            )
        ),
        *(
            Described(method, path, inference.unknown_model, "", "", shown=False)
            for stem in (other, f"{other}/versions/{{version:str}}")
            for method, path in (("GET", stem), ("GET", f"{stem}/ready"), ("POST", f"{stem}/infer"))
        ),
        Described(
            "POST", "/invocations", inference.score, "Forecast from features", "MLflow scoring",
            {_JSON: mlflow_protocol.request_schema(model.columns), _CSV: {"type": "string"}},
            {_JSON: mlflow_protocol.ANSWER_SCHEMA}, (400, 413, 415, 422),
            examples={_JSON: examples.invocation(model), _CSV: examples.invocation_csv(model)},
        ),
        Described("GET", "/ping", operation.ping, "Ready", "MLflow scoring", {}, _TEXT, vital=True),
        Described("GET", "/version", inference.tell_version, "The interface's version", "MLflow scoring", {}, _TEXT),
        Described(
            "GET", "/health", operation.tell_health, "What is served", "Operation", {}, {_JSON: HealthAnswer},
            vital=True,
        ),
        Described("GET", "/metrics", operation.tell_metrics, "Prometheus", "Operation", {}, _TEXT, vital=True),
        Described("GET", "/", page.show, "The page for people", "Page", {}, {"text/html": {"type": "string"}}),
        Described("GET", "/page/{name:str}", page.file, "", "", shown=False),
        Described("GET", "/events", page.events, "", "", shown=False),
    ]  # fmt: skip
    document = openapi(routes, "RPS", VERSION)

    async def describe(call: Call) -> Answer:  # noqa: ARG001 - every endpoint is given its call
        return Answer(document)

    return [*routes, Described("GET", "/schema", describe, "This document", "Operation", shown=False)]
