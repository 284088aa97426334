"""The moments at which a run of a stage can be killed: before, during and after each kind of write.

An audit hook in the stage's process sees the files that it writes and the programs that it starts. A connection that
understands HTTP (`killing.py`) sees what it sends to S3 and MLflow, and the repository's own hooks what it pushes.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

WRITTEN = "while it wrote"
APPEARED = "before the appearance of"
GONE = "before the removal of"
CLEARED = "before the clearing of"
STARTED = "before it started"
CUT = "half-way through"
UNANSWERED = "before the answer to"
RECEIVED, PUSHED = "before the repository took the push", "before the answer to the push"


class Moments:
    """The moments at which a run was killed, as a directory: the processes that share it kill at each of them once.

    coarse: requests, programs and scratch files count as one kind each, whatever their names; their clearing as none.
    """

    def __init__(self, directory: Path, *, coarse: bool) -> None:
        self.directory = directory
        self.coarse = coarse
        self._met: Counter[str] = Counter()
        directory.mkdir(parents=True, exist_ok=True)

    def begin(self) -> None:
        """Number the writes of each kind anew, for the next run."""
        self._met.clear()

    def new(self, kind: str, subject: str) -> Path | None:
        """The entry of this moment if no run was killed at it before, and this one is to be."""
        if self.coarse and kind == CLEARED:
            return None
        is_one_kind = kind == CLEARED or (self.coarse and kind not in (APPEARED, GONE))
        kind_of_write = kind if is_one_kind else f"{kind} {subject}"
        self._met[kind_of_write] += 1
        number = self._met[kind_of_write]
        if number not in ((1,) if is_one_kind else (1, 4)):  # after the last of a kind is before the next kind
            return None
        entry = self.directory / quote(f"{kind_of_write} {number}", safe=" ")
        try:
            with entry.open("x", encoding="utf-8") as opened:
                opened.write(f"{kind} {subject}" + (f", no. {number}" if number > 1 else ""))
        except FileExistsError:
            return None
        return entry

    def names(self) -> set[str]:
        return {entry.read_text(encoding="utf-8").strip() for entry in self.directory.iterdir()}


def kill_at_local_moments(moments: Moments, workspace: Path) -> None:
    """Let this process be killed at the first new moment that it can see."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(_Watch(moments, workspace))


class _Watch:
    def __init__(self, moments: Moments, workspace: Path) -> None:
        self._moments = moments
        self._root = f"{workspace.resolve()}/"
        self._thread = threading.local()
        self._opened: Path | None = None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        meaning = _MEANINGS.get(event)
        if meaning is None or getattr(self._thread, "is_ours", False):
            return
        self._thread.is_ours = True  # what the hook does is not the stage's doing
        try:
            if found := meaning(self, *arguments):
                self._meet(*found)
        finally:
            self._thread.is_ours = False

    def _meet(self, kind: str, subject: str) -> None:
        if self._opened is not None:  # the file before was opened, but nothing was written into it
            _limit_files(resource.RLIM_INFINITY)
            self._opened.unlink()
            self._opened = None
        entry = self._moments.new(kind, subject)
        if entry is None:
            return
        if kind == WRITTEN:
            self._opened = entry
            _limit_files(1)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def open(self, path: object, _mode: object, flags: int) -> tuple[str, str] | None:
        name = self._name(path) if flags & (os.O_WRONLY | os.O_RDWR) else None
        return (WRITTEN, name) if name and not name.endswith(".lock") else None

    def rename(self, source: object, target: object, *_: object) -> tuple[str, str] | None:
        old, new = self._name(source), self._name(target)
        if old and not _is_scratch(old):
            return GONE, old
        return (APPEARED, new) if new and not _is_scratch(new) else None

    def remove(self, path: object, directory: int | None = None) -> tuple[str, str] | None:
        if directory not in (None, -1):
            return None  # a name in another directory, which was met as a whole
        name = self._name(path)
        if name is None or not os.path.lexists(path):
            return None
        return (CLEARED if _is_scratch(name) else GONE), name

    def start(self, program: object, arguments: Any, *_: object) -> tuple[str, str]:
        return STARTED, Path(os.fsdecode(arguments[0] if isinstance(arguments, list) else program)).name

    def _name(self, path: object) -> str | None:
        """The path below the workspace without what differs from run to run; None when it is outside."""
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        absolute = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - links are not to be followed
        if not absolute.startswith(self._root):
            return None
        parts = _MOMENT.sub("…", absolute.removeprefix(self._root)).split("/")
        for place, part in enumerate(parts):
            if part.startswith("."):
                scratch = re.sub(r"\.\d+(\.old)?$", "", part)
                return "/".join([*parts[:place], scratch, *(["…"] if parts[place + 1 :] else [])])
        return "/".join(parts)


_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
"""In the name of an answer."""
_MEANINGS = {
    "open": _Watch.open,
    "os.rename": _Watch.rename,
    "os.remove": _Watch.remove,
    "os.rmdir": _Watch.remove,
    "shutil.rmtree": _Watch.remove,
    "subprocess.Popen": _Watch.start,
}
"""Python's audit events, and what the stage is about to do."""


def _is_scratch(name: str) -> bool:
    return "/." in f"/{name}"


def _limit_files(size: int) -> None:
    """Let the kernel kill this process (SIGXFSZ) in the middle of a write, where a file becomes longer than that."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
