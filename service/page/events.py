"""The page for people: its files, and the events that keep it up to date."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from litestar import Controller, Request, Response, get
from litestar.di import NamedDependency
from litestar.enums import MediaType
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.params import FromPath, FromQuery
from litestar.response import Stream

from forecasting.challenge.schema import Drift
from forecasting.judging.losses import LOSSES
from service.model.served import Model
from service.protocols.forecasts import Forecasts, SeriesAnswer
from service.protocols.problems import Problem, problem_responses
from service.protocols.request_limits import RequestLimits
from service.state.stores import SeriesStore, StoreUnavailable
from service.watch.monitor import FEWEST_ROWS, LiveHorizon, Monitor, Stability

FILES = {
    "page.js": "text/javascript",
    "chart.js": "text/javascript",
    "words.js": "text/javascript",
    "page.css": "text/css",
    "rapidoc-min.js.gz": "text/javascript",
}
MOST_SERIES = 500
MOST_FEATURES = 6
LOOK_SECONDS = 0.5
HEARTBEAT_LOOKS = 20
_DIRECTORY = Path(__file__).parent / "static"
_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; "
    "script-src 'self'; style-src {}; form-action {}"
)
_NO_REFERRER = {"referrer-policy": "no-referrer"}
PAGE_HEADERS = {**_NO_REFERRER, "content-security-policy": _POLICY.format("'self'", "'none'")}
API_PAGE_HEADERS = {**_NO_REFERRER, "content-security-policy": _POLICY.format("'unsafe-inline'", "'self'")}
"""RapiDoc writes its own styles."""


class PageModel(msgspec.Struct, frozen=True):
    """The model, as the page shows it."""

    challenge: str
    title: str
    version: str
    git_sha: str
    train_end: str
    unit: str
    target: str
    step_minutes: int
    horizons: tuple[int, ...]
    interval: float
    errors: dict[int, dict[str, float]]
    measure: str
    """What the errors are called, by the loss's label."""
    error_unit: str
    """Theirs; empty when they have none."""
    baseline: str
    """What the baseline is called: `climatology (28 days)`."""


class PageSignals(msgspec.Struct, frozen=True):
    """Drift and live error with their limits; None where there is too little to say."""

    rows: int
    fewest_rows: int
    """With fewer rows, or forecasts that met their truth, there is too little to say."""
    out_of_distribution_ratio: float | None
    features: tuple[Stability, ...]
    """Those that lie farthest beyond their limits, or nearest to them; the farthest first."""
    features_watched: int
    features_drifting: int
    """Those beyond their limits."""
    live: LiveHorizon | None
    live_by_horizon: dict[int, LiveHorizon]
    limits: Drift


class PageState(msgspec.Struct, frozen=True):
    """One event: everything that the page shows. ``problem`` says why the series cannot be shown now."""

    model: PageModel
    signals: PageSignals
    series_count: int
    unique_ids: tuple[str, ...]
    series: SeriesAnswer | None
    problem: str | None


class Page:
    """What the page shows, as it changes."""

    def __init__(
        self, model: Model, store: SeriesStore, monitor: Monitor, forecasts: Forecasts, limits: RequestLimits
    ) -> None:
        manifest = model.bundle.manifest
        loss = LOSSES[manifest.loss]
        self._store = store
        self._monitor = monitor
        self._forecasts = forecasts
        self._limits = limits
        self._viewers = 0
        self._drift = manifest.drift
        self._model = PageModel(
            challenge=manifest.challenge,
            title=manifest.title or manifest.challenge,
            version=model.version,
            git_sha=manifest.git_sha,
            train_end=f"{manifest.train_end:%Y-%m-%dT%H:%M:%SZ}",
            unit=manifest.unit,
            target=model.spec.target,
            step_minutes=model.spec.step_minutes,
            horizons=model.horizons,
            interval=manifest.interval,
            errors=manifest.errors,
            measure=loss.label,
            error_unit=loss.unit(manifest.unit),
            baseline=manifest.baseline.title,
        )

    def require_place(self) -> None:
        """Raises Problem 503 when as many pages are open as may be."""
        most = self._limits.settings.max_viewers
        if self._viewers >= most:
            message = f"{most} pages are kept up to date already (RPS_MAX_VIEWERS)"
            raise Problem(503, message, headers={"retry-after": "30"})

    async def updates(self, unique_id: str) -> AsyncGenerator[bytes, None]:
        """The page's state, at first and whenever it has changed, as server-sent events; until the service stops."""
        self._viewers += 1
        try:
            seen: tuple[object, ...] | None = None
            quiet = 0
            yield b"retry: 2000\n\n"
            while not self._limits.closing:
                state = await self._state(unique_id)
                if not unique_id and state.series is not None:
                    # A new series whose name comes before it must not take its place.
                    unique_id = state.series.unique_id
                mark = (state.series, state.signals, state.series_count, state.problem)
                quiet += 1
                if mark != seen:
                    seen, quiet = mark, 0
                    yield b"event: state\ndata: " + msgspec.json.encode(state) + b"\n\n"
                elif quiet >= HEARTBEAT_LOOKS:
                    quiet = 0
                    yield b"event: still\ndata: {}\n\n"  # a page hears events only, no comments
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._viewers -= 1

    async def _state(self, unique_id: str) -> PageState:
        names: list[str] = []
        count, series, problem = 0, None, None
        try:
            names = await self._store.names(MOST_SERIES)
            count = await self._store.count()
            shown = unique_id or (names[0] if names else "")
            if found := await self._store.read(shown) if shown else None:
                series = self._forecasts.shown(shown, found)
            else:
                problem = f"no series {shown!r}" if shown else "no series yet"
        except StoreUnavailable as error:
            problem = str(error)
        return PageState(self._model, self._signals(), count, tuple(names), series, problem)

    def _signals(self) -> PageSignals:
        signals = self._monitor.signals()
        features = signals.population_stability.values()
        farthest = sorted(features, key=lambda each: each.index / each.limit, reverse=True)
        return PageSignals(
            rows=signals.rows,
            fewest_rows=FEWEST_ROWS,
            out_of_distribution_ratio=signals.out_of_distribution_ratio,
            features=tuple(farthest[:MOST_FEATURES]),
            features_watched=len(farthest),
            features_drifting=sum(each.index > each.limit for each in farthest),
            live=signals.live,
            live_by_horizon=signals.live_by_horizon,
            limits=self._drift,
        )


class PageController(Controller):
    """The page's routes."""

    tags = ("Page",)

    @get("/", summary="The page for people", media_type=MediaType.HTML, responses=problem_responses(),
         sync_to_thread=False)  # fmt: skip
    def show(self) -> Response[bytes]:
        return Response(_file("index.html"), headers=PAGE_HEADERS)

    @get("/page/{name:str}", include_in_schema=False, sync_to_thread=False)
    def file(self, name: FromPath[str], request: Request[Any, Any, Any]) -> Response[bytes]:
        if name not in FILES:
            raise Problem(404, f"no file {name!r} of the page")
        content = _file(name)
        headers = {"etag": f'"{hashlib.sha256(content).hexdigest()[:16]}"'}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(b"", status_code=304, headers=headers)
        if name.endswith(".gz"):
            headers["content-encoding"] = "gzip"
        return Response(content, media_type=FILES[name], headers=headers)

    @get("/events", include_in_schema=False, sync_to_thread=False)
    def events(self, page: NamedDependency[Page], series: FromQuery[str] = "") -> Stream:
        """The page's state of one series, the first by name when none is named, as server-sent events."""
        page.require_place()
        return Stream(page.updates(series), media_type="text/event-stream")


class ApiPage(OpenAPIRenderPlugin):
    """RapiDoc from this image. Litestar's own plugin for it would load fonts and an icon from elsewhere."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        return _file("api.html")


@cache
def _file(name: str) -> bytes:
    return (_DIRECTORY / name).read_bytes()
