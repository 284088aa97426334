"""A host of Git repositories over HTTP on loopback, which may ask who is there, or refuse everybody."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class GitHost(ThreadingHTTPServer):
    """Serves the repositories below ``root``."""

    daemon_threads = True

    def __init__(self, root: Path, login: str, refusal: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.refusal = refusal
        self.required = f"Basic {base64.b64encode(login.encode()).decode()}" if login else ""
        self.authorizations: list[str] = []
        """What each request signed in with; empty for nothing."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: GitHost

    def answer(self) -> None:
        signed_in = self.headers.get("Authorization", "")
        self.server.authorizations.append(signed_in)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        refusal = self.server.refusal or (401 if self.server.required not in {"", signed_in} else 0)
        if refusal:
            self.send_response(refusal)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        gateway = {
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "REMOTE_USER": "somebody",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }
        command = ["git", "-c", "safe.directory=*", "http-backend"]
        done = subprocess.run(command, input=body, capture_output=True, env={**os.environ, **gateway}, check=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def git_host(root: Path, *, login: str = "", refusal: int = 0) -> Iterator[GitHost]:
    """login: the `user:password` that it asks for, if any; refusal: the status that it answers everybody with."""
    with GitHost(root, login, refusal) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
