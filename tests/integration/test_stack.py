"""The laptop stack: started once however often it is asked, ended whole, and clear about what is in its way."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import UserDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from scripts.processes import Started, end, port_holder, start
from scripts.services import ROOT, S3_PORTS, Stack, StackError, free_ports, separate_stack
from tests.conftest import wait_while


def settings(home: Path) -> dict[str, str]:
    """Of a stack of the two services that start in a second; Airflow and MLflow are named as being elsewhere."""
    first = free_ports(S3_PORTS + 1)
    return {
        **os.environ,
        "RPS_HOME": str(home),
        "RPS_S3_PORT": str(first),
        "RPS_REPLAY_PORT": str(first + S3_PORTS),
        "AIRFLOW_API_URL": "http://127.0.0.1:9",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    }


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of a stack that was not started yet."""
    environment = settings(tmp_path / "home")
    yield environment
    stack("down", environment)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a stack that is up; every test leaves it so."""
    environment = settings(tmp_path_factory.mktemp("running") / "home")
    started = stack("up", environment)
    assert started.returncode == 0, started.stderr
    yield environment
    assert stack("down", environment).returncode == 0
    assert not pids(environment)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT is Python's own; the test run's, which ends the run, is back afterwards."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stack(action: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.stack", action]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)


def pids(environment: dict[str, str]) -> set[int]:
    """The processes that hold this stack's ports or work below its state directory."""
    home = environment["RPS_HOME"]
    found = set()
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        command = " ".join(process.info["cmdline"] or ())
        mine = home in command or ("doubles.replay" in command and environment["RPS_REPLAY_PORT"] in command)
        if mine and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.add(process.info["pid"])
    return found


def test_up_twice_starts_each_service_once_and_down_ends_all(environment: dict[str, str]) -> None:
    first = stack("up", environment)
    assert first.returncode == 0, first.stderr
    running = pids(environment)
    assert len(running) == 2
    assert stack("up", environment).returncode == 0
    assert pids(environment) == running
    assert stack("status", environment).returncode == 0
    ended = stack("down", environment)
    assert "2 processes ended; none is left" in ended.stdout
    assert not pids(environment)
    assert stack("status", environment).returncode == 1
    assert "Nothing was running" in stack("down", environment).stdout


def test_a_port_in_use_is_reported_with_who_holds_it_and_how_to_choose_another(environment: dict[str, str]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", int(environment["RPS_REPLAY_PORT"])))
        holder.listen()
        refused = stack("up", environment)
    assert refused.returncode == 1
    for shown in (environment["RPS_REPLAY_PORT"], f"process {os.getpid()}", "RPS_REPLAY_PORT"):
        assert shown in refused.stderr


def test_a_service_that_was_killed_is_started_again_with_its_data(running: dict[str, str]) -> None:
    before = pids(running)
    victim = next(pid for pid in before if "weed" in " ".join(psutil.Process(pid).cmdline()))
    os.kill(victim, signal.SIGKILL)
    assert wait_while(lambda: victim in pids(running), seconds=5)
    assert stack("up", running).returncode == 0
    assert len(pids(running)) == 2
    assert pids(running) & before == before - {victim}


def test_what_a_killed_service_has_left_behind_is_ended_before_it_is_started_again(running: dict[str, str]) -> None:
    record = Path(running["RPS_HOME"]) / "processes" / "replay.json"
    replay = msgspec.json.decode(record.read_bytes(), type=Started)
    child = "import subprocess, time; subprocess.Popen(['sleep', '601']); time.sleep(601)"
    leader = start([sys.executable, "-c", child], log=record.with_suffix(".log"), environment=os.environ,
                   directory=record.parent, address=replay.address)  # fmt: skip
    assert wait_while(lambda: _in_session(leader) < 2, seconds=20)
    end([replay], patience_seconds=3)
    os.kill(leader.pid, signal.SIGKILL)
    assert wait_while(lambda: leader.alive, seconds=5)
    record.write_bytes(msgspec.json.encode(leader))
    assert stack("up", running).returncode == 0
    assert _in_session(leader) == 0


def test_an_interrupted_start_can_be_carried_on_and_ended(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "scripts.stack", "up"]
    starting = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert wait_while(lambda: not pids(environment), seconds=60, pause=0.01)
    starting.send_signal(signal.SIGINT)
    starting.wait(timeout=30)
    assert stack("up", environment).returncode == 0
    assert len(pids(environment)) == 2
    stack("down", environment)
    assert not pids(environment)


class Interrupting(UserDict[str, str]):
    """An environment that is interrupted while it is handed over."""

    def keys(self) -> Any:
        signal.raise_signal(signal.SIGINT)
        return super().keys()


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_waits_until_what_is_started_is_on_record(tmp_path: Path) -> None:
    record = tmp_path / "sleep.json"
    options = {"log": tmp_path / "log", "directory": tmp_path, "address": "", "environment": Interrupting(os.environ)}
    with pytest.raises(KeyboardInterrupt):
        start(["sleep", "1000"], **options, record=record)
    started = msgspec.json.decode(record.read_bytes(), type=Started)
    assert started.alive
    assert end([started], patience_seconds=5) == [started.pid]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_ends_what_is_started_without_a_record(tmp_path: Path) -> None:
    options = {"log": tmp_path / "log", "directory": tmp_path, "address": "", "environment": Interrupting(os.environ)}
    with pytest.raises(KeyboardInterrupt):
        start([sys.executable, "-c", f"import time; time.sleep(1000)  # {tmp_path}"], **options)
    assert not [
        each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(each.info["cmdline"] or ())
    ]


def test_another_port_for_a_running_service_is_refused(running: dict[str, str]) -> None:
    moved = {**running, "RPS_REPLAY_PORT": str(free_ports(1))}
    refused = stack("up", moved)
    assert refused.returncode == 1
    assert "make down" in refused.stderr


def test_airflow_starts_scheduled_runs_but_not_beside_those_of_a_demo(tmp_path: Path) -> None:
    for stack, scheduled in ((Stack(tmp_path, {}), "True"), (separate_stack(tmp_path / "demo", tmp_path), "False")):
        (scheduler,) = [service for service in stack.services if service.name == "airflow-scheduler"]
        read = [sys.executable, "-m", "airflow", "config", "get-value", "scheduler", "use_job_schedule"]
        environment = {**os.environ, **scheduler.environment}
        done = subprocess.run(read, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.split()[-1] == scheduled


def test_what_a_stage_needs_reaches_it_from_the_file_of_settings(tmp_path: Path) -> None:
    template = (ROOT / ".env.example").read_text(encoding="utf-8")
    named = set(
        re.findall(r"^#?((?:MLFLOW|AWS|OPEN\w+|AIRFLOW)_\w+|RPS_STORE|GITHUB_TOKEN|GITHUB_API_URL)=", template, re.M)
    )
    given = {name: f"http://{name.lower()}.example" for name in named}
    assert {"AWS_REQUEST_CHECKSUM_CALCULATION", "GITHUB_API_URL", "RPS_STORE"} <= named
    assert Stack(tmp_path, given).addresses.items() >= given.items()


def test_a_port_that_is_none_is_reported(tmp_path: Path) -> None:
    refused = stack("up", {**os.environ, "RPS_HOME": str(tmp_path), "RPS_S3_PORT": "http"})
    assert refused.returncode == 1
    assert "RPS_S3_PORT: expected a port" in refused.stderr
    for port in ("80", "70000"):
        with pytest.raises(StackError, match="RPS_S3_PORT: expected a port"):
            Stack(tmp_path, {"RPS_S3_PORT": port}).services  # noqa: B018 - to ask for them is the test


def test_the_secrets_are_for_the_owner_alone_and_on_no_command_line(running: dict[str, str]) -> None:
    home = Path(running["RPS_HOME"])
    for name in ("secrets.json", "stack.env"):
        assert (home / name).stat().st_mode & 0o077 == 0
    secret = (home / "stack.env").read_text().split("AWS_SECRET_ACCESS_KEY=")[1].split()[0]
    assert not any(secret in " ".join(psutil.Process(pid).cmdline()) for pid in pids(running))


def test_children_that_ignore_the_polite_signal_end_with_their_leader_or_without_it(tmp_path: Path) -> None:
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    leader = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    started = [
        start(
            [sys.executable, "-c", leader], log=tmp_path / "log", environment=os.environ, directory=tmp_path, address=""
        )
        for _ in range(2)
    ]
    assert wait_while(lambda: sum(_in_session(entry) for entry in started) < 4, seconds=20)
    os.kill(started[1].pid, signal.SIGKILL)
    assert wait_while(lambda: started[1].alive, seconds=5)  # a signal takes a moment to arrive
    ended = end(started, patience_seconds=1)
    assert len(ended) == 3
    assert wait_while(lambda: any(_in_session(entry) for entry in started), seconds=5)


def test_a_process_that_was_given_an_old_number_is_left_alone(tmp_path: Path) -> None:
    bystander = start(["sleep", "600"], log=tmp_path / "log", environment=os.environ, directory=tmp_path, address="")
    old = Started(bystander.pid, bystander.created - 1000, "")
    assert not old.alive
    assert end([old], patience_seconds=1) == []
    assert bystander.alive
    assert end([bystander], patience_seconds=1) == [bystander.pid]


def test_a_process_that_its_parent_does_not_bury_has_ended(tmp_path: Path) -> None:
    """Another process may have started it; waiting for that one to look would take all the patience there is."""
    parent = (
        "import subprocess, time; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", f"{parent}; time.sleep(600)"], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        pid = int(other.stdout.readline())
        started = Started(pid, psutil.Process(pid).create_time(), "")
        ending = threading.Thread(target=end, args=([started],), kwargs={"patience_seconds": 3600.0}, daemon=True)
        ending.start()
        assert wait_while(ending.is_alive, seconds=20)
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        other.kill()


def test_a_process_whose_first_thread_alone_is_gone_has_not_ended(tmp_path: Path) -> None:
    """As happens for a moment to each that is killed: the other threads still hold its ports."""
    port = free_ports(1)
    program = (
        "import ctypes, socket, threading, time\n"
        f"listening = socket.create_server(('127.0.0.1', {port}))\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    command = [sys.executable, "-c", program]
    started = start(command, log=tmp_path / "log", environment=os.environ, directory=tmp_path, address="")
    process = psutil.Process(started.pid)
    assert wait_while(lambda: process.status() != psutil.STATUS_ZOMBIE, seconds=20)
    assert started.alive
    assert end([started], patience_seconds=5) == [started.pid]
    assert port_holder(port) is None


def _in_session(entry: Started) -> int:
    count = 0
    for process in psutil.process_iter(["status"]):
        try:
            count += os.getsid(process.pid) == entry.pid and process.info["status"] != psutil.STATUS_ZOMBIE
        except OSError:
            continue
    return count
