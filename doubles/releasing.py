"""A release with all that it needs, real but for GitHub: an engine, a registry, MLflow, Git, gated versions."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import msgspec

from ci.__main__ import main
from ci.release.plan import Number, number_of
from clients.errors import Cancelled
from clients.git import Git
from clients.github_releases import RESERVED
from doubles.github.fixture import SOMEBODY, Double, add_commit, made_repository, serving
from doubles.release_image import Building
from forecasting.models.bundle import read_bundle
from forecasting.models.manifest import MANIFEST, Manifest, encoded_manifest
from scripts.registry import Registry
from scripts.services import ROOT

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


@dataclass
class Releasing:
    """One team's repository, with a challenge of its own, so that tests share MLflow, engine and registry."""

    challenge: str
    double: Double
    checkout: Path
    bundle: Path
    """A bundle of another challenge, from which ours are made."""
    registry: Registry
    docker_host: str
    base: str
    mlflow: str
    home: Path
    settings: dict[str, str] = field(default_factory=dict)
    """Of the environment, over all else."""

    @property
    def repository(self) -> str:
        """Of the images."""
        return f"{self.registry.address}/rps/{self.challenge}"

    @property
    def client(self) -> MlflowClient:
        from mlflow.tracking import MlflowClient  # seconds, which no other test waits for

        return MlflowClient(tracking_uri=self.mlflow, registry_uri=self.mlflow)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.double.environment(),
            "MLFLOW_TRACKING_URI": self.mlflow,
            "DOCKER_HOST": self.docker_host,
            "RPS_IMAGE": f"{self.registry.address}/rps/{{challenge}}",
            "RPS_BASE_IMAGE": self.base,
            "RPS_BUILD_NETWORK": "host",
            "REGISTRY_USERNAME": self.registry.username,
            "REGISTRY_PASSWORD": self.registry.password,
            **self.settings,
        }

    def commit(self, message: str = "Change nothing") -> str:
        """A commit onto master, as a merge leaves one; the checkout has it, too."""
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        self.git("push", "--quiet", "origin", "HEAD:refs/heads/master")
        return self.git("rev-parse", "HEAD")

    def git(self, *arguments: str) -> str:
        return Git(self.checkout, settings=SOMEBODY).text(*arguments)

    def version(
        self,
        rmse: float,
        *,
        against: int | None = None,
        gate: str = "passed",
        sha: str = "",
        **changes: Any,  # noqa: ANN401 - any field of the manifest
    ) -> int:
        """Register a bundle as the pipeline and the gate would. changes: of its manifest, which is sealed again."""
        return register(
            self.client, self.challenge, self.bundle, rmse, against=against, gate=gate,
            sha=sha or self.git("rev-parse", "HEAD"), **changes,
        )  # fmt: skip

    def command(self, *arguments: str) -> list[str]:
        """Of a release of the checkout's HEAD."""
        return [
            "release", "--challenge", self.challenge, "--repository", str(self.checkout),
            "--output", str(self.home / "release"), "--patience-seconds", "20", *arguments,
        ]  # fmt: skip

    def release(self, *arguments: str, **settings: str) -> Done:
        """In this process: what one of its own imports takes longer than a release that is refused."""
        said = io.StringIO()
        with (
            patch.dict(os.environ, {**self.environment, **settings}, clear=True),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            code = main(self.command(*arguments))
        if code == Cancelled.exit_code:
            raise KeyboardInterrupt(said.getvalue())  # meant for the test run, whose signals a release takes
        return Done(code, said.getvalue())

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        """A release in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "ci", *self.command(*arguments)], cwd=ROOT, env={**self.environment, **settings},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def take_back(self, last_version: int) -> None:
        """Take away what was not released: commits after the newest release, and versions after ``last_version``."""
        state = self.state()
        self.git("fetch", "--quiet", "origin", f"refs/tags/{state.newest}")
        self.git("reset", "--quiet", "--hard", "FETCH_HEAD^{commit}")
        self.git("push", "--quiet", "--force", "origin", "HEAD:refs/heads/master")
        for each in self.client.search_model_versions(f"name = '{self.challenge}'"):
            if int(each.version) > last_version and str(each.version) != state.alias:
                self.client.set_model_version_tag(self.challenge, each.version, "gate", "blocked")

    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = msgspec.json.decode((self.home / "release" / "release.json").read_bytes())
        return record

    def state(self) -> State:
        """What production is, by everything that says so."""
        tags = self.double.request("GET", "git/matching-refs/tags/v").json()
        reserved = self.double.request("GET", f"git/matching-refs/{RESERVED.removeprefix('refs/')}").json()
        releases = self.double.request("GET", "releases").json()
        return State(
            alias=self._alias(),
            latest=self.digest("latest"),
            tags=tuple(sorted(tag["ref"].removeprefix("refs/tags/") for tag in tags)),
            releases=tuple(sorted(each["tag_name"] for each in releases if not each["draft"])),
            reserved=tuple(sorted(ref["ref"].removeprefix(RESERVED) for ref in reserved)),
        )

    def digest(self, tag: str) -> str:
        """Of an image in the registry; empty when it has none under this tag."""
        return self.registry.digest(f"rps/{self.challenge}", tag)

    def labels(self, tag: str) -> Mapping[str, str]:
        """Of an image in the registry."""
        with self.registry.api(f"rps/{self.challenge}") as api:
            manifest = api.get(f"manifests/{tag}").raise_for_status().json()
            config = api.get(f"blobs/{manifest['config']['digest']}").raise_for_status().json()
        labels: dict[str, str] = config["config"]["Labels"]
        return labels

    def _alias(self) -> str:
        return str(self.client.get_registered_model(self.challenge).aliases.get("production", ""))


@dataclass(frozen=True)
class Done:
    """A command that has ended, and its output."""

    code: int
    output: str


@dataclass(frozen=True)
class State:
    """What says what production is, and what is left of releases."""

    alias: str
    latest: str
    """The digest; empty when there is none."""
    tags: tuple[str, ...]
    releases: tuple[str, ...]
    """Published ones."""
    reserved: tuple[str, ...]

    def with_release(self, tag: str, version: str, digest: str) -> State:
        """What it is after one more release."""
        tags = tuple(sorted((*self.tags, tag)))
        return replace(self, alias=version, latest=digest, tags=tags, releases=tags)

    @property
    def newest(self) -> str:
        """The tag of the last release."""
        return max(_numbers(self.tags)).tag

    def following(self, *, feature: bool = False) -> str:
        """The tag of the next release, whose number was neither given nor reserved."""
        last = max(_numbers((*self.tags, *self.reserved)))
        return (Number(last.major, last.minor + 1, 0) if feature else replace(last, patch=last.patch + 1)).tag


def _numbers(tags: Iterable[str]) -> list[Number]:
    return [number for tag in tags if (number := number_of(tag)) is not None]


NOTHING = State(alias="", latest="", tags=(), releases=(), reserved=())


def register(
    client: MlflowClient,
    challenge: str,
    bundle: Path,
    rmse: float,
    *,
    against: int | None = None,
    gate: str = "passed",
    sha: str,
    **changes: Any,  # noqa: ANN401 - any field of the manifest
) -> int:
    """Log a bundle and register it as the pipeline and the gate would; the version.

    against: what was production then; its error, and the baseline's, are 1.0. changes: of the bundle's manifest.
    """
    known = client.get_experiment_by_name(challenge)
    experiment = known.experiment_id if known else client.create_experiment(challenge)
    run_id = f"gate__{challenge}__{uuid.uuid4().hex[:8]}"
    dataset = f"{uuid.uuid4().hex}.dir"
    tags = {"rps.run_id": run_id, "rps.git_sha": sha, "rps.dataset_md5": dataset}
    run = client.create_run(experiment, tags=tags | {"rps.production_version": str(against or "")})
    metrics = {"rmse": rmse, "coverage_90": 0.9, "baseline.rmse": 1.0}
    if against is not None:
        metrics["production.rmse"] = 1.0
    for name, value in metrics.items():
        client.log_metric(run.info.run_id, name, value)
    with tempfile.TemporaryDirectory() as directory:
        whole = Path(directory) / "bundle"
        own = {"challenge": challenge, "git_sha": sha, "mlflow_run": run.info.run_id, "dataset_md5": dataset}
        write_other(bundle, whole, **{**own, **changes})
        client.log_artifacts(run.info.run_id, str(whole), "bundle")
    if not known:
        client.create_registered_model(challenge)
    made = client.create_model_version(
        challenge,
        source=f"{run.info.artifact_uri}/bundle",
        run_id=run.info.run_id,
        tags={"gate": gate, "git_sha": sha, "run_id": run_id},
    )
    return int(made.version)


def write_other(bundle: Path, directory: Path, **changes: object) -> Manifest:
    """A bundle with another manifest, sealed again."""
    directory.mkdir(parents=True)
    for path in bundle.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    manifest = msgspec.structs.replace(read_bundle(bundle).manifest, **changes)
    (directory / MANIFEST).write_bytes(encoded_manifest(manifest))
    return manifest


@contextlib.contextmanager
def team(home: Path, building: Building, registry: Registry, docker_host: str, mlflow: str) -> Iterator[Releasing]:
    """A repository whose only challenge is a copy of the weather's under a name of its own; GitHub is the double.

    Its images leave the engine at the end; a container that is left fails the test.
    """
    challenge = f"weather_{uuid.uuid4().hex[:8]}"
    home.mkdir(parents=True, exist_ok=True)
    repository, checkout = made_repository(home / "github.git"), home / "checkout"
    Git(repository).text("fetch", "--quiet", str(ROOT), "HEAD:refs/heads/master")
    text = (ROOT / "challenges" / "weather.toml").read_text(encoding="utf-8")
    add_commit(repository, "master", {f"challenges/{challenge}.toml": text})
    Git(repository).clone(checkout)
    with serving(repository) as double:
        yield Releasing(
            challenge, double, checkout, building.bundle, registry, docker_host, building.base.name, mlflow, home
        )
    ours: dict[str, str | list[str] | bool] = {"label": f"io.rps.challenge={challenge}"}
    left = [
        str(container.name)
        for container in building.client.containers.list(all=True, ignore_removed=True, filters=ours)
    ]
    assert not left, f"containers are left: {left}"
    for image in building.client.images.list(filters=ours):
        building.client.images.remove(str(image.id), force=True)
