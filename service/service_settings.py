"""The service's settings. A wrong one is reported by name before anything starts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from clients.errors import ConfigurationError
from clients.settings import number, one_of, read_settings, yes_or_no

MEBIBYTE = 1 << 20
PREFIX = "RPS_"
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")
_REDIS = ("redis://", "rediss://", "unix://")


def _state(text: str) -> str:
    if text != "memory" and not text.startswith(_REDIS):  # what was found may hold a password
        raise ValueError(f"expected memory or an address that starts with {', '.join(_REDIS)}")
    return text


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip() for part in text.split(",") if part.strip())
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            expected = "origins as browsers send them, such as https://example.org, without a path"
            raise ValueError(f"expected {expected}; found {origin!r}")
    return origins


@dataclass(frozen=True)
class Settings:
    """Each is set by the variable with its name in capitals, after `RPS_`."""

    bundle: str = ""
    """A bundle's directory, or `models:/name@alias` or `models:/name/version` in the registry that MLflow's own
    variables name."""
    model_version: str = ""
    """The registry's version of a bundle that is given as a directory; shown in answers and metrics."""
    host: str = "127.0.0.1"
    port: Annotated[int, number(int, 0, 65535)] = 8000
    workers: Annotated[int, number(int, 1, 64)] = 1
    """Processes. More than one need a state that they share."""
    state: Annotated[str, _state] = "memory"
    """`memory`, or the address of a Redis: `redis://host:6379/0`, `rediss://…`, `unix://…`."""
    api_key: str = ""
    """When set, observations without it get 401."""
    max_body_bytes: Annotated[int, number(int, 1024, 1 << 30)] = 8 * MEBIBYTE
    max_batch: Annotated[int, number(int, 1, 1_000_000)] = 10_000
    """Observations, or rows to predict, in one request."""
    max_series: Annotated[int, number(int, 1, 10_000_000)] = 20_000
    max_in_flight: Annotated[int, number(int, 1, 65536)] = 256
    """Requests in progress at once in a worker; any more get 503."""
    max_connections: Annotated[int, number(int, 1, 1_000_000)] = 2048
    max_viewers: Annotated[int, number(int, 0, 10_000)] = 64
    """Pages that a worker keeps up to date at once."""
    header_seconds: Annotated[float, number(float, 0.05, 3600)] = 10.0
    """How long a client may take from its first byte, or from connecting, to the end of a request's headers."""
    request_seconds: Annotated[float, number(float, 0.05, 3600)] = 10.0
    """How long a request may take, its body's arrival included; and how long its client may leave the answer unread."""
    stop_seconds: Annotated[float, number(float, 0, 3600)] = 10.0
    """How long requests in flight may take to finish after a signal to stop."""
    drift_window: Annotated[int, number(int, 0, 1_000_000)] = 0
    """Predictions that drift is measured over, in each worker; 0 leaves it to the bundle."""
    live_window: Annotated[int, number(int, 10, 1_000_000)] = 2016
    """Scored forecasts that the live error is measured over, in each worker and for each horizon."""
    cors_origins: Annotated[tuple[str, ...], _origins] = ()
    """Origins of web pages elsewhere that may call the service, separated by commas; none by default."""
    log_level: Annotated[str, one_of("DEBUG", "INFO", "WARNING", "ERROR")] = "INFO"
    access_log: Annotated[bool, yes_or_no] = False
    """Whether each request is logged; those that fail with a status of 500 or more always are."""
    counts: str = ""
    """The directory in which workers share their counts; the command that starts several makes it."""


def service_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Raises ConfigurationError with every setting that is wrong."""
    settings = read_settings(Settings, environment, PREFIX)
    if settings.workers > 1 and settings.state == "memory":
        needed = "several workers need a state that they share; set RPS_STATE=redis://…"
        raise ConfigurationError(f"RPS_WORKERS={settings.workers}: {needed}")
    return settings
