"""A host of Git repositories over HTTP on loopback, which may ask who is there, or refuse everybody."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from doubles.threaded_server import LoopbackServer, QuietHandler, serving_in_thread


class GitHost(LoopbackServer):
    """Serves the repositories below ``root``."""

    def __init__(self, root: Path, login: str, refusal: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.refusal = refusal
        self.required = f"Basic {base64.b64encode(login.encode()).decode()}" if login else ""
        self.authorizations: list[str] = []
        """What each request signed in with; empty for nothing."""


class _Handler(QuietHandler):
    server: GitHost

    def answer(self) -> None:
        signed_in = self.headers.get("Authorization", "")
        self.server.authorizations.append(signed_in)
        body = self.body()
        refusal = self.server.refusal or (401 if self.server.required not in {"", signed_in} else 0)
        if refusal:
            self.reply(refusal, headers=[("WWW-Authenticate", 'Basic realm="git"')])
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
        self.reply(int(headers.pop("Status", "200").split()[0]), content, list(headers.items()))


@contextmanager
def git_host(root: Path, *, login: str = "", refusal: int = 0) -> Iterator[GitHost]:
    """login: the `user:password` that it asks for, if any; refusal: the status that it answers everybody with."""
    with serving_in_thread(GitHost(root, login, refusal)) as server:
        yield server
