"""The options of `python -m ci rules`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from clients.progress import Log
from clients.settings import github_settings


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    rules = commands.add_parser("rules", help="the branch rules of .github/rulesets on GitHub")
    rules.set_defaults(command=_rules)
    actions = "apply: set GitHub's rules to the files'; check: show differences"
    rules.add_argument("action", choices=["apply", "check"], help=actions)
    rules.add_argument("--directory", type=Path, default=Path(".github/rulesets"), help="default: %(default)s")


def _rules(options: argparse.Namespace, log: Log) -> int:
    from ci.rules.rulesets import apply, check
    from clients.github import GitHub

    github = GitHub(github_settings(os.environ), note=log.line)
    if options.action == "apply":
        for done in apply(github, options.directory):
            log.line(done)
    differences = check(github, options.directory)
    for difference in differences:
        log.line(difference)
    log.line("GitHub has other rules than the files." if differences else "GitHub's rules are those of the files.")
    return 1 if differences else 0
