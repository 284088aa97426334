"""Asking a live API: what is tried again, for how long, and what is said of it."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from clients.errors import ConfigurationError, PassingFault, RpsError
from clients.live_api import Limits, Request, Response, Secret, fetch, paced
from doubles.scripted_http import Scripted, ScriptedServer, scripted

KEY = "s3cr3t-k3y"


def ask(server: ScriptedServer, attempts: int = 3, *, secret: bool = False, **limits: float) -> Response:
    key = Secret("appid", KEY, "OPENWEATHERMAP_API_KEY") if secret else None
    request = Request(f"{server.url}/data", {"lat": "1.5"}, "OPEN_METEO_URL", key)
    with httpx.Client() as client:
        return fetch(client, request, Limits(limits.pop("timeout_seconds", 5.0), attempts, **limits))


def test_a_whole_answer_comes_back_as_it_was_sent() -> None:
    body = b"\xff\x00 anything"
    with scripted(Scripted(body=body, headers={"ETag": "7", "Set-Cookie": "a=b"})) as server:
        response = ask(server)
    assert response.body == body
    assert response.status == 200
    assert response.url == f"{server.url}/data?lat=1.5"
    assert response.headers["etag"] == "7"
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_status_is_tried_again(status: int) -> None:
    with scripted(Scripted(status), Scripted(body=b"good")) as server:
        assert ask(server).body == b"good"
        assert len(server.asked) == 2


def test_as_many_attempts_as_allowed_are_made_and_no_more() -> None:
    with scripted(Scripted(500, b'{"reason": "out of weather"}')) as server:
        with pytest.raises(PassingFault, match=r"answered 500 \(out of weather\) \(gave up after 2 of 2 attempts\)"):
            ask(server, attempts=2)
        assert len(server.asked) == 2


@pytest.mark.parametrize("as_date", [False, True])
def test_a_retry_is_not_earlier_than_the_server_allows(as_date: bool) -> None:
    # An HTTP date has whole seconds, so 3 of them are at least 2.
    wait = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True) if as_date else "2"
    started = time.monotonic()
    with scripted(Scripted(429, headers={"Retry-After": wait}), Scripted()) as server:
        ask(server)
    # A lower bound only: without the header the second attempt comes after half a second, a whole one at most.
    assert time.monotonic() - started > 1.5


@pytest.mark.parametrize("wait", ["61", "86400"])
def test_a_server_that_wants_to_be_left_alone_is_left_alone(wait: str) -> None:
    with scripted(Scripted(429, headers={"Retry-After": wait})) as server:
        with pytest.raises(PassingFault, match=f"asks to wait {wait} s"):
            ask(server)
        assert len(server.asked) == 1


@pytest.mark.parametrize("wait", ["soon", "-5", "", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_retry_after_that_says_nothing_is_no_obstacle(wait: str) -> None:
    with scripted(Scripted(503, headers={"Retry-After": wait}), Scripted()) as server:
        assert ask(server).status == 200


def test_waiting_ends_with_the_total_time() -> None:
    with scripted(Scripted(429, headers={"Retry-After": "30"})) as server:
        with pytest.raises(PassingFault):
            ask(server, total_seconds=10.0)
        assert len(server.asked) == 1


def test_a_transfer_that_breaks_off_is_tried_again() -> None:
    with scripted(Scripted(body=b"half", claimed_length=8), Scripted(body=b"wholely!")) as server:
        assert ask(server).body == b"wholely!"


def test_a_packed_answer_that_cannot_be_unpacked_is_a_passing_fault() -> None:
    with (
        scripted(Scripted(body=b"no gzip", headers={"Content-Encoding": "gzip"})) as server,
        pytest.raises(PassingFault, match="DecodingError"),
    ):
        ask(server, attempts=1)


@pytest.mark.parametrize(
    ("status", "body", "shown"),
    [
        (400, b'{"error": true, "reason": "no such hour"}', r"answered 400 \(no such hour\)"),
        (404, b"<html>nothing here</html>", "nothing here"),
        (301, b"", "answered 301"),
        (204, b"", "answered 204"),
    ],
)
def test_what_asking_again_cannot_mend_is_a_configuration_error(status: int, body: bytes, shown: str) -> None:
    with scripted(Scripted(status, body, {"Location": "http://127.0.0.1:9/"})) as server:
        with pytest.raises(ConfigurationError, match=shown):
            ask(server)
        assert len(server.asked) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_reported_by_the_name_of_its_variable(status: int) -> None:
    with scripted(Scripted(status)) as server:
        with pytest.raises(ConfigurationError, match="Check the key in OPENWEATHERMAP_API_KEY"):
            ask(server, secret=True)
        with pytest.raises(ConfigurationError, match="OPEN_METEO_URL"):
            ask(server)


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_the_key_reaches_the_api_and_nothing_else(
    status: int, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    seen = ""
    with scripted(Scripted(status, f'{{"message": "the key {KEY} is odd"}}'.encode())) as server:
        try:
            seen = repr(ask(server, attempts=2, secret=True).url)
        except RpsError as error:
            seen = repr(error)
        assert all(f"appid={KEY}" in asked for asked in server.asked)
    captured = capsys.readouterr()
    assert KEY not in seen + caplog.text + captured.out + captured.err
    assert KEY not in repr(Request("http://h/", {}, "X", Secret("appid", KEY, "K")))
    assert "appid=hidden" in seen


def test_items_are_given_out_no_faster_than_the_pace() -> None:
    started = time.monotonic()
    assert list(paced(range(4), 0.1)) == [0, 1, 2, 3]
    assert time.monotonic() - started >= 0.3
