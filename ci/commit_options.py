"""The options that the gate's and the retraining's commands share, and the challenges that they choose."""

from __future__ import annotations

import argparse
from pathlib import Path

from clients.arguments import positive
from clients.errors import ConfigurationError


def add_commit(parser: argparse.ArgumentParser, purpose: str) -> None:
    parser.add_argument("--sha", default="HEAD", help=f"the commit {purpose} (default: %(default)s)")
    checkout = "a checkout with its whole history (default: here)"
    parser.add_argument("--repository", type=Path, default=Path(), metavar="DIR", help=checkout)


def add_run(parser: argparse.ArgumentParser, output: str) -> None:
    late = "cancel the run and give no verdict after this long (default: %(default)g)"
    parser.add_argument("--deadline-minutes", type=positive, default=45.0, metavar="M", help=late)
    reports = "for verdict.json and report.md (default: %(default)s/)"
    parser.add_argument("--output", type=Path, default=Path(output), help=reports)


def chosen(options: argparse.Namespace, *, required: bool = False) -> tuple[str, list[str]]:
    """The commit, and the challenge that `--challenge` names in it; without one all of them, unless it is required."""
    from ci.gate.policy import challenges, commit_of

    sha = commit_of(options.repository, options.sha)
    known = challenges(options.repository, sha)
    if options.challenge not in known and (options.challenge or required):
        expected = f"expected one of {', '.join(known) or 'none, as the commit has no challenge'}"
        raise ConfigurationError(f"--challenge: {expected}; found {options.challenge[:80]!r}")
    return sha, [options.challenge] if options.challenge else list(known)
