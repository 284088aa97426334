"""The options of `python -m ci retrain`."""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from clients.arguments import not_negative, positive, whole
from records.drift_kinds import KINDS

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from clients.progress import Log

COOL_DOWN_HOURS = 47.0
"""Two days, less an hour: drift that goes on is told every twelve hours, and a run begins minutes after its event."""
DAILY = 4
DEADLINE_MINUTES = 45.0


def add_command(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "retrain", help="run the pipeline on fresh data, gate the candidate, tell in an issue, offer it for release"
    )
    parser.set_defaults(command=_run)
    add = parser.add_argument
    add("--challenge", default="", help="the name of a file in challenges/ (with --plan: all of them by default)")
    add("--plan", action="store_true", help="only name the challenges, as the step's output `challenges`")
    add("--sha", default="HEAD", help="the commit of master to run (default: %(default)s)")
    add(
        "--repository", type=Path, default=Path(), metavar="DIR",
        help="a checkout with its whole history (default: here)",
    )  # fmt: skip
    add("--event", default="", metavar="ID", help="a-z, 0-9 and -; the same one never makes two runs (default: new)")
    add("--reason", default="", help="recorded with the run: drift, schedule, … (default: drift with --drift)")
    add("--drift", default="", help=f"what has drifted: {', '.join(KINDS)}")
    add("--alert", default="", help="the name of the alert")
    add("--summary", default="", help="what the alert says")
    add("--model-version", default="", help="of the model that has drifted")
    add("--started", default="", metavar="TIME", help="since when the alert fires (ISO 8601 with a zone)")
    add("--by-hand", action="store_true", help="a person asks: there is no cool-down")
    add(
        "--cool-down-hours", type=not_negative, default=COOL_DOWN_HOURS, metavar="H",
        help="from a retraining's start to the next one's (default: %(default)g)",
    )  # fmt: skip
    add(
        "--daily-limit", type=whole, default=DAILY, metavar="N",
        help="at most so many retrainings of a challenge in 24 hours (default: %(default)s)",
    )  # fmt: skip
    add(
        "--deadline-minutes", type=positive, default=DEADLINE_MINUTES, metavar="M",
        help="cancel the run and give no verdict after this long (default: %(default)g)",
    )  # fmt: skip
    add("--output", type=Path, default=Path("retrain"), help="for verdict.json and report.md (default: retrain/)")


def _run(options: argparse.Namespace, log: Log) -> int:
    from ci.gate.policy import challenges, commit_of
    from clients.errors import ConfigurationError

    sha = commit_of(options.repository, options.sha)
    known = challenges(options.repository, sha)
    if options.challenge not in ("", *known) or not (options.challenge or options.plan):
        told = f"expected one of {', '.join(known) or 'none, as the commit has no challenge'}"
        raise ConfigurationError(f"--challenge: {told}; found {options.challenge[:80]!r}")
    return _plan(options, known, log) if options.plan else _retrain(options, sha, log)


def _plan(options: argparse.Namespace, known: tuple[str, ...], log: Log) -> int:
    import msgspec

    from clients.progress import output

    chosen = [options.challenge] if options.challenge else list(known)
    log.line(f"to be retrained: {', '.join(chosen) or 'nothing'}")
    output("challenges", msgspec.json.encode(chosen).decode())
    return 0


def _retrain(options: argparse.Namespace, sha: str, log: Log) -> int:
    from ci.retrain.limits import Limits
    from ci.retrain.retraining import Request, Services, retrain
    from ci.retrain.trigger import read_trigger
    from clients.settings import airflow_settings, github_settings, mlflow_settings

    trigger = read_trigger(
        event=options.event,
        reason=options.reason,
        drift=options.drift,
        alert=options.alert,
        summary=options.summary,
        version=options.model_version,
        started=options.started,
        now=datetime.now(UTC),
    )
    services = Services(airflow_settings(os.environ), mlflow_settings(os.environ), github_settings(os.environ))
    request = Request(
        challenge=options.challenge,
        sha=sha,
        repository=options.repository,
        trigger=trigger,
        limits=Limits(cool_down=timedelta(hours=options.cool_down_hours), daily=options.daily_limit),
        by_hand=options.by_hand,
        deadline=timedelta(minutes=options.deadline_minutes),
        output=options.output,
    )
    return retrain(request, services, log)
