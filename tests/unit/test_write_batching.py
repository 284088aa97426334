"""Writes that wait for the end of the event loop's turn: what goes out, in which order, and when."""

from __future__ import annotations

import asyncio

from service.write_batching import BatchedTransport


class Recorded(asyncio.Transport):
    """A transport that keeps what it is told to do."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[bytes | str] = []

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.done.append(bytes(data))

    def close(self) -> None:
        self.done.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.done


def test_what_is_written_in_one_turn_goes_out_whole_after_it() -> None:
    async def turn() -> None:
        one, other = Recorded(), Recorded()
        loop = asyncio.get_running_loop()
        first, second = BatchedTransport(one, loop), BatchedTransport(other, loop)
        first.write(b"head ")
        second.write(b"whole")
        first.write(b"body")
        assert (one.done, other.done) == ([], [])
        await asyncio.sleep(0)
        assert (one.done, other.done) == ([b"head body"], [b"whole"])
        first.write(b"next")
        await asyncio.sleep(0)
        assert one.done == [b"head body", b"next"]

    asyncio.run(turn())


def test_closing_loses_nothing() -> None:
    async def turn() -> None:
        transport = Recorded()
        batched = BatchedTransport(transport, asyncio.get_running_loop())
        batched.write(b"last words")
        batched.close()
        assert transport.done == [b"last words", "closed"]
        assert batched.is_closing()
        await asyncio.sleep(0)
        assert transport.done == [b"last words", "closed"]

    asyncio.run(turn())


def test_each_event_loop_has_its_own_turn() -> None:
    for _ in range(2):
        test_what_is_written_in_one_turn_goes_out_whole_after_it()
