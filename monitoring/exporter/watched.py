"""A system that is queried at intervals, in a thread of its own, so that a scrape never waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from clients.errors import ConfigurationError, RpsError

T = TypeVar("T")


class Watched(Generic[T]):
    """What the last good look at a system gave, and whether the last look was one."""

    def __init__(self, name: str, look: Callable[[], T], note: Callable[[str], None]) -> None:
        """look: raises RpsError while the system gives no answer; note: takes a line when that begins or ends."""
        self.name = name
        self.known: T | None = None
        self.up: bool | None = None
        """None before the first look has ended."""
        self.looked_at: float | None = None
        """When the last good look ended, in seconds since 1970."""
        self._look = look
        self._note = note
        self._noted: type[RpsError] | None = None

    def every(self, seconds: float, until: threading.Event) -> None:
        """Look, wait, and look again."""
        while True:
            self.once()
            if until.wait(seconds):
                return

    def once(self) -> None:
        try:
            self.known = self._look()
        except RpsError as error:
            self.up = False
            # An outage is logged once, and again when it turns out to be a setting: its words vary from look to look.
            kind = ConfigurationError if isinstance(error, ConfigurationError) else RpsError
            if self._noted is not kind:
                self._note(f"{error} (asked again until it answers)")
            self._noted = kind
            return
        self.up, self.looked_at = True, time.time()
        if self._noted is not None:
            self._note(f"{self.name} answers again")
        self._noted = None
