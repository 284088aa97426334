"""Answers that are ready together go out together.

A server that writes each answer when it is made wakes its client for each, and a header apart from its body wakes it
twice; on a busy server that costs more than the answers. Here what is written waits until the event loop has run what
was ready, a fraction of a millisecond, and every connection is then written once.
"""

from __future__ import annotations

import asyncio
from typing import Any


class BatchedTransport:
    """A transport whose writes wait for the end of the event loop's turn. For all else it is the transport."""

    __slots__ = ("_loop", "_parts", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        parts = self._parts
        if not parts:
            waiting = _WAITING.setdefault(self._loop, [])
            if not waiting:
                self._loop.call_soon(_flush_all, self._loop)
            waiting.append(self)
        parts.append(data)

    def flush(self) -> None:
        """Write what waits, now."""
        if self._parts:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            if not self._transport.is_closing():  # it would raise, and take the answers of other connections with it
                self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the transport has
        return getattr(self._transport, name)


_WAITING: dict[asyncio.AbstractEventLoop, list[BatchedTransport]] = {}


def _flush_all(loop: asyncio.AbstractEventLoop) -> None:
    waiting, _WAITING[loop] = _WAITING[loop], []
    for batched in waiting:
        batched.flush()
