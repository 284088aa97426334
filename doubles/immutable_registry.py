"""A proxy in front of a registry that refuses to write some tags, in the words of a registry with immutable tags."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behind: str
    refused: frozenset[str]
    message: str

    def _forward(self) -> None:
        body = self._body()
        name, _, tag = self.path.rpartition("/manifests/")
        if self.command == "PUT" and name and tag in self.refused:
            error = {"errors": [{"code": "PRECONDITION", "message": self.message.format(tag=tag)}]}
            self._reply(412, [("Content-Type", "application/json")], json.dumps(error).encode())
            return
        connection = http.client.HTTPConnection(self.behind, timeout=60)
        names = {name.lower() for name in self.headers} - _OF_ONE_CONNECTION
        headers = {name: ", ".join(self.headers.get_all(name, [])) for name in names}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        given = [(key, value) for key, value in answer.getheaders() if key.lower() not in _OF_ONE_CONNECTION]
        self._reply(answer.status, given, content)
        connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _forward  # noqa: N815

    def _body(self) -> bytes | None:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length", 0))
            return self.rfile.read(length) if length else None
        body = bytearray()
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(body)

    def _reply(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for key, value in headers:
            self.send_header(key, value)
        if not any(key.lower() == "content-length" for key, _ in headers):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def immutable(behind: str, *tags: str, message: str) -> Iterator[str]:
    """The address of the registry ``behind``, but for writes of these tags. message: `{tag}` is put in."""
    handler = type("Handler", (_Handler,), {"behind": behind, "refused": frozenset(tags), "message": message})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
