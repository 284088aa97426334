"""A release with all that it needs, real but for GitHub: an engine, a registry, MLflow, Git, gated versions."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import httpx
import msgspec
import pytest
from mlflow.tracking import MlflowClient

from ci.release.plan import RESERVED
from forecasting.bundle import read_bundle
from forecasting.manifest import MANIFEST, Manifest, encoded_manifest
from scripts.registry import Registry
from scripts.services import ROOT
from tests.doubles.github.fixture import Double, add_commit, serving

IDENTITY = {f"GIT_{role}_{part}": "a@b.example" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}


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
        command = ["git", "-C", str(self.checkout), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **IDENTITY})
        return done.stdout.strip()

    def version(
        self, rmse: float, *, against: int | None = None, gate: str = "passed", sha: str = "", **changes: Any
    ) -> int:
        """Register a bundle as the pipeline and the gate would. changes: of its manifest, which is sealed again."""
        return register(
            self.client, self.challenge, self.bundle, rmse, against=against, gate=gate,
            sha=sha or self.git("rev-parse", "HEAD"), **changes,
        )  # fmt: skip

    def command(self, *arguments: str) -> list[str]:
        """Of a release of the checkout's HEAD."""
        return [
            sys.executable, "-m", "ci", "release", "--challenge", self.challenge, "--repository", str(self.checkout),
            "--output", str(self.home / "release"), "--patience-seconds", "20", *arguments,
        ]  # fmt: skip

    def release(self, *arguments: str, **settings: str) -> Done:
        done = subprocess.run(
            self.command(*arguments), cwd=ROOT, env={**self.environment, **settings}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout + done.stderr)

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments), cwd=ROOT, env={**self.environment, **settings}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

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
        registry = self.registry
        answer = httpx.get(
            f"http://{registry.address}/v2/rps/{self.challenge}/manifests/{tag}",
            headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
            auth=(registry.username, registry.password),
            timeout=30.0,
        )
        if answer.status_code == 404:
            return ""
        answer.raise_for_status()
        return answer.headers["Docker-Content-Digest"]

    def labels(self, tag: str) -> Mapping[str, str]:
        """Of an image in the registry."""
        registry = self.registry
        with httpx.Client(
            base_url=f"http://{registry.address}/v2/rps/{self.challenge}/", auth=(registry.username, registry.password),
            timeout=30.0,
        ) as client:  # fmt: skip
            accepted = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
            manifest = client.get(f"manifests/{tag}", headers=accepted).raise_for_status().json()
            config = client.get(f"blobs/{manifest['config']['digest']}").raise_for_status().json()
        labels: dict[str, str] = config["config"]["Labels"]
        return labels

    def _alias(self) -> str:
        return str(self.client.get_registered_model(self.challenge).aliases.get("production", ""))


@dataclass(frozen=True)
class Done:
    """A command that has ended, and all that it said."""

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
    **changes: Any,
) -> int:
    """Log a bundle and register it as the pipeline and the gate would; the version.

    against: what was production then; its error, and persistence's, are 1.0. changes: of the bundle's manifest.
    """
    known = client.get_experiment_by_name(challenge)
    experiment = known.experiment_id if known else client.create_experiment(challenge)
    run_id = f"gate__{challenge}__{uuid.uuid4().hex[:8]}"
    dataset = f"{uuid.uuid4().hex}.dir"
    tags = {"rps.run_id": run_id, "rps.git_sha": sha, "rps.dataset_md5": dataset}
    run = client.create_run(experiment, tags=tags | {"rps.production_version": str(against or "")})
    metrics = {"rmse": rmse, "mae": rmse * 0.8, "coverage_90": 0.9, "persistence.rmse": 1.0}
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


def write_other(bundle: Path, directory: Path, **changes: Any) -> Manifest:
    """A bundle with another manifest, sealed again."""
    directory.mkdir(parents=True)
    for path in bundle.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    manifest = msgspec.structs.replace(read_bundle(bundle).manifest, **changes)
    (directory / MANIFEST).write_bytes(encoded_manifest(manifest))
    return manifest


def made(home: Path, bundle: Path, registry: Registry, docker_host: str, base: str, mlflow: str) -> Iterator[Releasing]:
    """A repository whose only challenge is a copy of the weather's under a name of its own; GitHub is the double."""
    challenge = f"weather_{uuid.uuid4().hex[:8]}"
    git, checkout = home / "github.git", home / "checkout"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=master", str(git)], check=True)
    subprocess.run(["git", "-C", str(git), "fetch", "--quiet", str(ROOT), "HEAD:refs/heads/master"], check=True)
    text = (ROOT / "challenges" / "weather.toml").read_text(encoding="utf-8")
    add_commit(git, "master", {f"challenges/{challenge}.toml": text})
    subprocess.run(["git", "clone", "--quiet", str(git), str(checkout)], check=True)
    with serving(git) as double:
        yield Releasing(challenge, double, checkout, bundle, registry, docker_host, base, mlflow, home)


@pytest.fixture
def releasing(
    tmp_path: Path, bundle: Path, image_registry: Registry, docker_host: str, base: str, mlflow_server: str,
    docker_client: docker.DockerClient,
) -> Iterator[Releasing]:  # fmt: skip
    for each in made(tmp_path, bundle, image_registry, docker_host, base, mlflow_server):
        yield each
        ours = {"label": f"io.rps.challenge={each.challenge}"}
        left = [str(container.name) for container in docker_client.containers.list(all=True, filters=ours)]
        assert not left, f"containers are left: {left}"
        for image in docker_client.images.list(filters=ours):
            docker_client.images.remove(str(image.id), force=True)
