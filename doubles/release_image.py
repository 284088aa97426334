"""An image of the release as tests and benchmarks build it: from a repository of what is in the working tree."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import docker

from ci.release.build import Base, Built, build, find_base, labels
from ci.release.context import PATHS, Context, read_context
from ci.release.plan import ModelVersion, Number, Plan
from clients.git import Git
from clients.progress import Log
from doubles.github.fixture import SOMEBODY
from scripts.services import ROOT

COMMITTED = "2026-01-02T03:04:05Z"
SOURCE_URL = "https://git.example/team/rps"


@dataclass(frozen=True)
class Source:
    """A repository with one commit of what the image is made of."""

    repository: Path
    committed: str = COMMITTED

    @property
    def sha(self) -> str:
        return self.git("rev-parse", "HEAD")

    def git(self, *arguments: str) -> str:
        dates = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), self.committed)
        return Git(self.repository, settings=SOMEBODY, environment=dates).text(*arguments)

    def commit(self, changes: Mapping[str, str]) -> str:
        """The commit after the one before, with these files in it."""
        for path, text in changes.items():
            (self.repository / path).write_text(text, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "Change something")
        return self.sha


def made_source(directory: Path, committed: str = COMMITTED) -> Source:
    """A new repository in ``directory`` with the parts of the working tree that an image is made of."""
    for path in (*PATHS, ".dockerignore", "pyproject.toml"):
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / path, target)
    source = Source(directory, committed)
    source.git("init", "--quiet")
    source.commit({})
    return source


def made_plan(sha: str, *, patch: int = 3) -> Plan:
    """Of version 7 of the weather's model."""
    model = ModelVersion(
        name="weather",
        version=7,
        gate="passed",
        git_sha="d" * 40,
        run_id="gate__weather__1",
        mlflow_run="e" * 32,
        source="mlflow-artifacts:/1",
        metrics={},
        tags={"rps.dataset_md5": "f" * 32 + ".dir"},
    )
    number = Number(1, 2, patch)
    return Plan(challenge="weather", title="Hourly temperature", number=number, sha=sha, model=model, withdraws=None)


@dataclass
class Building:
    """Builds images of one source and bundle, and keeps the output."""

    client: docker.DockerClient
    source: Source
    bundle: Path
    base: Base
    tag: str
    said: io.StringIO = field(default_factory=io.StringIO)

    @property
    def log(self) -> Log:
        return Log(self.said, grouped=False)

    @property
    def context(self) -> Context:
        return read_context(self.source.repository, self.source.sha, self.bundle)

    def build(
        self, *, tag: str = "", patch: int = 3, cached: bool = True, environment: Mapping[str, str] = {}
    ) -> Built:
        """Of the source's newest commit. environment: what the person who builds has set."""
        context = self.context
        return build(
            self.client,
            context,
            tag=tag or self.tag,
            labels=labels(made_plan(self.source.sha, patch=patch), context, self.base, SOURCE_URL),
            base=self.base,
            log=self.log,
            network="host",
            cached=cached,
            environment=environment,
        )


def made_building(client: docker.DockerClient, base: str, bundle: Path, source: Source, tag: str) -> Building:
    return Building(client, source, bundle, find_base(client, base, Log(io.StringIO(), grouped=False)), tag)
