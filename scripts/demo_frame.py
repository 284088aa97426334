"""What the demos and the stack's command share: how they print, how they end, and that only one runs at a time."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.markdown import Markdown
from rich.panel import Panel

from clients.errors import RpsError
from scripts.services import ROOT, StackError


def guarded(name: str, work: Callable[[], int], interrupted: str) -> int:
    """The exit code of ``work``; an error goes to standard error. interrupted: what to say after an interruption."""
    try:
        return work()
    except RpsError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nInterrupted{interrupted}", file=sys.stderr)
        return 130


def made_console() -> Console:
    """A log keeps whole lines, whatever the width of a terminal."""
    return Console(width=None if sys.stdout.isatty() else 160)


def print_line(console: Console, job: str, line: str) -> None:
    """A line of a workflow's output, after its job."""
    console.print(f"  [dim]{job:<14}[/] ", end="")
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_document(console: Console, title: str, markdown: str) -> None:
    console.print(Panel(Markdown(markdown), title=title, width=min(console.width, 120)))


def run_alone(name: str, demo: Callable[[Console, Path], list[str]]) -> int:
    """Run a demo in a folder of its own name below `.rps`, unless one is at work there; its exit code.

    demo: gives what is not as it must be. SIGTERM ends it as SIGINT does: it ends what it has started.
    """
    home = Path(os.environ.get("RPS_HOME") or ROOT / ".rps").resolve() / name
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    signal.signal(signal.SIGTERM, _interrupt)
    return guarded(name, lambda: _run(home, demo), "; everything that was started has ended.")


def _run(home: Path, demo: Callable[[Console, Path], list[str]]) -> int:
    began, console = time.monotonic(), made_console()
    try:
        with FileLock(home / "demo.lock", timeout=0):
            wrong = demo(console, home)
    except Timeout:
        raise StackError(f"another one is running in {home}") from None
    for each in wrong:
        console.print(f"Not as it must be: {each}")
    console.print(f"{time.monotonic() - began:.0f} s in all. Logs and artifacts stay in {home}.", soft_wrap=True)
    return 1 if wrong else 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
