"""The options of `python -m ci gate`, and of `plan` and `conclude`, which frame several gates."""

from __future__ import annotations

import argparse
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from clients.arguments import not_negative, positive

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from clients.github import GitHub
    from clients.progress import Log

DEADLINE_MINUTES = 45.0
MAX_AGE_HOURS = 6.0


def add_commands(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    gate = commands.add_parser("gate", help="run the pipeline on a commit, judge its model, report, set the status")
    gate.set_defaults(command=_gate)
    gate.add_argument("--challenge", required=True, help="the name of a file in challenges/")
    _commit(gate)
    gate.add_argument("--pull-request", type=int, metavar="N", help="report to it; its base branch's policy judges")
    gate.add_argument("--status", action="store_true", help="set the commit status without a pull request, too")
    gate.add_argument(
        "--base",
        default="",
        metavar="REV",
        help="whose policy judges (default: the base branch, else the commit's own)",
    )
    gate.add_argument("--context", default="", help="name of the commit status (default: model-gate)")
    gate.add_argument("--reason", default="pull request", help="recorded with the run (default: %(default)s)")
    gate.add_argument(
        "--as-of", default="", metavar="TIME", help="use no later observation (default: the source's now)"
    )
    gate.add_argument(
        "--deadline-minutes", type=positive, default=DEADLINE_MINUTES, metavar="M",
        help="cancel the run and give no verdict after this long (default: %(default)g)",
    )  # fmt: skip
    gate.add_argument(
        "--max-age-hours", type=not_negative, default=MAX_AGE_HOURS, metavar="H",
        help="a finished run of the same commit that is not older is judged, not run again (default: %(default)g)",
    )  # fmt: skip
    gate.add_argument(
        "--output", type=Path, default=Path("gate"), help="for verdict.json and report.md (default: gate/)"
    )
    plan = commands.add_parser("plan", help="name the challenges to be judged, and set their statuses pending")
    plan.set_defaults(command=_plan)
    _commit(plan)
    plan.add_argument("--challenge", default="", help="only this one (default: all of the commit's)")
    conclude = commands.add_parser("conclude", help="set `model-gate` to what all challenges' gates have said")
    conclude.set_defaults(command=_conclude)
    _commit(conclude)


def _commit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sha", default="HEAD", help="the commit to judge (default: %(default)s)")
    parser.add_argument(
        "--repository", type=Path, default=Path(), metavar="DIR", help="a checkout that holds it (default: here)"
    )


def _gate(options: argparse.Namespace, log: Log) -> int:
    from ci.gate.gate_run import Request, Services, gate
    from ci.gate.policy import commit_of
    from ci.gate.statuses import CONTEXT
    from clients.progress import summarise
    from clients.settings import airflow_settings, github_settings, mlflow_settings

    services = Services(
        airflow_settings(os.environ),
        mlflow_settings(os.environ),
        github_settings(os.environ) if options.pull_request is not None or options.status else None,
    )
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
    )
    code = gate(request, services, log)
    report = (options.output / "report.md").read_text(encoding="utf-8")
    summarise(report)
    if services.github is None:
        print(f"\n{report}")
    return code


def _plan(options: argparse.Namespace, log: Log) -> int:
    import msgspec

    from ci.gate.statuses import announce
    from clients.errors import ConfigurationError
    from clients.progress import output
    from clients.settings import workflow_url

    github, sha, known = _github_and_challenges(options, log)
    if options.challenge and options.challenge not in known:
        raise ConfigurationError(
            f"--challenge: expected one of {', '.join(known) or 'none'}; found {options.challenge!r}"
        )
    chosen = [options.challenge] if options.challenge else list(known)
    announce(github, sha, chosen, workflow_url(os.environ))
    log.line(f"to be judged on commit {sha[:12]}: {', '.join(chosen) or 'nothing'}")
    output("challenges", msgspec.json.encode(chosen).decode())
    return 0


def _conclude(options: argparse.Namespace, log: Log) -> int:
    from ci.gate.statuses import conclude
    from clients.settings import workflow_url

    github, sha, known = _github_and_challenges(options, log)
    status = conclude(github, sha, known, workflow_url(os.environ))
    log.line(f"{status.state}: {status.description}")
    return {"success": 0, "failure": 1}.get(status.state, 2)


def _github_and_challenges(options: argparse.Namespace, log: Log) -> tuple[GitHub, str, tuple[str, ...]]:
    from ci.gate.policy import challenges, commit_of
    from clients.github import GitHub
    from clients.settings import github_settings

    github = GitHub(github_settings(os.environ), note=log.line)
    sha = commit_of(options.repository, options.sha)
    return github, sha, challenges(options.repository, sha)
