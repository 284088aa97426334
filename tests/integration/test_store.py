"""Object storage against a real S3: what is reported, and as which fault."""

from __future__ import annotations

import pytest

from clients.errors import ConfigurationError, PassingFault
from clients.store import open_store


def test_what_is_put_is_got_and_listed_below_the_prefix(store_env: dict[str, str]) -> None:
    store = open_store()
    store.put("raw/b", b"2")
    store.put("raw/a", b"1")
    assert (store.get("raw/a"), store.get("raw/c"), store.keys("raw/")) == (b"1", None, ["raw/a", "raw/b"])


def test_put_new_does_not_replace_what_is_there(store_env: dict[str, str]) -> None:
    store = open_store()
    assert store.put_new("raw/a", b"first")
    assert not store.put_new("raw/a", b"second")
    assert store.get("raw/a") == b"first"


def test_wrong_keys_are_a_configuration_error(store_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ConfigurationError, match="AWS_SECRET_ACCESS_KEY"):
        open_store().put("a", b"")


def test_a_store_that_is_down_is_a_passing_fault(store_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(PassingFault, match="Is it up"):
        open_store().get("a")


def test_missing_variables_are_reported_by_name_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RPS_STORE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="RPS_STORE, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"):
        open_store()


def test_a_store_that_is_no_s3_address_is_reported(store_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RPS_STORE", "/var/data")
    with pytest.raises(ConfigurationError, match="expected s3://bucket"):
        open_store()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RPS_STORE", "s3://"),
        ("RPS_STORE", "s3://["),
        ("RPS_STORE", "s3://no bucket/x"),
        ("AWS_ENDPOINT_URL", "foo"),
        ("AWS_ENDPOINT_URL", "http://["),
        ("AWS_ENDPOINT_URL", "ftp://127.0.0.1"),
        ("AWS_DEFAULT_REGION", "no such region!"),
        ("AWS_PROFILE", "nobody"),
    ],
)
def test_a_setting_that_cannot_be_used_is_reported_by_name(
    store_env: dict[str, str], monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable):
        open_store()


def test_a_password_in_the_endpoint_is_refused_and_not_repeated(
    store_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hunter2@127.0.0.1:9")
    with pytest.raises(ConfigurationError, match="expected an address without user and password") as refused:
        open_store()
    assert "hunter2" not in str(refused.value)


def test_an_empty_region_is_no_region(store_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "")
    assert open_store().keys("") == []
