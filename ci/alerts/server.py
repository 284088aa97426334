"""The process: what it needs is opened, one process for one home; then it serves until a signal to stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import uvicorn

from ci.alerts.alert_file import AlertFile
from ci.alerts.application import Parts, create_app
from ci.alerts.challenges import Challenges
from ci.alerts.delivery import PATIENCE_SECONDS, Delivery
from ci.alerts.intake import Intake
from ci.alerts.metrics import Metrics
from ci.alerts.receiver import Receiver
from ci.alerts.settings import AlertSettings
from ci.alerts.store import Store, StoreBroken
from ci.errors import ConfigurationError, PassingFault
from ci.github import GitHub
from ci.progress import Log
from ci.settings import GitHubSettings

KEEP_ALIVE_SECONDS = 75
MOST_CONNECTIONS = 500
"""What comes on top is answered with 503; a process may usually have 1,024 files open."""
STOP_SECONDS = 10


def serve(settings: AlertSettings, github: GitHubSettings, challenges: Path, *, host: str, port: int, log: Log) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises ConfigurationError and PassingFault before it serves."""
    with _alone(settings.home), _listening(host, port) as taken, _opened(settings) as store:
        parts, file = _parts(settings, github, store, challenges, log)
        failures: list[BaseException] = []

        def failed(error: BaseException) -> None:
            failures.append(error)
            server.should_exit = True

        app = create_app(parts, _at_work(parts, failed))
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, proxy_headers=False, ws="none", lifespan="on",
            limit_concurrency=MOST_CONNECTIONS, timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )  # fmt: skip
        server = uvicorn.Server(config)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)  # uvicorn raises it again, having stopped well
        where = taken.getsockname()
        log.line(f"alerts are taken at http://{where[0]}:{where[1]}/v1/alerts and written to {file.path}")
        server.run(sockets=[taken])
        if failures:
            raise failures[0]
    log.line("stopped")
    return 0


def _parts(
    settings: AlertSettings, github: GitHubSettings, store: Store, challenges: Path, log: Log
) -> tuple[Parts, AlertFile]:
    metrics = Metrics()
    file = AlertFile(settings.home, most_bytes=settings.file_bytes, files=settings.files)
    known = Challenges(challenges, log)
    if not known.known():
        expected = "at least one good challenge, such as weather.toml"
        raise ConfigurationError(f"--challenges: expected {expected} in {challenges}; found none")
    try:
        intake = Intake(settings, store, file, challenges=known, metrics=metrics, log=log)
    except StoreBroken as error:
        raise _at_start(error) from error
    except OSError as error:
        raise ConfigurationError(f"RPS_ALERTS_HOME: {file.path} cannot be read: {error.strerror}") from error
    receiver = Receiver(intake, metrics, log)
    client = GitHub(github, patience_seconds=PATIENCE_SECONDS, note=log.line)
    delivery = Delivery(settings, client, store, receiver=receiver, clock=intake.clock, metrics=metrics, log=log)
    return Parts(settings, receiver, delivery, metrics, log), file


@contextlib.asynccontextmanager
async def _at_work(parts: Parts, failed: Callable[[BaseException], None]) -> AsyncIterator[None]:
    """What runs beside the requests; at the end, what is at work is finished. failed: told of a bug in it."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            failed(error)

    receiver, delivery = asyncio.create_task(parts.receiver.run()), asyncio.create_task(parts.delivery.run())
    for task in (receiver, delivery):
        task.add_done_callback(ended)
    try:
        yield
    finally:
        parts.delivery.stop()
        await asyncio.wait([delivery])
        parts.receiver.stop()
        await asyncio.wait([receiver])


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold the home's lock, which goes with the process, however it ends."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"RPS_ALERTS_HOME: {home} cannot be used: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            told = f"RPS_ALERTS_HOME: {home} is in use by another receiver (process {holder}); stop it, or set another"
            raise ConfigurationError(told) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    with contextlib.ExitStack() as held:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            taken = held.enter_context(socket.socket(family, kind, protocol))
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
        except OSError as error:
            raise ConfigurationError(f"--host {host} --port {port}: cannot listen there: {error.strerror}") from error
        yield taken


@contextlib.contextmanager
def _opened(settings: AlertSettings) -> Iterator[Store]:
    try:
        store = Store(settings.home)
    except StoreBroken as error:
        raise _at_start(error) from error
    with contextlib.closing(store):
        yield store


def _at_start(error: StoreBroken) -> ConfigurationError | PassingFault:
    if error.damaged:
        told = "move it away to begin anew: events in it that GitHub has not taken are lost"
        return ConfigurationError(f"RPS_ALERTS_HOME: {error}; {told}")
    return PassingFault(f"RPS_ALERTS_HOME: {error}; free or mend the disk, then start again")
