"""The steps of a release as they are told: which, whether it was done now or found done, how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from msgspec import Struct

from clients.progress import Log

Name = Literal["choose", "number", "fetch", "build", "smoke", "push", "verify", "tag", "publish", "promote", "latest"]


class Step(Struct, frozen=True, kw_only=True):
    """One step that has ended well."""

    name: Name
    found: bool
    """Whether an earlier attempt had done it already."""
    told: str
    seconds: float
    refused: bool = False
    """Whether the registry did not allow it; the release works without."""


class Telling:
    """What a step says of itself while it is at work."""

    def __init__(self) -> None:
        self.told = ""
        self.found = False
        self.refused = False

    def done(self, told: str, *, found: bool = False) -> None:
        self.told, self.found = told, found

    def leave_out(self, why: str) -> None:
        """The step cannot be done, and the release works without it."""
        self.told, self.refused = why, True


class Steps:
    """The steps so far; each is told in a line when it has ended."""

    def __init__(self, log: Log, on_change: Callable[[], None]) -> None:
        self.log = log
        self.ended: list[Step] = []
        self._on_change = on_change

    @contextmanager
    def step(self, name: Name) -> Iterator[Telling]:
        """A step is what the block does; when it raises, the step has not ended."""
        began = time.monotonic()
        telling = Telling()
        yield telling
        seconds = time.monotonic() - began
        self._end(Step(name=name, found=telling.found, told=telling.told, seconds=seconds, refused=telling.refused))

    def skip(self, name: Name, told: str) -> None:
        """A step that an earlier attempt has done."""
        self._end(Step(name=name, found=True, told=told, seconds=0.0))

    def _end(self, step: Step) -> None:
        self.ended.append(step)
        if step.refused:
            self.log.notice(f"{step.name:<8} left out: {step.told}")
        else:
            how = "done already" if step.found else f"done in {step.seconds:.1f} s"
            self.log.line(f"{step.name:<8} {how}: {step.told}")
        self._on_change()
