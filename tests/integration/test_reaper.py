"""A test run that is stopped, or whose tests forget what they started, leaves no process behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from scripts.services import ROOT
from tests.conftest import wait_while

FORGETFUL = """
import subprocess, time
from pathlib import Path

import pytest

@pytest.fixture(scope="session", autouse=True)
def service():
    yield
    Path("fixture-ended").touch()

@pytest.mark.parametrize("number", range(2))
def test_it(number):
    Path(f"started-{number}").write_text(str(subprocess.Popen(["sleep", "4321"], start_new_session=True).pid))
    time.sleep(SECONDS)
"""


STUBBORN = """
import signal, time
from pathlib import Path

def test_it():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    Path("started-0").write_text("0")
    while not heard:
        time.sleep(0.01)
    signal.signal(signal.SIGTERM, before)

def test_next():
    time.sleep(600)
"""


def run(directory: Path, *options: str, seconds: int = 0, text: str = FORGETFUL) -> subprocess.Popen[str]:
    """A run of tests; by default of two that each start a process, leave it, and last so long."""
    (directory / "test_forgetful.py").write_text(text.replace("SECONDS", str(seconds)))
    command = [sys.executable, "-m", "pytest", "-p", "tests.reaper", "-p", "no:randomly", "-p", "no:cacheprovider"]
    return subprocess.Popen(
        [*command, f"--rootdir={directory}", *options, "test_forgetful.py"],
        cwd=directory, env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def started(directory: Path) -> list[psutil.Process]:
    """What the tests have started and is alive."""
    found = []
    for path in directory.glob("started-*"):
        with contextlib.suppress(psutil.NoSuchProcess, ValueError):
            process = psutil.Process(int(path.read_text()))
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_what_tests_have_left_is_ended_and_fails_the_run(tmp_path: Path) -> None:
    done = run(tmp_path)
    output, _ = done.communicate(timeout=120)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "2 passed" in output
    assert "the tests left processes behind" in output
    assert output.count("sleep 4321") == 2
    assert started(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_in_workers_that_is_stopped_ends_its_fixtures_and_all_that_it_started(
    tmp_path: Path, number: signal.Signals
) -> None:
    stopped = run(tmp_path, "--numprocesses=2", "--dist=load", seconds=600)
    assert wait_while(lambda: len(started(tmp_path)) < 2, seconds=120)
    stopped.send_signal(number)
    output, _ = stopped.communicate(timeout=120)
    assert stopped.returncode == pytest.ExitCode.INTERRUPTED, output
    assert (tmp_path / "fixture-ended").exists(), output
    assert started(tmp_path) == []


def test_a_signal_that_a_test_has_taken_comes_again(tmp_path: Path) -> None:
    stopped = run(tmp_path, text=STUBBORN)
    assert wait_while(lambda: not (tmp_path / "started-0").exists(), seconds=120)
    stopped.send_signal(signal.SIGTERM)
    output, _ = stopped.communicate(timeout=120)
    assert stopped.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "1 passed" in output


def test_a_run_whose_first_process_is_killed_ends_its_fixtures(tmp_path: Path) -> None:
    killed = run(tmp_path, seconds=600)
    assert wait_while(lambda: not started(tmp_path), seconds=120)
    killed.kill()
    killed.communicate(timeout=120)
    assert wait_while(lambda: not (tmp_path / "fixture-ended").exists(), seconds=60)
    for process in started(tmp_path):
        process.kill()
