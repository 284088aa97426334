"""An HTTP server on loopback that gives scripted answers, in order, and keeps what it was asked."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from doubles.threaded_server import LoopbackServer, QuietHandler, serving_in_thread


@dataclass(frozen=True)
class Scripted:
    """One answer. ``claimed_length`` differs from the body's to break the transfer off."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    claimed_length: int | None = None


class ScriptedServer(LoopbackServer):
    """Repeats the last answer again and again; a path with answers of its own gets those."""

    def __init__(self, answers: list[Scripted], by_path: dict[str, list[Scripted]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._answers = {"": list(answers), **{path: list(own) for path, own in by_path.items()}}
        self._lock = threading.Lock()
        self.asked: list[str] = []

    def next(self, target: str) -> Scripted:
        with self._lock:
            self.asked.append(target)
            path = target.split("?", maxsplit=1)[0]
            answers = self._answers.get(path, self._answers[""])
            return answers.pop(0) if len(answers) > 1 else answers[0]


class _Handler(QuietHandler):
    server: ScriptedServer

    def answer(self) -> None:
        self.body()
        answer = self.server.next(self.path)
        length = len(answer.body) if answer.claimed_length is None else answer.claimed_length
        headers = {"Content-Type": "application/json", "Content-Length": str(length), **answer.headers}
        self.reply(answer.status, answer.body, headers.items())


def scripted(
    *answers: Scripted, by_path: dict[str, list[Scripted]] | None = None
) -> AbstractContextManager[ScriptedServer]:
    """The server, listening until the block ends."""
    return serving_in_thread(ScriptedServer(list(answers) or [Scripted()], by_path or {}))
