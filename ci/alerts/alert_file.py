"""The file channel: one JSON line for each alert in `alerts.jsonl`, which a person can read and tail.

How much of the file counts is remembered elsewhere, in the same transaction that forgets the lines; whatever lies
behind that is a part of a line that a crash or a full disk has left, or lines that will be written again; it is cut
off.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

NAME = "alerts.jsonl"


class AlertFile:
    """The file and those before it, `alerts.1.jsonl` the newest of them. Every method may raise OSError."""

    def __init__(self, directory: Path, *, most_bytes: int, files: int) -> None:
        self.path = directory / NAME
        self._most_bytes = most_bytes
        self._files = files

    def size(self) -> int:
        """In bytes, up to the end of the last whole line; 0 when there is no file."""
        try:
            return self.path.read_bytes().rfind(b"\n") + 1
        except FileNotFoundError:
            return 0

    def full(self, counted: int) -> bool:
        """Whether it is time to put it aside."""
        return counted >= self._most_bytes

    def put_aside(self) -> None:
        """Make room for a new file. Only those in front of a gap move: done again after a crash, it drops none."""
        chain = [self.path, *(self.path.with_name(f"alerts.{number}.jsonl") for number in range(1, self._files))]
        gap = next((place for place, path in enumerate(chain) if not path.exists()), len(chain))
        if gap == len(chain):
            gap -= 1
            chain[gap].unlink()
        for place in range(gap, 0, -1):
            chain[place - 1].replace(chain[place])
        self._directory_to_disk()

    def append(self, lines: Sequence[bytes], counted: int) -> tuple[int, int]:
        """Write as many of the lines as the file still takes, but one at least: how many, and what counts of it now.

        counted: how many bytes of the file count. They are on disk when this returns.
        """
        with self.path.open("ab", buffering=0) as file:
            counted = min(counted, os.fstat(file.fileno()).st_size)  # less, if somebody has emptied or removed it
            file.truncate(counted)
            written, length = 0, 0
            while written < len(lines) and (not written or counted + length + len(lines[written]) <= self._most_bytes):
                length += len(lines[written])
                written += 1
            rest = memoryview(b"".join(lines[:written]))
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        if not counted:
            self._directory_to_disk()
        return written, counted + length

    def _directory_to_disk(self) -> None:
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
