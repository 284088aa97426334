"""What a release is of: one version of the model, one commit of the code, one number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

TAGS = "refs/tags/"
RESERVED = "refs/rps/releases/"
"""Where a release reserves its number before it does anything under that name."""
_TAG = re.compile(r"v(?P<major>0|[1-9]\d*)\.(?P<minor>0|[1-9]\d*)\.(?P<patch>0|[1-9]\d*)")


@dataclass(frozen=True, order=True)
class Number:
    """A semantic version: https://semver.org, without pre-releases and build metadata."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def tag(self) -> str:
        """Of Git, and of the image."""
        return f"v{self}"


def number_of(tag: str) -> Number | None:
    """The number that a tag such as `v1.2.3` stands for; None when it is another kind of tag."""
    found = _TAG.fullmatch(tag)
    return Number(*map(int, found.groups())) if found else None


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A version in the model registry, with what its run has left."""

    name: str
    version: int
    gate: str
    """`passed`, `blocked`, `pending`; empty when nobody said."""
    git_sha: str
    run_id: str
    """Of the DAG run."""
    mlflow_run: str
    source: str
    """The address of its bundle among MLflow's artifacts."""
    withdrawn: str = ""
    """Why it is not to be chosen again: production was rolled back from it."""
    metrics: Mapping[str, float]
    """Of the MLflow run: `rmse`, `production.rmse`, … on its own hold-out."""
    tags: Mapping[str, str]
    """Of the MLflow run."""

    @property
    def opponent(self) -> int | None:
        """The version that was production when this one was evaluated; None when there was none, or nobody said."""
        told = self.tags.get("rps.production_version", "")
        return int(told) if told.isdecimal() else None

    @property
    def dataset_md5(self) -> str:
        return self.tags.get("rps.dataset_md5", "")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is released, under which number."""

    challenge: str
    title: str
    number: Number
    sha: str
    """The commit of `master` whose service is built."""
    model: ModelVersion
    withdraws: int | None
    """Of a roll-back: the newest version there was. It and those down to the released one are not chosen again."""

    @property
    def tag(self) -> str:
        return self.number.tag

    @property
    def reservation(self) -> str:
        """The Git ref that holds the number for this plan."""
        return f"{RESERVED}{self.tag}"

    @property
    def labels(self) -> dict[str, str]:
        """Of the image: what it is, whoever has built it, on whatever base."""
        known = {
            "org.opencontainers.image.version": str(self.number),
            "org.opencontainers.image.revision": self.sha,
            "io.rps.challenge": self.challenge,
            "io.rps.model-version": str(self.model.version),
            "io.rps.model-run": self.model.mlflow_run,
            "io.rps.run-id": self.model.run_id,
            "io.rps.dataset-md5": self.model.dataset_md5,
            "io.rps.git-sha": self.sha,
            "io.rps.model-git-sha": self.model.git_sha,
        }
        return {name: value for name, value in known.items() if value}
