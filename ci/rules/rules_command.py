"""The options of `python -m ci rules`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from clients.progress import Log


def add_command(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    rules = commands.add_parser("rules", help="the branch rules of .github/rulesets on GitHub")
    rules.set_defaults(command=_rules)
    rules.add_argument(
        "action", choices=["apply", "check"], help="apply: make GitHub's as the files; check: differences"
    )
    rules.add_argument("--directory", type=Path, default=Path(".github/rulesets"), help="default: %(default)s")


def _rules(options: argparse.Namespace, log: Log) -> int:
    from ci.rules.rulesets import apply, check
    from clients.github import GitHub
    from clients.settings import github_settings

    github = GitHub(github_settings(os.environ), note=log.line)
    if options.action == "apply":
        for told in apply(github, options.directory):
            log.line(told)
    differences = check(github, options.directory)
    for difference in differences:
        log.line(difference)
    log.line("GitHub has other rules than the files." if differences else "GitHub's rules are those of the files.")
    return 1 if differences else 0
