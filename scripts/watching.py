"""Prometheus, Alertmanager, the relay and the exporter on loopback ports, for demos and tests.

They have the shipped configuration, with other addresses and another pace. Each ends with its block; the next one in
its directory first ends what a killed caller has left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx

from clients.disk import write_whole
from monitoring.alertmanager_files import alertmanager_configuration
from monitoring.prometheus_files import RULES_FILE, prometheus_configuration, prometheus_rules
from scripts.processes import port_holder, recorded
from scripts.services import Service, StackError, answers, free_ports, running, write_private

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

PATIENCE_SECONDS = 10.0
LOOK_SECONDS = 2.0
"""Between two looks of `monitoring.exporter` at Airflow and MLflow."""
_PACKAGES = {"prometheus": "prometheus", "alertmanager": "prometheus-alertmanager"}
"""Of Debian, by program; Debian calls Alertmanager's program by its package's name."""


@dataclass(frozen=True)
class Watching:
    """All that watches one service: the addresses of each, and where their logs are."""

    home: Path
    prometheus: str
    alertmanager: str
    alerts: str
    metrics: str


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    """A Prometheus that answers."""

    home: Path
    address: str
    """`127.0.0.1:PORT`, as another configuration names it."""
    alertmanagers: tuple[str, ...]
    scrape_seconds: float
    runbooks: str

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def look_at(self, targets: Mapping[str, Sequence[str]]) -> None:
        """Scrape these addresses, by job, and Prometheus itself from now on."""
        self.configure(targets)
        process = recorded(self.home / "prometheus.process.json")
        if process is None:
            raise StackError(f"no Prometheus runs in {self.home}")
        os.kill(process.pid, signal.SIGHUP)

    def configure(self, targets: Mapping[str, Sequence[str]]) -> None:
        """Write the configuration that it reads when it starts or is asked to."""
        text = prometheus_configuration(
            {**targets, "prometheus": [self.address]},
            RULES_FILE,
            self.alertmanagers,
            scrape_seconds=self.scrape_seconds,
            runbooks=self.runbooks,
        )
        write_whole(self.home / "prometheus.yml", text.encode())

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives now: `metric` and `value` of each series. Raises StackError when it is refused."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=30.0)
        if answer.status_code != httpx.codes.OK:
            raise StackError(f"Prometheus does not answer {expression!r}: {answer.text[:500]}")
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found


@contextlib.contextmanager
def watching(home: Path, *, service: str, environment: Mapping[str, str], pace: float) -> Iterator[Watching]:
    """Everything that watches the service at ``service`` (`host:port`), until the block ends.

    environment: of the relay and the exporter, which know GitHub, Airflow and MLflow from it; it holds
    `RPS_ALERTS_SECRET`. pace: as of ``prometheus``. Raises StackError as that does.
    """
    require_programs()
    own = {"RPS_ALERTS_HOME": str(home / "alerts" / "state"), **environment}
    with contextlib.ExitStack() as held:

        def start(name: str, module: str, *options: str) -> str:
            address = _free_address(None)
            port = address.rpartition(":")[2]
            command = [sys.executable, "-m", f"monitoring.{module}", "--port", port, *options]
            held.enter_context(_running(home / name, name, command, address, health="/metrics", environment=own))
            return address

        alerts, metrics = start("alerts", "relay"), start("metrics", "exporter", "--every", str(LOOK_SECONDS))
        webhook, secret = f"http://{alerts}/v1/alerts", environment["RPS_ALERTS_SECRET"]
        manager = held.enter_context(alertmanager(home / "alertmanager", webhook, secret, pace=pace))
        targets = {"service": [service], "pipeline": [metrics], "alerts": [alerts], "alertmanager": [manager]}
        looking = held.enter_context(prometheus(home / "prometheus", targets, alertmanagers=[manager], pace=pace))
        yield Watching(home, looking.url, f"http://{manager}", f"http://{alerts}", f"http://{metrics}")


@contextlib.contextmanager
def prometheus(
    home: Path,
    targets: Mapping[str, Sequence[str]],
    *,
    alertmanagers: Sequence[str] = (),
    pace: float = 1.0,
    scrape_seconds: float = 1.0,
    runbooks: str = "",
    port: int | None = None,
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes ``targets`` (addresses by job) and itself, and works out all rules.

    home: where its configuration, log and data lie. pace: hours of data that pass in one hour. port: a free one
    unless given. Raises StackError when the program is missing, the port is taken, or it does not come up.
    """
    program = program_named("prometheus")
    home.mkdir(parents=True, exist_ok=True)
    made = Prometheus(
        home=home,
        address=_free_address(port),
        alertmanagers=tuple(alertmanagers),
        scrape_seconds=scrape_seconds,
        runbooks=runbooks,
    )
    made.configure(targets)
    (home / RULES_FILE).write_text(prometheus_rules(pace), encoding="utf-8")
    command = [
        program, f"--config.file={home / 'prometheus.yml'}", f"--storage.tsdb.path={home / 'data'}",
        f"--web.listen-address={made.address}",
    ]  # fmt: skip
    with _running(home, "prometheus", command, made.address):
        yield made


@contextlib.contextmanager
def alertmanager(home: Path, webhook: str, secret: str, *, pace: float = 1.0, port: int | None = None) -> Iterator[str]:
    """The address (`127.0.0.1:PORT`) of an Alertmanager that posts every alert to ``webhook``.

    secret: its bearer token. home, pace, port and errors: as of ``prometheus``.
    """
    program = program_named("alertmanager")
    home.mkdir(parents=True, exist_ok=True)
    address = _free_address(port)
    secret_file = home / "secret"
    write_private(secret_file, secret)
    configuration = home / "alertmanager.yml"
    configuration.write_text(alertmanager_configuration(webhook, secret_file, pace=pace), encoding="utf-8")
    command = [
        program, f"--config.file={configuration}", f"--storage.path={home / 'data'}",
        f"--web.listen-address={address}", "--cluster.listen-address=",
    ]  # fmt: skip
    with _running(home, "alertmanager", command, address):
        yield address


def require_programs() -> None:
    """Raises StackError as ``program_named`` does."""
    for name in _PACKAGES:
        program_named(name)


def program_named(name: str) -> str:
    """The path of `prometheus` or `alertmanager`. Raises StackError, which says what to install."""
    package = _PACKAGES[name]
    found = shutil.which(name) or shutil.which(package)
    if found is None:
        advice = f"apt-get install {package} (Debian), or put the program of https://prometheus.io/download/ into PATH"
        raise StackError(f"{name} is missing: {advice}")
    return found


def _free_address(port: int | None) -> str:
    chosen = free_ports(1) if port is None else port
    holder = port_holder(chosen)
    if holder:
        raise StackError(f"port {chosen} is held by {holder}: stop it, or choose another port")
    return f"127.0.0.1:{chosen}"


def _running(
    home: Path,
    name: str,
    command: list[str],
    address: str,
    *,
    health: str = "/-/ready",
    environment: Mapping[str, str] | None = None,
) -> contextlib.AbstractContextManager[Service]:
    """A process that answers at the path ``health``, until the block ends."""
    service = Service(name, command, address, partial(answers, f"http://{address}{health}"), environment or {})
    return running(service, home, patience_seconds=PATIENCE_SECONDS)
