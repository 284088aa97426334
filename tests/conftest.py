"""Real services for the tests, each started once, on free loopback ports, with its state in a scratch directory."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.processes import end, start
from scripts.services import ROOT, S3_PORTS, Service, Stack, free_ports
from tests import serving
from tests.serving import make_bundle

pytest_plugins = ["tests.replay_fixture", "tests.doubles.github.fixture", "tests.docker_engine", "tests.releasing"]

SERVICE_SECONDS = 180


def wait_while(condition: Callable[[], bool], *, seconds: float, pause: float = 0.1) -> bool:
    """Wait until ``condition`` is false, for at most that long; whether it became so."""
    deadline = time.monotonic() + seconds
    while condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


@contextlib.contextmanager
def running(service: Service, home: Path) -> Iterator[Service]:
    """The service, healthy, until the block ends."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **service.environment}
    log = home / f"{service.name}.log"
    process = start(service.command, log=log, environment=environment, directory=home, address=service.address)
    try:
        ready = wait_while(lambda: process.alive and not service.healthy(), seconds=SERVICE_SECONDS)
        if not (ready and process.alive):
            pytest.fail(f"{service.name} did not come up:\n{log.read_text()[-3000:]}")
        yield service
    finally:
        end([process], patience_seconds=3)


def service_named(name: str, stack: Stack) -> Service:
    return next(service for service in stack.services if service.name == name)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real S3 (SeaweedFS); the variables with which to reach it."""
    home = tmp_path_factory.mktemp("s3")
    stack = Stack(home, {"RPS_S3_PORT": str(free_ports(S3_PORTS))})
    names = ("RPS_STORE", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    with running(service_named("s3", stack), home):
        yield {name: stack.addresses[name] for name in names}


@pytest.fixture
def store_env(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment names the real S3, under a prefix that no other test uses."""
    own = {**s3, "RPS_STORE": f"{s3['RPS_STORE']}/{uuid.uuid4().hex[:12]}"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    return own


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow on SQLite."""
    home = tmp_path_factory.mktemp("mlflow")
    stack = Stack(home, {"RPS_MLFLOW_PORT": str(free_ports(1))})
    with running(service_named("mlflow", stack), home) as service:
        yield service.address


@pytest.fixture
def tracking_env(mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment names the real MLflow."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    return mlflow_server


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that is fitted on the whole recorded year."""
    return make_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Running]:
    """A service around it, with its usual settings; its tests use series of their own."""
    with serving.running(bundle, tmp_path_factory.mktemp("service") / "log") as found:
        yield found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List by name what was left out and why."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section("left out")
        for report in skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            terminalreporter.write_line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With `RPS_NOTHING_LEFT_OUT`, as in CI, a test that was left out is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("RPS_NOTHING_LEFT_OUT") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
