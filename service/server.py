"""The HTTP server around the application: uvicorn, and bounds on clients that fall silent."""

from __future__ import annotations

import asyncio
import signal
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from service.settings import Settings

HEADER_SECONDS = 10.0
"""How long a client may take from its first byte, or from connecting, to the end of a request's headers."""
KEEP_ALIVE_SECONDS = 75


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 that closes a connection whose request line and headers do not arrive in time."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._waiting is None:
            self._waiting = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if not self.transport.is_closing():
            self.transport.close()


def serve(settings: Settings) -> int:
    """Serve until a signal to stop; the exit code."""
    options: dict[str, Any] = {
        "factory": True,
        "host": settings.host,
        "port": settings.port,
        "workers": settings.workers,
        "loop": "uvloop",
        "http": Protocol,
        "ws": "none",
        "interface": "asgi3",
        "lifespan": "on",
        "proxy_headers": False,
        "server_header": False,
        "access_log": False,
        "log_config": None,
        "backlog": 2048,
        "limit_concurrency": settings.max_connections,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": max(1, round(settings.stop_seconds)),
    }
    config = uvicorn.Config("service.application:create_app", **options)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _heed)
    if settings.workers == 1:
        server = uvicorn.Server(config)
        server.run()
        return 0 if server.started else 1
    with config.bind_socket() as listening:
        Multiprocess(config, sockets=[listening]).run()
    return 0


def _heed(number: int, frame: FrameType | None) -> None:
    """Uvicorn stops on a signal, then raises it again: having stopped well is no death by signal."""
