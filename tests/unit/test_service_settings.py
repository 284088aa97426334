"""Settings come from the environment; each wrong one is reported by name, with what was expected and found."""

from __future__ import annotations

from dataclasses import fields

import pytest

from clients.errors import ConfigurationError
from clients.settings import number
from service.service_settings import Settings, service_settings

DEFAULTS = Settings()


def wrong(**environment: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        service_settings(environment)
    return str(raised.value)


def test_nothing_set_is_the_defaults() -> None:
    assert service_settings({}) == DEFAULTS
    assert service_settings({"PATH": "/bin", "RPS_STORE": "s3://elsewhere"}) == DEFAULTS


@pytest.mark.parametrize("name", [f"RPS_{field.name.upper()}" for field in fields(Settings)])
@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_variable_counts_as_not_set(name: str, text: str) -> None:
    assert service_settings({name: text}) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("bundle", "models:/weather@production", "models:/weather@production"),
        ("host", "0.0.0.0", "0.0.0.0"),
        ("port", " 0 ", 0),
        ("state", "redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("state", "unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("api_key", "s3cret", "s3cret"),
        ("max_body_bytes", "1024", 1024),
        ("header_seconds", "0.05", 0.05),
        ("request_seconds", "2.5", 2.5),
        ("stop_seconds", "0", 0.0),
        ("cors_origins", "https://a.example, https://b.example,", ("https://a.example", "https://b.example")),
        ("log_level", "debug", "DEBUG"),
        ("access_log", "Yes", True),
        ("access_log", "0", False),
    ],
)
def test_what_is_set_is_taken(name: str, text: str, value: object) -> None:
    found = service_settings({f"RPS_{name.upper()}": text})
    assert getattr(found, name) == value
    assert type(getattr(found, name)) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("PORT", "-1", "from 0 to 65535"),
        ("PORT", "65536", "from 0 to 65535"),
        ("PORT", "http", "from 0 to 65535"),
        ("PORT", "80.0", "from 0 to 65535"),
        ("WORKERS", "0", "from 1 to 64"),
        ("MAX_BODY_BYTES", "8M", "from 1024"),
        ("MAX_BATCH", "0", "from 1"),
        ("MAX_BATCH", "many", "from 1"),
        ("MAX_IN_FLIGHT", "0", "from 1"),
        ("MAX_CONNECTIONS", "0", "from 1"),
        ("HEADER_SECONDS", "0", "from 0.05"),
        ("REQUEST_SECONDS", "nan", "from 0.05"),
        ("REQUEST_SECONDS", "inf", "from 0.05"),
        ("STOP_SECONDS", "-1", "from 0"),
        ("LIVE_WINDOW", "9", "from 10"),
        ("LOG_LEVEL", "loud", "DEBUG, INFO, WARNING, ERROR"),
        ("ACCESS_LOG", "maybe", "true or false"),
    ],
)
def test_a_wrong_setting_is_reported_by_name(name: str, text: str, expected: str) -> None:
    shown = wrong(**{f"RPS_{name}": text})
    assert shown.startswith(f"RPS_{name}: expected ")
    assert expected in shown
    assert f"found '{text}'" in shown


def test_all_that_is_wrong_is_reported_at_once() -> None:
    lines = wrong(RPS_PORT="http", RPS_STATE="file", RPS_ACCESS_LOG="maybe").splitlines()
    assert [line.partition(":")[0] for line in lines] == ["RPS_PORT", "RPS_STATE", "RPS_ACCESS_LOG"]


def test_every_number_has_its_limits_and_its_default_is_within() -> None:
    for field in fields(Settings):
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert service_settings({f"RPS_{field.name.upper()}": str(field.default)}) == DEFAULTS, field.name
            assert wrong(**{f"RPS_{field.name.upper()}": "-1"})


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "soon"])
def test_a_number_without_an_upper_limit_is_finite_and_above_its_lower_limit(text: str) -> None:
    read = number(float, 0)
    assert read("0.5") == 0.5
    with pytest.raises(ValueError, match=f"expected a number above 0; found '{text}'"):
        read(text)


def test_an_address_that_is_no_redis_is_reported_without_its_password() -> None:
    shown = wrong(RPS_STATE="postgres://user:hunter2@host/db")
    assert shown.startswith("RPS_STATE: expected memory or an address that starts with redis://")
    assert "hunter2" not in shown


def test_several_workers_need_a_state_that_they_share() -> None:
    assert "set RPS_STATE=redis://" in wrong(RPS_WORKERS="2")
    assert service_settings({"RPS_WORKERS": "2", "RPS_STATE": "redis://localhost"}).workers == 2


@pytest.mark.parametrize(
    "origin", ["https://a.example/", "a.example", "https://a.example/path", "null", "ftp://a.example"]
)
def test_an_origin_that_no_browser_sends_is_reported(origin: str) -> None:
    shown = wrong(RPS_CORS_ORIGINS=f"https://fine.example,{origin}")
    assert shown.startswith("RPS_CORS_ORIGINS: expected ")
    assert origin in shown


@pytest.mark.parametrize("origin", ["*", "https://a.example", "http://localhost:3000", "https://[::1]:8443"])
def test_origins_are_taken(origin: str) -> None:
    assert service_settings({"RPS_CORS_ORIGINS": origin}).cors_origins == (origin,)
