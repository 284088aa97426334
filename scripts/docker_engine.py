"""A container engine for the demos, the benchmarks and the tests: the machine's own, or one started for them.

One of ours has a bridge of its own and leaves the machine's packet filter alone, so it disturbs no other one. Its
containers are reached through loopback ports and reach nothing outside; a build that needs the network uses the host's.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import docker
import psutil
from docker.errors import DockerException
from filelock import FileLock, Timeout
from requests.exceptions import RequestException

from clients.engine import DEFAULT_ADDRESS
from scripts.processes import comes_up, end_recorded, log_end, start
from scripts.services import StackError, output_of

if TYPE_CHECKING:
    from collections.abc import Iterator

START_SECONDS = 90.0
STOP_SECONDS = 30.0
_PATH = ":".join(dict.fromkeys((*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin", "/usr/bin", "/bin")))
_SUBNETS = [ipaddress.ip_network(f"10.{second}.{third}.0/24") for second in (213, 214) for third in range(256)]


@contextlib.contextmanager
def engine(home: Path) -> Iterator[str]:
    """The address (for `DOCKER_HOST`) of an engine that answers until the block ends.

    That is the one that `DOCKER_HOST` names, else the machine's, else one of our own (see ``own_engine``).
    Raises StackError when there is none: it says what to start or to install.
    """
    named = os.environ.get("DOCKER_HOST", "")
    if answers(named or DEFAULT_ADDRESS):
        yield named or DEFAULT_ADDRESS
    elif named:
        raise StackError(f"DOCKER_HOST: no container engine answers at {named}; start it, or unset the variable")
    else:
        with own_engine(home) as address:
            yield address


@contextlib.contextmanager
def own_engine(home: Path) -> Iterator[str]:
    """The address of a `dockerd` of our own; it ends with the block, with every container and mount that it made.

    Its images and its log stay in ``home``, so that the next one there is warm. It first removes what an engine left
    whose caller was killed. Raises StackError without root or `dockerd`, or when it does not come up.
    """
    try:
        with FileLock(_made(home) / "engine.lock", timeout=0):
            try:
                yield start_engine(home)
            finally:
                sweep(home)
    except Timeout:
        raise StackError(f"another process runs a container engine in {home}: wait for it, or end it") from None


def start_engine(home: Path) -> str:
    """Start what ``own_engine`` gives, for a caller who ends it with ``sweep``. Raises StackError as that does."""
    dockerd = shutil.which("dockerd", path=_PATH)
    if dockerd is None or os.geteuid() != 0 or shutil.which("ip", path=_PATH) is None:
        advice = "start Docker, or name an engine in DOCKER_HOST; or, as root on Debian: "
        raise StackError(f"no engine answers at {DEFAULT_ADDRESS}: {advice}apt-get install docker.io iproute2")
    sweep(home)
    return _start(_made(home), dockerd)


def answers(address: str) -> bool:
    """Whether a container engine answers there."""
    try:
        with contextlib.closing(client(address, timeout_seconds=10)) as found:
            return bool(found.ping())
    except (DockerException, RequestException, OSError, ValueError):
        return False


def client(address: str, *, timeout_seconds: int = 120) -> docker.DockerClient:
    """The SDK's client of the engine at that address; certificates and such are the environment's."""
    environment = {**os.environ, "DOCKER_HOST": address}
    return docker.from_env(environment=environment, timeout=timeout_seconds, use_ssh_client=address.startswith("ssh"))


def sweep(home: Path) -> None:
    """End what an engine of our own in ``home`` has left: its processes, containers, mounts and bridge."""
    home, runtime = home.resolve(), _runtime(home)
    state = home / "engine.json"
    if state.exists():
        with contextlib.suppress(DockerException, RequestException):  # when it is dead, its processes are killed below
            _remove_containers(_address(home))
        end_recorded(state, patience_seconds=STOP_SECONDS)
    _kill_remains(home, runtime)
    for mount in reversed(_mounts()):
        if mount.is_relative_to(home / "data") or mount.is_relative_to(runtime):
            subprocess.run(["umount", "--lazy", mount], env={"PATH": _PATH}, capture_output=True, check=False)
    if Path("/sys/class/net", _bridge(home)).exists():
        _ip("link", "delete", _bridge(home))
    shutil.rmtree(runtime, ignore_errors=True)


def _made(home: Path) -> Path:
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    return home


def _start(home: Path, dockerd: str) -> str:
    address, log, runtime = _address(home), home / "dockerd.log", _runtime(home)
    runtime.mkdir(mode=0o700)
    shutil.rmtree(home / "data" / "network", ignore_errors=True)  # it would give the bridge the subnet of the last time
    settings = runtime / "daemon.json"  # so that the machine's own settings do not count
    settings.write_text("{}\n", encoding="utf-8")
    with FileLock("/run/rps-engine.lock"):  # two at once would take the same subnet
        _make_bridge(_bridge(home))
    command = [
        dockerd, "--config-file", str(settings), "--host", address, "--data-root", str(home / "data"),
        "--exec-root", str(runtime / "exec"), "--pidfile", str(runtime / "pid"), "--bridge", _bridge(home),
        "--iptables=false", "--ip-masq=false", "--log-level", "warn",
    ]  # fmt: skip
    environment = {**os.environ, "PATH": _PATH}
    record = home / "engine.json"
    process = start(command, log=log, environment=environment, directory=home, address=address, record=record)
    if not comes_up(process, lambda: answers(address), seconds=START_SECONDS):
        raise StackError(f"dockerd did not come up; the end of {log}:\n{log_end(log)}")
    _remove_containers(address)
    return address


def _remove_containers(address: str) -> None:
    with contextlib.closing(client(address)) as found:
        for container in found.containers.list(all=True, ignore_removed=True):
            with contextlib.suppress(DockerException):
                container.remove(force=True, v=True)


def _runtime(home: Path) -> Path:
    """Where sockets and the like lie: a short path, as a socket's must be, that a restart of the machine empties."""
    return Path("/run") / f"rps-engine-{_mark(home)}"


def _address(home: Path) -> str:
    return f"unix://{_runtime(home)}/docker.sock"


def _bridge(home: Path) -> str:
    return f"rps{_mark(home)}"


def _mark(home: Path) -> str:
    return hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:8]


def _make_bridge(name: str) -> None:
    """A bridge with a subnet that no interface of the machine has. Raises StackError."""
    taken = [
        ipaddress.ip_network(f"{address.address}/{address.netmask}", strict=False)
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.netmask and address.family.name == "AF_INET"
    ]
    free = [subnet for subnet in _SUBNETS if not any(subnet.overlaps(other) for other in taken)]
    if not free:
        raise StackError(f"no subnet is free for the bridge {name} within {_SUBNETS[0]} … {_SUBNETS[-1]}")
    for command in (
        ("link", "add", name, "type", "bridge"),
        ("address", "add", f"{free[0][1]}/{free[0].prefixlen}", "dev", name),
        ("link", "set", name, "up"),
    ):
        _ip(*command)


def _ip(*arguments: str) -> None:
    output_of(["ip", *arguments], environment={"PATH": _PATH})


def _kill_remains(home: Path, runtime: Path) -> None:
    """What outlives a killed `dockerd`: containerd and its shims, known by their socket, and the containers' processes.

    A container's processes are those whose control group bears its id.
    """
    containers = home / "data" / "containers"
    ids = [entry.name for entry in containers.iterdir()] if containers.is_dir() else []
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            name, command = process.name(), " ".join(process.cmdline())
            ours = name.startswith(("containerd", "dockerd")) and f"{runtime}/" in command
            if ours or any(each in Path(f"/proc/{process.pid}/cgroup").read_text("utf-8") for each in ids):
                found.append(process)
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, timeout=10)


def _mounts() -> list[Path]:
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return [Path(line.split(" ")[4].encode().decode("unicode_escape")) for line in lines]
