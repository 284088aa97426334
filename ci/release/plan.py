"""A release's plan: one version of the model, one commit of the code, one number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from clients.github_releases import RESERVED
from records.image_labels import Label
from records.mlflow_names import RunTag

_TAG = re.compile(r"v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


@dataclass(frozen=True, order=True)
class Number:
    """A semantic version (https://semver.org) without pre-releases and build metadata."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def tag(self) -> str:
        return f"v{self}"


def number_of(tag: str) -> Number | None:
    """The number of a tag such as `v1.2.3`; None for other tags."""
    found = _TAG.fullmatch(tag)
    return Number(*map(int, found.groups())) if found else None


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A version in the model registry, with its run's metrics and tags."""

    name: str
    version: int
    gate: str
    """`passed`, `blocked`, `pending`; empty when unknown."""
    git_sha: str
    run_id: str
    """Of the DAG run."""
    mlflow_run: str
    source: str
    """The address of its bundle in MLflow."""
    withdrawn: str = ""
    """Why it is not chosen again: production was rolled back from it."""
    metrics: Mapping[str, float]
    """Of the MLflow run, as its tags: the measure of the loss, `production.` with it, … on its own folds."""
    tags: Mapping[str, str]

    @property
    def opponent(self) -> int | None:
        """The version that was production when this one was evaluated; None when there was none, or it is unknown."""
        version = self.tags.get(RunTag.PRODUCTION_VERSION, "")
        return int(version) if version.isdecimal() else None

    @property
    def dataset_md5(self) -> str:
        return self.tags.get(RunTag.DATASET_MD5, "")


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
    """Of a roll-back: the newest version. It and those down to the released one are not chosen again."""

    @property
    def tag(self) -> str:
        return self.number.tag

    @property
    def heading(self) -> str:
        return f"{self.title} {self.tag}"

    @property
    def reservation(self) -> str:
        """The Git ref that holds the number for this plan."""
        return f"{RESERVED}{self.tag}"

    @property
    def labels(self) -> dict[str, str]:
        """The image's labels that do not depend on its build."""
        known = {
            Label.VERSION: str(self.number),
            Label.REVISION: self.sha,
            Label.CHALLENGE: self.challenge,
            Label.MODEL_VERSION: str(self.model.version),
            Label.MODEL_RUN: self.model.mlflow_run,
            Label.RUN_ID: self.model.run_id,
            Label.DATASET_MD5: self.model.dataset_md5,
            Label.GIT_SHA: self.sha,
            Label.MODEL_GIT_SHA: self.model.git_sha,
        }
        return {label.value: value for label, value in known.items() if value}
