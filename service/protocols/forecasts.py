"""The service's own protocol: observations in, forecasts out, and the series that are known."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import Annotated, Literal

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, PathParameter

from forecasting.features.ring_buffer import Arrival, moment_of
from service.model.served import HorizonForecast, Model, Scored, UnusualInput
from service.protocols.observation_bodies import ObservationBodies
from service.protocols.problems import Field, Problem, problem_responses
from service.service_settings import Settings
from service.state.series import SeriesState
from service.state.stores import SeriesStore
from service.state.stream import Followed, Row, count, follow
from service.watch.monitor import Monitor

AT_ONCE = 64
"""Observations that are taken in before other requests get their turn."""
MOST_SERIES = 500
"""How many series a list names."""
_UniqueId = Annotated[str, PathParameter(schema_extra={"pattern": r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}$"})]
"""Described only: a name that no series can have is not found, like any that none has."""
_NO_ARRIVALS = {arrival.value: 0 for arrival in Arrival}


class ServedModel(msgspec.Struct, frozen=True):
    """Which model an answer is from."""

    name: str
    version: str


class ForecastAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A forecast of every horizon. ``origin`` is the time of the last observation that was used.

    With the query `features=true` the answer has the models' inputs, by feature, null when missing.
    """

    model: ServedModel
    origin: datetime
    unit: str
    interval: float
    """The level of the intervals."""
    forecasts: tuple[HorizonForecast, ...]
    unusual: tuple[UnusualInput, ...]
    """The inputs that lie outside what training saw; the forecast is the less to be trusted."""
    unique_id: str | None = None
    features: dict[str, float | None] | None = None


class ObservationsAnswer(msgspec.Struct, frozen=True):
    """What became of the observations of a request, all of which are kept.

    Of a request that fails after its body was found right, as when the state is lost on the way, some may be kept:
    sending it again is safe, for they then count as repeated.
    """

    accepted: int
    newest: int
    late: int
    repeated: int
    corrected: int
    too_old: int
    """Older than anything that is read: ignored."""
    new_series: tuple[str, ...]


class ObservedValue(msgspec.Struct, frozen=True):
    ds: datetime
    value: float


class MadeForecast(msgspec.Struct, frozen=True):
    """A forecast that was made for ``ds``, ``horizon`` steps before it."""

    ds: datetime
    horizon: int
    value: float
    lower: float
    upper: float


class SeriesAnswer(msgspec.Struct, frozen=True):
    """One series: its last observations of the target, the forecasts made for those steps, and the next ones."""

    unique_id: str
    unit: str
    newest: datetime | None
    observations: tuple[ObservedValue, ...]
    made: tuple[MadeForecast, ...]
    next: tuple[HorizonForecast, ...]
    unusual: tuple[UnusualInput, ...]
    problem: str | None
    """Why there is no next forecast."""


class SeriesListAnswer(msgspec.Struct, frozen=True):
    """The series that the service knows, at most ``MOST_SERIES`` of them."""

    count: int
    unique_ids: tuple[str, ...]


class Forecasts:
    """Forecasts from the state of the series, or from a window of observations."""

    def __init__(
        self, model: Model, store: SeriesStore, monitor: Monitor, settings: Settings, bodies: ObservationBodies
    ) -> None:
        self._model = model
        self._store = store
        self._monitor = monitor
        self._most_series = settings.max_series
        self._bodies = bodies
        self._served = ServedModel(model.name, model.version)
        manifest = model.bundle.manifest
        self._unit, self._interval = manifest.unit, manifest.interval

    async def take_observations(self, body: bytes) -> ObservationsAnswer:
        """The answer to POST /v1/observations, once all of it is stored. Raises Problem."""
        try:
            by_series = self._bodies.read_observations(body)
            new = await self._store.unknown(set(by_series))
            if new and await self._store.count() + len(new) > self._most_series:
                message = f"the service keeps at most {self._most_series} series (RPS_MAX_SERIES)"
                raise Problem(422, f"/observations: {message}", [Field("/observations", f"{message}; new: {min(new)}")])
        except Problem:
            self._monitor.arrived("rejected")
            raise
        arrivals = dict(_NO_ARRIVALS)
        at_once = 0
        for unique_id, rows in by_series.items():
            for start in range(0, len(rows), AT_ONCE):
                part = rows[start : start + AT_ONCE]
                followed = await self._follow(unique_id, part)
                for arrival, times in followed.arrivals.items():
                    arrivals[arrival] += times
                at_once += len(part)
                if at_once > AT_ONCE:
                    at_once = 0
                    await asyncio.sleep(0)
        accepted = sum(map(len, by_series.values()))
        return ObservationsAnswer(accepted=accepted, new_series=tuple(sorted(new)[:MOST_SERIES]), **arrivals)

    def from_window(self, body: bytes, *, features: bool) -> ForecastAnswer:
        """The answer to POST /v1/forecast; with the features, if asked. Raises Problem."""
        unique_id, step, columns = self._bodies.read_window(body)
        self._require_enough(columns[0], step, "", "Send a window that has them")
        row = self._model.row_at(columns, step)
        scored = self._model.score(row)
        self._monitor.row("window", row, unusual=bool(scored.unusual))
        return self._answer(step, row, scored, unique_id, features=features)

    async def from_state(self, unique_id: str, *, features: bool) -> ForecastAnswer:
        """The forecast of a series that is known; with the features, if asked. Raises Problem."""
        state = await self._state(unique_id)
        columns, step = state.buffer.columns, state.buffer.newest_step
        if step is None:
            raise Problem(409, f"{unique_id}: no observation yet; POST them to /v1/observations")
        self._require_enough(columns[0], step, f"{unique_id}: ", "POST the missing ones to /v1/observations")
        row = self._model.row_at(columns, step)
        return self._answer(step, row, self._model.score(row), unique_id, features=features, scales=state.scales)

    async def series(self, unique_id: str) -> SeriesAnswer:
        """What ``shown`` gives of a known series. Raises Problem."""
        return self.shown(unique_id, await self._state(unique_id))

    async def known(self) -> SeriesListAnswer:
        """The series that are known."""
        names = await self._store.names(MOST_SERIES)
        return SeriesListAnswer(await self._store.count(), tuple(names))

    def shown(self, unique_id: str, state: SeriesState) -> SeriesAnswer:
        """What there is to see of a series."""
        model, spec, newest = self._model, self._model.spec, state.buffer.newest_step
        observations, made = [], []
        forecasts: tuple[HorizonForecast, ...] = ()
        unusual: tuple[UnusualInput, ...] = ()
        problem: str | None = "no observation yet"
        if newest is not None:
            target = state.buffer.columns[0]
            for step in range(newest - spec.lookback, newest + 1):
                ds, value = moment_of(step, spec), target[step - newest - 1]
                if not math.isnan(value):
                    observations.append(ObservedValue(ds, value))
                for horizon, one in zip(model.horizons, state.made_for(step), strict=True):
                    if one is not None:
                        made.append(MadeForecast(ds, horizon, one.value, one.lower, one.upper))
            problem = self._gap(target, newest)
            if problem is None:
                row = model.row_at(state.buffer.columns, newest)
                scored = model.score(row)
                unusual = model.unusual_inputs(row, scored.unusual)
                forecasts = model.forecasts(newest, scored.values, state.scales)
        return SeriesAnswer(
            unique_id=unique_id,
            unit=self._unit,
            newest=state.buffer.newest,
            observations=tuple(observations),
            made=tuple(made),
            next=forecasts,
            unusual=unusual,
            problem=problem,
        )

    async def _follow(self, unique_id: str, rows: Sequence[Row]) -> Followed:
        followed = await self._store.change(unique_id, lambda state: follow(self._model, state, rows))
        count(self._monitor, followed)
        if followed.newest is not None:
            self._monitor.reached(unique_id, followed.newest)
        return followed

    async def _state(self, unique_id: str) -> SeriesState:
        state = await self._store.read(unique_id)
        if state is None:
            hint = "GET /v1/series lists them; POST its observations to /v1/observations"
            fields = [Field("unique_id", "expected a series that is known")]
            raise Problem(404, f"no series {unique_id[:80]!r}: {hint}", fields)
        return state

    def _answer(
        self,
        step: int,
        row: Sequence[float],
        scored: Scored,
        unique_id: str | None,
        *,
        features: bool,
        scales: Sequence[float] | None = None,
    ) -> ForecastAnswer:
        model = self._model
        return ForecastAnswer(
            self._served,
            model.origin(step),
            self._unit,
            self._interval,
            model.forecasts(step, scored.values, scales),
            model.unusual_inputs(row, scored.unusual),
            unique_id,
            dict(zip(model.columns, row, strict=True)) if features else None,
        )

    def _require_enough(self, target: Sequence[float], step: int, name: str, hint: str) -> None:
        """Raises Problem 409, with what is missing, when features cannot bear the gap."""
        gap = self._gap(target, step)
        if gap is not None:
            raise Problem(409, f"{name}{gap}. {hint}", missing=self._missing(target, step))

    def _gap(self, target: Sequence[float], step: int) -> str | None:
        missing = self._model.missing_steps(target)
        if not missing:
            return None
        spec, reach = self._model.spec, self._model.reach
        origin = f"{moment_of(step, spec):%Y-%m-%dT%H:%MZ}"
        if 0 in missing:
            return f"{spec.target} is missing at {origin}, the origin of the forecast"
        return (
            f"{len(missing)} of the last {reach} values of {spec.target} up to {origin} are missing; "
            f"a forecast bears {reach // 2}"
        )

    def _missing(self, target: Sequence[float], step: int) -> list[dict[str, datetime]]:
        """The times without a value, as spans from their first to their last step."""
        steps = sorted(step - age for age in self._model.missing_steps(target))
        spans = []
        for _, group in groupby(enumerate(steps), lambda pair: pair[1] - pair[0]):
            span = [moment_of(each, self._model.spec) for _, each in group]
            spans.append({"from": span[0], "to": span[-1]})
        return spans


class ForecastController(Controller):
    """The routes of the service's own protocol but the two that ``hot_routes`` has."""

    path = "/v1"
    tags = ("Forecasts",)

    @get(
        "/forecasts/{unique_id:str}",
        summary="Forecast from the state of a series",
        responses=problem_responses(404, 409, 422),
    )
    async def forecast_series(
        self,
        forecasts: NamedDependency[Forecasts],
        unique_id: _UniqueId,
        features: FromQuery[Literal["true", "false"]] = "false",
    ) -> ForecastAnswer:
        return await forecasts.from_state(unique_id, features=features == "true")

    @get("/series", summary="The series that are known", responses=problem_responses())
    async def list_series(self, forecasts: NamedDependency[Forecasts]) -> SeriesListAnswer:
        return await forecasts.known()

    @get("/series/{unique_id:str}", summary="What is known of a series", responses=problem_responses(404))
    async def show_series(self, forecasts: NamedDependency[Forecasts], unique_id: _UniqueId) -> SeriesAnswer:
        return await forecasts.series(unique_id)
