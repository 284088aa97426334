"""`python -m pipelines.carrier STEP --challenge NAME`: one step of a run, with all that it needs and leaves.

A stage turns files of the workspace into files there, and knows no service. The carrier brings what the stage needs,
runs it as a process without any of our keys, and delivers what it made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from clients.disk import locked
from clients.errors import DataRejected
from clients.store import open_store
from pipelines.carrier.answers import check_clock, deliver_answers, fetch_answers
from pipelines.carrier.dataset import record_dataset
from pipelines.carrier.logs import end_failed, log_evaluation, log_profile, log_rejection, log_training
from pipelines.carrier.process import run_stage
from pipelines.carrier.production import fetch_production
from pipelines.carrier.registry import register
from pipelines.carrier.snapshot import accept_history, fetch_snapshot
from pipelines.carrier.tracked_run import TrackedRun, open_tracking
from pipelines.command import run_command
from pipelines.history import accepted_history
from pipelines.run import Run, open_run
from records.stages import FAIL, STEPS

RunStage = Callable[[str, Run], int]
"""Runs a stage on the files of a run; its exit code."""


def main(arguments: list[str] | None = None, run_stage: RunStage = run_stage) -> int:
    description = "Run one step of a challenge's pipeline in the current directory, with all that it needs and leaves."

    def work(step: str, challenge: str) -> int:
        run = open_run(challenge, starts=step == "ingest")
        # A retry must not work beside the attempt that it follows, which may outlive the task that started it.
        with locked(run.files.root / f".carrier-{step}.lock", f"the step {step} of this workspace"):
            return carry(step, run, run_stage)

    return run_command(
        "python -m pipelines.carrier", description, STEPS | {"fail": FAIL}, work, arguments, done="carried"
    )


def carry(step: str, run: Run, run_stage: RunStage) -> int:
    """The exit code of the stage; 0 of a delivery. Raises RpsError where the carrier itself cannot go on."""
    if step in _DELIVERED:
        _DELIVERED[step](run)
        return 0
    if step in _AROUND:
        return _AROUND[step](run, run_stage)
    return _logged(step, run, run_stage) if step in _LOGGED else run_stage(step, run)


def _ingest(run: Run, run_stage: RunStage) -> int:
    """Answers are stored whatever becomes of the stage; those that a killed one left, too."""
    store = open_store()
    store.check()
    check_clock(store, run.challenge.name)
    deliver_answers(run, store)
    fetch_snapshot(run, store)
    try:
        return run_stage("ingest", run)
    finally:
        deliver_answers(run, store)


def _merge(run: Run, run_stage: RunStage) -> int:
    fetch_answers(run, open_store(), accepted_history(run).raw_keys)
    return run_stage("merge", run)


def _validate(run: Run, run_stage: RunStage) -> int:
    code = run_stage("validate", run)
    if code == 0:
        accept_history(run, open_store())
    elif code == DataRejected.exit_code:
        log_rejection(run)
    return code


def _profile(run: Run, run_stage: RunStage) -> int:
    code = run_stage("profile", run)
    if code == 0:
        log_profile(run, open_tracking(run))
    return code


def _logged(step: str, run: Run, run_stage: RunStage) -> int:
    tracking = open_tracking(run)  # before the work: a wrong address or key shows at once
    if step == "evaluate":
        fetch_production(run, tracking)
    code = run_stage(step, run)
    if code == 0:
        _LOGGED[step](run, tracking)
        print(f"logged to {tracking.run_url}", flush=True)
    return code


_AROUND: dict[str, Callable[[Run, RunStage], int]] = {
    "ingest": _ingest,
    "merge": _merge,
    "validate": _validate,
    "profile": _profile,
}
_LOGGED: dict[str, Callable[[Run, TrackedRun], None]] = {"train": log_training, "evaluate": log_evaluation}
_DELIVERED: dict[str, Callable[[Run], None]] = {"version": record_dataset, "register": register, "fail": end_failed}

if __name__ == "__main__":
    sys.exit(main())
