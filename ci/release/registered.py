"""The model registry as a release uses it: versions with their metrics and tags, a bundle, the alias `production`.

It works with MLflow servers from 2.7 (DagsHub) on.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ci.release.plan import ModelVersion
from clients.disk import write_whole
from clients.errors import NotReleased
from clients.tracking import Missing, Tracking, artifacts_gone, connect
from forecasting.models.manifest import MANIFEST, BundleError, Manifest, decoded_manifest, sha256
from records.mlflow_names import PRODUCTION, GateTag, VersionTag

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as Registered

    from clients.settings import MlflowSettings


@dataclass(frozen=True)
class Models:
    """The registered model of one challenge."""

    server: Tracking
    challenge: str

    @property
    def tracking(self) -> Tracking:
        """With new patience for each call: a release is long, and MLflow may be away at any part of it."""
        return self.server.patient_again()

    def production(self) -> int | None:
        """The version behind the alias `production`; None when there is none yet. Raises as `ask` does."""
        version = self.tracking.production(self.challenge)
        return int(version) if version else None

    def versions(self) -> tuple[ModelVersion, ...]:
        """All of them, newest first. A version whose run is gone has no metrics, and so cannot be compared."""
        return tuple(map(self._version, self.tracking.versions(f"name = '{self.challenge}'")))

    def fetch(self, version: ModelVersion, directory: Path) -> Manifest:
        """Bring the bundle of a version into a directory, which may have it already, and check every file of it.

        Raises NotReleased when it is damaged or another model's, ConfigurationError when a file is gone, and as `ask`
        does.
        """
        subject = f"the bundle of version {version.version} of {self.challenge}"
        try:
            encoded = self._fetched(version, MANIFEST)
            manifest = decoded_manifest(encoded)
        except BundleError as error:
            raise NotReleased(f"{subject} cannot be released: {error}") from error
        for what, expected, found in (
            ("challenge", self.challenge, manifest.challenge),
            ("MLflow run", version.mlflow_run, manifest.mlflow_run),
            ("commit", version.git_sha, manifest.git_sha),
            ("dataset", version.dataset_md5 or manifest.dataset_md5, manifest.dataset_md5),
        ):
            if expected != found:
                raise NotReleased(f"{subject}: {what}: expected {expected}; its manifest has {found}")
        for name, digest in manifest.checksums.items():
            path = directory / name
            if name == MANIFEST or _is_whole(path, digest):
                continue
            content = self._fetched(version, name)
            if sha256(content) != digest:
                raise NotReleased(f"{subject}: {name}: expected SHA-256 {digest}; found {sha256(content)}")
            write_whole(path, content)
        write_whole(directory / MANIFEST, encoded)
        for path in directory.iterdir():
            if path.name not in manifest.checksums:
                path.unlink()
        return manifest

    def promote(self, version: int) -> None:
        """Point the alias `production` at a version, and take back its withdrawal."""
        client = self.tracking.client
        if self.production() == version:
            return
        if VersionTag.WITHDRAWN in self._registered(version).tags:
            self.tracking.ask(
                f"take the tag {VersionTag.WITHDRAWN} from version {version}",
                partial(client.delete_model_version_tag, self.challenge, str(version), VersionTag.WITHDRAWN),
            )
        self.tracking.ask(
            f"point the alias {PRODUCTION} at version {version}",
            partial(client.set_registered_model_alias, self.challenge, PRODUCTION, str(version)),
        )

    def withdraw(self, versions: Container[int], reason: str) -> None:
        """Tag those that passed the gate, so that a release chooses them on request alone."""
        for version in self.versions():
            if version.version in versions and version.gate == GateTag.PASSED and not version.withdrawn:
                self.tag(version.version, VersionTag.WITHDRAWN, reason)

    def tag(self, version: int, key: str, value: str) -> None:
        """Set a tag of a version, unless it has that value."""
        if self._registered(version).tags.get(key) != value:
            self.tracking.ask(
                f"tag version {version} of {self.challenge}",
                partial(self.tracking.client.set_model_version_tag, self.challenge, str(version), key, value),
            )

    def link(self, version: int) -> str:
        return f"{self.tracking.uri}/#/models/{self.challenge}/versions/{version}"

    def _registered(self, version: int) -> Registered:
        return self.tracking.ask(
            f"read version {version} of {self.challenge}",
            lambda: self.tracking.client.get_model_version(self.challenge, str(version)),
        )

    def _version(self, found: Registered) -> ModelVersion:
        metrics: dict[str, float] = {}
        tags: dict[str, str] = {}
        # Only of versions that can be released, or be a link to one: a registry grows large.
        if found.run_id and found.tags.get(VersionTag.GATE) == GateTag.PASSED:
            metrics, tags = self._run(str(found.run_id))
        return ModelVersion(
            name=self.challenge,
            version=int(found.version),
            gate=found.tags.get(VersionTag.GATE, ""),
            git_sha=found.tags.get(VersionTag.GIT_SHA, ""),
            run_id=found.tags.get(VersionTag.RUN_ID, ""),
            mlflow_run=str(found.run_id or ""),
            source=str(found.source or ""),
            withdrawn=found.tags.get(VersionTag.WITHDRAWN, ""),
            metrics=metrics,
            tags=tags,
        )

    def _run(self, identity: str) -> tuple[dict[str, float], dict[str, str]]:
        from mlflow.exceptions import MlflowException

        def read() -> tuple[dict[str, float], dict[str, str]]:
            try:
                data = self.tracking.client.get_run(identity).data
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return {}, {}
            return dict(data.metrics), dict(data.tags)

        return self.tracking.ask(f"read the run {identity}", read)

    def _fetched(self, version: ModelVersion, name: str) -> bytes:
        try:
            return self.tracking.artifact(version.source, name)
        except Missing as error:
            raise artifacts_gone(self.challenge, str(version.version), f"{version.source}/{name}") from error


def _is_whole(path: Path, digest: str) -> bool:
    return path.is_file() and not path.is_symlink() and sha256(path.read_bytes()) == digest


def open_models(settings: MlflowSettings, challenge: str, *, patience_seconds: float) -> Models:
    """Without a request to MLflow yet. Raises ConfigurationError."""
    return Models(connect(settings, patience_seconds), challenge)
