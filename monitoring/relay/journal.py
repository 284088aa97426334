"""The relay's files: `alerts.jsonl`, a line per alert, and `events.jsonl`, a line per change of an event.

The relay answers a request once its lines are written and its events are on disk; an event counts as sent once that is
on disk. So a crash loses no acknowledged alert and repeats no event.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from clients.errors import ConfigurationError
from monitoring.relay.decisions import Event


class Journal:
    """The files of one home, which belongs to one process.

    events: the last one of each challenge. fault: why the last write failed; empty when it did not.
    """

    def __init__(self, home: Path, *, file_bytes: int = 16 << 20, files: int = 5) -> None:
        """file_bytes: from this size on, `alerts.jsonl` is rotated; files: how many are kept.

        Raises OSError, and ConfigurationError for a damaged `events.jsonl`.
        """
        self.path, self._state = home / "alerts.jsonl", home / "events.jsonl"
        self._file_bytes, self._files = file_bytes, files
        self.events: dict[str, Event] = {}
        self.fault = ""
        for path in (self.path, self._state):
            path.touch()
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)  # a crash may have left part of a line
        try:
            for event in msgspec.json.Decoder(Event).decode_lines(self._state.read_bytes()):
                self.events[event.challenge] = event
        except ValueError as error:
            hint = "move it away to start anew; an event in it that GitHub has not taken is lost"
            raise ConfigurationError(f"RPS_ALERTS_HOME: {self._state} is damaged ({error}); {hint}") from error

    def waiting(self) -> list[Event]:
        """The events that GitHub has not taken."""
        return [event for event in self.events.values() if event.sent is None]

    def latest(self) -> float:
        """The latest time in the events."""
        return max((event.sent or event.created for event in self.events.values()), default=0.0)

    def record(self, lines: Sequence[bytes], started: Sequence[Event] = ()) -> None:
        """Append the lines and keep the events: all, or nothing when it raises OSError."""
        try:
            if self.path.exists() and self.path.stat().st_size >= self._file_bytes:
                self._rotate()
            size = _append(self.path, lines)
            try:
                # What was settled while the disk was broken is not on it yet.
                changes = [*self.events.values(), *started] if self.fault else started
                if changes:
                    _append(self._state, [msgspec.json.encode(event) + b"\n" for event in changes], sync=True)
            except OSError:
                os.truncate(self.path, size)
                raise
        except OSError as error:
            self.fault = f"{self.path.parent} cannot be written: {error.strerror}"
            raise
        self.fault = ""
        self.events |= {event.challenge: event for event in started}

    def settle(self, event: Event, sent: float) -> None:
        """GitHub has taken the event, or it is given up. While the disk is broken, only this object knows."""
        self.events[event.challenge] = settled = msgspec.structs.replace(event, sent=sent)
        with contextlib.suppress(OSError):
            self.record((), [settled])

    def _rotate(self) -> None:
        """Move each file one place on, up to the first gap; repeated after a crash, this drops none."""
        chain = [self.path, *(self.path.with_name(f"alerts.{number}.jsonl") for number in range(1, self._files))]
        gap = next((place for place, path in enumerate(chain) if not path.exists()), len(chain) - 1)
        for place in range(gap, 0, -1):
            chain[place - 1].replace(chain[place])


def _append(path: Path, lines: Sequence[bytes], *, sync: bool = False) -> int:
    """The file's size before, to which an OSError restores it."""
    content = b"".join(lines)
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            while content:
                content = content[file.write(content) :]
            if sync:
                os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise
    return size
