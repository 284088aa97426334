"""Faults of a double that are switched on by request, for so many answers or so long; at most one of each kind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec


class Switched(msgspec.Struct, kw_only=True):
    """What every fault has."""

    kind: str
    times: int | None = None
    """For so many answers; None: until it is cleared."""
    after: int = 0
    """So many answers go by first."""
    until: float = 0.0
    """A Unix time; 0: for good."""

    def shown(self) -> dict[str, Any]:
        shown: dict[str, Any] = msgspec.to_builtins(self)
        return shown


F = TypeVar("F", bound=Switched)


class Faults(Generic[F]):
    """Those that are switched on; thread-safe."""

    def __init__(self, read: Callable[[object], F]) -> None:
        """read: the fault that a request's JSON describes; raises ValueError with what was expected."""
        self._read = read
        self._lock = threading.Lock()
        self._faults: dict[str, F] = {}

    def put(self, asked: object) -> None:
        """Switch one on, in place of any of its kind. Raises ValueError."""
        fault = self._read(asked)
        with self._lock:
            self._faults.pop(fault.kind, None)
            self._faults[fault.kind] = fault

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def shown(self) -> list[dict[str, Any]]:
        with self._lock:
            return [fault.shown() for fault in self._faults.values()]

    def take(self, concerns: Callable[[F], bool] = lambda _: True) -> dict[str, F]:
        """The faults of the next answer by their kind, each counted down. concerns: whether a fault fits it."""
        taken = {}
        with self._lock:
            for fault in list(self._faults.values()):
                if fault.until and time.time() >= fault.until:
                    del self._faults[fault.kind]
                elif not concerns(fault):
                    continue
                elif fault.after:
                    fault.after -= 1
                else:
                    taken[fault.kind] = fault
                    if fault.times is not None:
                        fault.times -= 1
                        if not fault.times:
                            del self._faults[fault.kind]
        return taken
