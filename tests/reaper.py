"""A test run leaves no process behind, however it ends: well, badly, or by SIGINT or SIGTERM.

At its start the run forks. The child runs the tests; the parent adopts every orphan among its descendants and ends what
is there when the child has ended. Processes that are left after a run that was not interrupted make it fail.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

import psutil
import pytest

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Of Linux's prctl(2)."""
FIXTURES_SECONDS = 30.0
"""How long interrupted workers may take to end what their fixtures have started."""
POLITE_SECONDS = 5.0
"""How long what is left may take to end by itself, and again after SIGTERM."""
AGAIN_SECONDS = 15
"""After which a stopped run is stopped again: a command that runs in the tests' process may have taken the signal."""
_ESCALATION = {8: signal.SIGKILL}
"""The signal that ends a run which so many have not ended."""
_workers: list[int] = []


def is_worker(config: pytest.Config) -> bool:
    """Whether this process runs tests for another one, as pytest-xdist's workers do."""
    return hasattr(config, "workerinput")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if not is_worker(config):
        _set(PR_SET_CHILD_SUBREAPER, 1)
        sys.stdout.flush()
        child = os.fork()
        if child:
            _supervise(child)
        _set(PR_SET_CHILD_SUBREAPER, 0)
        _set(PR_SET_PDEATHSIG, signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_once)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_newgateway(gateway: Any) -> None:
    _workers.append(gateway.remote_exec("import os; channel.send(os.getpid())").receive(60))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Iterator[None]:
    """Let interrupted workers end their fixtures, and what is left then, before pytest-xdist ends the workers."""
    interrupted = exitstatus == pytest.ExitCode.INTERRUPTED
    if interrupted:
        for pid in _workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + FIXTURES_SECONDS
        while any(_descendants(pid) for pid in _workers) and time.monotonic() < deadline:
            time.sleep(0.05)
    yield
    if interrupted and is_worker(session.config):
        _end_descendants(patience_seconds=0.0)


def _set(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def _interrupt_once(_number: int, _frame: FrameType | None) -> None:
    """End the run; a second signal (a terminal's goes to every process) does not cut the fixtures' ends short."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    raise KeyboardInterrupt


def _supervise(child: int) -> NoReturn:
    """Pass signals on to ``child`` until it ends, end what it has left, and exit as it did."""
    passed_on = 0

    def pass_on(number: int, _frame: FrameType | None) -> None:
        nonlocal passed_on
        passed_on += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, _ESCALATION.get(passed_on, signal.SIGTERM) if number == signal.SIGALRM else number)
        signal.alarm(AGAIN_SECONDS)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, pass_on)
    pid = 0
    while pid != child:
        pid, status = os.waitpid(-1, 0)
    signal.alarm(0)
    code = os.waitstatus_to_exitcode(status)
    left = _end_descendants(POLITE_SECONDS)
    if left and not passed_on and code >= 0:
        print(f"the tests left processes behind, which were ended: {'; '.join(left)}", file=sys.stderr)
        code = code or pytest.ExitCode.TESTS_FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if code >= 0 else 128 - code)


def _end_descendants(patience_seconds: float) -> Sequence[str]:
    """End every descendant; which did not end by themselves within ``patience_seconds``."""
    _wait_for(_descendants(os.getpid()), patience_seconds)
    left = [f"{process.pid} {_command(process)}" for process in _descendants(os.getpid())]
    for name in ("terminate", "kill", "kill", "kill"):
        found = _descendants(os.getpid())
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, name)()
        _wait_for(found, POLITE_SECONDS)
    return left


def _wait_for(processes: list[psutil.Process], seconds: float) -> None:
    psutil.wait_procs(processes, timeout=seconds)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _descendants(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(pid).children(recursive=True)
        return [each for each in found if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    return []


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())[:200]
    return "?"
