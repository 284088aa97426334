"""Waiting for a service that may answer later: the one place that asks again, on stamina and the caller's clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import stamina
from stamina.instrumentation import set_on_retry_hooks

T = TypeVar("T")

set_on_retry_hooks([])  # it would log every attempt; callers say what is worth a line


@dataclass(frozen=True)
class Clock:
    """now: seconds that only grow; sleep: let so many of them pass."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a service's faults are waited out, and how far apart it is asked."""

    seconds: float
    """Over all questions together, until ``again``."""
    deadline: float
    first_pause: float
    longest_pause: float
    clock: Clock

    def again(self) -> Patience:
        """As patient as at first, for the next part of a long command."""
        return patient(self.seconds, first_pause=self.first_pause, longest_pause=self.longest_pause, clock=self.clock)

    def ask(
        self,
        operation: Callable[[], T],
        passes: Callable[[Exception], bool | float],
        waiting: Callable[[float], None] = lambda _: None,
    ) -> T:
        """What ``operation`` gives; it must be harmless to do it twice.

        passes: whether a fault may pass: True, or in how many seconds the service said so. It may raise another error
        instead. A fault that does not pass, or not in time, is raised as it is. waiting: called with the seconds of
        each pause.
        """
        pause = self.first_pause

        def wait(error: Exception) -> float | bool:
            nonlocal pause
            found = passes(error)
            if found is False:
                return False
            left = self.deadline - self.clock.now()
            seconds = min(pause, left) if found is True else found
            if left <= 0 or seconds > left:
                return False
            waiting(seconds)
            self.clock.sleep(seconds)
            pause = min(2 * pause, self.longest_pause)
            return 0.0  # stamina itself need not wait

        for attempt in stamina.retry_context(on=wait, attempts=None, timeout=None):
            with attempt:
                return operation()
        raise AssertionError("stamina always returns or raises")


def patient(
    seconds: float, *, first_pause: float = 0.5, longest_pause: float = 5.0, clock: Clock | None = None
) -> Patience:
    """From now on, for so many seconds."""
    clock = clock or Clock()
    return Patience(
        seconds=seconds,
        deadline=clock.now() + seconds,
        first_pause=first_pause,
        longest_pause=longest_pause,
        clock=clock,
    )
