"""SIGINT and SIGTERM, by which a workflow ends a cancelled job, as the exception Cancelled."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from clients.errors import Cancelled


class Signals:
    """The first signal raises Cancelled; later ones, and all after ``ignore``, leave the tidying up in peace."""

    ignored = False

    def ignore(self) -> None:
        self.ignored = True


@contextmanager
def cancelled_by_signals(hint: str) -> Iterator[Signals]:
    """While the block runs. hint: what to do after a cancellation."""
    signals = Signals()

    def received(number: int, _frame: FrameType | None) -> None:
        if not signals.ignored:
            signals.ignore()
            raise Cancelled(f"cancelled by {signal.Signals(number).name}; {hint}")

    before = {number: signal.signal(number, received) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
