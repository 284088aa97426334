"""The replay's clock: it starts at a given moment, runs at its own speed, and can be moved."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta


class Clock:
    """Thread-safe. It runs up to the end of the recording and waits there; it may be set past that, and then stands."""

    def __init__(self, now: datetime, speed: float, end: datetime) -> None:
        self._lock = threading.Lock()
        self._end = end
        self.set(now, speed)

    def now(self) -> datetime:
        with self._lock:
            if self._set_to >= self._end:
                return self._set_to
            passed = timedelta(seconds=(time.monotonic() - self._set_at) * self._speed)
            return min(self._set_to + passed, self._end)

    @property
    def speed(self) -> float:
        """Replayed seconds per real second."""
        with self._lock:
            return self._speed

    def set(self, now: datetime, speed: float) -> None:
        """Move the clock, forwards or backwards. Raises ValueError when the speed is negative."""
        if not 0 <= speed < float("inf"):
            raise ValueError(f"speed: expected zero or more replayed seconds per second; found {speed}")
        with self._lock:
            self._set_to, self._set_at, self._speed = now.astimezone(UTC), time.monotonic(), speed


def parse_moment(text: object) -> datetime:
    """An ISO 8601 moment; one without an offset is UTC. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        raise ValueError(f"expected a moment such as 2013-12-30T23:00:00Z; found {text!r}") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def written(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
