"""An image registry with a login on a loopback port, for the demo and the tests; it can be killed and started again.

It is Debian's `docker-registry` where that is installed, else the image `registry:2` in the container engine.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import io
import json
import secrets
import shutil
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import msgspec
from docker.errors import APIError, DockerException
from docker.types import Mount
from requests.exceptions import RequestException

from scripts.docker_engine import client
from scripts.processes import Started, end, start
from scripts.services import StackError, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = "registry:2"
START_SECONDS = 30.0
_BCRYPT_LETTERS = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@dataclass
class Registry:
    """A registry at ``address`` (`127.0.0.1:PORT`) that takes and gives images to one user."""

    home: Path
    storage: Path
    """Where its blobs lie, when it is a process of this machine."""
    docker_host: str
    port: int
    username: str
    password: str = field(repr=False)
    read_only: bool = False
    """Answers every push with a refusal."""
    _process: Started | None = field(default=None, repr=False)
    _container: str = field(default="", repr=False)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Of the registry's process; None when it is stopped or a container."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it, on the same port and storage as before, and wait until it answers. Raises StackError."""
        self.storage.mkdir(parents=True, exist_ok=True)
        program = shutil.which("docker-registry")
        if program:
            self._start_process(program)
        else:
            self._start_container()
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if (self._process and not self._process.alive) or time.monotonic() > deadline:
                self.stop()
                raise StackError(f"the registry did not come up on {self.address}; its log:\n{self.log()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it at once, as a machine that is lost does; what it stored stays."""
        if self._process:
            end([self._process], patience_seconds=0.0)
            self._process = None
        if self._container:
            with contextlib.closing(client(self.docker_host)) as engine, contextlib.suppress(DockerException):
                engine.containers.get(self._container).kill()

    def remove(self) -> None:
        """End it, and remove its container, if it is one."""
        self.stop()
        if self._container:
            with contextlib.closing(client(self.docker_host)) as engine, contextlib.suppress(DockerException):
                engine.containers.get(self._container).remove(force=True, v=True)
            self._container = ""

    def answers(self) -> bool:
        try:
            answer = httpx.get(f"http://{self.address}/v2/", auth=(self.username, self.password), timeout=2.0)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    def log(self) -> str:
        if self._container:
            with contextlib.closing(client(self.docker_host)) as engine, contextlib.suppress(DockerException):
                return engine.containers.get(self._container).logs(tail=50).decode(errors="replace")
        path = self.home / "registry.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def _start_process(self, program: str) -> None:
        state = self.home / "process.json"
        if state.exists():  # of one whose caller was killed
            end([msgspec.json.decode(state.read_bytes(), type=Started)], patience_seconds=0.0)
        settings = self.home / "registry.json"
        passwords = self.home / "htpasswd"
        _write_private(passwords, self._login())
        _write_private(settings, self._settings(self.address, self.storage, passwords))
        command, log = [program, "serve", str(settings)], self.home / "registry.log"
        self._process = start(command, log=log, environment={}, directory=self.home, address=self.address)
        state.write_bytes(msgspec.json.encode(self._process))

    def _start_container(self) -> None:
        with contextlib.closing(client(self.docker_host)) as engine:
            try:
                if self._container:
                    engine.containers.get(self._container).start()
                    return
                container = engine.containers.create(
                    IMAGE,
                    ["serve", "/run/registry.json"],
                    entrypoint="registry",
                    ports={"5000/tcp": ("127.0.0.1", self.port)},
                    mounts=[Mount("/var/lib/registry", None)],
                )
                self._container = container.id or ""
                settings = self._settings("0.0.0.0:5000", Path("/var/lib/registry"), Path("/run/htpasswd"))
                container.put_archive("/run", _archive({"registry.json": settings, "htpasswd": self._login()}))
                container.start()
            except (DockerException, RequestException) as error:
                why = error.explanation if isinstance(error, APIError) else error
                advice = "apt-get install docker-registry (Debian), or let the engine pull registry:2"
                raise StackError(f"no registry can be started ({why}): {advice}") from error

    def _settings(self, address: str, storage: Path, passwords: Path) -> str:
        """The registry's configuration; JSON is YAML."""
        return json.dumps(
            {
                "version": "0.1",
                "log": {"level": "warn", "accesslog": {"disabled": True}},
                "storage": {
                    "filesystem": {"rootdirectory": str(storage)},
                    "delete": {"enabled": True},
                    "maintenance": {"readonly": {"enabled": self.read_only}},
                },
                "http": {"addr": address, "secret": secrets.token_hex(16)},
                "auth": {"htpasswd": {"realm": "rps", "path": str(passwords)}},
            }
        )

    def _login(self) -> str:
        return f"{self.username}:{bcrypt(self.password)}\n"


@contextlib.contextmanager
def registry(
    home: Path, docker_host: str = "", *, storage: Path | None = None, username: str = "rps", password: str = ""
) -> Iterator[Registry]:
    """A registry that answers until the block ends; its files lie in ``home``, its blobs there or in ``storage``.

    password: made when none is given. docker_host: where to run it when Debian's `docker-registry` is not installed.
    Raises StackError that says what to install.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    password = password or secrets.token_urlsafe(12)
    made = Registry(home, storage or home / "storage", docker_host, free_ports(1), username, password)
    try:
        made.start()
        yield made
    finally:
        made.remove()


def bcrypt(password: str) -> str:
    """The password's hash as `htpasswd -B` makes it, by the C library's crypt(3). Raises StackError without one."""
    name = ctypes.util.find_library("crypt")
    if name is None:
        raise StackError("the C library has no crypt(3): apt-get install libcrypt1, or the like")
    crypt = ctypes.CDLL(name).crypt
    crypt.restype = ctypes.c_char_p
    salt = "".join(secrets.choice(_BCRYPT_LETTERS) for _ in range(21)) + "u"
    hashed: bytes | None = crypt(password.encode(), f"$2b$05${salt}".encode())
    if hashed is None or not hashed.startswith(b"$2b$"):
        raise StackError(f"{name} makes no bcrypt hashes: install libxcrypt")
    return hashed.decode()


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _archive(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()
