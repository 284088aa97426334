"""Live APIs as sources of observations, one module each, imported when a challenge names it."""

from __future__ import annotations

from importlib import import_module

from clients.errors import ConfigurationError
from forecasting.challenge.schema import Challenge
from pipelines.sources.source import Source

HOURLY_MINUTES = 60
"""The step of both APIs; a finer grid would be full of holes, and a coarser one has no room for it."""
KINDS = {"open-meteo": "open_meteo:OpenMeteo", "openweathermap": "openweathermap:OpenWeatherMap"}


def make_source(challenge: Challenge) -> Source:
    """The source that the challenge names. Raises ConfigurationError when its settings do not fit the API."""
    if challenge.target.step_minutes != HOURLY_MINUTES:
        key = f"challenges/{challenge.name}.toml: target.step_minutes"
        expected = f"{HOURLY_MINUTES}, as {challenge.source.kind} reports hourly values"
        raise ConfigurationError(f"{key}: expected {expected}; found {challenge.target.step_minutes}")
    module, _, name = KINDS[challenge.source.kind].partition(":")
    source: Source = getattr(import_module(f"{__name__}.{module}"), name)(challenge)
    return source
