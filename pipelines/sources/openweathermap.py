"""OpenWeatherMap (with a key): the weather now, and its forecast. It has no free past, so the history accumulates.

The current weather is the observation of its hour; forecasts are stored raw, for later study, and are no observations.
A variable's name is the path of the value in the answer to `/data/2.5/weather`, such as `main.temp`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
import pandas as pd

from clients.errors import ConfigurationError, DataRejected, PassingFault
from clients.live_api import Request, Secret
from clients.settings import address
from forecasting.challenge.schema import Challenge
from pipelines.sources.places import series_by_coordinates
from pipelines.sources.source import Answer

KEY_VARIABLE = "OPENWEATHERMAP_API_KEY"
CURRENT, FORECAST = "/data/2.5/weather", "/data/2.5/forecast"

# With units=metric; the answer itself does not tell its units.
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
# These are only there when it rains or snows.
_ABSENT_IS_NONE = {"rain.1h", "snow.1h"}
# These are not measured everywhere.
_ABSENT_IS_MISSING = {"wind.gust", "main.sea_level", "main.grnd_level", "visibility"}


class OpenWeatherMap:
    """The source kind `openweathermap`. Raises ConfigurationError when its key is not in the environment."""

    # The free plan allows 60 calls a minute.
    pause_seconds = 1.0

    def __init__(self, challenge: Challenge) -> None:
        key = os.environ.get(KEY_VARIABLE, "")
        if not key:
            raise ConfigurationError(f"set {KEY_VARIABLE} in the environment (see .env.example)")
        self._secret = Secret("appid", key, KEY_VARIABLE)
        self._variables = challenge.source.variables
        self._series = series_by_coordinates(challenge)
        for column, variable in self._variables.items():
            if _UNITS.get(variable.name) != variable.unit:
                where = f"challenges/{challenge.name}.toml: source.variables.{column}"
                offered = ", ".join(f"{name} ({unit})" for name, unit in _UNITS.items())
                raise ConfigurationError(f"{where}: expected one of {offered}; found {variable.name} ({variable.unit})")

    def requests(self, since: datetime, until: datetime, now: datetime) -> Iterator[Request]:  # noqa: ARG002 - only now can be asked for
        base = address(os.environ, "OPENWEATHERMAP_URL", KEY_VARIABLE, default="https://api.openweathermap.org")
        for path in (CURRENT, FORECAST):
            for latitude, longitude in self._series:
                query = {"lat": latitude, "lon": longitude, "units": "metric"}
                yield Request(base + path, query, "OPENWEATHERMAP_URL", self._secret)

    def parse(self, answer: Answer) -> pd.DataFrame:
        try:
            weather = msgspec.json.decode(answer.body, type=dict[str, Any])
        except msgspec.ValidationError as error:
            raise DataRejected(f"{answer.address}: the answer has not the documented form: {error}.") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            message = f"{answer.address}: the answer is no complete JSON ({error}); it is stored. Run the stage again."
            raise PassingFault(message) from error
        series = self._series.get((answer.query.get("lat", ""), answer.query.get("lon", "")))
        rows = []
        if series is not None and answer.path.endswith(CURRENT):
            values = {column: _value(weather, each.name, answer.address) for column, each in self._variables.items()}
            rows.append({"unique_id": series, "ds": _hour(weather, answer.address), **values})
        table = pd.DataFrame(rows, columns=["unique_id", "ds", *self._variables])
        seconds = pd.to_datetime(table["ds"].astype("int64"), unit="s", utc=True)
        columns = {column: table[column].astype("float64") for column in self._variables}
        return table.assign(ds=seconds.dt.as_unit("us"), **columns)


def _hour(weather: dict[str, Any], address: str) -> int:
    """The full hour (epoch seconds) that the measurement belongs to: the one that it was made in."""
    measured = weather.get("dt")
    if not isinstance(measured, int):
        raise DataRejected(
            f"{address}: expected dt, the time of the measurement; found {measured!r}. The answer is stored."
        )
    return measured // 3600 * 3600


def _value(weather: dict[str, Any], name: str, address: str) -> float:
    value: Any = weather
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None and name in _ABSENT_IS_NONE:
        return 0.0
    if value is None and name in _ABSENT_IS_MISSING:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataRejected(f"{address}: expected a number in {name}; found {value!r}. The answer is stored.")
    return float(value)
