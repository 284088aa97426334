"""Open-Meteo's wire format over the recording: what a query asks for, and the answer as the live API would shape it.

Differences are the recording's own: hours that it lacks and hours after its clock are absent instead of modelled, and
values keep four decimals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from doubles.replay.recording import COLUMNS, Recording, Station

HOUR, DAY = 3600, 86400
FORECAST_PAST_DAYS, FORECAST_DAYS, FORECAST_DAYS_DEFAULT = 92, 16, 7
ARCHIVE_STARTS = datetime(1940, 1, 1, tzinfo=UTC)

_VARIABLES = {
    "temperature_2m": ("temperature_f", "temperature_unit"),
    "dew_point_2m": ("dew_point_f", "temperature_unit"),
    "relative_humidity_2m": ("humidity_percent", "%"),
    "wind_direction_10m": ("wind_direction_degrees", "°"),
    "wind_speed_10m": ("wind_speed_mph", "wind_speed_unit"),
    "precipitation": ("precipitation_inches", "precipitation_unit"),
    "pressure_msl": ("pressure_hpa", "hPa"),
}
_UNITS = {
    "temperature_unit": {"celsius": ("°C", 5 / 9, -32.0), "fahrenheit": ("°F", 1.0, 0.0)},
    "wind_speed_unit": {
        "kmh": ("km/h", 1.609344, 0.0),
        "ms": ("m/s", 0.44704, 0.0),
        "mph": ("mp/h", 1.0, 0.0),
        "kn": ("kn", 1.609344 / 1.852, 0.0),
    },
    "precipitation_unit": {"mm": ("mm", 25.4, 0.0), "inch": ("inch", 1.0, 0.0)},
}
"""By parameter and value: label, factor and offset. The first value is the default."""


_CORRUPTED = "Data corrupted at path ''. Cannot initialize"


class BadRequest(Exception):
    """The query is wrong; the text is the API's reason."""


@dataclass
class Hourly:
    """The hours of one place while the answer is being made: faults change it before it is written."""

    station: Station
    times: list[int]
    columns: dict[str, list[float | None]]
    units: dict[str, str]


@dataclass(frozen=True)
class Query:
    """One checked request."""

    places: tuple[tuple[float, float], ...]
    variables: tuple[str, ...]
    first: int
    last: int
    units: dict[str, str]
    unixtime: bool
    timezone: str


def parse_query(fields: Mapping[str, list[str]], now: datetime, *, archive: bool) -> Query:
    """Read the query string as the live API does. Raises BadRequest with its reason."""
    latitudes = _floats(fields, "latitude", 90.0)
    longitudes = _floats(fields, "longitude", 180.0)
    if len(latitudes) != len(longitudes):
        raise BadRequest("Parameter 'latitude' and 'longitude' must have the same number of elements")
    variables = _words(fields, "hourly")
    for variable in variables:
        if variable not in _VARIABLES:
            raise BadRequest(f"{_CORRUPTED} variable from invalid String value {variable}.")
    units = {name: _choice(fields, name, tuple(labels)) for name, labels in _UNITS.items()}
    timezone = _choice(fields, "timezone", ("GMT", "UTC"), reason="Invalid timezone")
    unixtime = _choice(fields, "timeformat", ("iso8601", "unixtime")) == "unixtime"
    first, last = _range(fields, now, archive=archive)
    return Query(tuple(zip(latitudes, longitudes, strict=True)), variables, first, last, units, unixtime, timezone)


def select(recording: Recording, query: Query, now: datetime) -> list[Hourly]:
    """The recorded hours of every place asked for, none of them after the clock, in the units asked for."""
    last = min(query.last, int(now.timestamp()))
    answers = []
    for latitude, longitude in query.places:
        station = recording.nearest(latitude, longitude)
        times, values = station.between(query.first, last)
        columns: dict[str, list[float | None]] = {}
        units: dict[str, str] = {}
        for variable in query.variables:
            column, unit = _VARIABLES[variable]
            label, factor, offset = _UNITS[unit][query.units[unit]] if unit in _UNITS else (unit, 1.0, 0.0)
            index = COLUMNS.index(column)
            columns[variable] = [_converted(row[index], factor, offset) for row in values]
            units[variable] = label
        answers.append(Hourly(station, times, columns, units))
    return answers


def to_json(answers: list[Hourly], query: Query, generation_ms: float) -> object:
    """One object for one place, a list for several; every place but the first carries its `location_id`."""
    documents = [_document(hourly, number, query, generation_ms) for number, hourly in enumerate(answers)]
    return documents[0] if len(documents) == 1 else documents


def _document(hourly: Hourly, number: int, query: Query, generation_ms: float) -> dict[str, object]:
    document: dict[str, object] = {
        "latitude": hourly.station.latitude,
        "longitude": hourly.station.longitude,
        "generationtime_ms": generation_ms,
        "utc_offset_seconds": 0,
        "timezone": query.timezone,
        "timezone_abbreviation": query.timezone,
        "elevation": hourly.station.elevation,
    }
    if number:
        document["location_id"] = number
    if hourly.columns:
        times = hourly.times if query.unixtime else [_iso(time) for time in hourly.times]
        time_unit = "unixtime" if query.unixtime else "iso8601"
        document["hourly_units"] = {"time": time_unit, **hourly.units}
        document["hourly"] = {"time": times, **hourly.columns}
    return document


def _iso(time: int) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%dT%H:%M}"


def _converted(value: float | None, factor: float, offset: float) -> float | None:
    return None if value is None else round((value + offset) * factor, 4)


def _words(fields: Mapping[str, list[str]], name: str) -> tuple[str, ...]:
    return tuple(word for field in fields.get(name, ()) for word in field.split(",") if word)


def _floats(fields: Mapping[str, list[str]], name: str, limit: float) -> list[float]:
    words = _words(fields, name)
    if not words:
        raise BadRequest(f"Parameter '{name}' is required")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise BadRequest(f"Value of type 'Float' required for key '{name}'.") from None
    for number in numbers:
        if not abs(number) <= limit:
            raise BadRequest(f"{name.capitalize()} must be in range of -{limit:.0f} to {limit:.0f}°. Given: {number}.")
    return numbers


def _choice(fields: Mapping[str, list[str]], name: str, allowed: tuple[str, ...], reason: str = "") -> str:
    """One of the allowed values, the first by default."""
    value = fields[name][-1] if name in fields else allowed[0]
    if value not in allowed:
        raise BadRequest(reason or f"{_CORRUPTED} {name} from invalid String value {value}.")
    return value


def _range(fields: Mapping[str, list[str]], now: datetime, *, archive: bool) -> tuple[int, int]:
    """First and last hour asked for, as epoch seconds, both included."""
    today = int(now.timestamp()) // DAY * DAY
    dates = _pair(fields, "start_date", "end_date")
    hours = _pair(fields, "start_hour", "end_hour")
    relative = {name: _count(fields, name) for name in ("past_days", "forecast_days", "past_hours", "forecast_hours")}
    if dates or hours:
        for name, value in relative.items():
            if value:
                raise BadRequest(f"Parameter '{name}' is mutually exclusive with 'start_date' and 'end_date'")
        oldest = int(ARCHIVE_STARTS.timestamp()) if archive else today - FORECAST_PAST_DAYS * DAY
        newest = today + (0 if archive else (FORECAST_DAYS - 1) * DAY)
        for name, moment in ({**(dates or {}), **(hours or {})}).items():
            if not oldest <= moment < newest + DAY:
                days = [f"{datetime.fromtimestamp(day, UTC):%Y-%m-%d}" for day in (oldest, newest)]
                raise BadRequest(f"Parameter '{name}' is out of allowed range from {days[0]} to {days[1]}")
        if hours:
            return hours["start_hour"] // HOUR * HOUR, hours["end_hour"] // HOUR * HOUR
        if dates:
            return dates["start_date"], dates["end_date"] + DAY - HOUR
    if archive:
        raise BadRequest("Both 'start_date' and 'end_date' must be set in the url")
    return _relative_range(relative, int(now.timestamp()), today)


def _relative_range(counts: dict[str, int | None], now: int, today: int) -> tuple[int, int]:
    for name, count in counts.items():
        side, _, unit = name.partition("_")
        limit = (FORECAST_PAST_DAYS if side == "past" else FORECAST_DAYS) * (24 if unit == "hours" else 1)
        if (count or 0) > limit:
            raise BadRequest(f"{side.capitalize()} days is invalid. Allowed range 0 to {limit}. Given {count}.")
    if counts["past_hours"] is not None or counts["forecast_hours"] is not None:
        start = now // HOUR * HOUR
        ahead = counts["forecast_hours"] if counts["forecast_hours"] is not None else FORECAST_DAYS * 24
        return start - (counts["past_hours"] or 0) * HOUR, start + ahead * HOUR - HOUR
    ahead = counts["forecast_days"] if counts["forecast_days"] is not None else FORECAST_DAYS_DEFAULT
    return today - (counts["past_days"] or 0) * DAY, today + ahead * DAY - HOUR


def _count(fields: Mapping[str, list[str]], name: str) -> int | None:
    if name not in fields:
        return None
    try:
        count = int(fields[name][-1])
    except ValueError:
        raise BadRequest(f"Value of type 'Int' required for key '{name}'.") from None
    if count < 0:
        raise BadRequest(f"{name} must not be negative. Given {count}.")
    return count


def _pair(fields: Mapping[str, list[str]], start: str, end: str) -> dict[str, int] | None:
    if start not in fields and end not in fields:
        return None
    if start not in fields or end not in fields:
        raise BadRequest(f"Both '{start}' and '{end}' must be set in the url")
    pair = {name: _moment(fields[name][-1], dated=name.endswith("date")) for name in (start, end)}
    if pair[end] < pair[start]:
        raise BadRequest("End-date must be larger or equals than start-date")
    return pair


def _moment(text: str, *, dated: bool) -> int:
    """A date `2013-12-30`, or an hour `2013-12-30T23:00`, as epoch seconds."""
    try:
        moment = datetime.strptime(text, "%Y-%m-%d" if dated else "%Y-%m-%dT%H:%M").replace(tzinfo=UTC)
    except ValueError:
        expected = "YYYY-MM-DD" if dated else "YYYY-MM-DDTHH:MM"
        raise BadRequest(f"Invalid date format. Make sure to use '{expected}'") from None
    return int(moment.timestamp())
