"""The page for people, its files and the events that keep it up to date."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs

import msgspec

from forecasting.challenge import Drift
from service.forecasts import Forecasts, SeriesAnswer
from service.http import Answer, Call, Door, Stream
from service.model import Model
from service.monitor import FEWEST_ROWS, LiveHorizon, Monitor
from service.problems import Problem
from service.settings import Settings
from service.stores import SeriesStore, StoreUnavailable

_SCRIPT = b"text/javascript; charset=utf-8"
FILES = {"page.js": _SCRIPT, "chart.js": _SCRIPT, "words.js": _SCRIPT, "page.css": b"text/css; charset=utf-8"}
MOST_SERIES = 500
MOST_FEATURES = 6
LOOK_SECONDS = 0.5
HEARTBEAT_LOOKS = 20
_DIRECTORY = Path(__file__).parent / "static"
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = ((b"content-security-policy", _POLICY), (b"referrer-policy", b"no-referrer"))


class FeatureDrift(msgspec.Struct, frozen=True):
    """How far one feature lies from training, and from where on that is drift."""

    feature: str
    population_stability_index: float
    limit: float


class PageModel(msgspec.Struct, frozen=True):
    """What the page says of the model."""

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
    holdout: dict[int, dict[str, float]]
    loss: str


class PageSignals(msgspec.Struct, frozen=True):
    """Drift and live error, with the limits from where on they count; None where there is too little to say."""

    rows: int
    fewest_rows: int
    """With fewer rows, or forecasts that met their truth, there is too little to say."""
    out_of_distribution_ratio: float | None
    features: tuple[FeatureDrift, ...]
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
    """The endpoints of the page."""

    def __init__(
        self,
        model: Model,
        store: SeriesStore,
        monitor: Monitor,
        forecasts: Forecasts,
        door: Door,
    ) -> None:
        manifest = model.bundle.manifest
        self._store = store
        self._monitor = monitor
        self._forecasts = forecasts
        self._door = door
        self._settings: Settings = door.settings
        self._viewers = 0
        self._limits = manifest.drift
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
            holdout=manifest.holdout,
            loss=manifest.loss,
        )

    async def show(self, call: Call) -> Answer:  # noqa: ARG002 - every endpoint is given its call
        """GET /."""
        return Answer(_file("index.html"), b"text/html; charset=utf-8", headers=_HEADERS)

    async def file(self, call: Call) -> Answer:
        """GET /page/{name}."""
        name = str(call.scope["path_params"]["name"])
        if name not in FILES:
            raise Problem(404, f"no file {name!r} of the page")
        content = _file(name)
        tag = b'"%s"' % hashlib.sha256(content).hexdigest()[:16].encode()
        if call.headers.get(b"if-none-match") == tag:
            return Answer(b"", FILES[name], 304, ((b"etag", tag),))
        return Answer(content, FILES[name], headers=((b"etag", tag),))

    async def events(self, call: Call) -> Stream:
        """GET /events?series=…: the page's state, at first and whenever it has changed, as server-sent events."""
        if self._viewers >= self._settings.max_viewers:
            told = f"{self._settings.max_viewers} pages are kept up to date already (RPS_MAX_VIEWERS)"
            raise Problem(503, told, headers={"retry-after": "30"})
        asked = parse_qs(call.scope["query_string"].decode("latin-1")).get("series", [""])[0]
        return Stream(self._updates(asked), b"text/event-stream; charset=utf-8")

    async def _updates(self, unique_id: str) -> AsyncGenerator[bytes, None]:
        self._viewers += 1
        try:
            seen: tuple[object, ...] | None = None
            quiet = 0
            yield b"retry: 2000\n\n"
            while not self._door.closing:
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
            found = await self._store.read(shown) if shown else None
            if found is None:
                problem = f"no series {shown!r}" if shown else "no series yet"
            else:
                series = self._forecasts.shown(shown, found)
        except StoreUnavailable as error:
            problem = str(error)
        return PageState(self._model, self._signals(), count, tuple(names), series, problem)

    def _signals(self) -> PageSignals:
        signals = self._monitor.signals()
        shares = {name: found.index / found.limit for name, found in signals.population_stability.items()}
        farthest = sorted(shares, key=shares.__getitem__, reverse=True)
        return PageSignals(
            rows=signals.rows,
            fewest_rows=FEWEST_ROWS,
            out_of_distribution_ratio=signals.out_of_distribution_ratio,
            features=tuple(
                FeatureDrift(name, signals.population_stability[name].index, signals.population_stability[name].limit)
                for name in farthest[:MOST_FEATURES]
            ),
            features_watched=len(farthest),
            features_drifting=sum(share > 1.0 for share in shares.values()),
            live=signals.live,
            live_by_horizon=signals.live_by_horizon,
            limits=self._limits,
        )


@cache
def _file(name: str) -> bytes:
    return (_DIRECTORY / name).read_bytes()
