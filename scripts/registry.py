"""An image registry with a login on a loopback port, for the demo and the tests; it can be killed and started again.

It is Debian's `docker-registry` where that is installed, else the image `registry:2` in the container engine.
"""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import shutil
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import bcrypt
import httpx
from docker.errors import APIError, DockerException
from docker.types import Mount
from requests.exceptions import RequestException

from scripts.docker_engine import client
from scripts.processes import end_recorded, log_end, recorded, start, wait_while
from scripts.services import StackError, free_ports, write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from docker.models.containers import Container

IMAGE = "registry:2"
START_SECONDS = 30.0


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
    container: str = field(default="", repr=False)
    """The id of its container, once it has one."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Of the registry's process; None when it is stopped or a container."""
        process = recorded(self._record)
        return process.pid if process else None

    def start(self) -> None:
        """Start it, on the same port and storage as before, and wait until it answers. Raises StackError."""
        self.storage.mkdir(parents=True, exist_ok=True)
        if program := shutil.which("docker-registry"):
            self._start_process(program)
        else:
            self._start_container()
        wait_while(lambda: not self.answers() and not self._has_ended(), seconds=START_SECONDS, pause=0.05)
        if not self.answers():
            self.stop()
            raise StackError(f"the registry did not come up on {self.address}; its log:\n{log_end(self._log)}")

    def stop(self) -> None:
        """Kill it, as losing its machine would, even if another process started it; its storage stays."""
        end_recorded(self._record, patience_seconds=0.0)
        self._tell_container(lambda found: found.kill())

    def remove(self) -> None:
        """End it, and remove its container, if it is one."""
        self.stop()
        self._tell_container(lambda found: found.remove(force=True, v=True))
        self.container = ""

    def answers(self) -> bool:
        try:
            answer = httpx.get(f"http://{self.address}/v2/", auth=(self.username, self.password), timeout=2.0)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    def log(self) -> str:
        logs: list[str] = []
        self._tell_container(lambda found: logs.append(found.logs(tail=50).decode(errors="replace")))
        if logs or not self._log.exists():
            return "".join(logs)
        return self._log.read_text(encoding="utf-8", errors="replace")

    def api(self, repository: str) -> httpx.Client:
        """A client of the registry's API below a repository of images."""
        return httpx.Client(
            base_url=f"http://{self.address}/v2/{repository}/",
            auth=(self.username, self.password),
            headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
            timeout=30.0,
        )

    def digest(self, repository: str, tag: str) -> str:
        """Of an image; empty when the repository has none under this tag."""
        with self.api(repository) as api:
            answer = api.get(f"manifests/{tag}")
        if answer.status_code == 404:
            return ""
        return str(answer.raise_for_status().headers["Docker-Content-Digest"])

    @property
    def _record(self) -> Path:
        return self.home / "process.json"

    @property
    def _log(self) -> Path:
        return self.home / "registry.log"

    def _has_ended(self) -> bool:
        process = recorded(self._record)
        return process is not None and not process.alive

    def _tell_container(self, what: Callable[[Container], object]) -> None:
        if self.container:
            with contextlib.closing(client(self.docker_host)) as engine, contextlib.suppress(DockerException):
                what(engine.containers.get(self.container))

    def _start_process(self, program: str) -> None:
        self.stop()  # one whose caller was killed
        settings = self.home / "registry.json"
        passwords = self.home / "htpasswd"
        write_private(passwords, self._login())
        write_private(settings, self._settings(self.address, self.storage, passwords))
        command = [program, "serve", str(settings)]
        start(command, log=self._log, environment={}, directory=self.home, address=self.address, record=self._record)

    def _start_container(self) -> None:
        with contextlib.closing(client(self.docker_host)) as engine:
            try:
                if self.container:
                    engine.containers.get(self.container).start()
                    return
                container = engine.containers.create(
                    IMAGE,
                    ["serve", "/run/registry.json"],
                    entrypoint="registry",
                    ports={"5000/tcp": ("127.0.0.1", self.port)},
                    mounts=[Mount("/var/lib/registry", None)],
                )
                self.container = container.id or ""
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
        hashed = bcrypt.hashpw(self.password.encode(), bcrypt.gensalt(rounds=5)).decode()
        return f"{self.username}:{hashed}\n"


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


def _archive(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()
