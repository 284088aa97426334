"""The decisions of CI: `python -m ci gate` judges a commit's model; `plan` and `conclude` frame several such gates;
`release` brings the best one to production in a verified image, and `verify` checks any image; `alerts` takes what
Prometheus and Grafana tell, `retrain` answers drift with a gated candidate, and `metrics` tells of the pipeline.

Exit codes: 0 done, or passed; 1 blocked, other rules, or not released; 2 no verdict, or cancelled; 64 wrong use or
configuration; 75 a fault that may pass (GitHub, a registry, the engine): run it again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ci.alerts import command as alerts
from ci.arguments import not_negative, positive, whole
from ci.errors import CiError, ConfigurationError
from ci.metrics import command as metrics
from ci.progress import Log, output, summarise
from ci.retrain import command as retrain

if TYPE_CHECKING:
    from ci.github import GitHub

DEADLINE_MINUTES = 45.0
MAX_AGE_HOURS = 6.0
HEALTH_SECONDS = 60.0
PATIENCE_SECONDS = 120.0
NOT_RELEASED_LENGTH = 2000


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace, Log], int] = options.command
    log = Log(sys.stdout, grouped="GITHUB_ACTIONS" in os.environ)
    try:
        return command(options, log)
    except CiError as error:
        log.error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _gate(options: argparse.Namespace, log: Log) -> int:
    from ci.gate import Request, Services, gate
    from ci.policy import commit_of
    from ci.settings import airflow_settings, github_settings, mlflow_settings
    from ci.statuses import CONTEXT

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
    from ci.settings import workflow_url
    from ci.statuses import announce

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
    from ci.settings import workflow_url
    from ci.statuses import conclude

    github, sha, known = _github_and_challenges(options, log)
    status = conclude(github, sha, known, workflow_url(os.environ))
    log.line(f"{status.state}: {status.description}")
    return {"success": 0, "failure": 1}.get(status.state, 2)


def _release(options: argparse.Namespace, log: Log) -> int:
    from ci import markdown
    from ci.policy import challenges, commit_of
    from ci.release.release import NOTES, Request, Services, release
    from ci.settings import github_settings, image_settings, mlflow_settings

    sha = commit_of(options.repository, options.sha)
    known = challenges(options.repository, sha)
    challenge = options.challenge or (known[0] if len(known) == 1 else "")
    if challenge not in known:
        told = f"expected one of {', '.join(known) or 'none, as the commit has no challenge'}; found {challenge!r}"
        raise ConfigurationError(f"--challenge: {told}")
    image = image_settings(os.environ, challenge, several=len(known) > 1)
    services = Services(mlflow_settings(os.environ), github_settings(os.environ), image)
    request = Request(
        challenge=challenge,
        sha=sha,
        repository=options.repository,
        pinned=options.model_version,
        health_deadline=timedelta(seconds=options.deadline_seconds),
        patience=timedelta(seconds=options.patience_seconds),
        output=options.output,
    )
    try:
        record = release(request, services, log)
    except CiError as error:
        summarise(f"### {challenge} is not released\n\n{markdown.text(str(error), NOT_RELEASED_LENGTH)}")
        raise
    log.line(f"released {record.tag}: version {record.model_version} of {challenge} in {record.image}")
    summarise((options.output / NOTES).read_text(encoding="utf-8"))
    output("image", record.image)
    output("tag", record.tag)
    return 0


def _verify(options: argparse.Namespace, log: Log) -> int:
    from ci.release.verify import verify_command

    return verify_command(options, log)


def _rules(options: argparse.Namespace, log: Log) -> int:
    from ci.github import GitHub
    from ci.rules import apply, check
    from ci.settings import github_settings

    github = GitHub(github_settings(os.environ), note=log.line)
    if options.action == "apply":
        for told in apply(github, options.directory):
            log.line(told)
    differences = check(github, options.directory)
    for difference in differences:
        log.line(difference)
    log.line("GitHub has other rules than the files." if differences else "GitHub's rules are those of the files.")
    return 1 if differences else 0


def _github_and_challenges(options: argparse.Namespace, log: Log) -> tuple[GitHub, str, tuple[str, ...]]:
    from ci.github import GitHub
    from ci.policy import challenges, commit_of
    from ci.settings import github_settings

    github = GitHub(github_settings(os.environ), note=log.line)
    sha = commit_of(options.repository, options.sha)
    return github, sha, challenges(options.repository, sha)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ci", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
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
    release = commands.add_parser(
        "release", help="choose a gated model, build and verify its image, make it production; run again, it carries on"
    )
    release.set_defaults(command=_release)
    release.add_argument("--challenge", default="", help="the name of a file in challenges/ (default: the only one)")
    release.add_argument("--sha", default="HEAD", help="the commit of master to build (default: %(default)s)")
    release.add_argument(
        "--repository",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="a checkout with its whole history (default: here)",
    )
    release.add_argument(
        "--model-version",
        type=whole,
        metavar="N",
        help="release this one; an earlier one than production's: a roll-back",
    )
    release.add_argument(
        "--deadline-seconds", type=positive, default=HEALTH_SECONDS, metavar="S",
        help="how long the image may take to become healthy (default: %(default)g)",
    )  # fmt: skip
    release.add_argument(
        "--patience-seconds", type=positive, default=PATIENCE_SECONDS, metavar="S",
        help="how long faults of MLflow and of the registry are waited for (default: %(default)g)",
    )  # fmt: skip
    release.add_argument(
        "--output", type=Path, default=Path("release"), help="for release.json, notes.md, bundle/ (default: release/)"
    )
    verify = commands.add_parser("verify", help="pull an image, run it, and see that it is what it says it is")
    verify.set_defaults(command=_verify)
    verify.add_argument("image", metavar="IMAGE", help="registry/owner/name:tag, or …@sha256:…")
    verify.add_argument(
        "--deadline-seconds", type=positive, default=HEALTH_SECONDS, metavar="S",
        help="it must be healthy so long after its start (default: %(default)g)",
    )  # fmt: skip
    verify.add_argument("--no-pull", dest="pull", action="store_false", help="take the image that the engine has")
    verify.add_argument("--expect-digest", default="", metavar="sha256:…", help="the registry must give this one")
    rules = commands.add_parser("rules", help="the branch rules of .github/rulesets on GitHub")
    rules.set_defaults(command=_rules)
    rules.add_argument(
        "action", choices=["apply", "check"], help="apply: make GitHub's as the files; check: differences"
    )
    rules.add_argument("--directory", type=Path, default=Path(".github/rulesets"), help="default: %(default)s")
    for add in (retrain.add_command, alerts.add_command, metrics.add_command):
        add(commands)
    return parser


def _commit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sha", default="HEAD", help="the commit to judge (default: %(default)s)")
    parser.add_argument(
        "--repository", type=Path, default=Path(), metavar="DIR", help="a checkout that holds it (default: here)"
    )


if __name__ == "__main__":
    sys.exit(main())
