"""The HTTP server around the application: uvicorn, and bounds on clients that fall silent."""

from __future__ import annotations

import asyncio
import signal
import socket
from http import HTTPStatus
from types import FrameType

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from clients.errors import ConfigurationError
from service.protocols.problems import Problem
from service.protocols.request_limits import RequestLimits, added_headers, problem_answer
from service.service_settings import Settings
from service.write_batching import BatchedTransport

KEEP_ALIVE_SECONDS = 75
MOST_HEADER_BYTES = 1 << 16
"""Of a request line and its headers, when they do not arrive at once."""
MOST_PIPELINED = 64
"""Requests that a client may send on one connection before it has read the answer to the first."""
_UPGRADING = (b"connection", b"upgrade", b"http2-settings")


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 with bounds: on how long a client takes over its headers, on how many they are, on how long it leaves an
    answer unread, and on how many connections there are.
    """

    app: RequestLimits
    _waiting: asyncio.TimerHandle | None = None
    """Closes the connection when the headers of a request take too long."""
    _message = 0
    """Which request of the connection it is."""
    _in_headers = False
    _header_bytes = 0
    _unread: asyncio.TimerHandle | None = None
    """Watches an answer that waits for its client."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(BatchedTransport(transport, self.loop))  # type: ignore[arg-type]
        self._served = self.app
        self._settings = settings = self.app.settings
        self._most = settings.max_connections
        if len(self.connections) > 2 * self._most:
            transport.abort()  # above the limit a client gets 503, but not without end
            return
        self._waiting = self.loop.call_later(settings.header_seconds, self._give_up)

    def data_received(self, data: bytes) -> None:
        message = self._message
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._pass_over_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._refuse(400, "what came is no HTTP/1.1 request")
            return
        if self._in_headers or self.cycle is None or self.cycle.response_complete:  # no request is at work
            if self._waiting is None:
                self._waiting = self.loop.call_later(self._settings.header_seconds, self._give_up)
            if message == self._message and self._in_headers:
                self._header_bytes += len(data)
                if self._header_bytes > MOST_HEADER_BYTES:
                    self._refuse(431, f"the request line and headers are larger than {MOST_HEADER_BYTES} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._message += 1
        self._in_headers = True
        self._header_bytes = 0

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # the parser skips the body: the request is read again without what asks for the upgrade
        self._in_headers = False
        self._stop_waiting()
        if len(self.pipeline) >= MOST_PIPELINED:
            raise ValueError("too many requests without an answer")  # the parser takes it as a fault of the request
        crowded = len(self.connections) > self._most
        self.app = self._served.refuse_crowd if crowded else self._served  # type: ignore[assignment]
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.cycle is not None:
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_watching()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch(-1)

    def resume_writing(self) -> None:
        self._stop_watching()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # closing would wait for the client to read
        super().timeout_keep_alive_handler()

    def _pass_over_upgrade(self, rest: bytes) -> None:
        """Read a request that asks for another protocol, as the first of some clients does, as HTTP/1.1."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(405, "this is no proxy: CONNECT is not taken")
            return
        lines = [b"%s %s HTTP/1.1" % (method, self.url)]
        lines += [b"%s: %s" % pair for pair in self.headers if pair[0] not in _UPGRADING]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    def _refuse(self, status: int, message: str) -> None:
        """Answer what is not yet a request, and close."""
        if self.transport.is_closing():
            return
        self._served.count_unrouted(status)
        request_id = self._served.request_id(None)
        headers, body = problem_answer(Problem(status, message, headers={"connection": "close"}), request_id)
        lines = b"".join(b"%s: %s\r\n" % pair for pair in (*headers, *added_headers(request_id)))
        self.transport.write(b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode()))
        self.transport.write(lines + b"\r\n" + body)
        self.transport.close()

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if self.flow.read_paused:  # by this server, until it has answered the requests before
            self._waiting = self.loop.call_later(self._settings.header_seconds, self._give_up)
        elif not self.transport.is_closing():
            self.transport.close()

    def _watch(self, before: int) -> None:
        """Cut off a client that has read nothing of its answer since ``before`` bytes of it were left."""
        left = self.transport.get_write_buffer_size()
        if left == before:
            self.transport.abort()
            return
        self._unread = self.loop.call_later(self._settings.request_seconds, self._watch, left)

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._unread.cancel()


def serve(settings: Settings) -> int:
    """Serve until a signal to stop; the exit code."""
    config = uvicorn.Config(
        "service.application:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="uvloop",
        http=Protocol,
        ws="none",
        interface="asgi3",
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.stop_seconds)),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _heed)
    with listening(settings) as taken:
        if settings.workers > 1:
            Multiprocess(config, sockets=[taken]).run()
            return 0
        server = uvicorn.Server(config)
        server.run(sockets=[taken])
        return 0 if server.started else 1


def listening(settings: Settings) -> socket.socket:
    """The socket, bound. Raises ConfigurationError when its address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        where = f"RPS_HOST={settings.host}, RPS_PORT={settings.port}"
        raise ConfigurationError(f"{where}: cannot listen there: {error.strerror or error}") from error
    taken.set_inheritable(True)
    return taken


def _heed(number: int, frame: FrameType | None) -> None:
    """Uvicorn stops on a signal, then raises it again: a requested stop is not a crash."""
