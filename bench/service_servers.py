"""The servers that the service's benches start: how each is run, and wrk against them.

Every server is one worker, started as its own documentation says.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil

from bench.peer_environments import interpreter
from bench.report import BenchError
from bench.service_model import CACHE, Model
from scripts.processes import Started, comes_up, end, interruptions_held, log_end, members, start
from scripts.services import ROOT, answers, free_ports

PEERS = Path(__file__).with_name("service_peers")
HOST = "127.0.0.1"
CONNECTIONS = 8
READY_SECONDS = 120.0
ONE_CORE = {"OMP_NUM_THREADS": "1"}
"""For the peers: on one row, none is slower so than with the thread per core that scikit-learn takes by default."""
QUIET = {"BENTOML_DO_NOT_TRACK": "True", "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""No usage data leave the machine."""


@dataclass(frozen=True)
class Server:
    """How one server is run. It is ready when it answers 200 to a GET of ``ready``."""

    name: str
    command: list[str]
    port: int
    ready: str
    directory: Path = ROOT
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def is_ready(self) -> bool:
        return answers(self.address + self.ready)


class Figures(msgspec.Struct, frozen=True):
    """What wrk measures in one round; times in microseconds."""

    requests: int
    microseconds: int
    p50: int
    p99: int
    refused: int
    broken: int

    @property
    def per_second(self) -> float:
        return self.requests / self.microseconds * 1e6


def floor(_model: Model) -> Server:
    app = ["-m", "uvicorn", "bench.service_peers.floor:app", "--loop", "uvloop", "--http", "httptools"]
    return _server("Litestar, bare", "service", ["python", *app, "--no-access-log"], "/ready")


def ours(model: Model, settings: dict[str, str] | None = None) -> Server:
    """The service with this model. settings: RPS_… to set."""
    python = interpreter("service")
    for code in ("forecasting", "service"):
        subprocess.run([python, "-m", "compileall", "-q", ROOT / code], check=True, env=_environment({}))
    command = ["python", "-m", "service", "--bundle", str(model.bundle)]
    return _server("this service", "service", command, "/health", environment=settings)


def mlflow_server(model: Model) -> Server:
    command = ["mlflow", "models", "serve", "--model-uri", str(model.mlflow), "--env-manager", "local", "--workers=1"]
    return _server("mlflow models serve", "bench-service", command, "/ping", _directory("mlflow"), ONE_CORE)


def mlserver(model: Model) -> Server:
    directory, port = _directory("mlserver"), free_ports(3)
    settings = {
        "host": HOST, "http_port": port, "grpc_port": port + 1, "metrics_port": port + 2,
        "parallel_workers": 0, "debug": False,
    }  # fmt: skip
    of_model = {
        "name": "weather",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(model.joblib / "model.joblib"), "version": "1"},
    }
    (directory / "settings.json").write_bytes(msgspec.json.encode(settings))
    (directory / "model-settings.json").write_bytes(msgspec.json.encode(of_model))
    command = [str(interpreter("bench-mlserver").with_name("mlserver")), "start", str(directory)]
    return Server("MLServer", command, port, "/v2/models/weather/ready", directory, ONE_CORE)


def bentoml(model: Model) -> Server:
    environment = {**ONE_CORE, "BENCH_MODEL": str(model.joblib), "BENTOML_HOME": str(_directory("bentoml"))}
    command = ["bentoml", "serve", "bentoml_app:Weather", "--working-dir", str(PEERS)]
    return _server("BentoML", "bench-service", command, "/readyz", environment=environment)


def fastapi(model: Model) -> Server:
    environment = {**ONE_CORE, "BENCH_MODEL": str(model.joblib)}
    command = ["uvicorn", "fastapi_app:app", "--app-dir", str(PEERS), "--no-access-log"]
    return _server("FastAPI", "bench-service", command, "/openapi.json", environment=environment)


def _server(  # noqa: PLR0917 - as `Server` has them
    name: str,
    requirements: str,
    command: list[str],
    ready: str,
    directory: Path = ROOT,
    environment: dict[str, str] | None = None,
) -> Server:
    """One whose command starts with a program of that environment, and takes `--host` and `--port`."""
    program, *rest = command
    port = free_ports(1)
    whole = [str(interpreter(requirements).with_name(program)), *rest, "--host", HOST, "--port", str(port)]
    return Server(name, whole, port, ready, directory, environment or {})


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    server: Server
    process: Started

    def pause(self) -> None:
        """Take all of its processes off the processor; its memory and sockets stay."""
        for member in members([self.process]):
            member.suspend()

    def resume(self) -> None:
        for member in members([self.process]):
            member.resume()

    def resident_mebibytes(self) -> float:
        """Of all of its processes together."""
        return float(sum(member.memory_info().rss for member in members([self.process]))) / 2**20


@contextlib.contextmanager
def running(server: Server) -> Iterator[Running]:
    """The server from when it is ready. Raises BenchError when it never is."""
    with started(server) as process:
        if not comes_up(process, lambda: server.is_ready, seconds=READY_SECONDS):
            log = _log(server)
            raise BenchError(f"{server.name} did not become ready; the end of {log}:\n{log_end(log)}")
        yield Running(server, process)


@contextlib.contextmanager
def started(server: Server) -> Iterator[Started]:
    """The server's process from its start; it is ended with all that it started."""
    log = _log(server)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    process = start(
        server.command,
        log=log,
        environment=_environment(server.environment, Path(server.command[0]).parent),
        directory=server.directory,
        address=server.address,
    )
    try:
        yield process
    finally:
        with interruptions_held():
            for member in members([process]):
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.resume()  # a stopped process gets no signal
            end([process], patience_seconds=5.0)


def wrk(server: Server, path: str, script: str, arguments: list[str], seconds: int) -> Figures:
    """One round of one thread and eight connections. Raises BenchError for an answer that is not 2xx, and for none."""
    command = [
        wrk_program(), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(PEERS / script),
        server.address + path, "--", *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        figures = msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=Figures)
    except (IndexError, msgspec.DecodeError):
        raise BenchError(f"wrk gave no figures of {server.name}:\n{done.stdout}{done.stderr}") from None
    if figures.refused or figures.broken or not figures.requests:
        found = f"{figures.requests} answers, {figures.refused} of them not 2xx, and {figures.broken} broken off"
        raise BenchError(f"{server.name}{path}: expected answers of 200 alone; found {found}")
    return figures


def wrk_program() -> str:
    """Where wrk is. Raises BenchError when it is nowhere."""
    found = shutil.which("wrk")
    if found is None:
        raise BenchError("wrk is missing: install Debian's package wrk (apt-get install wrk)")
    return found


def _log(server: Server) -> Path:
    return CACHE / "logs" / f"{server.name.replace(' ', '-')}.log"


def _directory(name: str) -> Path:
    """An empty one, for what a server writes."""
    directory = CACHE / "work" / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def _environment(more: dict[str, str], binaries: Path | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RPS_", "MLFLOW_", "PYTHON"))}
    path = kept.get("PATH", os.defpath)
    return {**kept, **QUIET, "PATH": f"{binaries}{os.pathsep}{path}" if binaries else path, **more}
