"""The bodies of the service's own routes: types made from the model's variables, so that decoding is the check."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from forecasting.challenge.values import SeriesId
from forecasting.features.definitions import FeatureError
from forecasting.features.ring_buffer import grid_step, moment_of
from service.model.served import Model
from service.protocols.problems import Field, Problem, located, wrong_field
from service.state.stream import Row

Moment = Annotated[datetime, Meta(tz=True)]
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST_LEAD = timedelta(hours=1)
"""How far ahead of this machine's clock an observation may be: clocks differ."""
RUNS_KEPT = 256
"""Consecutive times that are remembered: clients ask again and again from the same few moments."""
_MOST_BYTES_LOOKED_AT = 1 << 16


class ObservationBodies:
    """Decoders for one model, made once."""

    def __init__(self, model: Model, most: int) -> None:
        """most: observations in one body."""
        self._model = model
        self._most = most
        variables = model.spec.variables
        self._ranges = ranges = model.bundle.manifest.variables
        names = [f"v{index}" for index in range(len(variables))]
        numbers: list[Any] = [
            Annotated[float, Meta(ge=ranges[each].low, le=ranges[each].high)] | None if each in ranges else float | None
            for each in variables
        ]
        fields = [
            (name, number, msgspec.field(name=variable, default=None))
            for name, number, variable in zip(names, numbers, variables, strict=True)
        ]
        self.observation = msgspec.defstruct(
            "Observation", [("unique_id", SeriesId), ("ds", Moment), *fields], forbid_unknown_fields=True, gc=False
        )
        self.observations = msgspec.defstruct(
            "Observations",
            [("observations", Annotated[list[self.observation], Meta(min_length=1)])],  # type: ignore[name-defined]
            forbid_unknown_fields=True,
        )
        columns: list[tuple[str, Any, Any]] = [
            (name, list[number], msgspec.field(name=variable, default_factory=list))  # type: ignore[valid-type]
            for name, number, variable in zip(names, numbers, variables, strict=True)
        ]
        values = msgspec.defstruct("Values", columns, forbid_unknown_fields=True)
        self.window = msgspec.defstruct(
            "Window",
            [
                ("ds", Annotated[list[Moment], Meta(min_length=1)]),
                ("values", values),
                ("unique_id", SeriesId | None, None),
            ],
            forbid_unknown_fields=True,
        )
        self._row = attrgetter(*names) if len(names) > 1 else lambda found: (getattr(found, names[0]),)
        self._observations = msgspec.json.Decoder(self.observations)
        self._window = msgspec.json.Decoder(self.window)
        self._run_from = lru_cache(RUNS_KEPT)(self._consecutive)

    def read_observations(self, body: bytes) -> dict[str, list[Row]]:
        """By series, its observations in the order in which they came. Raises Problem."""
        found = self._decoded(self._observations, body).observations
        self._check_count(len(found), "/observations")
        latest = datetime.now(UTC) + LATEST_LEAD
        rows: dict[str, list[Row]] = {}
        wrong: list[Field] = []
        for place, observation in enumerate(found):
            try:
                step = self._checked_step(observation.ds, latest)
            except FeatureError as error:
                wrong.append(Field(f"/observations/{place}/ds", str(error)))
                continue
            row = [math.nan if value is None else value for value in self._row(observation)]
            rows.setdefault(observation.unique_id, []).append((step, row))
        if wrong:
            raise Problem(422, f"{wrong[0].pointer}: {wrong[0].detail}", wrong)
        return rows

    def read_window(self, body: bytes) -> tuple[str | None, int, Sequence[Sequence[float]]]:
        """The series' name if it was given, the origin's step, and by variable its last ``lookback + 1`` values.

        Raises Problem.
        """
        window = self._decoded(self._window, body)
        length = len(window.ds)
        self._check_count(length, "/ds")
        columns: list[list[float]] = list(self._row(window.values))
        if set(map(len, columns)) != {length}:
            columns = self._filled(columns, length)
        columns = [_without_none(column) for column in columns]
        origin, consecutive = self._run_from(window.ds[0], length)
        if window.ds != consecutive:
            origin, columns = self._arranged(window.ds, columns)
        if window.ds[-1].timestamp() > time.time() + LATEST_LEAD.total_seconds():
            self._checked_step_of(f"/ds/{length - 1}", window.ds[-1])
        steps = self._model.spec.lookback + 1
        held = len(columns[0])
        if held > steps:
            return window.unique_id, origin, [column[-steps:] for column in columns]
        if held < steps:
            return window.unique_id, origin, [[math.nan] * (steps - held) + column for column in columns]
        return window.unique_id, origin, columns

    def _filled(self, columns: list[list[float]], length: int) -> list[list[float]]:
        """A variable that was left out is missing throughout; any other has a value for each time. Raises Problem."""
        for variable, column in zip(self._model.spec.variables, columns, strict=True):
            if len(column) not in {0, length}:
                detail = f"expected {length} values, one for each of ds; found {len(column)}"
                raise wrong_field(f"/values/{variable}", detail)
        return [column or [math.nan] * length for column in columns]

    def _consecutive(self, first: datetime, length: int) -> tuple[int, list[datetime]]:
        """The step of the last of ``length`` times without a gap, and these times: most windows are such."""
        start = self._checked_step_of("/ds/0", first)
        return start + length - 1, [moment_of(start + each, self._model.spec) for each in range(length)]

    def _check_count(self, found: int, pointer: str) -> None:
        if found > self._most:
            detail = f"expected at most {self._most} observations (RPS_MAX_BATCH); found {found}"
            raise wrong_field(pointer, detail, 413)

    def _arranged(self, times: list[datetime], columns: list[list[float]]) -> tuple[int, list[list[float]]]:
        """The same on the grid, as far back as a feature reads: gaps are NaN; of a repeated time the last counts."""
        places = {self._checked_step_of(f"/ds/{place}", ds): place for place, ds in enumerate(times)}
        origin = max(places)
        reach = range(origin - self._model.spec.lookback, origin + 1)
        found = [places.get(step) for step in reach]
        return origin, [[math.nan if place is None else column[place] for place in found] for column in columns]

    def _checked_step_of(self, pointer: str, ds: datetime) -> int:
        try:
            return self._checked_step(ds, datetime.now(UTC) + LATEST_LEAD)
        except FeatureError as error:
            raise wrong_field(pointer, str(error)) from error

    def _checked_step(self, ds: datetime, latest: datetime) -> int:
        """The step of the grid. Raises FeatureError for a time off the grid, before 1970 or in the future."""
        if not EARLIEST <= ds <= latest:
            message = f"expected a time from 1970 to now ({latest - LATEST_LEAD:%Y-%m-%dT%H:%MZ})"
            raise FeatureError(f"{message}; found {ds.isoformat()}")
        return grid_step(ds, self._model.spec)

    def _decoded(self, decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:  # noqa: ANN401 - of a type made here
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            raise self._wrong(str(error), body) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Problem(400, f"the body is no JSON: {error}") from error
        except RecursionError as error:
            raise Problem(400, "the body is nested too deeply") from error

    def _wrong(self, message: str, body: bytes) -> Problem:
        detail, parts = located(message)
        limits = next((self._ranges[part] for part in reversed(parts) if part in self._ranges), None)
        if limits is not None and ("<=" in detail or ">=" in detail):
            low = "" if limits.low is None else f" from {limits.low:g}"
            high = "" if limits.high is None else f" to {limits.high:g}"
            detail = f"expected a value{low}{high} {limits.unit}{_found(body, parts)}; is the unit right?"
        return wrong_field("".join(f"/{part}" for part in parts), detail)


def _without_none(column: list[float]) -> list[float]:
    """NaN where there is None."""
    try:
        sum(column)  # the quickest way to find out
    except TypeError:
        return [math.nan if value is None else value for value in column]
    return column


def _found(body: bytes, parts: Sequence[str]) -> str:
    """What the body has there, for a message; nothing when the body is too large to be read again."""
    if len(body) > _MOST_BYTES_LOOKED_AT:
        return ""
    value: Any = msgspec.json.decode(body)
    for part in parts:
        value = value[int(part)] if isinstance(value, list) else value[part]
    return f"; found {value}"
