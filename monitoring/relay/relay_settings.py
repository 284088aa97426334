"""The relay's settings, all from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from clients.errors import ConfigurationError
from clients.redaction import keep_secret
from clients.settings import GitHubSettings, github_settings, number, read_settings

SHORTEST_SECRET = 16


@dataclass(frozen=True)
class RelaySettings:
    """cooldown: of a challenge after an event; retry: between two attempts to send one; both in seconds."""

    secret: str = field(repr=False)
    home: Path
    cooldown: float
    retry: float
    github: GitHubSettings


@dataclass(frozen=True)
class _Own:
    """What has a default, by the names of the variables."""

    home: Annotated[Path, Path] = Path(".rps/alerts")
    cooldown_hours: Annotated[float, number(float, 0)] = 6.0
    retry_seconds: Annotated[float, number(float, 0)] = 60.0


def relay_settings(environment: Mapping[str, str]) -> RelaySettings:
    """Raises ConfigurationError with everything that is wrong, by name."""
    problems: list[str] = []
    try:
        own = read_settings(_Own, environment, "RPS_ALERTS_")
    except ConfigurationError as error:
        problems.append(str(error))
    try:
        secret = _secret(environment)
    except ConfigurationError as error:
        problems.append(str(error))
    try:
        github = github_settings(environment)
    except ConfigurationError as error:
        problems.append(str(error))
    if problems:
        raise ConfigurationError("\n".join(problems))
    return RelaySettings(secret, own.home, own.cooldown_hours * 3600, own.retry_seconds, github)


def _secret(environment: Mapping[str, str]) -> str:
    secret, path = environment.get("RPS_ALERTS_SECRET", ""), environment.get("RPS_ALERTS_SECRET_FILE", "")
    if secret and path:
        raise ConfigurationError("RPS_ALERTS_SECRET, RPS_ALERTS_SECRET_FILE: expected one of them; both are set")
    name = "RPS_ALERTS_SECRET_FILE" if path else "RPS_ALERTS_SECRET"
    try:
        secret = (Path(path).read_text(encoding="utf-8") if path else secret).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{name}: {path} cannot be read: {error}") from error
    if len(secret) < SHORTEST_SECRET:
        how = 'make one with python -c "import secrets; print(secrets.token_urlsafe(32))"'
        raise ConfigurationError(f"{name}: expected at least {SHORTEST_SECRET} characters; found {len(secret)}; {how}")
    keep_secret(secret)
    return secret
