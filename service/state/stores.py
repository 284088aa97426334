"""Where the state of the series lives: in the process, or in a Redis that many replicas share.

A change is a function of one series' state that a store may call again, when another replica was quicker: its caller
counts once, from what the change returns. The state is stored before the caller answers.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from typing import Protocol, TypeVar

from clients.errors import PassingFault
from service.model.served import Model
from service.state.series import SeriesState

T = TypeVar("T")


class StoreUnavailable(PassingFault):
    """The state cannot be reached now; the message holds no credential."""


class StateUnreadable(StoreUnavailable):
    """What is kept of one series is no state of this model's; the message names the key. Waiting does not help."""


class SeriesStore(Protocol):
    """The state of every series. All but ``close`` raise StoreUnavailable."""

    async def read(self, unique_id: str) -> SeriesState | None:
        """The state of a series, not to be changed; None when it is not known."""

    async def change(self, unique_id: str, change: Callable[[SeriesState], T]) -> T:
        """Apply ``change`` to a series' state, a new one if need be, and keep it; what ``change`` gives."""

    async def unknown(self, unique_ids: set[str]) -> set[str]:
        """Which of these series have no state."""

    async def names(self, most: int) -> list[str]:
        """The first ``most`` series, in order of their names."""

    async def count(self) -> int:
        """How many series there are."""

    async def check(self) -> None:
        """Whether the store can be used now."""

    async def close(self) -> None:
        """Let go of connections."""


class MemoryStore:
    """States in the process: for one worker, gone when it ends."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._states: dict[str, SeriesState] = {}
        self._names: list[str] = []

    async def read(self, unique_id: str) -> SeriesState | None:
        return self._states.get(unique_id)

    async def change(self, unique_id: str, change: Callable[[SeriesState], T]) -> T:
        state = self._states.get(unique_id)
        if state is not None:
            return change(state)
        state = SeriesState(self._model, unique_id)
        changed = change(state)
        self._states[unique_id] = state
        insort(self._names, unique_id)
        return changed

    async def unknown(self, unique_ids: set[str]) -> set[str]:
        return unique_ids - self._states.keys()

    async def names(self, most: int) -> list[str]:
        return self._names[:most]

    async def count(self) -> int:
        return len(self._states)

    async def check(self) -> None:
        return

    async def close(self) -> None:
        return
