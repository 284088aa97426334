"""A way to a real Airflow that fails on demand: it delays, cuts or answers requests itself, and passes on the rest."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

from doubles.threaded_server import serving_in_thread

PASSING_ON_SECONDS = 120.0
OF_THE_CONNECTION = {"connection", "transfer-encoding", "keep-alive", "host", "content-length"}


@dataclass(frozen=True)
class Fault:
    """What happens to the requests that fit ``method`` and ``path`` (a pattern), so many ``times`` or ``until`` then.

    A ``cut`` is the end of the connection without an answer: before Airflow got the request, or after it had answered.
    """

    status: int = 0
    body: str = "a proxy's own words"
    delay_seconds: float = 0.0
    cut: Literal["", "before", "after"] = ""
    method: str = ""
    path: str = ""
    times: int = 1_000_000
    until: float = float("inf")

    def fits(self, method: str, path: str) -> bool:
        return (not self.method or self.method == method) and re.search(self.path, path) is not None


class AirflowFaults(ThreadingHTTPServer):
    """The proxy; ``asked`` lists all requests as `GET /path?query`."""

    daemon_threads = True

    def __init__(self, airflow: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        parts = urlsplit(airflow)
        self.airflow = (parts.hostname or "", parts.port or 80)
        self.asked: list[str] = []
        self._lock = threading.Lock()
        self._faults: list[list] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def switch_on(self, fault: Fault | None = None, *, seconds: float | None = None, **options: object) -> None:
        """Let a fault happen from now on, to the next ``times`` requests that fit, or for ``seconds``."""
        if seconds is not None:
            options["until"] = time.monotonic() + seconds
        fault = fault or Fault(**options)
        with self._lock:
            self._faults.append([fault, fault.times])

    def switch_off(self) -> None:
        """No faults any more, and nothing asked yet."""
        with self._lock:
            self._faults.clear()
            self.asked.clear()

    def next(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.asked.append(f"{method} {path}")
            for entry in self._faults:
                fault, left = entry
                if left > 0 and time.monotonic() < fault.until and fault.fits(method, path):
                    entry[1] -= 1
                    return fault
            return None

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that has gone is no error here."""


class _Handler(BaseHTTPRequestHandler):
    server: AirflowFaults

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.next(self.command, self.path)
        if fault is None:
            self._answer(*self._airflows_answer(body))
            return
        time.sleep(fault.delay_seconds)
        if fault.cut == "before":
            self._cut()
        elif fault.status:
            self._answer(fault.status, [("Content-Type", "text/plain")], fault.body.encode())
        else:
            answer = self._airflows_answer(body)
            if fault.cut == "after":
                self._cut()
            else:
                self._answer(*answer)

    def do_POST(self) -> None:
        self.do_GET()

    def do_PATCH(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def _airflows_answer(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self.server.airflow, timeout=PASSING_ON_SECONDS)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in OF_THE_CONNECTION}
        try:
            connection.request(self.command, self.path, body=body or None, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        except OSError:  # as a proxy before a server that is not there
            return 502, [("Content-Type", "text/plain")], b"bad gateway"
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in OF_THE_CONNECTION:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _cut(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def airflow_behind_faults(airflow: str) -> contextlib.AbstractContextManager[AirflowFaults]:
    """The proxy, listening until the block ends."""
    return serving_in_thread(AirflowFaults(airflow))
