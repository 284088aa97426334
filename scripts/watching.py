"""What watches, on loopback ports, for demos and tests: Prometheus, Alertmanager, `ci alerts` and `ci metrics`.

Their configuration is the one that is shipped, with other addresses and another pace. Each ends with its block; what
one left whose caller was killed is ended before the next one starts in its directory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import msgspec

from monitoring.alertmanager_files import alertmanager_configuration
from monitoring.prometheus_files import RULES_FILE, prometheus_configuration, prometheus_rules
from scripts.processes import Started, end, port_holder, start
from scripts.services import ROOT, StackError, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

START_SECONDS = 60.0
PATIENCE_SECONDS = 10.0
LOOK_SECONDS = 2.0
"""Between two looks of `ci metrics` at Airflow and MLflow."""
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
        """Scrape these addresses, by job, and itself from now on."""
        self.configure(targets)
        os.kill(_recorded(self.home).pid, signal.SIGHUP)

    def configure(self, targets: Mapping[str, Sequence[str]]) -> None:
        """Write the configuration that it reads when it starts or is asked to."""
        text = prometheus_configuration(
            {**targets, "prometheus": [self.address]},
            RULES_FILE,
            self.alertmanagers,
            scrape_seconds=self.scrape_seconds,
            runbooks=self.runbooks,
        )
        scratch = self.home / "prometheus.yml.new"
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(self.home / "prometheus.yml")

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

    environment: of `ci alerts` and `ci metrics`, which know GitHub, Airflow and MLflow from it; it holds
    `RPS_ALERTS_SECRET`. pace: as of ``prometheus``. Raises StackError as that does.
    """
    for name in ("prometheus", "alertmanager"):
        program_named(name)
    own = {**os.environ, "PYTHONPATH": str(ROOT), "RPS_ALERTS_HOME": str(home / "alerts" / "state"), **environment}
    with contextlib.ExitStack() as held:
        address = {}
        for name, options in (("alerts", []), ("metrics", ["--every", str(LOOK_SECONDS)])):
            address[name] = _free_address(None)
            port = address[name].rsplit(":", 1)[1]
            command = [sys.executable, "-m", "ci", name, "--port", port, *options]
            held.enter_context(_running(home / name, command, address[name], "/metrics", own))
        webhook = f"http://{address['alerts']}/v1/alerts"
        told = held.enter_context(
            alertmanager(home / "alertmanager", webhook, environment["RPS_ALERTS_SECRET"], pace=pace)
        )
        targets = {
            "service": [service],
            "pipeline": [address["metrics"]],
            "alerts": [address["alerts"]],
            "alertmanager": [told],
        }
        looking = held.enter_context(prometheus(home / "prometheus", targets, alertmanagers=[told], pace=pace))
        yield Watching(
            home, looking.url, f"http://{told}", f"http://{address['alerts']}", f"http://{address['metrics']}"
        )


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
    with _running(home, command, made.address, "/-/ready", os.environ):
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
    secret_file.touch(mode=0o600)
    secret_file.write_text(secret, encoding="utf-8")
    configuration = home / "alertmanager.yml"
    configuration.write_text(alertmanager_configuration(webhook, secret_file, pace=pace), encoding="utf-8")
    command = [
        program, f"--config.file={configuration}", f"--storage.path={home / 'data'}",
        f"--web.listen-address={address}", "--cluster.listen-address=",
    ]  # fmt: skip
    with _running(home, command, address, "/-/ready", os.environ):
        yield address


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


@contextlib.contextmanager
def _running(
    home: Path, command: list[str], address: str, health: str, environment: Mapping[str, str]
) -> Iterator[None]:
    """A process that answers at the path ``health``, until the block ends; its output is `home/log`."""
    home.mkdir(parents=True, exist_ok=True)
    state, log = home / "process.json", home / "log"
    if state.exists():  # of one whose caller was killed
        end([_recorded(home)], patience_seconds=PATIENCE_SECONDS)
        state.unlink()
    try:
        process = start(command, log=log, environment=environment, directory=ROOT, address=address, record=state)
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"http://{address}{health}"):
            if not process.alive or time.monotonic() > deadline:
                told = log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise StackError(f"{home.name} did not come up on {address}; the end of {log}:\n{told}")
            time.sleep(0.05)
        yield
    finally:
        if state.exists():
            end([_recorded(home)], patience_seconds=PATIENCE_SECONDS)
            state.unlink()


def _recorded(home: Path) -> Started:
    return msgspec.json.decode((home / "process.json").read_bytes(), type=Started)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
