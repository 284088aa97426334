"""The Litestar application around one bundle, and everything that lives as long as it does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import Any

from litestar import Litestar, Router
from litestar.config.cors import CORSConfig
from litestar.datastructures import ResponseHeader
from litestar.di import Provide
from litestar.enums import MediaType
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from service import VERSION
from service.log import configure_logging
from service.model.bundle_source import load_model
from service.model.served import Model
from service.page.events import API_PAGE_HEADERS, ApiPage, Page, PageController
from service.protocols import open_inference, openapi
from service.protocols.forecasts import ForecastController, Forecasts
from service.protocols.health import Health, HealthController
from service.protocols.hot_routes import hot_routes, infer_paths
from service.protocols.inference import Inference, OpenInferenceController, ScoringController
from service.protocols.observation_bodies import ObservationBodies
from service.protocols.problems import answer_problem
from service.protocols.request_limits import RequestLimits
from service.service_settings import Settings, service_settings
from service.state.stores import MemoryStore, SeriesStore, StateUnreadable
from service.state.stream import warm
from service.watch.exposition import Exposition
from service.watch.monitor import Monitor
from service.watch.sensors import SensorWatch
from service.watch.worker_counts import MOST_SERIES, AllCounts, Layout

_LOGGER = logging.getLogger("service")


def create_app() -> RequestLimits:
    """What a worker serves, by the environment's settings. Raises ConfigurationError and BundleError."""
    settings = service_settings()
    configure_logging(settings)
    model = load_model(settings)
    store, monitor = _store(model, settings), _monitor(model, settings)
    limits = RequestLimits(settings, monitor)
    bodies = ObservationBodies(model, settings.max_batch)
    forecasts = Forecasts(model, store, monitor, settings, bodies)
    inference = Inference(model, monitor, settings)
    shared = {
        "forecasts": forecasts,
        "inference": inference,
        "health": Health(model, store, limits),
        "sensors": SensorWatch(model, store, monitor),
        "exposition": Exposition(model, monitor, one_worker=settings.workers == 1),
        "page": Page(model, store, monitor, forecasts, limits),
    }
    cors = _cors(settings.cors_origins) if settings.cors_origins else None
    app = Litestar(
        [ForecastController, OpenInferenceController, ScoringController, HealthController, PageController],
        dependencies={
            "metadata": Provide(inference.metadata, sync_to_thread=False),
            **{name: _provided(value) for name, value in shared.items()},
        },
        exception_handlers={Exception: answer_problem},
        openapi_config=_openapi_config(),
        cors_config=cors,
        lifespan=[lambda _: _lifespan(model, store, limits)],
        request_max_body_size=None,  # RequestLimits has a limit of its own, also after unpacking
        logging_config=None,
    )
    paths = infer_paths(model.name, model.version)
    openapi.complete(app.openapi_schema, model, bodies, paths[0], keyed=bool(settings.api_key))
    hot = hot_routes(forecasts, inference, paths, settings.api_key, cors)
    limits.wrap(app, [route.path_format for route in app.routes], hot)
    return limits


def _provided(value: object) -> Provide:
    def provide() -> Any:  # noqa: ANN401 - each handler says what it takes
        return value

    return Provide(provide, sync_to_thread=False)


def _monitor(model: Model, settings: Settings) -> Monitor:
    manifest = model.bundle.manifest
    layout = Layout(
        features=len(model.columns),
        horizons=len(model.horizons),
        drift_window=settings.drift_window or manifest.drift.window_rows,
        live_window=settings.live_window,
        series=min(len(manifest.series), MOST_SERIES),
    )
    return Monitor(model, AllCounts(layout, Path(settings.counts) if settings.counts else None))


def _store(model: Model, settings: Settings) -> SeriesStore:
    if settings.state == "memory":
        return MemoryStore(model)
    from service.state.redis_store import RedisStore

    return RedisStore(model, settings.state)


def _openapi_config() -> OpenAPIConfig:
    """The document at /schema, and a page to read and try it at /schema/docs, from this image alone."""
    headers = [ResponseHeader(name=name, value=value) for name, value in API_PAGE_HEADERS.items()]
    return OpenAPIConfig(
        title="RPS",
        version=VERSION,
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(type="http", scheme="bearer"),
                "key": SecurityScheme(type="apiKey", security_scheme_in="header", name="X-API-Key"),
            }
        ),
        operation_id_creator=openapi.operation_id,
        render_plugins=[
            JsonRenderPlugin(path=["/", "/openapi.json"], media_type=MediaType.JSON),
            ApiPage(path="/docs"),
        ],
        openapi_router=Router("/schema", route_handlers=[], include_in_schema=False, response_headers=headers),
    )


def _cors(origins: tuple[str, ...]) -> CORSConfig:
    return CORSConfig(
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        expose_headers=["x-request-id", "retry-after", open_inference.HEADER_LENGTH],
    )


@contextlib.asynccontextmanager
async def _lifespan(model: Model, store: SeriesStore, limits: RequestLimits) -> AsyncIterator[None]:
    await _warmed(model, store)
    _notice_stop(limits)
    sweeper = asyncio.create_task(limits.sweep())
    gc.collect()
    gc.freeze()  # what exists now stays: the collector need not look at it again
    try:
        yield
    finally:
        limits.closing = True
        sweeper.cancel()
        await store.close()


async def _warmed(model: Model, store: SeriesStore) -> None:
    """Fill the states from the bundle's last observations; one that cannot be read is logged and left to its owner."""
    for unique_id, window in model.bundle.observations.items():
        try:
            await store.change(unique_id, lambda state, window=window: warm(model, state, window))  # type: ignore[misc]
        except StateUnreadable as error:
            _LOGGER.error("state unreadable", extra={"detail": str(error)})


def _notice_stop(limits: RequestLimits) -> None:
    """Note a signal to stop before the server waits for the requests in flight: readiness ends, and so do streams."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        earlier = signal.getsignal(number)

        def heard(found: int, frame: FrameType | None, earlier: Any = earlier) -> None:  # noqa: ANN401
            limits.closing = True
            if callable(earlier):
                earlier(found, frame)

        signal.signal(number, heard)
