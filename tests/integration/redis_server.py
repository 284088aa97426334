"""A real Redis on a free loopback port, which tests stop, start again, hang and let go on."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from scripts.services import free_ports
from tests.conftest import wait_while

START_SECONDS = 20


@dataclass
class RedisServer:
    """One Redis; ``durable`` writes each command to disk before it answers."""

    home: Path
    durable: bool = False
    password: str = ""
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        user = f":{self.password}@" if self.password else ""
        return f"redis://{user}127.0.0.1:{self.port}/0"

    def client(self) -> Redis:
        return Redis(port=self.port, password=self.password or None, socket_timeout=2.0)

    def start(self) -> None:
        """Start it, on the same port as before, and wait until it answers."""
        program = shutil.which("redis-server")
        if program is None:
            pytest.fail("redis-server is missing: apt-get install redis-server")
        self.port = self.port or free_ports(1)
        command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.home), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "always"] if self.durable else ["--appendonly", "no"]
        command += ["--requirepass", self.password] if self.password else []
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.home, stdout=log, stderr=log)
        if not wait_while(lambda: not self._answers(), seconds=START_SECONDS, pause=0.02):
            pytest.fail(f"redis-server did not come up:\n{(self.home / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        """End it at once, as a machine that is lost does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def hang(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False


@contextmanager
def running_redis(home: Path, *, durable: bool = False, password: str = "") -> Iterator[RedisServer]:
    """A Redis until the block ends."""
    server = RedisServer(home, durable=durable, password=password)
    server.start()
    try:
        yield server
    finally:
        server.stop()
