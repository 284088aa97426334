"""What an image is built from, as the engine takes it: files of one commit and one bundle, always in the same bytes.

The working tree has no part in it.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from clients.errors import ConfigurationError, NotReleased
from clients.git import Git
from forecasting.models.manifest import MANIFEST, BundleError, Manifest, decoded_manifest, listed, sha256

PATHS = (
    "Dockerfile", "LICENSE", "clients/__init__.py", "clients/errors.py", "clients/redaction.py", "clients/settings.py",
    "forecasting", "requirements/service.txt", "scripts/image_tree.py", "service",
)  # fmt: skip
"""What the Dockerfile copies of a commit; `.dockerignore` lets in the same."""
BUNDLE = "bundle"
REQUIREMENTS = "requirements/service.txt"
_PROJECT = "pyproject.toml"
_BASE = re.compile(r"^ARG BASE=(\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Context:
    """Files by path, and whose they are."""

    sha: str
    """The commit's full name."""
    committed: datetime
    """The time that everything in the image bears."""
    manifest: Manifest = field(repr=False)
    """Of the bundle."""
    files: Mapping[str, bytes] = field(repr=False)
    license: str
    """The SPDX expression that the project declares; empty when it declares none."""

    @property
    def epoch_seconds(self) -> int:
        return int(self.committed.timestamp())

    @property
    def default_base(self) -> str:
        """The base that the Dockerfile names. Raises ConfigurationError."""
        found = _BASE.search(self.files["Dockerfile"].decode("utf-8", errors="replace"))
        if found is None:
            raise ConfigurationError(f"Dockerfile of commit {self.sha[:12]}: expected a line ARG BASE=…; found none")
        return found[1]

    @property
    def bundle_files(self) -> dict[str, bytes]:
        """The bundle's files by name."""
        prefix = f"{BUNDLE}/"
        return {path.removeprefix(prefix): each for path, each in self.files.items() if path.startswith(prefix)}

    @cached_property
    def tar(self) -> bytes:
        """A tar archive: by name, every file with the commit's time, no owner, and only root's to write."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(self.files):
                entry = tarfile.TarInfo(path)
                entry.size, entry.mtime, entry.mode = len(self.files[path]), self.epoch_seconds, 0o644
                archive.addfile(entry, io.BytesIO(self.files[path]))
        return packed.getvalue()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.tar).hexdigest()


def read_context(repository: Path, sha: str, bundle: Path) -> Context:
    """The files of a commit that the image is made of, and a bundle's directory, which is checked.

    Raises ConfigurationError when the commit is not in this checkout or lacks a part, NotReleased when the bundle is
    damaged or has other files than its manifest names.
    """
    manifest, bundled = _bundle(bundle)
    committed = datetime.fromtimestamp(int(Git(repository).text("show", "--no-patch", "--format=%ct", sha)), UTC)
    files = _commit_files(repository, sha)
    project = tomllib.loads(files.pop(_PROJECT).decode("utf-8")).get("project", {})
    declared = project.get("license", "")
    files |= {f"{BUNDLE}/{name}": content for name, content in bundled.items()}
    return Context(sha, committed, manifest, files, declared if isinstance(declared, str) else "")


def _commit_files(repository: Path, sha: str) -> dict[str, bytes]:
    packed = Git(repository).output("archive", "--format=tar", sha, "--", *PATHS, _PROJECT)
    files = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for entry in archive:
            content = archive.extractfile(entry) if entry.isreg() else None
            if content is not None:
                files[entry.name] = content.read()
            elif not entry.isdir():
                raise ConfigurationError(f"{entry.name} of commit {sha[:12]}: expected a plain file; found a link")
    return files


def _bundle(directory: Path) -> tuple[Manifest, dict[str, bytes]]:
    try:
        entries = sorted(directory.iterdir())
        contents = {entry.name: entry.read_bytes() for entry in entries if entry.is_file() and not entry.is_symlink()}
    except OSError as error:
        raise ConfigurationError(f"the bundle in {directory} cannot be read: {error}") from error
    try:
        manifest = decoded_manifest(contents.get(MANIFEST, b""))
    except BundleError as error:
        raise NotReleased(f"the bundle in {directory} is refused: {error}") from error
    named, there = set(manifest.checksums), {entry.name for entry in entries}
    if named != there or named != set(contents):
        expected = f"exactly the plain files {listed(named)}"
        raise NotReleased(f"the bundle in {directory} is refused: expected {expected}; found {listed(there)}")
    for name, checksum in manifest.checksums.items():
        if name != MANIFEST and sha256(contents[name]) != checksum:  # the manifest's is of a part of it: checked above
            told = f"{name}: expected SHA-256 {checksum}; found {sha256(contents[name])}"
            raise NotReleased(f"the bundle in {directory} is refused: {told}")
    return manifest, contents
