"""A real Prometheus and Alertmanager for the tests, and their own tools; without them the tests are left out."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from scripts.services import StackError
from scripts.watching import Prometheus, alertmanager, program_named, prometheus
from tests.conftest import wait_while


def need_programs() -> None:
    """Skip unless Prometheus and Alertmanager are installed."""
    try:
        program_named("prometheus")
        program_named("alertmanager")
    except StackError as error:
        pytest.skip(str(error))


def promtool(*arguments: str | Path) -> str:
    """What `promtool` says; it must be content."""
    return _shown("promtool", "prometheus", *arguments)


def amtool(*arguments: str | Path) -> str:
    """What `amtool` says; it must be content."""
    return _shown("amtool", "prometheus-alertmanager", *arguments)


@contextlib.contextmanager
def running_prometheus(home: Path, targets: Mapping[str, Sequence[str]], **options: Any) -> Iterator[Prometheus]:
    """A Prometheus with the shipped rules until the block ends; options as of ``scripts.watching.prometheus``."""
    need_programs()
    with prometheus(home, targets, **options) as found:
        yield found


@contextlib.contextmanager
def running_alertmanager(home: Path, webhook: str, secret: str, **options: Any) -> Iterator[str]:
    """The address of an Alertmanager until the block ends; options as of ``scripts.watching.alertmanager``."""
    need_programs()
    with alertmanager(home, webhook, secret, **options) as found:
        yield found


@dataclass
class Inbox:
    """What a webhook has been sent: the headers and the body of each message, in order."""

    url: str
    messages: list[tuple[Message, dict[str, Any]]] = field(default_factory=list)

    def shown(self, status: str) -> list[dict[str, Any]]:
        """The alerts that were sent as firing, or as resolved."""
        return [alert for _, body in self.messages for alert in body["alerts"] if alert["status"] == status]


@contextlib.contextmanager
def running_inbox() -> Iterator[Inbox]:
    """A webhook that takes everything, on a free loopback port, until the block ends."""

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            inbox.messages.append((self.headers, body))
            self.send_response(HTTPStatus.OK)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as its base has it
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Take) as server:
        inbox = Inbox(f"http://127.0.0.1:{server.server_port}/v1/alerts")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield inbox
        finally:
            server.shutdown()
            thread.join()


def wait_until(
    condition: Callable[[], bool],
    expected: str,
    *,
    found: Callable[[], object] | None = None,
    seconds: float = 180.0,
    pause: float = 0.1,
) -> None:
    """Wait until it holds; otherwise fail with what was expected, and what ``found`` returns in the end."""
    if not wait_while(lambda: not condition(), seconds=seconds, pause=pause):
        pytest.fail(f"waited {seconds:g} s in vain: {expected}" + (f"; found {found()}" if found else ""))


def _shown(program: str, package: str, *arguments: str | Path) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is missing: apt-get install {package}")
    done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
