"""Real services for the tests, each started once, on free loopback ports, with its state in a scratch directory."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scripts.processes import wait_while
from scripts.services import S3_PORTS, Stack, free_ports, running, service_named
from tests.sharing import made_once

if TYPE_CHECKING:
    from tests.serving import Running

pytest_plugins = [
    "tests.integration.airflow_fixture",
    "tests.schedule",
    "tests.reaper",
    "tests.replay_fixture",
    "doubles.github.fixture",
    "tests.docker_engine",
    "tests.releasing",
]

__all__ = ["wait_while"]

# Fits of several processes on the same cores: OpenMP's threads would wait for one another, at many times the CPU time.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all processes of this test run see."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def kept(shared: Path) -> Path:
    """Where stages' environments (`envs`) and workflows' tools (`tools`) are made once for the whole test run."""
    for name in ("envs", "tools"):
        (shared / "kept" / name).mkdir(parents=True, exist_ok=True)
    return shared / "kept"


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
def bundle(shared: Path) -> Path:
    """A bundle that is fitted on the whole recorded year. No test writes to it."""
    from tests.serving import make_bundle  # seconds, which only the tests of a bundle wait for

    return made_once(shared / "bundle", make_bundle)


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service around it, with its usual settings; its tests use series of their own."""
    from tests import serving

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
