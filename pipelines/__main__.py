"""`python -m pipelines STAGE --challenge NAME`: run one stage in the current directory."""

from __future__ import annotations

import argparse
import importlib
import sys
import time

from pipelines.errors import StageError
from pipelines.run import open_run

STAGES = {
    "ingest": "ask the source for what is new, store the answer as it came, merge it into the history",
    "validate": "judge the observations by the challenge's quality rules; 65 when they fail",
    "transform": "make the features and the targets",
    "profile": "write the profile report and log it to MLflow",
    "version": "record the dataset with DVC, push it, commit its metadata to data/<challenge>",
    "train": "fit one model per horizon, calibrate the intervals, write the bundle",
    "evaluate": "measure candidate, production and persistence on the same hold-out",
    "register": "add the candidate to the model registry, without an alias",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines",
        description="Run one stage of a challenge's pipeline in the current directory.",
        epilog="stages, in order:\n"
        + "\n".join(f"  {name:<10} {what}" for name, what in STAGES.items())
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
    started = time.monotonic()
    try:
        run = open_run(options.challenge, starts=options.stage == "ingest")
        importlib.import_module(f"pipelines.{options.stage}").run(run)
    except StageError as error:
        print(f"{options.stage}: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{options.stage}: done in {time.monotonic() - started:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
