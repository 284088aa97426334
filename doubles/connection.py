"""A connection to a real server that fails on the way."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Self

from doubles.scripted_http import Scripted, scripted


class CutConnection:
    """A way to a server that goes dead, for good, after so many bytes to the server.

    port: where to listen; one of its own when two follow each other that a client must take for the same server.
    """

    def __init__(self, url: str, *, after_bytes: int, port: int = 0) -> None:
        host, _, number = url.removeprefix("http://").partition(":")
        self._target = (host, int(number))
        self._left = after_bytes
        self._listener = socket.create_server(("127.0.0.1", port))
        self._sockets: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def was_cut(self) -> bool:
        return self._left <= 0

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

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
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            threading.Thread(target=self._carry, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._carry, args=(server, client, False), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(16384):
                if counted:
                    self._left -= len(data)
                    if self._left <= 0:
                        self._close()
                        return
                target.sendall(data)
        except OSError:
            return


@contextlib.contextmanager
def answering(status: int) -> Iterator[str]:
    """The address of an HTTP server that gives every request this status, as a proxy before a server would."""
    with scripted(Scripted(status, b"")) as server:
        yield server.url
