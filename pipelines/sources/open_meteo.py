"""Open-Meteo (no key): recent hours from its forecast API, older ones from its archive, all series in one request."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta

import msgspec
import numpy as np
import pandas as pd

from clients.errors import ConfigurationError, DataRejected
from clients.live_api import Request
from clients.settings import address
from forecasting.challenge.schema import Challenge
from pipelines.sources.source import Answer, series_by_coordinates

RECENT_DAYS = 5
"""The archive is complete up to five days ago; newer hours come from the forecast API's own past."""

_ARCHIVE = ("OPEN_METEO_ARCHIVE_URL", "https://archive-api.open-meteo.com", "/v1/archive")
_FORECAST = ("OPEN_METEO_URL", "https://api.open-meteo.com", "/v1/forecast")
"""The variable that moves the API, its own address, and its path."""

# The query parameter that governs a unit, and its value; other units (%, °, hPa) cannot be chosen.
_UNIT_PARAMETERS = {
    "°C": ("temperature_unit", "celsius"),
    "°F": ("temperature_unit", "fahrenheit"),
    "km/h": ("wind_speed_unit", "kmh"),
    "m/s": ("wind_speed_unit", "ms"),
    "mp/h": ("wind_speed_unit", "mph"),
    "kn": ("wind_speed_unit", "kn"),
    "mm": ("precipitation_unit", "mm"),
    "inch": ("precipitation_unit", "inch"),
}
_LAST_SECOND = datetime(2200, 1, 1, tzinfo=UTC).timestamp()


class _Place(msgspec.Struct, frozen=True):
    """The used parts of one place's answer; the answer for several places is a list of them."""

    hourly: dict[str, list[float | None]]
    hourly_units: dict[str, str]
    location_id: int = 0


class OpenMeteo:
    """The source kind `open-meteo`."""

    environment = (_ARCHIVE[0], _FORECAST[0])
    # The free plan allows 600 calls a minute.
    pause_seconds = 0.1

    def __init__(self, challenge: Challenge) -> None:
        self._source = challenge.source
        self._step_seconds = challenge.target.step_minutes * 60
        self._series = series_by_coordinates(challenge)
        self._units = _unit_parameters(challenge)

    def requests(self, since: datetime, until: datetime, now: datetime) -> Iterator[Request]:
        recent = datetime.combine(now.astimezone(UTC).date() - timedelta(days=RECENT_DAYS), time(), UTC)
        first, last = since.date(), (min(until, recent - timedelta(hours=1))).date()
        while since < recent and first <= last:
            end = min(first + timedelta(days=self._source.page_days - 1), last)
            yield self._request(_ARCHIVE, {"start_date": first.isoformat(), "end_date": end.isoformat()})
            first = end + timedelta(days=1)
        if until >= recent:
            start, end_hour = (f"{moment:%Y-%m-%dT%H}:00" for moment in (max(since, recent), until))
            yield self._request(_FORECAST, {"start_hour": start, "end_hour": end_hour})

    def parse(self, answer: Answer) -> pd.DataFrame:
        is_list = answer.body.lstrip().startswith(b"[")
        places = answer.decoded(list[_Place]) if is_list else [answer.decoded(_Place)]
        asked = [*zip(*(answer.query.get(name, "").split(",") for name in ("latitude", "longitude")), strict=False)]
        in_order = all(place.location_id in {0, number} for number, place in enumerate(places))
        if len(places) != len(asked) or not in_order:
            raise answer.rejected(f"expected {len(asked)} places in that order; found {len(places)}")
        known = [(self._series[at], place) for at, place in zip(asked, places, strict=True) if at in self._series]
        tables = [self._rows(series, place, answer) for series, place in known]
        return pd.concat(tables, ignore_index=True) if tables else self._table("", np.array([], "int64"), {})

    def _rows(self, series: str, place: _Place, answer: Answer) -> pd.DataFrame:
        def rejected(expected: str, found: object) -> DataRejected:
            return answer.rejected(f"{series}: expected {expected}; found {found}")

        times = place.hourly.get("time", [])
        values: dict[str, np.ndarray] = {}
        for column, variable in self._source.variables.items():
            if variable.name not in place.hourly:
                others = ", ".join(name for name in place.hourly if name != "time")
                raise rejected(f"hourly.{variable.name}", others or "no variable")
            unit = place.hourly_units.get(variable.name)
            if unit != variable.unit:
                raise rejected(f"{variable.name} in {variable.unit}", unit)
            numbers = place.hourly[variable.name]
            if len(numbers) != len(times):
                raise rejected(f"as many values of {variable.name} as hours, {len(times)}", len(numbers))
            values[column] = np.array(numbers, dtype="float64")
        if place.hourly_units.get("time") != "unixtime" or None in times:
            raise rejected("hourly.time as unixtime", "other times")
        seconds = np.array(times, dtype="float64")
        # An hour that no later answer repeats stays in the history for good, so none may be impossible.
        impossible = (seconds % self._step_seconds != 0) | (seconds < 0) | (seconds > _LAST_SECOND)
        if impossible.any():
            raise rejected(f"times every {self._step_seconds} s since 1970", f"{seconds[impossible][0]:.15g}")
        return self._table(series, seconds.astype("int64"), values)

    def _table(self, series: str, seconds: np.ndarray, values: dict[str, np.ndarray]) -> pd.DataFrame:
        ds = pd.to_datetime(seconds, unit="s", utc=True).as_unit("us")
        filled = {column: values.get(column, np.array([], "float64")) for column in self._source.variables}
        return pd.DataFrame({"unique_id": pd.Series([series] * len(ds), dtype="object"), "ds": ds, **filled})

    def _request(self, api: tuple[str, str, str], period: dict[str, str]) -> Request:
        variable, default, path = api
        base = address(os.environ, variable, default=default)
        latitudes, longitudes = zip(*self._series, strict=True)
        query = {
            "latitude": ",".join(latitudes),
            "longitude": ",".join(longitudes),
            "hourly": ",".join(each.name for each in self._source.variables.values()),
            "timezone": "GMT",
            "timeformat": "unixtime",
            **self._units,
            **period,
        }
        return Request(base + path, query, variable)


def _unit_parameters(challenge: Challenge) -> dict[str, str]:
    """The units to request. Raises ConfigurationError when two variables want one kind of value in two units."""
    chosen: dict[str, str] = {}
    for column, variable in challenge.source.variables.items():
        if variable.unit not in _UNIT_PARAMETERS:
            continue
        parameter, value = _UNIT_PARAMETERS[variable.unit]
        if chosen.setdefault(parameter, value) != value:
            key = f"challenges/{challenge.name}.toml: source.variables.{column}.unit"
            expected = f"expected one {parameter} for all variables; found {value} besides {chosen[parameter]}"
            raise ConfigurationError(f"{key}: {expected}")
    return chosen
