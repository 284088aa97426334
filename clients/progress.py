"""A command's output: lines, tasks as they change (a group in GitHub's log), outputs of a step, a summary."""

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

SHOWN = {
    "success": "done",
    "failed": "FAILED",
    "upstream_failed": "not run",
    "running": "running",
    "skipped": "skipped",
    "up_for_retry": "will be tried again",
}
"""The states of a task that are worth a line, and their names there."""


class Log:
    """Lines for people. In GitHub's workflows (``grouped``) the tasks are folded, and errors are annotations."""

    def __init__(self, out: TextIO, *, grouped: bool) -> None:
        self._out = out
        self._grouped = grouped
        self._in_group = False
        self._seen: dict[str, tuple[str, int]] = {}

    def line(self, text: str) -> None:
        self._say(text, _harmless(text))

    def error(self, text: str) -> None:
        self._say(f"error: {text}", f"::error::{_as_data(text)}")

    def notice(self, text: str) -> None:
        """A line that a workflow's page shows, too."""
        self._say(text, f"::notice::{_as_data(text)}")

    def tasks(self, title: str, tasks: Sequence[TaskState]) -> None:
        """A line for each task whose state has changed since the last call."""
        for task in tasks:
            if self._seen.get(task.name) == (task.state, task.attempt):
                continue
            self._seen[task.name] = (task.state, task.attempt)
            if task.state in SHOWN:
                if self._grouped and not self._in_group:
                    self._print(f"::group::{_as_data(title)}")
                    self._in_group = True
                seconds = f" in {task.seconds:.1f} s" if task.state in {"success", "failed"} else ""
                self._print(f"  {datetime.now(UTC):%H:%M:%S}  {task.name:<10} {SHOWN[task.state]}{seconds}")

    def _say(self, plain: str, grouped: str) -> None:
        if self._in_group:
            self._in_group = False
            self._print("::endgroup::")
        self._print(grouped if self._grouped else plain)

    def _print(self, text: str) -> None:
        print(redacted(text), file=self._out, flush=True)


def run(command: Callable[[Log], int]) -> int:
    """A command's exit code. An error of ours is one line in the log, and has its own exit code."""
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
    if not _appended("GITHUB_OUTPUT", f"{name}={value}"):
        print(f"{name}={value}")


def summarise(report: str) -> None:
    """Add the report to the job's summary page, where there is one."""
    _appended("GITHUB_STEP_SUMMARY", report)


def _appended(variable: str, text: str) -> bool:
    """Append to the file that the variable names; whether it names one."""
    path = os.environ.get(variable)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
    return bool(path)


def _harmless(text: str) -> str:
    """The text, changed so that GitHub's runner takes no line of it for a command."""
    lines = text.replace("##[", "## [").splitlines()
    return "\n".join(line.replace("::", ": :", 1) if line.lstrip().startswith("::") else line for line in lines)


def _as_data(text: str) -> str:
    """The text as a workflow command takes it, on one line."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
