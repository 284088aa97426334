"""A connection to a real server that fails on the way."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Self

from doubles.scripted_http import Scripted, scripted


class _Connection:
    """A loopback port before a server, which carries the bytes both ways; a subclass says what is lost."""

    def __init__(self, server: tuple[str, int] | str, port: int = 0) -> None:
        """server: host and port, or the path of a Unix socket."""
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", port))
        self._sockets: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def asked(self, data: bytes, server: socket.socket) -> bytes:
        """What reaches the server of what the client has sent on this connection to it."""
        return data

    def answered(self, data: bytes, server: socket.socket) -> bytes:
        """What reaches the client of what the server has sent."""
        return data

    def _close(self) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = self._connect()
            self._sockets += [client, server]
            for way in ((client, server, self.asked), (server, client, self.answered)):
                threading.Thread(target=self._carry, args=(*way, server), daemon=True).start()

    def _connect(self) -> socket.socket:
        if not isinstance(self._server, str):
            return socket.create_connection(self._server)
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._server)
        return server

    def _carry(
        self,
        source: socket.socket,
        target: socket.socket,
        passed_on: Callable[[bytes, socket.socket], bytes],
        server: socket.socket,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                target.sendall(passed_on(data, server))
            target.shutdown(socket.SHUT_WR)


class CutConnection(_Connection):
    """A way to a server that goes dead, for good, after so many bytes to the server.

    port: where to listen; one of its own when two follow each other that a client must take for the same server.
    """

    def __init__(self, url: str, *, after_bytes: int, port: int = 0) -> None:
        host, _, number = url.removeprefix("http://").partition(":")
        super().__init__((host, int(number)), port)
        self._left = after_bytes

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def was_cut(self) -> bool:
        return self._left <= 0

    def asked(self, data: bytes, server: socket.socket) -> bytes:
        self._left -= len(data)
        if self.was_cut:
            self._close()
        return data


class LosingEngine(_Connection):
    """A way to a container engine on which answers are lost: those to requests whose first line fits a pattern.

    head: the head of such an answer arrives, its body does not. times: how many answers are lost.
    """

    def __init__(self, docker_host: str, pattern: bytes, *, head: bool = False, times: int = 1_000_000) -> None:
        super().__init__(docker_host.removeprefix("unix://"))
        self._pattern, self._head, self._left = pattern, head, times
        self._losing: dict[socket.socket, bytes] = {}
        self.fitting = 0
        """How many requests have fitted."""
        self.lost = threading.Event()
        """Set once the engine has answered such a request, and the answer is lost."""

    @property
    def docker_host(self) -> str:
        return f"tcp://{self.address}"

    def asked(self, data: bytes, server: socket.socket) -> bytes:
        if re.match(self._pattern, data):
            self.fitting += 1
            if self.fitting <= self._left:
                self._losing[server] = b""
        return data

    def answered(self, data: bytes, server: socket.socket) -> bytes:
        if server not in self._losing:
            return data
        self.lost.set()
        if not self._head:
            return b""
        before = self._losing[server]
        self._losing[server] = before + data
        head, end, _ = (before + data).partition(b"\r\n\r\n")
        return (head + end)[len(before) :]


@contextlib.contextmanager
def answering(status: int) -> Iterator[str]:
    """The address of an HTTP server that gives every request this status, as a proxy before a server would."""
    with scripted(Scripted(status, b"")) as server:
        yield server.url
