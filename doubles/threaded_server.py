"""HTTP servers of the standard library on loopback ports, which serve in a thread or until a signal."""

from __future__ import annotations

import contextlib
import http.client
import signal
import threading
from collections.abc import Collection, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseServer
from typing import TypeVar

Server = TypeVar("Server", bound=BaseServer)
Headers = Collection[tuple[str, str]]
PASSING_ON_SECONDS = 120.0
_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding"}


class LoopbackServer(ThreadingHTTPServer):
    """A thread for each connection."""

    daemon_threads = True
    # Tests open many connections at once; the default backlog of five would refuse some.
    request_queue_size = 64

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_port}"


class QuietHandler(BaseHTTPRequestHandler):
    """Gives every request to ``answer``, and logs nothing."""

    def answer(self) -> None:
        raise NotImplementedError

    def _answer(self) -> None:
        self.answer()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - http.server's names

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, status: int, body: bytes = b"", headers: Headers = (), *, passed_on: bool = False) -> None:
        """passed_on: the headers are another server's, whose `Server` and `Date` are among them."""
        if passed_on:
            self.send_response_only(status)
        else:
            self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if status != 204 and not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_of(self, address: str, body: bytes, without: Collection[str] = ()) -> tuple[int, bytes, Headers]:
        """Status, body and headers of what `host:port` answers. without: headers to leave out. Raises OSError."""
        left_out = {*_OF_ONE_CONNECTION, *without}
        names = {name.lower() for name in self.headers} - left_out
        headers = {name: ", ".join(self.headers.get_all(name, [])) for name in names}
        with contextlib.closing(http.client.HTTPConnection(address, timeout=PASSING_ON_SECONDS)) as connection:
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            given = [(name, value) for name, value in answer.getheaders() if name.lower() not in left_out]
            return answer.status, answer.read(), given

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def serving_in_thread(server: Server) -> Iterator[Server]:
    """The server answers until the block ends, which closes it."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def serve_until_signal(server: BaseServer, announcement: str) -> None:
    """Print the announcement and serve until SIGTERM or Ctrl-C."""

    def leave(*_: object) -> None:
        # shutdown() waits for the serving loop, which is this thread: another one must call it.
        threading.Thread(target=server.shutdown, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    print(announcement, flush=True)
    with server:
        server.serve_forever(poll_interval=0.1)
