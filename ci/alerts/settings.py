"""The receiver's settings, all from the environment; what is wrong is told by name before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ci.errors import ConfigurationError

MEBIBYTE = 1 << 20
SHORTEST_SECRET = 16
_T = TypeVar("_T", int, float)


@dataclass(frozen=True, kw_only=True)
class AlertSettings:
    """What can be set; the environment's name of each is its own in capitals, after `RPS_ALERTS_`."""

    secret: str = field(repr=False)
    home: Path
    cooldown_hours: float
    give_up_hours: float
    retry_seconds: float
    """The longest pause between two attempts to tell GitHub."""
    refused_seconds: float
    """The pause after GitHub has refused an event for good."""
    max_body_bytes: int
    max_alerts: int
    """In one request."""
    file_bytes: int
    """From this size on, the file is put aside and a new one begun."""
    files: int
    """That are kept, the one that is written to among them."""
    request_seconds: float
    """How long the body of a request may take to arrive."""

    @property
    def cooldown(self) -> float:
        """Seconds."""
        return self.cooldown_hours * 3600

    @property
    def give_up(self) -> float:
        """Seconds."""
        return self.give_up_hours * 3600


def alert_settings(environment: Mapping[str, str]) -> AlertSettings:
    """Raises ConfigurationError with everything that is wrong, by name."""
    wrong: list[str] = []

    def number(name: str, default: _T, low: _T, high: _T) -> _T:
        text = environment.get(f"RPS_ALERTS_{name}", "").strip()
        kind = type(default)
        try:
            value = kind(text) if text else default
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            wrong.append(f"RPS_ALERTS_{name}: expected {what} from {low} to {high}; found {text!r}")
            return default
        return value

    settings = AlertSettings(
        secret=_secret(environment, wrong.append),
        home=Path(environment.get("RPS_ALERTS_HOME", "").strip() or ".rps/alerts"),
        cooldown_hours=number("COOLDOWN_HOURS", 6.0, 0.0001, 8760.0),
        give_up_hours=number("GIVE_UP_HOURS", 24.0, 0.0, 8760.0),
        retry_seconds=number("RETRY_SECONDS", 300.0, 0.1, 3600.0),
        refused_seconds=number("REFUSED_SECONDS", 900.0, 0.1, 86400.0),
        max_body_bytes=number("MAX_BODY_BYTES", 16 * MEBIBYTE, 1024, 1 << 30),
        max_alerts=number("MAX_ALERTS", 20_000, 1, 1_000_000),
        file_bytes=number("FILE_BYTES", 16 * MEBIBYTE, 1024, 1 << 40),
        files=number("FILES", 5, 1, 1000),
        request_seconds=number("REQUEST_SECONDS", 10.0, 0.05, 3600.0),
    )
    if wrong:
        raise ConfigurationError("\n".join(wrong))
    return settings


def _secret(environment: Mapping[str, str], wrong: Callable[[str], None]) -> str:
    secret, path = environment.get("RPS_ALERTS_SECRET", ""), environment.get("RPS_ALERTS_SECRET_FILE", "")
    name = "RPS_ALERTS_SECRET"
    if secret and path:
        wrong("RPS_ALERTS_SECRET, RPS_ALERTS_SECRET_FILE: expected one of them; both are set")
        return ""
    if path:
        name = "RPS_ALERTS_SECRET_FILE"
        try:
            secret = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            wrong(f"{name}: {path} cannot be read: {error}")
            return ""
    secret = secret.strip()
    if not secret:
        how = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'
        wrong(f"set RPS_ALERTS_SECRET (or RPS_ALERTS_SECRET_FILE) in the environment: what senders must know; {how}")
    elif len(secret) < SHORTEST_SECRET:
        wrong(f"{name}: expected at least {SHORTEST_SECRET} characters; found {len(secret)}")
    return secret
