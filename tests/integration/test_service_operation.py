"""How the service starts, stops, refuses to start, says whether it is ready, and logs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from clients.errors import ConfigurationError
from forecasting.models.manifest import MANIFEST
from service.model.bundle_source import load_model
from service.service_settings import Settings
from tests.conftest import wait_while
from tests.modelling import featured_run, registered
from tests.serving import ROOT, Running, refused, running

SECONDS = 20.0
CONFIGURATION, DATA = 64, 65


def started(*arguments: str, **environment: str) -> tuple[int, str]:
    """A service that must not start: its exit code, and what it says."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RPS_")}
    command = [sys.executable, "-m", "service", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**inherited, **environment}, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"RPS_PORT": "http"}, "RPS_PORT: expected a whole number from 0 to 65535; found 'http'"),
        ({"RPS_STATE": "redis://host:port"}, "RPS_STATE: expected the address of a Redis"),
        ({"RPS_HOST": "192.0.2.1"}, "RPS_HOST=192.0.2.1, RPS_PORT=8000: cannot listen there"),
        ({"RPS_HOST": "no-such-host.invalid"}, "RPS_HOST=no-such-host.invalid, RPS_PORT=8000: cannot listen there"),
    ],
)
def test_wrong_settings_are_reported_by_name(bundle: Path, environment: dict[str, str], shown: str) -> None:
    code, said = started(RPS_BUNDLE=str(bundle), **environment)
    assert (code, shown in said, "Traceback" in said) == (CONFIGURATION, True, False), said


def test_no_bundle_is_reported() -> None:
    code, said = started()
    assert (code, "no bundle: give --bundle DIR" in said) == (CONFIGURATION, True), said


def test_a_port_in_use_is_reported(bundle: Path, service: Running) -> None:
    code, said = started("--bundle", str(bundle), "--port", str(service.port))
    assert (code, f"RPS_PORT={service.port}: cannot listen there: Address already in use" in said) == (
        CONFIGURATION, True,
    ), said  # fmt: skip


def test_help_lists_every_setting() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in ("RPS_BUNDLE", "RPS_STATE", "RPS_API_KEY", "RPS_HEADER_SECONDS", "RPS_CORS_ORIGINS"):
        assert name in done.stdout


def damaged(change: Callable[[Path], Any], bundle: Path, directory: Path) -> Path:
    copy = directory / "bundle"
    shutil.copytree(bundle, copy)
    change(copy)
    return copy


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"), [(MANIFEST, truncate), ("observations.json", Path.unlink), ("h4.json", change_byte)]
)
def test_a_damaged_bundle_is_refused_with_the_file_at_fault(
    bundle: Path, tmp_path: Path, name: str, damage: Callable[[Path], Any]
) -> None:
    code, said = refused(damaged(lambda copy: damage(copy / name), bundle, tmp_path))
    assert code == DATA, said
    assert said.startswith("service: the bundle is refused: ")
    assert name in said
    assert "Traceback" not in said


def test_a_models_address_that_is_none_is_reported() -> None:
    shown = "expected models:/name@alias or models:/name/version"
    code, said = refused(Path("models:/weather"))
    assert (code, shown in said) == (CONFIGURATION, True), said
    for address in ("models:weather@production", "models:/weather/latest"):
        with pytest.raises(ConfigurationError, match=shown):
            load_model(Settings(bundle=address))


@pytest.mark.stack
def test_service_starts_from_the_registry_by_alias_and_by_version(
    tracking_env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "served")
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")  # which the service sets for itself
    found = registered(featured_run(tmp_path, "served"))
    MlflowClient().set_registered_model_alias("served", "production", found.version)
    with running(Path("models:/served@production"), tmp_path / "log") as served:
        health = served.get("/health").json()
        assert (health["challenge"], health["model_version"]) == ("served", str(found.version))
        assert served.get("/v2/models/served").json()["versions"] == [str(found.version)]
    model = load_model(Settings(bundle=f"models:/served/{found.version}"))
    assert (model.name, model.version) == ("served", str(found.version))
    for address, shown in (("models:/served@champion", "champion"), ("models:/served/99", "99")):
        with pytest.raises(ConfigurationError, match=rf"{shown}.* Check MLFLOW_TRACKING_URI"):
            load_model(Settings(bundle=address))


def test_a_registry_that_is_away_is_reported(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    variables = {"MLFLOW_TRACKING_URI": address, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    code, said = refused(Path("models:/weather@production"), variables)
    assert (code, "MLFLOW_TRACKING_URI" in said) == (CONFIGURATION, True), said


def lines(service: Running) -> list[dict[str, Any]]:
    """What the service has logged; every line must be JSON."""
    return [json.loads(line) for line in service.log.read_text().splitlines()]


def test_logs_are_json_and_name_the_request(bundle: Path, tmp_path: Path) -> None:
    with running(bundle, tmp_path / "log", {"RPS_ACCESS_LOG": "true", "RPS_MAX_VIEWERS": "0"}) as served:
        served.get("/v1/forecasts/EWR", headers={"x-request-id": "good-1"})
        served.get("/v1/forecasts/nowhere", headers={"x-request-id": "bad-1"})
        assert served.get("/events", headers={"x-request-id": "full-1"}).status_code == 503
        assert served.stop() == 0
        shown = {each["request_id"]: each for each in lines(served) if "request_id" in each}
    assert {"time", "level", "logger", "message"} <= set(shown["good-1"])
    assert (shown["good-1"]["status"], shown["good-1"]["route"]) == (200, "/v1/forecasts/{unique_id}")
    assert (shown["bad-1"]["status"], shown["bad-1"]["level"]) == (404, "info")
    assert (shown["full-1"]["status"], shown["full-1"]["level"]) == (503, "error")
    assert shown["good-1"]["client"] == "127.0.0.1"
    assert shown["good-1"]["ms"] > 0


def test_requests_that_are_well_are_not_logged_by_default(service: Running) -> None:
    service.get("/v1/forecasts/EWR", headers={"x-request-id": "quiet-1"})
    assert not [each for each in lines(service) if each.get("request_id") == "quiet-1"]


def slow_request(service: Running) -> socket.socket:
    """A request at work: its headers and half its body are there."""
    client = socket.create_connection(("127.0.0.1", service.port), timeout=SECONDS)
    body = BODY[: len(BODY) // 2]
    head = f"POST /v1/observations HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BODY)}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


BODY = b'{"observations": [{"unique_id": "slow", "ds": "2013-07-01T12:00:00Z", "temperature": 20.0}]}'


def received(client: socket.socket) -> bytes:
    found = b""
    while part := client.recv(1 << 16):
        found += part
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_at_work_are_finished_before_the_service_ends(
    bundle: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with running(bundle, tmp_path / "log") as served, slow_request(served) as client:
        wait_until_at_work(served)
        served.process.send_signal(number)
        assert wait_while(lambda: accepts(served), seconds=SECONDS), "new connections are still taken"
        assert served.process.poll() is None
        client.sendall(BODY[len(BODY) // 2 :])
        assert received(client).startswith(b"HTTP/1.1 200 OK\r\n")
        assert served.process.wait(timeout=SECONDS) == 0
        assert {each["level"] for each in lines(served)} == {"info"}


def test_requests_that_take_longer_than_the_stop_may_are_given_up(bundle: Path, tmp_path: Path) -> None:
    with running(bundle, tmp_path / "log", {"RPS_STOP_SECONDS": "1"}) as served, slow_request(served) as client:
        wait_until_at_work(served)
        assert served.stop() == 0
        assert not received(client).startswith(b"HTTP/1.1 200")


def test_streams_end_when_the_service_stops(bundle: Path, tmp_path: Path) -> None:
    with running(bundle, tmp_path / "log", {"RPS_STOP_SECONDS": "60"}) as served:
        with httpx.stream("GET", f"{served.url}/events", timeout=SECONDS) as stream:
            chunks = stream.iter_raw()
            assert next(chunks)
            served.process.send_signal(signal.SIGTERM)
            for _ in chunks:
                pass
        assert served.process.wait(timeout=SECONDS) == 0
        assert {each["level"] for each in lines(served)} == {"info"}


def test_alive_and_ready_are_distinguished(service: Running) -> None:
    assert service.get("/v2/health/live").json() == {"live": True}
    assert service.get("/v2/health/ready").json() == {"ready": True}
    assert service.get("/v2/models/weather/ready").json() == {"ready": True}


def wait_until_at_work(served: Running) -> None:
    assert wait_while(lambda: served.metrics()["rps_requests_in_flight"] < 1, seconds=SECONDS)


def accepts(served: Running) -> bool:
    try:
        socket.create_connection(("127.0.0.1", served.port), timeout=1.0).close()
    except OSError:
        return False
    return True
