"""The receiver's settings: all that is wrong is told at once, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci.alerts.settings import alert_settings
from ci.errors import ConfigurationError

SECRET = "0123456789abcdef"


def wrong(**environment: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        alert_settings({f"RPS_ALERTS_{name}": value for name, value in environment.items()})
    return str(raised.value)


def test_the_secret_is_all_that_is_needed() -> None:
    settings = alert_settings({"RPS_ALERTS_SECRET": SECRET, "RPS_ALERTS_COOLDOWN_HOURS": " "})
    assert settings.home == Path(".rps/alerts")
    assert (settings.cooldown, settings.give_up) == (6 * 3600, 24 * 3600)
    assert SECRET not in repr(settings)


def test_the_secret_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    assert alert_settings({"RPS_ALERTS_SECRET_FILE": str(tmp_path / "secret")}).secret == SECRET


def test_a_secret_that_is_none_is_told(tmp_path: Path) -> None:
    assert "set RPS_ALERTS_SECRET" in wrong()
    assert "set RPS_ALERTS_SECRET" in wrong(SECRET="   ")
    assert "RPS_ALERTS_SECRET: expected at least 16 characters; found 15" in wrong(SECRET=SECRET[1:])
    assert "both are set" in wrong(SECRET=SECRET, SECRET_FILE="x")
    assert "RPS_ALERTS_SECRET_FILE" in wrong(SECRET_FILE=str(tmp_path / "none"))


def test_everything_that_is_wrong_is_told_at_once() -> None:
    told = wrong(COOLDOWN_HOURS="nan", FILES="1.5", MAX_BODY_BYTES="-1", RETRY_SECONDS="soon", GIVE_UP_HOURS="inf")
    names = ("SECRET", "COOLDOWN_HOURS", "FILES", "MAX_BODY_BYTES", "RETRY_SECONDS", "GIVE_UP_HOURS")
    assert all(f"RPS_ALERTS_{name}" in told for name in names)
    assert "RPS_ALERTS_FILES: expected a whole number from 1 to 1000; found '1.5'" in told
