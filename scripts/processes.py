"""Processes that outlive the command that started them: started in their own sessions, found again, ended whole."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import msgspec
import psutil

from clients.disk import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from types import FrameType

_START_TOLERANCE_SECONDS = 1.0


class Started(msgspec.Struct, frozen=True):
    """A started process: enough to know it again, even when another process has its number by then."""

    pid: int
    created: float
    address: str

    @property
    def alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < _START_TOLERANCE_SECONDS
            return same and not _is_zombie(process)
        except psutil.NoSuchProcess:
            return False


def start(
    command: list[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    directory: Path,
    address: str,
    record: Path | None = None,
) -> Started:
    """Start ``command`` as the leader of a new session, its output appended to ``log``.

    record: a file that names the process for later commands. An interruption waits for it; without such a file, it
    ends the process.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output, interruptions_held() as held:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
        )
        started = Started(process.pid, psutil.Process(process.pid).create_time(), address)
        if record is not None:  # whole or not at all: half a record would hide the others
            write_whole(record, msgspec.json.encode(started))
        elif held:
            end([started], patience_seconds=0.0)
    return started


@contextlib.contextmanager
def interruptions_held() -> Iterator[list[int]]:
    """SIGINT and SIGTERM, which only the main thread gets, wait until the block ends; those that have come."""
    held: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield held
        return

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    # An ignored signal stays ignored, also in the started process.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if handler not in {None, signal.SIG_IGN}}
    for number in handlers:
        signal.signal(number, hold)
    try:
        yield held
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for came in held:
            signal.raise_signal(came)


def recorded(record: Path) -> Started | None:
    """The process that a record names; None when there is no readable record."""
    try:
        return msgspec.json.decode(record.read_bytes(), type=Started)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def wait_while(condition: Callable[[], bool], *, seconds: float, pause: float = 0.1) -> bool:
    """Wait until ``condition`` is false, for at most that long; whether it became so."""
    deadline = time.monotonic() + seconds
    while condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def comes_up(process: Started, answers: Callable[[], bool], *, seconds: float) -> bool:
    """Wait until the process answers; False when it ends first, or does not answer within ``seconds``."""
    return wait_while(lambda: process.alive and not answers(), seconds=seconds) and process.alive


def log_end(log: Path) -> str:
    """The last lines of a log; empty when there is none."""
    return log.read_text(encoding="utf-8", errors="replace")[-2000:] if log.exists() else ""


def end_recorded(record: Path, *, patience_seconds: float) -> None:
    """End the process that a record names, if there is one, as ``end`` does, and remove the record."""
    if process := recorded(record):
        end([process], patience_seconds=patience_seconds)
    record.unlink(missing_ok=True)


def end(started: Iterable[Started], *, patience_seconds: float) -> list[int]:
    """End each process and all that it started, politely first; return the numbers of those that were ended.

    Children are found by descent and by session, so that those of a leader that is gone already are found too.
    """
    started = list(started)
    found = members(started)
    leaders = {entry.pid for entry in started}
    for process in found:
        if process.pid in leaders:
            _signal(process, "terminate")
    _wait_for(found, patience_seconds)
    # A leader's children may ignore the polite signal (idle Airflow workers do), or have come in the meantime.
    for _ in range(3):
        late = {process.pid: process for process in (*found, *members(started)) if not _has_ended(process)}
        if not late:
            break
        found += [process for process in late.values() if process not in found]
        for process in late.values():
            _signal(process, "kill")
        _wait_for(list(late.values()), 5.0)
    return sorted(process.pid for process in found)


def members(started: Iterable[Started]) -> list[psutil.Process]:
    """The processes of ``started`` that are alive, and all that they have started."""
    leaders = {entry.pid: entry for entry in started}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            session = os.getsid(process.pid)
            entry = leaders.get(session)
            if entry is None or process.create_time() < entry.created - _START_TOLERANCE_SECONDS:
                continue
            if process.pid == session and not entry.alive:
                continue
            found[process.pid] = process
            for child in process.children(recursive=True):
                found[child.pid] = child
    return [process for process in found.values() if process.pid != os.getpid()]


def _wait_for(processes: list[psutil.Process], seconds: float) -> None:
    """Wait until they have ended, for at most that long."""
    wait_while(lambda: not all(map(_has_ended, processes)), seconds=seconds, pause=0.02)


def _has_ended(process: psutil.Process) -> bool:
    """Whether it has; its number is given up if it is our child, else its parent may keep it as a zombie."""
    with contextlib.suppress(psutil.Error):
        process.wait(0)
    try:
        return not process.is_running() or _is_zombie(process)
    except psutil.NoSuchProcess:
        return True


def _is_zombie(process: psutil.Process) -> bool:
    """Whether nothing of it is left but its number.

    The first of a process's threads may be a zombie before the others are gone, and with them its files and ports.
    """
    return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() == 1


def _signal(process: psutil.Process, how: str) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        getattr(process, how)()


def port_holder(port: int) -> str | None:
    """Who listens on a loopback port: a description, or None when it is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            pass
        else:
            return None
    with contextlib.suppress(psutil.AccessDenied):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is None:
                    break
                with contextlib.suppress(psutil.NoSuchProcess):
                    command = " ".join(psutil.Process(connection.pid).cmdline())[:80]
                    return f"process {connection.pid} ({command})"
    return "a process that this user may not see"
