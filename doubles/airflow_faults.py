"""A way to a real Airflow that fails on demand: it delays, cuts or answers requests itself, and passes on the rest."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from doubles.threaded_server import Headers, LoopbackServer, QuietHandler, serving_in_thread


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


class AirflowFaults(LoopbackServer):
    """The proxy; ``asked`` lists all requests as `GET /path?query`."""

    def __init__(self, airflow: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.airflow = urlsplit(airflow).netloc
        self.asked: list[str] = []
        self._lock = threading.Lock()
        self._faults: list[list] = []

    def switch_on(self, *, seconds: float | None = None, **options: object) -> None:
        """Let a fault happen from now on, to the next ``times`` requests that fit, or for ``seconds``."""
        if seconds is not None:
            options["until"] = time.monotonic() + seconds
        fault = Fault(**options)
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
        """Ignore a caller that has gone."""


class _Handler(QuietHandler):
    server: AirflowFaults

    def answer(self) -> None:
        body = self.body()
        fault = self.server.next(self.command, self.path)
        if fault is None:
            self.reply(*self._airflows_answer(body), passed_on=True)
            return
        time.sleep(fault.delay_seconds)
        if fault.cut == "before":
            self._cut()
        elif fault.status:
            self.reply(fault.status, fault.body.encode(), _PLAIN)
        else:
            answer = self._airflows_answer(body)
            if fault.cut == "after":
                self._cut()
            else:
                self.reply(*answer, passed_on=True)

    def _airflows_answer(self, body: bytes) -> tuple[int, bytes, Headers]:
        try:
            return self.answer_of(self.server.airflow, body, without=("host", "content-length"))
        except OSError:  # as a proxy before a server that is not there
            return 502, b"bad gateway", _PLAIN

    def _cut(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


_PLAIN = [("Content-Type", "text/plain")]


def airflow_behind_faults(airflow: str) -> contextlib.AbstractContextManager[AirflowFaults]:
    """The proxy, listening until the block ends."""
    return serving_in_thread(AirflowFaults(airflow))
