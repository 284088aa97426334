"""`python -m pipelines STAGE --challenge NAME`: run one stage in the current directory."""

from __future__ import annotations

import argparse
import errno
import importlib
import sys
import time
from io import TextIOWrapper
from pathlib import Path

from clients.disk import locked
from clients.errors import PassingFault, RpsError
from pipelines.run import open_run
from records.stages import STAGES


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines",
        description="Run one stage of a challenge's pipeline in the current directory.",
        epilog="stages, in order:\n"
        + "\n".join(f"  {name:<10} {stage.help}" for name, stage in STAGES.items())
        + "\n\nexit codes: 0 done; 64 wrong use or configuration; 65 the data failed the quality gate;"
        + "\n75 a passing fault (run it again); anything else is a bug.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        exit_on_error=False,
    )
    parser.add_argument("stage", choices=STAGES, metavar="STAGE")
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
        run = open_run(options.challenge, starts=options.stage == "ingest")
        # A retry must not work beside the attempt that it follows, which may outlive the task that started it.
        with locked(run.files.root / f".{options.stage}.lock", f"the stage {options.stage} of this workspace"):
            importlib.import_module(f"pipelines.{options.stage}").run(run)
    except (RpsError, OSError) as error:
        fault = error if isinstance(error, RpsError) else _disk_fault(error)
        print(f"{options.stage}: {fault}", file=sys.stderr)
        return fault.exit_code
    took = time.monotonic() - started
    print(f"{options.stage}: done in {took:.1f} s, peak memory {_peak_mebibytes():.0f} MiB", flush=True)
    return 0


def _peak_mebibytes() -> float:
    """The most memory that this process has held; `getrusage` would include its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024


def _disk_fault(error: OSError) -> PassingFault:
    """Raises the error itself when it is not the disk's."""
    if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}:
        raise error
    return PassingFault(f"the disk failed: {error}. Free or repair it, then run again.")


if __name__ == "__main__":
    sys.exit(main())
