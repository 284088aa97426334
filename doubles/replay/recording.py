"""The recorded hours of New York's three airports in 2013, as the stations reported them (°F, mph, inches)."""

from __future__ import annotations

import csv
import gzip
import io
import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

RECORDING = Path(__file__).with_name("weather_2013.csv.gz")
COLUMNS = (
    "temperature_f",
    "dew_point_f",
    "humidity_percent",
    "wind_direction_degrees",
    "wind_speed_mph",
    "precipitation_inches",
    "pressure_hpa",
)

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Station:
    """One airport's hours, ascending: epoch seconds, and the values in the order of COLUMNS."""

    name: str
    latitude: float
    longitude: float
    elevation: float
    times: tuple[int, ...]
    values: tuple[Values, ...]

    def between(self, first: int, last: int) -> tuple[list[int], list[Values]]:
        """The recorded hours from ``first`` to ``last`` (epoch seconds, both included)."""
        start, end = bisect_left(self.times, first), bisect_right(self.times, last)
        return list(self.times[start:end]), list(self.values[start:end])


_PLACES = {"EWR": (40.6925, -74.1687, 5.5), "JFK": (40.6398, -73.7789, 4.0), "LGA": (40.7772, -73.8726, 6.7)}


@dataclass(frozen=True)
class Recording:
    stations: tuple[Station, ...]

    @property
    def end(self) -> datetime:
        """The newest recorded hour."""
        return datetime.fromtimestamp(max(station.times[-1] for station in self.stations), UTC)

    def nearest(self, latitude: float, longitude: float) -> Station:
        """The station closest to the coordinates, on a plane scaled at that latitude."""
        scale = math.cos(math.radians(latitude))

        def distance(station: Station) -> float:
            return math.hypot(station.latitude - latitude, (station.longitude - longitude) * scale)

        return min(self.stations, key=distance)


def load(path: Path = RECORDING) -> Recording:
    """Read the carried recording."""
    times: dict[str, list[int]] = {name: [] for name in _PLACES}
    values: dict[str, list[Values]] = {name: [] for name in _PLACES}
    with gzip.open(path, "rb") as packed:
        rows = csv.reader(io.TextIOWrapper(packed, "utf-8", newline=""))
        next(rows)
        for station, time, *fields in rows:
            times[station].append(int(datetime.fromisoformat(f"{time}:00+00:00").timestamp()))
            values[station].append(tuple(float(field) if field else None for field in fields))
    return Recording(
        tuple(Station(name, *place, tuple(times[name]), tuple(values[name])) for name, place in _PLACES.items())
    )
