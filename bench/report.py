"""What every benchmark shares: its command line, progress for people who wait, and tables in Markdown."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from types import FrameType

from docker.errors import DockerException

from ci import markdown
from clients.errors import RpsError


class BenchError(RpsError):
    """The bench cannot go on; the message says what to do."""


def arguments(**numbers: tuple[int, str]) -> argparse.ArgumentParser:
    """The command line of the module that is run. numbers: by option, its default and its help."""
    module = sys.modules["__main__"]
    parser = argparse.ArgumentParser(
        prog=f"python -m {module.__spec__.name if module.__spec__ else 'bench'}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, (default, text) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default: %(default)s)")
    return parser


def run(parser: argparse.ArgumentParser, report: Callable[..., Iterable[str]]) -> int:
    """Measure and print the report's lines; the exit code. report: gets the options by name."""
    options = vars(parser.parse_args())
    signal.signal(signal.SIGTERM, _leave)
    try:
        # Services print what they start; only the report goes to standard output.
        with contextlib.redirect_stdout(sys.stderr):
            lines = list(report(**options))
    except (RpsError, DockerException) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


def _leave(number: int, _: FrameType | None) -> None:
    """End with what was started, as after Ctrl-C."""
    sys.exit(128 + number)


def say(line: str, *, over: bool = False) -> None:
    """Progress. over: in the place of the line before, and until the next one."""
    print(f"\r{line:60}" if over else line, end="" if over else "\n", file=sys.stderr, flush=True)


def table(alignments: str, heads: Iterable[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table. alignments: a letter per column, `l` or `r`."""
    return markdown.table(list(heads), ([str(cell) for cell in row] for row in rows), alignments).splitlines()


def met(*, well: bool) -> str:
    """Whether a goal is."""
    return "met" if well else "**not met**"
