"""Stores that lack what the stages need are refused before any work, by name; those that have it are used."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clients.errors import ConfigurationError, PassingFault
from clients.store import Store, open_store
from doubles.scripted_http import scripted
from pipelines.carrier.__main__ import main as carrier
from tests.runs import ROOT

CONDITION, CHECKSUM = "If-None-Match", "x-amz-checksum"


class OldStore(ThreadingHTTPServer):
    """An S3 that knows no more of a request than whole objects, and refuses or ignores some headers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.refused: dict[str, tuple[int, str]] = {}
        """Start of a header's name → status and code of the answer."""
        self.ignores_condition = False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OldStore

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self._refuses():
            return
        if CONDITION in self.headers and self.path in self.server.objects and not self.server.ignores_condition:
            self._say(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        self.server.objects[self.path] = body
        self._say(200)

    def do_GET(self) -> None:
        if not self._refuses():
            self._say(200, self.server.objects[self.path])

    def _refuses(self) -> bool:
        for prefix, (status, code) in self.server.refused.items():
            if any(name.lower().startswith(prefix.lower()) for name in self.headers):
                self._say(status, f"<Error><Code>{code}</Code><Message>{prefix}</Message></Error>".encode())
                return True
        return False

    def _say(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OldStore]:
    with OldStore() as server:
        for name, value in {
            "RPS_STORE": "s3://bucket/team",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }.items():
            monkeypatch.setenv(name, value)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def store(server: OldStore) -> Store:
    return open_store()


def test_a_store_that_can_do_all_passes_every_time(server: OldStore, store: Store) -> None:
    store.check()
    store.check()
    assert list(server.objects) == ["/bucket/team/probe"]


@pytest.mark.parametrize("answer", [(501, "NotImplemented"), (400, "InvalidArgument")])
def test_a_store_without_conditional_writes_is_refused_by_name(
    server: OldStore, store: Store, answer: tuple[int, str]
) -> None:
    server.refused[CONDITION] = answer
    with pytest.raises(ConfigurationError, match=rf"{answer[1]}.*needs conditional writes.*RPS_STORE"):
        store.check()


def test_a_store_that_ignores_the_condition_is_refused(server: OldStore, store: Store) -> None:
    server.ignores_condition = True
    with pytest.raises(ConfigurationError, match="replaced an object despite If-None-Match"):
        store.check()


@pytest.mark.parametrize(
    "answer", [(400, "InvalidRequest"), (400, "XAmzContentSHA256Mismatch"), (501, "NotImplemented")]
)
@pytest.mark.parametrize("header", [CHECKSUM, "x-amz-sdk-checksum-algorithm", "x-amz-checksum-mode"])
def test_a_store_without_checksums_is_refused_with_the_variables_that_help(
    server: OldStore, store: Store, monkeypatch: pytest.MonkeyPatch, header: str, answer: tuple[int, str]
) -> None:
    server.refused[header] = answer
    with pytest.raises(ConfigurationError, match="set AWS_REQUEST_CHECKSUM_CALCULATION=when_required and AWS_RESPONSE"):
        store.check()
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    open_store().check()


def test_ingest_ends_with_64_before_it_asks_the_source(
    server: OldStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refused[CONDITION] = (501, "NotImplemented")
    (tmp_path / "challenges").mkdir()
    shutil.copy(ROOT / "challenges" / "weather.toml", tmp_path / "challenges")
    monkeypatch.chdir(tmp_path)
    with scripted() as source:
        for name in ("OPEN_METEO_URL", "OPEN_METEO_ARCHIVE_URL"):
            monkeypatch.setenv(name, source.url)
        assert carrier(["ingest", "--challenge", "weather"]) == 64
    assert source.asked == []
    assert "needs conditional writes" in capsys.readouterr().err


def test_a_fault_that_passes_is_no_lack_of_the_store(server: OldStore, store: Store) -> None:
    server.refused[CONDITION] = (500, "InternalError")
    with pytest.raises(PassingFault, match="InternalError"):
        store.check()


@pytest.mark.parametrize("answer", [(403, "AccessDenied"), (400, "ExpiredToken")])
def test_a_refused_key_is_reported_as_such_and_not_as_a_lack_of_the_store(
    server: OldStore, store: Store, answer: tuple[int, str]
) -> None:
    server.refused["Authorization"] = answer
    with pytest.raises(ConfigurationError, match=r"Check .*AWS_SECRET_ACCESS_KEY"):
        store.check()
