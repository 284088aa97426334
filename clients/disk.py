"""The disk: a lock that ends with its process, and files that appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from clients.errors import PassingFault


@contextmanager
def locked(path: Path, what: str, note: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock file ``path`` alone; while another process has it, wait for that process to let go or to end.

    what: the thing that it guards, for people; note: gets a line before a wait, which may be long (default: print it);
    what it raises ends the wait.
    Raises PassingFault when the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a")
    except OSError as error:
        raise _unwritable(path, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            (note or partial(print, flush=True))(f"waiting for {what}, which another process holds")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A scratch path beside ``path`` that replaces it when the block ends well, and vanishes when it does not."""
    with scratch_path(path) as scratch:
        yield scratch
        with scratch.open("rb") as written:
            os.fsync(written.fileno())
        scratch.replace(path)


def write_whole(path: Path, content: bytes) -> None:
    with whole_file(path) as scratch:
        scratch.write_bytes(content)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """As ``whole_file``, for a directory; a reader sees the old one, none, or the new one, never a part."""
    with scratch_path(path) as scratch:
        scratch.mkdir()
        yield scratch
        if path.exists():
            path.rename(scratch.with_name(f"{scratch.name}.old"))
        scratch.rename(path)


def _unwritable(path: Path, error: OSError) -> PassingFault:
    return PassingFault(f"{path} could not be written: {error}. Free or repair the disk, then run again.")


@contextmanager
def scratch_path(path: Path) -> Iterator[Path]:
    """A free path beside ``path``; what is there when the block ends, or a killed process left there, is removed.

    Raises PassingFault when the disk fails.
    """

    def clear() -> None:
        for leftover in path.parent.glob(f".{path.name}.*"):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear()
        yield path.with_name(f".{path.name}.{os.getpid()}")
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        clear()
