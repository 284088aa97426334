"""The options of `python -m ci release`, and of `verify`, which checks any image."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from clients.arguments import positive, whole

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from clients.progress import Log

HEALTH_SECONDS = 60.0
PATIENCE_SECONDS = 120.0
NOT_RELEASED_LENGTH = 2000


def add_commands(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    release = commands.add_parser(
        "release", help="choose a gated model, build and verify its image, make it production; run again to carry on"
    )
    release.set_defaults(command=_release)
    release.add_argument("--challenge", default="", help="the name of a file in challenges/ (default: the only one)")
    release.add_argument("--sha", default="HEAD", help="the commit of master to build (default: %(default)s)")
    release.add_argument(
        "--repository", type=Path, default=Path(), metavar="DIR",
        help="a checkout with its whole history (default: here)",
    )  # fmt: skip
    release.add_argument(
        "--model-version", type=whole, metavar="N",
        help="release this version; one earlier than production's is a roll-back",
    )  # fmt: skip
    release.add_argument(
        "--deadline-seconds", type=positive, default=HEALTH_SECONDS, metavar="S",
        help="how long the image may take to become healthy (default: %(default)g)",
    )  # fmt: skip
    release.add_argument(
        "--patience-seconds", type=positive, default=PATIENCE_SECONDS, metavar="S",
        help="how long to wait out faults of MLflow and of the registry (default: %(default)g)",
    )  # fmt: skip
    release.add_argument(
        "--output", type=Path, default=Path("release"), help="for release.json, notes.md, bundle/ (default: release/)"
    )
    verify = commands.add_parser("verify", help="pull an image, run it, and check that it is what it says it is")
    verify.set_defaults(command=_verify)
    verify.add_argument("image", metavar="IMAGE", help="registry/owner/name:tag, or …@sha256:…")
    verify.add_argument(
        "--deadline-seconds", type=positive, default=HEALTH_SECONDS, metavar="S",
        help="how long the image may take to become healthy (default: %(default)g)",
    )  # fmt: skip
    verify.add_argument("--no-pull", dest="pull", action="store_false", help="take the engine's image")
    verify.add_argument("--expect-digest", default="", metavar="sha256:…", help="the registry must give this one")


def _release(options: argparse.Namespace, log: Log) -> int:
    from ci import markdown
    from ci.gate.policy import challenges, commit_of
    from ci.release.attempt import NOTES, Request, release
    from clients.errors import ConfigurationError, RpsError
    from clients.progress import output, summarise
    from clients.settings import github_settings, image_settings, mlflow_settings

    sha = commit_of(options.repository, options.sha)
    known = challenges(options.repository, sha)
    challenge = options.challenge or (known[0] if len(known) == 1 else "")
    if challenge not in known:
        expected = ", ".join(known) or "none, as the commit has no challenge"
        raise ConfigurationError(f"--challenge: expected one of {expected}; found {challenge!r}")
    request = Request(
        challenge=challenge,
        sha=sha,
        repository=options.repository,
        pinned=options.model_version,
        health_seconds=options.deadline_seconds,
        patience_seconds=options.patience_seconds,
        output=options.output,
        image=image_settings(os.environ, challenge, several=len(known) > 1),
        mlflow=mlflow_settings(os.environ),
        github=github_settings(os.environ),
    )
    try:
        record = release(request, log)
    except RpsError as error:
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
