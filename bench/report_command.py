"""The command line of a benchmark that is run a number of times and prints Markdown."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable

from docker.errors import DockerException

from clients.errors import RpsError


def print_report(module: str, description: str | None, report: Callable[[int], str]) -> int:
    """Measure and print; the exit code. report: gets how many runs are asked for."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3, help="how often each is measured (default: %(default)s)")
    runs = parser.parse_args().runs
    try:
        # What is started says so to people who wait; the report alone goes to standard output.
        with contextlib.redirect_stdout(sys.stderr):
            text = report(runs)
    except (RpsError, DockerException) as error:
        print(f"{module}: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0
