"""Offer a version for release: start `release.yml` once for it, which waits there for somebody to agree.

A tag of the version records the offer, set after GitHub has taken the request. A command that is killed in the moment
between asks a second time, which changes nothing: a release that is done finds itself done.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from clients.errors import RpsError
from clients.github_releases import Releases
from clients.progress import Log
from clients.tracking import Tracking
from records.mlflow_names import VersionTag

WORKFLOW, BRANCH = "release.yml", "master"


@dataclass(frozen=True)
class Offer:
    """What has become of a version that has passed. detail: when its release was asked for, its number, or why none."""

    state: Literal["asked", "released", "withdrawn", "failed"]
    detail: str


def offer(tracking: Tracking, releases: Releases, challenge: str, version: str, log: Log) -> Offer:
    """Start the release of a version, unless that was done. Raises RpsError; then it was not started."""
    client = tracking.client
    tags = tracking.ask(f"give version {version}", partial(client.get_model_version, challenge, version)).tags
    if VersionTag.WITHDRAWN in tags:
        return Offer("withdrawn", tags[VersionTag.WITHDRAWN])
    if VersionTag.RELEASED in tags:
        return Offer("released", tags[VersionTag.RELEASED])
    if VersionTag.OFFERED in tags:
        log.line(f"the release of version {version} of {challenge} was asked for at {tags[VersionTag.OFFERED]}")
        return Offer("asked", tags[VersionTag.OFFERED])
    releases.dispatch_workflow(WORKFLOW, BRANCH, {"challenge": challenge, "model_version": version})
    asked = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    log.line(f"asked for the release of version {version} of {challenge}: {WORKFLOW} on {BRANCH}")
    try:
        tag = partial(client.set_model_version_tag, challenge, version, VersionTag.OFFERED, asked)
        tracking.ask(f"tag version {version} of {challenge}", tag)
    except RpsError as error:
        log.line(f"that it was asked for could not be noted; run again, it would be asked for once more: {error}")
    return Offer("asked", asked)
