"""A TCP proxy on loopback that cuts every connection after so many bytes: a service that is lost half-way."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class CuttingProxy:
    """Passes bytes between its own port and a target until its allowance is used up, then cuts and refuses."""

    def __init__(self, target_port: int, allowance_bytes: int) -> None:
        self._target_port = target_port
        self._left = allowance_bytes
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def has_cut(self) -> bool:
        return self._left <= 0

    def close(self) -> None:
        self._listener.close()
        self._cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.has_cut:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target_port))
                self._open += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(16_384):
                with self._lock:
                    allowed = block[: max(self._left, 0)]
                    self._left -= len(block)
                sink.sendall(allowed)
                if self.has_cut:
                    break
        if self.has_cut:
            self._cut()
        else:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

    def _cut(self) -> None:
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
                connection.close()


@contextlib.contextmanager
def cutting_proxy(target_port: int, allowance_bytes: int) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(target_port, allowance_bytes)
    try:
        yield proxy
    finally:
        proxy.close()
