"""Answers Prometheus from memory: `GET /metrics` and `GET /health`, each request in a thread of its own."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ci.errors import ConfigurationError
from ci.metrics.exposition import Pipeline, exposed

IDLE_SECONDS = 30.0
"""After so long a silence a connection is closed."""
Page = Callable[[str], tuple[bytes, str]]
"""What is answered, and its content type, to what a client accepts."""


class Server(ThreadingHTTPServer):
    """A server of some pages, by their paths."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], pages: Mapping[str, Page]) -> None:
        self.pages = pages
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the standard library has it
        """A client that has gone is no error."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def listening(pipeline: Pipeline, host: str, port: int) -> Server:
    """The server, bound; `serve_forever` serves. Raises ConfigurationError when the address cannot be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        Server.address_family = found[0]
        return Server(
            (host, port), {"/metrics": lambda accept: exposed(pipeline, accept), "/health": lambda _: _health(pipeline)}
        )
    except (OSError, OverflowError) as error:
        told = f"--host {host} --port {port}: cannot listen there: {getattr(error, 'strerror', None) or error}"
        raise ConfigurationError(told) from error


def _health(pipeline: Pipeline) -> tuple[bytes, str]:
    """Well is whoever answers; whether the systems do is a metric, and what the alerts look at."""
    told = {watched.name.lower(): watched.up for watched in (pipeline.airflow, pipeline.mlflow)}
    return json.dumps({"status": "ok", "up": told}).encode(), "application/json"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server: Server

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self.send_error(HTTPStatus.NOT_FOUND, explain=f"expected {' or '.join(self.server.pages)}")
            return
        content, content_type = page(self.headers.get("Accept", ""))
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def version_string(self) -> str:
        return "rps"

    def log_message(self, *_: object) -> None:
        """A scrape every few seconds is no news."""
