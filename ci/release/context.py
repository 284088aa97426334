"""What an image is built from: files of one commit and one bundle, always in the same bytes; never the working tree."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from clients.errors import ConfigurationError, NotReleased
from clients.git import Git
from forecasting.models.manifest import MANIFEST, BundleError, decoded_manifest, listed, sha256

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
    """Files by path, and where they come from."""

    sha: str
    epoch_seconds: int
    """When it was committed: the time of everything in the image."""
    files: Mapping[str, bytes] = field(repr=False)
    license: str
    """The SPDX expression that the project declares; empty when it declares none."""

    @property
    def default_base(self) -> str:
        """The base in the Dockerfile. Raises ConfigurationError."""
        found = _BASE.search(self.files["Dockerfile"].decode("utf-8", errors="replace"))
        if found is None:
            raise ConfigurationError(f"Dockerfile of commit {self.sha[:12]}: expected a line ARG BASE=…; found none")
        return found[1]

    @property
    def bundle_files(self) -> dict[str, bytes]:
        prefix = f"{BUNDLE}/"
        return {path.removeprefix(prefix): each for path, each in self.files.items() if path.startswith(prefix)}

    @cached_property
    def tar(self) -> bytes:
        """A tar archive: sorted, every file with the commit's time, without owner, and writable by root alone."""
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
    """The image's files from a commit, and a bundle's directory, which is checked.

    Raises ConfigurationError when the commit is not in this checkout or lacks a part, NotReleased when the bundle is
    damaged or its files are not those of its manifest.
    """
    bundled = _bundle(bundle)
    committed = int(Git(repository).text("show", "--no-patch", "--format=%ct", sha))
    files = _commit_files(repository, sha)
    project = tomllib.loads(files.pop(_PROJECT).decode("utf-8")).get("project", {})
    declared = project.get("license", "")
    files |= {f"{BUNDLE}/{name}": content for name, content in bundled.items()}
    return Context(sha, committed, files, declared if isinstance(declared, str) else "")


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


def _bundle(directory: Path) -> dict[str, bytes]:
    try:
        entries = sorted(directory.iterdir())
        contents = {entry.name: entry.read_bytes() for entry in entries if entry.is_file() and not entry.is_symlink()}
    except OSError as error:
        raise ConfigurationError(f"the bundle in {directory} cannot be read: {error}") from error
    try:
        checksums = decoded_manifest(contents.get(MANIFEST, b"")).checksums
        there = {entry.name for entry in entries}
        if not set(checksums) == there == set(contents):
            raise BundleError(f"expected exactly the plain files {listed(checksums)}; found {listed(there)}")
        for name, checksum in checksums.items():
            if name != MANIFEST and sha256(contents[name]) != checksum:  # `decoded_manifest` has checked its own
                raise BundleError(f"{name}: expected SHA-256 {checksum}; found {sha256(contents[name])}")
    except BundleError as error:
        raise NotReleased(f"the bundle in {directory} is refused: {error}") from error
    return contents
