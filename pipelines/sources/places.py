"""The coordinates of a challenge's series, as they are written into a query and found again in it."""

from __future__ import annotations

from clients.errors import ConfigurationError
from forecasting.challenge.schema import Challenge

Coordinates = tuple[str, str]


def series_by_coordinates(challenge: Challenge) -> dict[Coordinates, str]:
    """(latitude, longitude) as written in a query, to unique_id. Raises ConfigurationError naming the series."""
    found: dict[Coordinates, str] = {}
    for series in challenge.source.series:
        coordinates = []
        for name, limit in (("latitude", 90.0), ("longitude", 180.0)):
            value = series.query.get(name)
            if not isinstance(value, int | float) or not abs(value) <= limit:
                key = f"challenges/{challenge.name}.toml: source.series {series.unique_id}: query.{name}"
                raise ConfigurationError(f"{key}: expected degrees from -{limit:.0f} to {limit:.0f}; found {value!r}")
            coordinates.append(str(value))
        place = (coordinates[0], coordinates[1])
        if place in found:
            message = f"source.series {series.unique_id}: expected a place of its own; found that of {found[place]}"
            raise ConfigurationError(f"challenges/{challenge.name}.toml: {message}")
        found[place] = series.unique_id
    return found
