"""Requests side by side, one store: what arrives while a transaction is written goes into the next one, together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ci.alerts.intake import Intake
from ci.alerts.metrics import Metrics
from ci.alerts.store import StoreBroken
from ci.progress import Log

T = TypeVar("T")
MOST_TOGETHER = 256
MOST_BYTES_TOGETHER = 4 << 20
TIDY_SECONDS = 30.0
BROKEN_SECONDS = 2.0
"""How soon a broken store is tried again."""
_LOGGER = logging.getLogger("ci.alerts")


class Receiver:
    """The thread that uses the store, and what waits for it."""

    def __init__(self, intake: Intake, metrics: Metrics, log: Log) -> None:
        self._intake = intake
        self._metrics = metrics
        self._log = log
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._waiting: deque[tuple[bytes, asyncio.Future[bytes]]] = deque()
        self._work = asyncio.Event()
        self._stopping = False
        self._broken = ""
        self.events = asyncio.Event()
        """Is set when there is a new event."""

    @property
    def fault(self) -> str:
        """Why alerts cannot be kept, or not all the way; empty when all is well."""
        return self._broken or self._intake.fault

    async def take(self, body: bytes) -> bytes:
        """The answer to a webhook, once its alerts are on disk. Raises Problem and StoreBroken."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, answer))
        self._work.set()
        return await answer

    async def call(self, operation: Callable[[], T]) -> T:
        """Do it on the thread of the store. Raises StoreBroken."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, operation)
        except StoreBroken as error:
            self._note(str(error))
            raise

    def stop(self) -> None:
        """Let ``run`` end once everything that waits is done."""
        self._stopping = True
        self._work.set()

    async def run(self) -> None:
        """Take what waits, again and again, until ``stop``."""
        loop = asyncio.get_running_loop()
        tidied = -TIDY_SECONDS
        while True:
            more = False
            try:
                await self._take(self._next_batch())
                if self._broken or loop.time() >= tidied + TIDY_SECONDS:
                    await self.call(self._intake.tidy)  # it writes, and so tells whether the store works again
                    self._note("")
                    tidied = loop.time()
                more = await self.call(self._intake.write_lines)
            except StoreBroken:
                pass  # noted; whoever waited has been told
            self._metrics.up.set(not self.fault)
            if self._waiting or more:
                continue
            if self._stopping:
                self._thread.shutdown()
                return
            self._work.clear()
            await self._until_work(BROKEN_SECONDS if self.fault else TIDY_SECONDS)

    async def _until_work(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._work.wait()

    def _next_batch(self) -> list[tuple[bytes, asyncio.Future[bytes]]]:
        batch: list[tuple[bytes, asyncio.Future[bytes]]] = []
        size = 0
        while self._waiting and len(batch) < MOST_TOGETHER and (not batch or size < MOST_BYTES_TOGETHER):
            batch.append(self._waiting.popleft())
            size += len(batch[-1][0])
        return batch

    async def _take(self, batch: list[tuple[bytes, asyncio.Future[bytes]]]) -> None:
        if not batch:
            return
        started = self._intake.started
        answers: Sequence[bytes | Exception]
        try:
            answers = await self.call(lambda: self._intake.take([body for body, _ in batch]))
        except StoreBroken as error:
            answers = [error] * len(batch)
        except Exception as error:
            if len(batch) > 1:  # the others are not to suffer for the one that shows a bug
                for each in batch:
                    await self._take([each])
                return
            _LOGGER.exception("a request failed")
            answers = [error]
        if self._intake.started > started:
            self.events.set()
        for (_, waiter), answer in zip(batch, answers, strict=True):
            if waiter.done():
                continue  # whoever asked has gone
            if isinstance(answer, Exception):
                waiter.set_exception(answer)
            else:
                waiter.set_result(answer)

    def _note(self, fault: str) -> None:
        if fault and fault != self._broken:
            self._log.error(f"alerts are refused, and their senders will try again: {fault}")
        elif self._broken and not fault:
            self._log.line("the store works again")
        self._broken = fault
