"""The steps of a release: which, whether it was done now or before, how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from msgspec import Struct, field

from clients.progress import Log

Name = Literal["choose", "number", "fetch", "build", "smoke", "push", "verify", "tag", "publish", "promote", "latest"]


class Step(Struct, kw_only=True):
    """One step, which says of itself what it has done."""

    name: Name
    found: bool = False
    """Whether an earlier attempt had done it already."""
    result: str = field(default="", name="told")
    seconds: float = 0.0
    refused: bool = False
    """Whether the registry did not allow it; the release works without."""

    def done(self, result: str, *, found: bool = False) -> None:
        self.result, self.found = result, found

    def leave_out(self, why: str) -> None:
        """The step cannot be done, and the release works without it."""
        self.result, self.refused = why, True


class Steps:
    """The steps that have ended well; each gets a line in the log."""

    def __init__(self, log: Log, on_change: Callable[[], None]) -> None:
        self.log = log
        self.ended: list[Step] = []
        self._on_change = on_change

    @contextmanager
    def step(self, name: Name) -> Iterator[Step]:
        """A step is what the block does; when it raises, the step has not ended."""
        began = time.monotonic()
        step = Step(name=name)
        yield step
        step.seconds = time.monotonic() - began
        self._end(step)

    def skip(self, name: Name, result: str) -> None:
        """A step that an earlier attempt has done."""
        self._end(Step(name=name, found=True, result=result))

    def _end(self, step: Step) -> None:
        self.ended.append(step)
        if step.refused:
            self.log.notice(f"{step.name:<8} left out: {step.result}")
        else:
            how = "done already" if step.found else f"done in {step.seconds:.1f} s"
            self.log.line(f"{step.name:<8} {how}: {step.result}")
        self._on_change()
