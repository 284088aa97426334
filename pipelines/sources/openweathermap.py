"""OpenWeatherMap (with a key): the weather now, and its forecast. It has no free past, so the history accumulates.

The current weather is the observation of its hour; forecasts are only stored raw, for later study.
A variable's name is the path of the value in the answer to `/data/2.5/weather`, such as `main.temp`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pandas as pd

from clients.errors import ConfigurationError
from clients.live_api import Request, Secret
from clients.settings import address, require
from forecasting.challenge.schema import Challenge
from pipelines.sources.source import Answer, series_by_coordinates

ADDRESS_VARIABLE = "OPENWEATHERMAP_URL"
KEY_VARIABLE = "OPENWEATHERMAP_API_KEY"
CURRENT, FORECAST = "/data/2.5/weather", "/data/2.5/forecast"

# With units=metric; the answer itself does not name its units.
_UNITS = {
    "main.temp": "°C",
    "main.feels_like": "°C",
    "main.humidity": "%",
    "main.pressure": "hPa",
    "main.sea_level": "hPa",
    "main.grnd_level": "hPa",
    "wind.speed": "m/s",
    "wind.gust": "m/s",
    "wind.deg": "°",
    "clouds.all": "%",
    "visibility": "m",
    "rain.1h": "mm",
    "snow.1h": "mm",
}
_ABSENT = dict.fromkeys(["rain.1h", "snow.1h"], 0.0)  # present only when it rains or snows
_ABSENT |= dict.fromkeys(["wind.gust", "main.sea_level", "main.grnd_level", "visibility"], float("nan"))


class OpenWeatherMap:
    """The source kind `openweathermap`. Only requests need its key; they raise ConfigurationError without it."""

    environment = (ADDRESS_VARIABLE, KEY_VARIABLE)
    # The free plan allows 60 calls a minute.
    pause_seconds = 1.0

    def __init__(self, challenge: Challenge) -> None:
        self._variables = challenge.source.variables
        self._series = series_by_coordinates(challenge)
        for column, variable in self._variables.items():
            if _UNITS.get(variable.name) != variable.unit:
                where = f"challenges/{challenge.name}.toml: source.variables.{column}"
                offered = ", ".join(f"{name} ({unit})" for name, unit in _UNITS.items())
                raise ConfigurationError(f"{where}: expected one of {offered}; found {variable.name} ({variable.unit})")

    def requests(self, since: datetime, until: datetime, now: datetime) -> Iterator[Request]:  # noqa: ARG002 - only now can be asked for
        require(os.environ, KEY_VARIABLE)
        secret = Secret("appid", os.environ[KEY_VARIABLE], KEY_VARIABLE)
        base = address(os.environ, ADDRESS_VARIABLE, KEY_VARIABLE, default="https://api.openweathermap.org")
        for path in (CURRENT, FORECAST):
            for latitude, longitude in self._series:
                query = {"lat": latitude, "lon": longitude, "units": "metric"}
                yield Request(base + path, query, ADDRESS_VARIABLE, secret)

    def parse(self, answer: Answer) -> pd.DataFrame:
        weather = answer.decoded(dict[str, Any])
        series = self._series.get((answer.query.get("lat", ""), answer.query.get("lon", "")))
        rows = []
        if series is not None and answer.address.endswith(CURRENT):
            values = {column: _value(weather, each.name, answer) for column, each in self._variables.items()}
            rows.append({"unique_id": series, "ds": _hour(weather, answer), **values})
        table = pd.DataFrame(rows, columns=["unique_id", "ds", *self._variables])
        seconds = pd.to_datetime(table["ds"].astype("int64"), unit="s", utc=True)
        columns = {column: table[column].astype("float64") for column in self._variables}
        return table.assign(ds=seconds.dt.as_unit("us"), **columns)


def _hour(weather: dict[str, Any], answer: Answer) -> int:
    """The full hour (epoch seconds) in which the measurement was made."""
    measured = weather.get("dt")
    if not isinstance(measured, int):
        raise answer.rejected(f"expected dt, the time of the measurement; found {measured!r}")
    return measured // 3600 * 3600


def _value(weather: dict[str, Any], name: str, answer: Answer) -> float:
    value: Any = weather
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None and name in _ABSENT:
        return _ABSENT[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise answer.rejected(f"expected a number in {name}; found {value!r}")
    return float(value)
