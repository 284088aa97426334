"""A proxy in front of a registry that refuses to write some tags, in the words of a registry with immutable tags."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from doubles.threaded_server import LoopbackServer, QuietHandler, serving_in_thread


class _Handler(QuietHandler):
    protocol_version = "HTTP/1.1"
    behind: str
    refused: frozenset[str]
    message: str

    def answer(self) -> None:
        body = self.body()
        name, _, tag = self.path.rpartition("/manifests/")
        if self.command == "PUT" and name and tag in self.refused:
            error = {"errors": [{"code": "PRECONDITION", "message": self.message.format(tag=tag)}]}
            self.reply(412, json.dumps(error).encode(), [("Content-Type", "application/json")])
        else:
            self.reply(*self.answer_of(self.behind, body), passed_on=True)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return super().body()
        body = bytearray()
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(body)


@contextmanager
def immutable(behind: str, *tags: str, message: str) -> Iterator[str]:
    """The address of the registry ``behind``, but for writes of these tags. message: `{tag}` stands for the tag."""
    handler = type("Handler", (_Handler,), {"behind": behind, "refused": frozenset(tags), "message": message})
    with serving_in_thread(LoopbackServer(("127.0.0.1", 0), handler)) as server:
        yield server.url.removeprefix("http://")
