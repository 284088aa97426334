"""What a command tells: lines with the time, tasks as they change in a group of GitHub's log, outputs, a summary."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from clients.errors import RpsError
from clients.redaction import redacted

if TYPE_CHECKING:
    from clients.dag_run import TaskState

TOLD = {
    "success": "done",
    "failed": "FAILED",
    "upstream_failed": "not run",
    "running": "running",
    "skipped": "skipped",
    "up_for_retry": "will be tried again",
}
"""The states of a task that are worth a line."""


class Log:
    """Lines for people. In GitHub's workflows (``grouped``) the tasks are folded, and errors are annotations."""

    def __init__(self, out: TextIO, *, grouped: bool) -> None:
        self._out = out
        self._grouped = grouped
        self._in_group = False
        self._seen: dict[str, tuple[str, int]] = {}

    def line(self, text: str) -> None:
        self._close_group()
        self._print(_harmless(text) if self._grouped else text)

    def error(self, text: str) -> None:
        self._close_group()
        self._print(f"::error::{_as_data(text)}" if self._grouped else f"error: {text}")

    def notice(self, text: str) -> None:
        """A line that a workflow's page shows, too."""
        self._close_group()
        self._print(f"::notice::{_as_data(text)}" if self._grouped else text)

    def tasks(self, title: str, tasks: Sequence[TaskState]) -> None:
        """A line for each task that is in another state than when last told."""
        for task in tasks:
            if self._seen.get(task.name) == (task.state, task.attempt):
                continue
            self._seen[task.name] = (task.state, task.attempt)
            if task.state in TOLD:
                self._open_group(title)
                seconds = f" in {task.seconds:.1f} s" if task.state in {"success", "failed"} else ""
                self._print(f"  {datetime.now(UTC):%H:%M:%S}  {task.name:<10} {TOLD[task.state]}{seconds}")

    def _open_group(self, title: str) -> None:
        if self._grouped and not self._in_group:
            self._print(f"::group::{_as_data(title)}")
            self._in_group = True

    def _close_group(self) -> None:
        if self._in_group:
            self._in_group = False
            self._print("::endgroup::")

    def _print(self, text: str) -> None:
        print(redacted(text), file=self._out, flush=True)


def run(command: Callable[[Log], int]) -> int:
    """Run a program's command; its exit code. An error of ours is one line in the log, and its own exit code."""
    log = Log(sys.stdout, grouped="GITHUB_ACTIONS" in os.environ)
    try:
        return command(log)
    except RpsError as error:
        log.error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def output(name: str, value: str) -> None:
    """An output of the workflow's step; printed where there is none."""
    path = os.environ.get("GITHUB_OUTPUT")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{name}={value}\n")
    else:
        print(f"{name}={value}")


def summarise(report: str) -> None:
    """Add the report to the job's summary page, where there is one."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{report}\n")


def _harmless(text: str) -> str:
    """Text that GitHub's runner does not take for a command, though a log or a title in it may start like one."""
    lines = text.replace("##[", "## [").splitlines()
    return "\n".join(line.replace("::", ": :", 1) if line.lstrip().startswith("::") else line for line in lines)


def _as_data(text: str) -> str:
    """Text as a workflow command takes it: on one line, and ending no command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
