"""Offer a version for release: `release.yml` is started once for it, and waits there for somebody to agree.

What was offered is a tag of the version, set after GitHub has taken the request. A command that is killed in the moment
between asks a second time, which changes nothing: a release that is done finds itself done.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from ci.errors import CiError
from ci.github_releases import Releases
from ci.progress import Log
from ci.release.models import RELEASED, WITHDRAWN
from ci.tracking import Tracking

OFFERED = "offered"
"""The version's tag: when `release.yml` was started for it."""
WORKFLOW, BRANCH = "release.yml", "master"


@dataclass(frozen=True)
class Offer:
    """What has become of a version that has passed. told: when it was asked for, its release, or why there is none."""

    state: Literal["asked", "released", "withdrawn", "failed"]
    told: str


def offer(tracking: Tracking, releases: Releases, challenge: str, version: str, log: Log) -> Offer:
    """Start the release of a version, unless that was done. Raises CiError; then it was not started."""
    client = tracking.client
    found = tracking.ask(f"give version {version}", partial(client.get_model_version, challenge, version))
    tags = dict(found.tags)
    if WITHDRAWN in tags:
        return Offer("withdrawn", tags[WITHDRAWN])
    if RELEASED in tags:
        return Offer("released", tags[RELEASED])
    if OFFERED in tags:
        log.line(f"the release of version {version} of {challenge} was asked for at {tags[OFFERED]}")
        return Offer("asked", tags[OFFERED])
    releases.dispatch_workflow(WORKFLOW, BRANCH, {"challenge": challenge, "model_version": version})
    asked = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    log.line(f"asked for the release of version {version} of {challenge}: {WORKFLOW} on {BRANCH}")
    try:
        tag = partial(client.set_model_version_tag, challenge, version, OFFERED, asked)
        tracking.ask(f"tag version {version} of {challenge}", tag)
    except CiError as error:
        log.line(f"that it was asked for could not be noted; run again, it would be asked for once more: {error}")
    return Offer("asked", asked)
