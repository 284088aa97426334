"""`make demo`: run one challenge's pipeline on a commit through Airflow, judge the model, serve it, stream data to it.

The gate judges as on a pull request, but reports to GitHub nothing. All output comes from the APIs of Airflow and
MLflow, so it is the same for a stack on another machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markdown import Markdown

from ci.gate.gate_run import Request, gate
from ci.gate.policy import challenges, commit_of
from clients.git import Git
from clients.progress import Log
from clients.settings import airflow_settings, mlflow_settings
from scripts.demo_frame import guarded, made_console
from scripts.services import REPLAY_STARTS, ROOT, Stack, StackError, laptop_stack, set_clock
from scripts.stack import replace, up

DEADLINE = timedelta(minutes=30)
STREAM_SPEED = 720.0
"""Replayed seconds per second while the demo's service is fed: an hour every five seconds."""
JUDGED = (0, 1)
"""The gate's exit codes when there is a verdict, whichever it is."""


class _Judged(msgspec.Struct):
    """What the demo reads of the verdict."""

    model_version: str


def demo(console: Console, challenge: str, sha: str, as_of: str) -> int:
    """Run everything; the exit code, 0 when there is a verdict. Raises RpsError."""
    commit = _commit(console, sha, challenge)
    stack = laptop_stack()
    console.print("Laptop stack:")
    up(stack)
    if stack.replay is not None:  # an earlier demo has moved its clock on
        set_clock(stack.replay, now=REPLAY_STARTS, speed=1.0)
    # MLflow's client reads who we are from the environment.
    os.environ.update({name: value for name, value in stack.addresses.items() if name.startswith("MLFLOW_")})
    output = stack.home / "demo"
    request = Request(
        challenge=challenge,
        sha=commit,
        repository=ROOT,
        reason="demo",
        as_of=as_of,
        deadline=DEADLINE,
        max_age=timedelta(0),
        output=output,
        airflow=airflow_settings(stack.addresses),
        mlflow=mlflow_settings(stack.addresses),
        github=None,
    )
    console.print(f"\nThe pipeline, and then the gate, on commit {commit[:12]}:")
    code = gate(request, Log(sys.stdout, grouped=False))
    console.print()
    console.print(Markdown((output / "report.md").read_text(encoding="utf-8")))
    console.print(f"\nThis report and verdict.json are in {output}.", soft_wrap=True)
    if code not in JUDGED:
        return code
    _go_online(console, stack, challenge, output)
    return 0


def _go_online(console: Console, stack: Stack, challenge: str, output: Path) -> None:
    """Serve the model that was just made, and stream observations into it. Raises StackError."""
    version = msgspec.json.decode((output / "verdict.json").read_bytes(), type=_Judged).model_version
    console.print(f"\nThe service, on version {version} of {challenge}:")
    pace = "as they come"
    if stack.replay is not None:
        set_clock(stack.replay, speed=STREAM_SPEED)
        pace = f"an hour of it every {3600 / STREAM_SPEED:g} s, for a quarter of an hour"
    services = stack.online(challenge, f"models:/{challenge}/{version}")
    replace(stack, services)
    console.print(f"\nObservations stream in, {pace}. See it live: {services[0].address}/")
    console.print("'make status' shows what runs, 'make down' ends it.")


def _commit(console: Console, sha: str, challenge: str) -> str:
    """The commit to run, which has the challenge."""
    commit = commit_of(ROOT, sha)
    known = challenges(ROOT, commit)
    if challenge not in known:
        names = ", ".join(known) or "none"
        message = f"expected a challenge of commit {commit[:12]}, one of {names}; found {challenge!r}"
        raise StackError(f"{message}. A run is of a commit: is the file committed?")
    if Git(ROOT).text("status", "--porcelain", "--", ":(top,exclude)dvc.lock"):
        console.print("Note: there are uncommitted changes; the run is of the commit, without them.\n")
    return commit


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.demo", description=__doc__)
    parser.add_argument("--challenge", default=os.environ.get("CHALLENGE", "weather"), help="default: %(default)s")
    parser.add_argument("--sha", default=os.environ.get("SHA", "HEAD"), help="the commit to run (default: %(default)s)")
    parser.add_argument("--as-of", default="", help="use no observation after this moment (default: the source's now)")
    options = parser.parse_args()
    work = partial(demo, made_console(), options.challenge, options.sha, options.as_of)
    return guarded("demo", work, ". 'make down' ends the stack.")


if __name__ == "__main__":
    sys.exit(main())
