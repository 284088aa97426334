"""The command line of the stages and of the carrier: one step on one challenge, ended by an exit code."""

from __future__ import annotations

import argparse
import errno
import sys
import time
from collections.abc import Callable, Mapping
from io import TextIOWrapper
from pathlib import Path

from clients.errors import PassingFault, RpsError
from records.stages import Stage

Work = Callable[[str, str], int]
"""From step and challenge to the exit code. Raises RpsError."""


def run_command(
    prog: str, description: str, steps: Mapping[str, Stage], work: Work, arguments: list[str] | None, *, done: str
) -> int:
    """Parse the command line, do the work, and report how it ended. Returns the exit code.

    done: what a step is in the end, for the last line of output.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog="steps, in order:\n"
        + "\n".join(f"  {name:<10} {step.help}" for name, step in steps.items())
        + "\n\nexit codes: 0 done; 64 wrong use or configuration; 65 the data failed the quality gate;"
        + "\n75 a passing fault (run it again); anything else is a bug.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        exit_on_error=False,
    )
    parser.add_argument("step", choices=steps, metavar="STEP")
    parser.add_argument("--challenge", required=True, metavar="NAME", help="a file challenges/NAME.toml, without .toml")
    try:
        options = parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        print(f"{parser.prog}: {error}; see --help", file=sys.stderr)
        return 64
    except SystemExit as leaving:
        return 0 if leaving.code == 0 else 64
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a unit such as °C must not end a stage in an ASCII log
    started = time.monotonic()
    try:
        code = work(options.step, options.challenge)
    except (RpsError, OSError) as error:
        fault = error if isinstance(error, RpsError) else _disk_fault(error)
        print(f"{options.step}: {fault}", file=sys.stderr)
        return fault.exit_code
    if code == 0:
        took = time.monotonic() - started
        print(f"{options.step}: {done} in {took:.1f} s, peak memory {_peak_mebibytes():.0f} MiB", flush=True)
    return code


def _peak_mebibytes() -> float:
    """The most memory that this process has held; `getrusage` would include its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024


def _disk_fault(error: OSError) -> PassingFault:
    """Raises the error itself when it is not the disk's."""
    if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}:
        raise error
    return PassingFault(f"the disk failed: {error}. Free or repair it, then run again.")
