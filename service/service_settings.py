"""The service's settings, all from the environment; a wrong one is named before anything starts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

MEBIBYTE = 1 << 20


class SettingsError(Exception):
    """A setting is wrong; the message names it, what was expected and what was found."""


@dataclass(frozen=True)
class Settings:
    """What can be set. The environment's name of each is its own in capitals, after `RPS_`."""

    bundle: str = ""
    """A bundle's directory, or `models:/name@alias` or `models:/name/version` in the registry that MLflow's own
    variables name."""
    model_version: str = ""
    """The registry's version of a bundle that is given as a directory; shown in answers and metrics."""
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    """Processes. More than one need a state that they share."""
    state: str = "memory"
    """`memory`, or the address of a Redis: `redis://host:6379/0`, `rediss://…`, `unix://…`."""
    api_key: str = ""
    """When set, observations without it get 401."""
    max_body_bytes: int = 8 * MEBIBYTE
    max_batch: int = 10_000
    """Observations, or rows to predict, in one request."""
    max_series: int = 20_000
    max_in_flight: int = 256
    """Requests in progress at once in a worker; what comes on top is refused with 503."""
    max_connections: int = 2048
    max_viewers: int = 64
    """Pages that are kept up to date at once, by a worker."""
    header_seconds: float = 10.0
    """How long a client may take from its first byte, or from connecting, to the end of a request's headers."""
    request_seconds: float = 10.0
    """How long a request may take, its body's arrival included; and how long its client may leave the answer unread."""
    stop_seconds: float = 10.0
    """How long requests in flight may take to finish after a signal to stop."""
    drift_window: int = 0
    """Predictions that drift is measured over, in each worker; 0 leaves it to the bundle."""
    live_window: int = 2016
    """Forecasts met by their truth that the live error is measured over, in each worker and for each horizon."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages elsewhere that may call the service, separated by commas; none by default."""
    log_level: str = "INFO"
    access_log: bool = False
    """Whether each request is logged; those that fail with a status of 500 or more always are."""
    counts: str = ""
    """The directory in which workers share their counts; made by the command that starts several."""


_LIMITS: dict[str, tuple[float, float]] = {
    "port": (0, 65535),
    "workers": (1, 64),
    "max_body_bytes": (1024, 1 << 30),
    "max_batch": (1, 1_000_000),
    "max_series": (1, 10_000_000),
    "max_in_flight": (1, 65536),
    "max_connections": (1, 1_000_000),
    "max_viewers": (0, 10_000),
    "header_seconds": (0.05, 3600),
    "request_seconds": (0.05, 3600),
    "stop_seconds": (0, 3600),
    "drift_window": (0, 1_000_000),
    "live_window": (10, 1_000_000),
}
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")
_YES, _NO = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_STATES = ("memory", "redis://", "rediss://", "unix://")


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Raises SettingsError. A variable that is empty counts as not set."""
    given: dict[str, Any] = {}
    for field in fields(Settings):
        name = f"RPS_{field.name.upper()}"
        text = environment.get(name, "").strip()
        if text:
            given[field.name] = _value(name, text, field.default)
    settings = Settings(**given)
    if settings.workers > 1 and settings.state == "memory":
        raise SettingsError(
            f"RPS_WORKERS={settings.workers}: several workers need a state that they share; set RPS_STATE=redis://…"
        )
    return settings


def _value(name: str, text: str, default: object) -> object:
    key = name.removeprefix("RPS_").lower()
    if isinstance(default, bool):
        if text.lower() not in _YES | _NO:
            raise SettingsError(f"{name}: expected true or false; found {text!r}")
        return text.lower() in _YES
    if isinstance(default, int | float):
        return _number(name, text, type(default), *_LIMITS[key])
    if isinstance(default, tuple):
        return _origins(name, text)
    if key == "log_level" and text.upper() not in _LEVELS:
        raise SettingsError(f"{name}: expected one of {', '.join(_LEVELS)}; found {text!r}")
    if key == "state" and not (text == "memory" or text.startswith(_STATES[1:])):
        raise SettingsError(f"{name}: expected memory or an address that starts with {', '.join(_STATES[1:])}")
    return text.upper() if key == "log_level" else text


def _origins(name: str, text: str) -> tuple[str, ...]:
    origins = tuple(part.strip() for part in text.split(",") if part.strip())
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            expected = "origins as browsers send them, such as https://example.org, without a path"
            raise SettingsError(f"{name}: expected {expected}; found {origin!r}")
    return origins


def _number(name: str, text: str, kind: type[int | float], low: float, high: float) -> float:
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not low <= number <= high:
        expected = "a whole number" if kind is int else "a number"
        raise SettingsError(f"{name}: expected {expected} from {low} to {high}; found {text!r}")
    return number
