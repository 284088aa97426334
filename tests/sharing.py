"""What the processes of one test run make once, and use together."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


def made_once(path: Path, make: Callable[[Path], object]) -> Path:
    """``path``, which ``make`` has filled in the first process that asked for it; the others wait for that one."""
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not path.exists():
            scratch = path.with_name(f"{path.name}.new")
            make(scratch)
            scratch.rename(path)
    return path


@contextmanager
def used_together(home: Path, start: Callable[[Path], str], stop: Callable[[Path], object]) -> Iterator[str]:
    """Start a service in ``home`` for its first user, stop it after its last; yield what ``start`` returned."""
    home.mkdir(parents=True, exist_ok=True)
    shown = home.with_name(f"{home.name}.started")
    changing = FileLock(home.with_name(f"{home.name}.lock"))
    with home.with_name(f"{home.name}.users").open("w") as users:
        with changing:
            fcntl.flock(users, fcntl.LOCK_SH)
            if not shown.exists():
                shown.write_text(start(home), encoding="utf-8")
        try:
            yield shown.read_text(encoding="utf-8")
        finally:
            with changing:
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    pass  # others use it
                else:
                    shown.unlink(missing_ok=True)
                    stop(home)
