"""`python -m pipelines STAGE --challenge NAME`: run one stage in the current directory, on files alone."""

from __future__ import annotations

import importlib
import sys

from clients.disk import locked
from pipelines.command import run_command
from pipelines.run import open_run
from records.stages import STAGES


def main(arguments: list[str] | None = None) -> int:
    description = "Run one stage of a challenge's pipeline in the current directory."
    return run_command("python -m pipelines", description, STAGES, run_stage, arguments, done="done")


def run_stage(stage: str, challenge: str) -> int:
    """0. Raises RpsError where the stage cannot go on."""
    run = open_run(challenge, starts=stage == "ingest")
    # A retry must not work beside the attempt that it follows, which may outlive the task that started it.
    with locked(run.files.root / f".{stage}.lock", f"the stage {stage} of this workspace"):
        importlib.import_module(f"pipelines.{stage}").run(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
