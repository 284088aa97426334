"""The servers that the service's benches start: an environment for each, how each is run, and wrk against them.

Every server is one worker, started as its own documentation says. Environments are made once, from the pinned
requirements, under `.rps/bench/`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import httpx
import msgspec
import psutil

from bench.service_model import CACHE, Model
from scripts.processes import Started, end, members, start
from scripts.services import ROOT

PEERS = Path(__file__).with_name("service_peers")
HOST = "127.0.0.1"
CONNECTIONS = 8
READY_SECONDS = 120.0
ONE_CORE = {"OMP_NUM_THREADS": "1"}
"""For the peers: on one row, none is slower so than with the thread per core that scikit-learn takes by default."""
QUIET = {"BENTOML_DO_NOT_TRACK": "True", "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""Nothing is told to anyone outside."""


class BenchError(Exception):
    """The bench cannot go on; the message says what to do."""


@dataclass(frozen=True)
class Server:
    """How one server is run, and how it says that it is ready: by answering 200 to a GET of ``ready``."""

    name: str
    command: list[str]
    port: int
    ready: str
    directory: Path = ROOT
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"


class Figures(msgspec.Struct, frozen=True):
    """What wrk says of one round; times in microseconds."""

    requests: int
    microseconds: int
    p50: int
    p99: int
    refused: int
    broken: int

    @property
    def per_second(self) -> float:
        return self.requests / self.microseconds * 1e6


def interpreter(requirements: str) -> Path:
    """The Python of an environment with requirements/``requirements``.txt, byte code compiled; made when it is not."""
    pinned = ROOT / "requirements" / f"{requirements}.txt"
    home = ROOT / ".rps" / "bench" / f"peers-{requirements}"
    python, stamp = home / "bin" / "python", home / "made-from"
    digest = hashlib.sha256(pinned.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != digest:
        say(f"making an environment from requirements/{requirements}.txt")
        uv: list[str | Path] = [sys.executable, "-m", "uv"]
        subprocess.run(
            [*uv, "venv", "--quiet", "--no-project", "--clear", "--python", sys.executable, home], check=True
        )
        # Not `install`: the service's file leaves out a package that another one names, but nothing uses.
        sync = [*uv, "pip", "sync", "--quiet", "--no-config", "--python", python, "--require-hashes"]
        subprocess.run([*sync, "--compile-bytecode", pinned], check=True)
        stamp.write_text(digest, encoding="utf-8")
    return python


def pinned_version(requirements: str, package: str) -> str:
    """What an environment has of a package, by its pinned requirements."""
    pinned = (ROOT / "requirements" / f"{requirements}.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(package)}==(\S+)", pinned, re.MULTILINE)
    if found is None:
        raise BenchError(f"requirements/{requirements}.txt: expected {package}, pinned; run `make requirements`")
    return found[1]


def floor() -> Server:
    port = free_port()
    command = [
        str(interpreter("service")), "-m", "uvicorn", "bench.service_peers.floor:app", "--host", HOST, "--port",
        str(port), "--loop", "uvloop", "--http", "httptools", "--no-access-log",
    ]  # fmt: skip
    return Server("Litestar, bare", command, port, "/ready")


def ours(model: Model, settings: dict[str, str] | None = None) -> Server:
    """The service with this model. settings: RPS_… to set."""
    python, port = interpreter("service"), free_port()
    for code in ("forecasting", "service"):
        subprocess.run([python, "-m", "compileall", "-q", ROOT / code], check=True, env=_environment({}))
    command = [str(python), "-m", "service", "--bundle", str(model.bundle), "--host", HOST, "--port", str(port)]
    return Server("this service", command, port, "/health", environment=settings or {})


def mlflow_server(model: Model) -> Server:
    python, port = interpreter("bench-service"), free_port()
    command = [
        str(python.with_name("mlflow")), "models", "serve", "--model-uri", str(model.mlflow), "--env-manager", "local",
        "--host", HOST, "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    return Server("mlflow models serve", command, port, "/ping", _directory("mlflow"), ONE_CORE)


def mlserver(model: Model) -> Server:
    python, directory = interpreter("bench-mlserver"), _directory("mlserver")
    port, grpc_port, metrics_port = free_port(), free_port(), free_port()
    settings = {
        "host": HOST, "http_port": port, "grpc_port": grpc_port, "metrics_port": metrics_port,
        "parallel_workers": 0, "debug": False,
    }  # fmt: skip
    uri = str(model.joblib / "model.joblib")
    of_model = {
        "name": "weather",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": uri, "version": "1"},
    }
    (directory / "settings.json").write_bytes(msgspec.json.encode(settings))
    (directory / "model-settings.json").write_bytes(msgspec.json.encode(of_model))
    command = [str(python.with_name("mlserver")), "start", str(directory)]
    return Server("MLServer", command, port, "/v2/models/weather/ready", directory, ONE_CORE)


def bentoml(model: Model) -> Server:
    python, port = interpreter("bench-service"), free_port()
    command = [
        str(python.with_name("bentoml")), "serve", "bentoml_app:Weather", "--working-dir", str(PEERS),
        "--host", HOST, "--port", str(port),
    ]  # fmt: skip
    environment = {**ONE_CORE, "BENCH_MODEL": str(model.joblib), "BENTOML_HOME": str(_directory("bentoml"))}
    return Server("BentoML", command, port, "/readyz", environment=environment)


def fastapi(model: Model) -> Server:
    python, port = interpreter("bench-service"), free_port()
    command = [
        str(python.with_name("uvicorn")), "fastapi_app:app", "--app-dir", str(PEERS), "--host", HOST,
        "--port", str(port), "--no-access-log",
    ]  # fmt: skip
    return Server("FastAPI", command, port, "/openapi.json", environment={**ONE_CORE, "BENCH_MODEL": str(model.joblib)})


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
        _wait(server, process)
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
        with undisturbed():
            for member in members([process]):
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.resume()  # what is stopped does not hear that it is to end
            end([process], patience_seconds=5.0)


def _wait(server: Server, process: Started) -> None:
    deadline = time.monotonic() + READY_SECONDS
    told = "no answer"
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            told = f"{httpx.get(server.address + server.ready, timeout=5.0).status_code} from {server.ready}"
            if told.startswith("200"):
                return
        if not process.alive:
            told = "its process is gone"
            break
        time.sleep(0.1)
    log = _log(server)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
    raise BenchError(f"{server.name}: expected it to be ready; found {told}. The end of {log}:\n{tail}")


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
        told = f"{figures.requests} answers, {figures.refused} of them not 2xx, and {figures.broken} broken off"
        raise BenchError(f"{server.name}{path}: expected answers of 200 alone; found {told}")
    return figures


def wrk_program() -> str:
    """Where wrk is. Raises BenchError when it is nowhere."""
    found = shutil.which("wrk")
    if found is None:
        raise BenchError("wrk is missing: install Debian's package wrk (apt-get install wrk)")
    return found


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let no second signal cut the ending of processes short."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_on_signal() -> None:
    """Make SIGTERM end this process as Ctrl-C does: with what it started."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def say(line: str) -> None:
    """Progress, for people who wait."""
    print(line, file=sys.stderr, flush=True)


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
