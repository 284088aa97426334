"""Waits for a service that may answer later: the one place that repeats requests, on stamina and the caller's clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import stamina
from stamina.instrumentation import set_on_retry_hooks

T = TypeVar("T")

set_on_retry_hooks([])  # it would log every attempt; callers decide what deserves a line


@dataclass
class Patience:
    """For how many seconds, from now on, to wait out a service's faults, and how long to pause between requests."""

    seconds: float
    """Over all questions together, until ``again``."""
    first_pause: float = 0.5
    longest_pause: float = 5.0
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    deadline: float = field(init=False)

    def __post_init__(self) -> None:
        self.deadline = self.now() + self.seconds

    def again(self) -> Patience:
        """The same from now on, for the next part of a long command."""
        return replace(self)

    def ask(
        self,
        operation: Callable[[], T],
        passes: Callable[[Exception], bool | float],
        waiting: Callable[[float], None] = lambda _: None,
    ) -> T:
        """What ``operation`` returns; repeating it must be harmless.

        passes: whether a fault may pass: True, or the seconds that the service asks to wait. It may raise another error
        instead. A fault that does not pass, or not in time, is raised unchanged. waiting: called with the seconds of
        each pause.
        """
        pause = self.first_pause

        def wait(error: Exception) -> float | bool:
            nonlocal pause
            found = passes(error)
            if found is False:
                return False
            left = self.deadline - self.now()
            seconds = min(pause, left) if found is True else found
            if left <= 0 or seconds > left:
                return False
            waiting(seconds)
            self.sleep(seconds)
            pause = min(2 * pause, self.longest_pause)
            return 0.0  # stamina itself need not wait

        for attempt in stamina.retry_context(on=wait, attempts=None, timeout=None):
            with attempt:
                return operation()
        raise AssertionError("stamina always returns or raises")
