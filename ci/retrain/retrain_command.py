"""The options of `python -m ci retrain`."""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime, timedelta

from ci.commit_options import add_commit, add_run, chosen
from clients.arguments import not_negative, whole
from clients.progress import Log, output
from clients.settings import airflow_settings, github_settings, mlflow_settings
from records.drift_kinds import KINDS

COOL_DOWN_HOURS = 47.0
"""Two days, less an hour: lasting drift fires an alert every twelve hours, and a run begins minutes after its event."""
DAILY = 4


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "retrain", help="run the pipeline on fresh data, gate the candidate, keep the issue, offer it for release"
    )
    parser.set_defaults(command=_retrain)
    add = parser.add_argument
    add("--challenge", default="", help="the name of a file in challenges/ (with --plan: all of them by default)")
    add("--plan", action="store_true", help="only name the challenges, as the step's output `challenges`")
    add_commit(parser, "of master to run")
    add("--event", default="", metavar="ID", help="a-z, 0-9 and -; the same one never makes two runs (default: new)")
    add("--reason", default="", help="recorded with the run: drift, schedule, … (default: drift with --drift)")
    add("--drift", default="", help=f"what has drifted: {', '.join(KINDS)}")
    add("--alert", default="", help="the name of the alert")
    add("--summary", default="", help="what the alert says")
    add("--model-version", dest="version", default="", help="of the model that has drifted")
    add("--started", default="", metavar="TIME", help="since when the alert fires (ISO 8601 with a zone)")
    add("--by-hand", action="store_true", help="a person asks: there is no cool-down")
    pause = "from a retraining's start to the next one's (default: %(default)g)"
    add("--cool-down-hours", type=not_negative, default=COOL_DOWN_HOURS, metavar="H", help=pause)
    most = "at most so many retrainings of a challenge in 24 hours (default: %(default)s)"
    add("--daily-limit", type=whole, default=DAILY, metavar="N", help=most)
    add_run(parser, "retrain")


def _retrain(options: argparse.Namespace, log: Log) -> int:
    sha, challenges = chosen(options, required=not options.plan)
    if options.plan:
        log.line(f"to be retrained: {', '.join(challenges) or 'nothing'}")
        output("challenges", json.dumps(challenges, separators=(",", ":")))
        return 0
    from ci.retrain.limits import Limits
    from ci.retrain.retraining import Request, retrain
    from ci.retrain.trigger import read_trigger

    texts = ("event", "reason", "drift", "alert", "summary", "version", "started")
    trigger = read_trigger(**{name: getattr(options, name) for name in texts}, now=datetime.now(UTC))
    request = Request(
        challenge=options.challenge,
        sha=sha,
        repository=options.repository,
        reason=trigger.reason,
        trigger=trigger,
        limits=Limits(cool_down=timedelta(hours=options.cool_down_hours), daily=options.daily_limit),
        by_hand=options.by_hand,
        deadline=timedelta(minutes=options.deadline_minutes),
        output=options.output,
        airflow=airflow_settings(os.environ),
        mlflow=mlflow_settings(os.environ),
        github=github_settings(os.environ),
    )
    return retrain(request, log)
