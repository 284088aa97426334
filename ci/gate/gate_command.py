"""The options of `python -m ci gate`, and of `plan` and `conclude`, which frame several gates."""

from __future__ import annotations

import argparse
import json
import os
from datetime import timedelta

from ci.commit_options import add_commit, add_run, chosen
from clients.arguments import not_negative
from clients.progress import Log, output, summarise
from clients.settings import airflow_settings, github_settings, mlflow_settings, workflow_url


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    gate = commands.add_parser("gate", help="run the pipeline on a commit, judge its model, report, set the status")
    gate.set_defaults(command=_gate)
    add = gate.add_argument
    add("--challenge", required=True, help="the name of a file in challenges/")
    add_commit(gate, "to judge")
    add("--pull-request", type=int, metavar="N", help="report to it; its base branch's policy judges")
    add("--status", action="store_true", help="set the commit status without a pull request, too")
    add("--base", default="", metavar="REV", help="whose policy judges (default: the base branch, else the commit)")
    add("--context", default="", help="name of the commit status (default: model-gate)")
    add("--reason", default="pull request", help="recorded with the run (default: %(default)s)")
    add("--as-of", default="", metavar="TIME", help="use no later observation (default: the source's now)")
    age = "judge a finished run of the commit that is not older, instead of a new one (default: %(default)g)"
    add("--max-age-hours", type=not_negative, default=6.0, metavar="H", help=age)
    add_run(gate, "gate")
    plan = commands.add_parser("plan", help="name the challenges to be judged, and set their statuses pending")
    plan.set_defaults(command=_plan)
    add_commit(plan, "to judge")
    plan.add_argument("--challenge", default="", help="only this one (default: all of the commit's)")
    conclude = commands.add_parser("conclude", help="set `model-gate` to what all challenges' gates have said")
    conclude.set_defaults(command=_conclude, challenge="")
    add_commit(conclude, "to judge")


def _gate(options: argparse.Namespace, log: Log) -> int:
    from ci.gate.gate_run import Request, gate
    from ci.gate.policy import commit_of
    from ci.gate.statuses import CONTEXT

    airflow, mlflow = airflow_settings(os.environ), mlflow_settings(os.environ)
    github = github_settings(os.environ) if options.pull_request is not None or options.status else None
    request = Request(
        challenge=options.challenge,
        sha=commit_of(options.repository, options.sha),
        pull_request=options.pull_request,
        repository=options.repository,
        base=options.base,
        reason=options.reason,
        as_of=options.as_of,
        context=options.context or CONTEXT,
        deadline=timedelta(minutes=options.deadline_minutes),
        max_age=timedelta(hours=options.max_age_hours),
        output=options.output,
        airflow=airflow,
        mlflow=mlflow,
        github=github,
    )
    code = gate(request, log)
    report = (options.output / "report.md").read_text(encoding="utf-8")
    summarise(report)
    if github is None:
        print(f"\n{report}")
    return code


def _plan(options: argparse.Namespace, log: Log) -> int:
    from ci.gate.statuses import announce
    from clients.github import GitHub

    github = GitHub(github_settings(os.environ), note=log.line)
    sha, challenges = chosen(options)
    announce(github, sha, challenges, workflow_url(os.environ))
    log.line(f"to be judged on commit {sha[:12]}: {', '.join(challenges) or 'nothing'}")
    output("challenges", json.dumps(challenges, separators=(",", ":")))
    return 0


def _conclude(options: argparse.Namespace, log: Log) -> int:
    from ci.gate.statuses import conclude
    from clients.github import GitHub

    github = GitHub(github_settings(os.environ), note=log.line)
    status = conclude(github, *chosen(options), workflow_url(os.environ))
    log.line(f"{status.state}: {status.description}")
    return {"success": 0, "failure": 1}.get(status.state, 2)
