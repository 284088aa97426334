"""The relay reports every wrong setting at once, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.errors import ConfigurationError
from clients.redaction import redacted
from monitoring.relay.relay_settings import RelaySettings, relay_settings

SECRET = "relays-secret-47"
GITHUB = {"GITHUB_REPOSITORY": "ana/weather", "GITHUB_TOKEN": "none"}


def settings(**environment: str) -> RelaySettings:
    return relay_settings({**GITHUB, **{f"RPS_ALERTS_{name}": value for name, value in environment.items()}})


def wrong(**environment: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        settings(**environment)
    return str(raised.value)


def test_the_secret_and_github_are_all_that_is_needed() -> None:
    found = settings(SECRET=SECRET, COOLDOWN_HOURS=" ")
    assert found.home == Path(".rps/alerts")
    assert (found.cooldown, found.retry) == (6 * 3600, 60)
    assert SECRET not in repr(found)


def test_the_secret_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    assert settings(SECRET_FILE=str(tmp_path / "secret")).secret == SECRET
    assert SECRET not in redacted(f"the sender presented {SECRET}")


def test_a_secret_that_is_none_is_reported(tmp_path: Path) -> None:
    assert "RPS_ALERTS_SECRET: expected at least 16 characters; found 0" in wrong()
    assert "RPS_ALERTS_SECRET: expected at least 16 characters; found 0" in wrong(SECRET="   ")
    assert "RPS_ALERTS_SECRET: expected at least 16 characters; found 15" in wrong(SECRET=SECRET[1:])
    assert "both are set" in wrong(SECRET=SECRET, SECRET_FILE="x")
    assert "RPS_ALERTS_SECRET_FILE" in wrong(SECRET_FILE=str(tmp_path / "none"))


def test_everything_that_is_wrong_is_reported_at_once() -> None:
    message = wrong(COOLDOWN_HOURS="nan", RETRY_SECONDS="soon")
    assert "RPS_ALERTS_SECRET" in message
    assert "RPS_ALERTS_COOLDOWN_HOURS: expected a number above 0; found 'nan'" in message
    assert "RPS_ALERTS_RETRY_SECONDS: expected a number above 0; found 'soon'" in message
    with pytest.raises(ConfigurationError, match=r"(?s)RPS_ALERTS_SECRET.*GITHUB_TOKEN"):
        relay_settings({})
