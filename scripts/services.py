"""The services of the laptop stack: what each runs, where it listens, and how it says that it is well.

A service whose address the environment already names (`MLFLOW_TRACKING_URI`, `RPS_STORE`, `OPEN_METEO_URL`,
`AIRFLOW_API_URL`) is yours and is not started.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import msgspec
from dotenv import dotenv_values

from clients.errors import RpsError
from scripts.processes import Started, comes_up, end_recorded, log_end, start

if TYPE_CHECKING:
    from collections.abc import Iterator

    from types_boto3_s3 import S3Client

ROOT = Path(__file__).resolve().parent.parent
REPLAY_STARTS = "2013-12-23T00:00:00Z"
"""A week before the recording ends, so that its clock can move on while the stack is up."""
S3_PORTS = 9
"""SeaweedFS takes its S3 port and the ones that follow it."""
READY_SECONDS = 180.0
"""How long a service may take to its first healthy answer; a cold disk and two cores need half a minute."""
PORTS_TOGETHER = 16
"""How many neighbouring ports ``free_ports`` gives at most."""


class StackError(RpsError):
    """The stack cannot do what was asked; the message says what to do."""


class Secrets(msgspec.Struct, frozen=True):
    """Made once per stack; they never leave its state directory."""

    s3_key: str
    s3_secret: str
    airflow_password: str
    airflow_jwt: str
    airflow_fernet: str


@dataclass(frozen=True)
class Service:
    """One process of the stack."""

    name: str
    command: list[str]
    address: str
    healthy: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    ports_setting: str = ""
    """The setting that chooses the ports."""
    prepare: list[str] | None = None
    """A command to run to its end before the service starts."""


@dataclass(frozen=True)
class Stack:
    """The laptop stack as the environment asks for it."""

    home: Path
    settings: dict[str, str]
    """The environment, completed from `.env`."""

    @property
    def secrets(self) -> Secrets:
        path = self.home / "secrets.json"
        if not path.exists():
            made = Secrets(
                secrets.token_hex(10),
                secrets.token_hex(20),
                secrets.token_urlsafe(12),
                secrets.token_hex(32),
                secrets.token_urlsafe(32)[:43] + "=",
            )
            write_private(path, msgspec.json.encode(made).decode())
        return msgspec.json.decode(path.read_bytes(), type=Secrets)

    def port(self, name: str, default: int) -> int:
        text = self.settings.get(name, str(default))
        if not text.isdigit() or not 1024 <= int(text) <= 65000:
            raise StackError(f"{name}: expected a port between 1024 and 65000; found {text!r}")
        return int(text)

    @property
    def addresses(self) -> dict[str, str]:
        """What a stage, the demo or a shell needs to use the stack: the variables of `.env.example`."""
        mine: dict[str, str] = {
            "RPS_HOME": str(self.home),
            "RPS_REPOSITORY": self.settings.get("RPS_REPOSITORY", str(ROOT)),
        }
        if self.replay is not None:
            mine |= {
                "OPEN_METEO_URL": self.replay,
                "OPEN_METEO_ARCHIVE_URL": self.replay,
                "RPS_CLOCK_URL": f"{self.replay}/replay/clock",
            }
        if "MLFLOW_TRACKING_URI" not in self.settings:
            mine["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{self.port('RPS_MLFLOW_PORT', 5000)}"
        if "RPS_STORE" not in self.settings:
            mine |= {
                "RPS_STORE": "s3://rps",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port('RPS_S3_PORT', 8333)}",
                "AWS_ACCESS_KEY_ID": self.secrets.s3_key,
                "AWS_SECRET_ACCESS_KEY": self.secrets.s3_secret,
                "AWS_DEFAULT_REGION": "us-east-1",
            }
        if "AIRFLOW_API_URL" not in self.settings:
            mine |= {
                "AIRFLOW_API_URL": f"http://127.0.0.1:{self.port('RPS_AIRFLOW_PORT', 8080)}",
                "AIRFLOW_USERNAME": "rps",
                "AIRFLOW_PASSWORD": self.secrets.airflow_password,
            }
        given = {name: self.settings[name] for name in _PASSED if name in self.settings}
        return given | mine

    @property
    def replay(self) -> str | None:
        """The address of the recorded weather, when it is the source."""
        ours = "OPEN_METEO_URL" not in self.settings
        return f"http://127.0.0.1:{self.port('RPS_REPLAY_PORT', 8900)}" if ours else None

    @property
    def services(self) -> list[Service]:
        """The services to start, in the order in which they are."""
        wanted: list[Service] = []
        if "RPS_STORE" not in self.settings:
            wanted.append(self._s3())
        if self.replay is not None:
            wanted.append(self._replay())
        if "AIRFLOW_API_URL" not in self.settings:
            wanted += self._airflow()
        if "MLFLOW_TRACKING_URI" not in self.settings:
            wanted.append(self._mlflow())
        return wanted

    def online(self, challenge: str, bundle: str) -> list[Service]:
        """The service around a bundle, and what streams the source's observations into it."""
        module = ["service", "--bundle", bundle, "--host", "127.0.0.1"]
        service = self._web("service", "RPS_SERVICE_PORT", 8000, module, self.addresses)
        return [service, self.feed(challenge, service.address)]

    def feed(self, challenge: str, address: str) -> Service:
        """What streams the source's observations into the service at an address, every second."""
        module = ["monitoring.feed", "--challenge", challenge, "--service", address, "--every", "1"]
        command = [sys.executable, "-m", *module]
        fed = partial(_has_streamed, address)
        return Service("feed", command, address, fed, self.addresses, ports_setting="RPS_SERVICE_PORT")

    def _s3(self) -> Service:
        first = self.port("RPS_S3_PORT", 8333)
        grpc = [f"{part}.port{kind}" for part in ("s3", "master", "filer", "volume") for kind in ("", ".grpc")]
        ports = tuple(range(first, first + S3_PORTS))
        address = f"http://127.0.0.1:{first}"
        command = [
            str(Path(sys.executable).with_name("weed")), "mini", "-dir", str(_made(self.home / "s3")), "-bucket", "rps",
            "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1", "-s3.port.lance=0",
            "-admin.ui=false", "-webdav=false", "-master.telemetry=false",
            *(f"-{part}={port}" for part, port in zip([*grpc, "s3.port.iceberg"], ports, strict=True)),
        ]  # fmt: skip
        keys = {"AWS_ACCESS_KEY_ID": self.secrets.s3_key, "AWS_SECRET_ACCESS_KEY": self.secrets.s3_secret}
        return Service("s3", command, address, partial(self._bucket_is_there, address), keys, ports, "RPS_S3_PORT")

    def _bucket_is_there(self, address: str) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        client = _s3_client(address, self.secrets.s3_key, self.secrets.s3_secret)
        try:
            client.head_bucket(Bucket="rps")
            client.put_object(Bucket="rps", Key=".health", Body=b"")
        except (BotoCoreError, ClientError):
            return False
        return True

    def _replay(self) -> Service:
        return self._web("replay", "RPS_REPLAY_PORT", 8900, ["doubles.replay", "--as-of", REPLAY_STARTS])

    def _mlflow(self) -> Service:
        state = _made(self.home / "mlflow")
        module = [
            "mlflow", "server", "--host", "127.0.0.1", "--workers", "1",
            "--backend-store-uri", f"sqlite:///{state}/mlflow.db",
            "--artifacts-destination", str(_made(state / "artifacts")),
        ]  # fmt: skip
        environment = {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nothing here uses its six worker processes
        }
        return self._web("mlflow", "RPS_MLFLOW_PORT", 5000, module, environment)

    def _web(
        self, name: str, setting: str, default: int, module: list[str], environment: dict[str, str] | None = None
    ) -> Service:
        """A Python module that takes `--port` and answers at `/health`. setting: names its port."""
        port = self.port(setting, default)
        address = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", *module, "--port", str(port)]
        healthy = partial(answers, f"{address}/health")
        return Service(name, command, address, healthy, environment or {}, (port,), setting)

    def _airflow(self) -> list[Service]:
        port = self.port("RPS_AIRFLOW_PORT", 8080)
        address = f"http://127.0.0.1:{port}"
        state = _made(self.home / "airflow")
        passwords = state / "passwords.json"
        if not passwords.exists():  # once: a running Airflow reads it at each login
            write_private(passwords, json.dumps({"rps": self.secrets.airflow_password}))
        environment = {
            "AIRFLOW_HOME": str(state),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__FERNET_KEY": self.secrets.airflow_fernet,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "rps:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": address,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": self.secrets.airflow_jwt,
            "AIRFLOW__API_AUTH__JWT_SECRET": self.secrets.airflow_jwt,
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
            _SCHEDULED: self.settings.get(_SCHEDULED, "True"),
            "AIRFLOW__SCHEDULER__CATCHUP_BY_DEFAULT": "False",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
            **self.addresses,
        }
        airflow = [sys.executable, "-m", "airflow"]

        def service(
            name: str, arguments: list[str], healthy: Callable[[], bool], ports: tuple[int, ...] = ()
        ) -> Service:
            prepare = [*airflow, "db", "migrate"] if ports else None
            command = [*airflow, *arguments]
            return Service(name, command, address, healthy, environment, ports, "RPS_AIRFLOW_PORT", prepare)

        scheduler = partial(_component_is_healthy, address, "scheduler")
        dag_processor = partial(_component_is_healthy, address, "dag_processor")
        return [
            service("airflow-api", ["api-server"], partial(answers, f"{address}/api/v2/version"), (port,)),
            service("airflow-scheduler", ["scheduler", "--skip-serve-logs"], scheduler),
            service("airflow-dags", ["dag-processor"], dag_processor),
        ]


_SCHEDULED = "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE"
_PASSED = (
    "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "RPS_STORE", "AWS_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION", "OPEN_METEO_URL", "OPEN_METEO_ARCHIVE_URL", "OPENWEATHERMAP_URL",
    "OPENWEATHERMAP_API_KEY", "RPS_CLOCK_URL", "AIRFLOW_API_URL", "AIRFLOW_USERNAME",
    "AIRFLOW_PASSWORD", "AIRFLOW_TOKEN", "GITHUB_TOKEN", "GITHUB_API_URL", "GITHUB_SERVER_URL",
)  # fmt: skip


def laptop_stack() -> Stack:
    """The stack of this checkout; its state lies in `.rps/`, or where `RPS_HOME` says."""
    from_file = {name: value for name, value in dotenv_values(ROOT / ".env").items() if value}
    settings = {**from_file, **{name: value for name, value in os.environ.items() if value}}
    home = Path(settings.get("RPS_HOME", ROOT / ".rps")).resolve()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Stack(home, settings)


def set_clock(replay: str, *, speed: float, now: str | None = None) -> None:
    """Set the replay's clock: how many replayed seconds pass in one, and what time it is. Raises StackError."""
    asked = {"speed": speed} if now is None else {"speed": speed, "now": now}
    try:
        httpx.put(f"{replay}/replay/clock", json=asked, timeout=5.0).raise_for_status()
    except httpx.HTTPError as error:
        raise StackError(f"the replay at {replay} refuses a time: {error}; run 'make down', then again") from error


def free_ports(count: int) -> int:
    """The first of ``count`` neighbouring free loopback ports, at most ``PORTS_TOGETHER``, reserved for this process.

    A process takes whole blocks of ports, each by the name of an abstract Unix socket, which the kernel gives to one
    process and takes back when that ends. So test runs and demos that start at once never choose the same port. The
    blocks lie below the ports that the kernel gives to outgoing connections. Raises StackError.
    """
    if not 1 <= count <= PORTS_TOGETHER:
        raise ValueError(f"expected 1 to {PORTS_TOGETHER} ports; found {count}")
    with _reserving:
        while True:
            if len(_reserved) < count:
                _reserved[:] = _reserved_block()
            ports, _reserved[:] = _reserved[:count], _reserved[count:]
            with contextlib.ExitStack() as held, contextlib.suppress(OSError):
                for port in ports:
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
                return ports[0]


_reserving = threading.Lock()
_reserved: list[int] = []
"""What is left of the newest block of ports."""
_block_names: list[socket.socket] = []
"""They hold this process's blocks."""


def _reserved_block() -> list[int]:
    """Raises StackError when other processes hold all blocks."""
    blocks = list(range(20_000, 32_000, PORTS_TOGETHER))
    random.shuffle(blocks)
    for first in blocks:
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0rps-ports-{first}")
        except OSError:
            name.close()
        else:
            _block_names.append(name)
            return list(range(first, first + PORTS_TOGETHER))
    raise StackError("every port from 20000 to 31999 is reserved by another stack, demo or test run: end one")


def separate_stack(home: Path, repository: Path) -> Stack:
    """A stack of its own beside the usual one: all services, on free ports, running another checkout's commits.

    Its Airflow starts no run by itself, whatever the time: a scheduled one would come between those that are asked for.
    """
    names = ("RPS_REPLAY_PORT", "RPS_MLFLOW_PORT", "RPS_AIRFLOW_PORT", "RPS_SERVICE_PORT")
    first = free_ports(S3_PORTS + len(names))
    ports = {name: str(first + S3_PORTS + offset) for offset, name in enumerate(names)}
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Stack(home, {"RPS_S3_PORT": str(first), "RPS_REPOSITORY": str(repository), _SCHEDULED: "False", **ports})


@contextlib.contextmanager
def running(service: Service, home: Path, *, patience_seconds: float = 3.0) -> Iterator[Service]:
    """The service, healthy, until the block ends; its log is in ``home``, and so is its record, `NAME.process.json`.

    A service that a killed caller has left is ended first. Raises StackError when the new one does not come up.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    log, record = home / f"{service.name}.log", home / f"{service.name}.process.json"
    end_recorded(record, patience_seconds=patience_seconds)
    try:
        process = launch(service, log, record)
        if not comes_up(process, service.healthy, seconds=READY_SECONDS):
            raise StackError(f"{service.name} did not come up on {service.address}; the end of {log}:\n{log_end(log)}")
        yield service
    finally:
        end_recorded(record, patience_seconds=patience_seconds)


def launch(service: Service, log: Path, record: Path) -> Started:
    """Prepare a service and start it. Raises StackError when the preparation fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    own = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PATH": path}
    environment = {**os.environ, **own, **service.environment}
    record.parent.mkdir(parents=True, exist_ok=True)
    if service.prepare:
        output_of(service.prepare, environment=environment, directory=record.parent)
    return start(
        service.command, log=log, environment=environment, directory=ROOT, address=service.address, record=record
    )


def output_of(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, directory: Path | None = None
) -> str:
    """What a command prints. Raises StackError with the end of that when the command fails."""
    out, err = subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run(command, cwd=directory, env=environment, stdout=out, stderr=err, text=True, check=False)
    if done.returncode:
        raise StackError(f"{shlex.join(command)} failed with exit code {done.returncode}:\n{done.stdout[-2000:]}")
    return done.stdout


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone can read, whole or not at all."""
    scratch = path.with_name(f"{path.name}.new")
    scratch.touch(mode=0o600)
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def service_named(name: str, stack: Stack) -> Service:
    return next(service for service in stack.services if service.name == name)


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def answers(url: str) -> bool:
    """Whether a service answers 200 within two seconds."""
    try:
        return _client().get(url).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


@cache
def _client() -> httpx.Client:
    """Made once, as it loads what TLS needs: services are asked again and again until they answer."""
    return httpx.Client(timeout=2.0, limits=httpx.Limits(max_keepalive_connections=0))


@cache
def _s3_client(address: str, key: str, secret: str) -> S3Client:
    """Made once, as that takes longer than any of its requests."""
    import boto3
    from botocore.config import Config

    quick = Config(connect_timeout=1, read_timeout=2, retries={"total_max_attempts": 1})
    session = boto3.session.Session(key, secret, region_name="us-east-1")
    return session.client("s3", endpoint_url=address, config=quick)


def _has_streamed(address: str) -> bool:
    """Whether any observation has reached the service."""
    try:
        text = _client().get(f"{address}/metrics").text
    except httpx.HTTPError:
        return False
    counts = [line for line in text.splitlines() if line.startswith("rps_observations_total")]
    return any(float(line.rsplit(" ", 1)[1]) > 0 for line in counts)


def _component_is_healthy(address: str, component: str) -> bool:
    try:
        answer = _client().get(f"{address}/api/v2/monitor/health")
        return answer.status_code == 200 and answer.json().get(component, {}).get("status") == "healthy"
    except (httpx.HTTPError, ValueError):
        return False
