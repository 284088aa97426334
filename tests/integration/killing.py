"""Runs of stages that are killed at chosen moments (`moments.py`), one after the other, until one ends by itself."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from tests.integration.conftest import ROOT, Pipeline
from tests.integration.moments import CUT, PUSHED, RECEIVED, UNANSWERED, Moments

MOST_KILLS = 100
"""Of one stage; more would mean that its moments have other names in every run."""
MOMENTS = "RPS_TEST_MOMENTS"
"""Tells the repository's hooks where the moments are."""


@dataclass
class Killing:
    """Runs stages and kills them. They are to reach S3 and MLflow at ``s3`` and ``mlflow``."""

    host: subprocess.Popen[str]
    attempts: _Attempts
    s3: str
    mlflow: str

    def run(self, pipeline: Pipeline, stage: str, moments: Moments | None = None) -> tuple[int, str]:
        """Exit code (negative: the signal that killed it) and output; given ``moments``, it is killed at a new one."""
        attempt = self.attempts.current = _Attempt(moments)
        request = {
            "stage": stage,
            "workspace": str(pipeline.workspace),
            "environment": {**pipeline.environment, **({MOMENTS: str(moments.directory)} if moments else {})},
            "moments": moments and str(moments.directory),
            "coarse": moments and moments.coarse,
        }
        assert self.host.stdin
        self.host.stdin.write(json.dumps(request) + "\n")
        self.host.stdin.flush()
        attempt.has_begun(self._answer()["pid"])
        ended = self._answer()
        attempt.has_ended()
        return ended["code"], ended["output"]

    def kills(self, pipeline: Pipeline, stage: str, moments: Moments) -> Iterator[str]:
        """Run the stage again and again; yields the moment of each kill, until a run ends well."""
        last = "it had begun"
        for _ in range(MOST_KILLS):
            known = moments.names()
            code, output = self.run(pipeline, stage, moments)
            if code == 0:
                return
            assert code in (-signal.SIGKILL, -signal.SIGXFSZ), (
                f"{stage} ended with {code} when it was run again after a kill {last}:\n{output}"
            )
            last = " and ".join(sorted(moments.names() - known))
            assert last, f"{stage} was killed by nobody, or took too long:\n{output}"
            yield last
        raise AssertionError(f"{stage} was killed {MOST_KILLS} times: {sorted(moments.names())}")

    def _answer(self) -> dict[str, Any]:
        assert self.host.stdout
        line = self.host.stdout.readline()
        assert line, f"the process that runs the stages has ended with {self.host.wait()}"
        return json.loads(line)


@contextmanager
def killing(s3: str, mlflow: str, home: Path) -> Iterator[Killing]:
    """What runs and kills stages whose S3 and MLflow listen at these addresses; ``home`` is a directory of its own."""
    attempts = _Attempts()
    command = [sys.executable, "-m", "tests.integration.stage_host", str(home / "imported")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        _connection(s3, attempts) as through_s3,
        _connection(mlflow, attempts) as through_mlflow,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as host,
    ):
        yield Killing(host, attempts, through_s3, through_mlflow)


def kill_at_pushes(repository: Path) -> None:
    """Let a run that pushes into this repository be killed before and after the branch moves, with its programs."""
    for hook, moment in (("pre-receive", RECEIVED), ("post-receive", PUSHED)):
        path = repository / "hooks" / hook
        path.parent.mkdir(exist_ok=True)
        enter = f"(set -o noclobber; echo '{moment}' > \"${MOMENTS}/{moment}\") 2>/dev/null"
        path.write_text(f'#!/bin/sh\nif [ -n "${MOMENTS}" ] && {enter}; then kill -9 0; fi\n')
        path.chmod(0o755)


class _Attempt:
    """One run, as the threads that carry its requests know it."""

    def __init__(self, moments: Moments | None) -> None:
        self._moments = moments
        self._pid = 0
        self._begun = threading.Event()
        self._lock = threading.Lock()
        if moments:
            moments.begin()

    def has_begun(self, pid: int) -> None:
        self._pid = pid
        self._begun.set()

    def has_ended(self) -> None:
        with self._lock:
            self._moments = None

    def dies(self, kind: str, subject: str) -> bool:
        """Kill the run if this moment is new."""
        with self._lock:
            if self._moments is None or not self._moments.new(kind, subject):
                return False
            self._begun.wait()
            with contextlib.suppress(ProcessLookupError):  # it has met another new moment just before
                os.kill(self._pid, signal.SIGKILL)
            return True


@dataclass
class _Attempts:
    current: _Attempt = field(default_factory=lambda: _Attempt(None))


@contextmanager
def _connection(url: str, attempts: _Attempts) -> Iterator[str]:
    """An address that leads to the HTTP server at ``url``; a run is killed at its new moments there."""

    class Connection(_Connection):
        target = url.removeprefix("http://")

        def setup(self) -> None:
            super().setup()
            self.dies = attempts.current.dies

    server = ThreadingHTTPServer(("127.0.0.1", 0), Connection)
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    target: ClassVar[str]
    dies: Callable[[str, str], bool]

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # of a run that was killed
            self.close_connection = True

    def carry(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_write = self.command not in ("GET", "HEAD") and not self.path.endswith("/search")
        subject = f"{self.command} {_kind_of(self.command, self.path)}"
        # A connection for each request: one that is kept may be closed by the server just as it is used again.
        with closing(http.client.HTTPConnection(self.target, timeout=60)) as server_side:
            server_side.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":  # it is answered here
                    server_side.putheader(name, value)
            if is_write and self.dies(CUT, subject):
                server_side.endheaders(body[: len(body) // 2])
                self.close_connection = True
                return
            server_side.endheaders(body)
            answer = server_side.getresponse()
            content = answer.read()
        if is_write and self.dies(UNANSWERED, subject):
            self.close_connection = True
            return
        self._answer(answer, content)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = carry  # noqa: N815 - http.server's names

    def _answer(self, answer: http.client.HTTPResponse, content: bytes) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        length = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        if answer.status not in (204, 304):
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - http.server's name
        """Say nothing on the test's output."""


def _kind_of(method: str, path: str) -> str:
    """The path without what differs from run to run; objects of one place are of one kind."""
    parts = path.split("?", maxsplit=1)[0].split("/")[1:]
    if method == "PUT":
        parts[4:] = ["…"]
    return "/".join("*" if re.search(r"\d", part) or len(part) == 2 else part for part in parts)
