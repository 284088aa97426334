"""The base of the service's image: the Dockerfile's own, or, on a closed network, one made from Debian."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from docker.errors import APIError, DockerException, ImageNotFound
from filelock import FileLock
from requests.exceptions import RequestException

from scripts.docker_engine import client
from scripts.services import ROOT, StackError, output_of

OWN_BASE = "rps-base:bookworm"
SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv", "ca-certificates")
PULL_SECONDS = 20
"""How long to wait for a registry that says nothing."""
IMPORT_SECONDS = 600
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_CONTENTS = ("--exclude=./var/cache/apt/archives/*.deb", "--exclude=./var/lib/apt/lists/*", "--exclude=./var/log/*")


def base_image(docker_host: str, dockerfile: Path = ROOT / "Dockerfile") -> str:
    """The name of a base that the engine has: the Dockerfile's default when it is there or can be pulled, else our own.

    Our own is Debian with Python, made once with debootstrap (40 s) and kept in the user's cache directory; once it is
    there, the Dockerfile's is not pulled. Raises StackError that says what to install.
    """
    wanted = default_base(dockerfile)
    with contextlib.closing(client(docker_host, timeout_seconds=PULL_SECONDS)) as found:
        for image in (wanted, OWN_BASE):
            with contextlib.suppress(ImageNotFound):
                found.images.get(image)
                return image
        why = ""
        if not _tar().exists():
            try:
                found.images.pull(wanted)
                return wanted
            except (DockerException, RequestException) as error:
                why = str(error.explanation if isinstance(error, APIError) else error)
    _import(docker_host, made_base(f"{wanted} cannot be pulled ({why})"))
    return OWN_BASE


def default_base(dockerfile: Path) -> str:
    """The base that a Dockerfile's first argument names when none is given. Raises StackError."""
    match = re.search(r"^ARG\s+\w*BASE\w*=[\"']?([^\s\"']+)", dockerfile.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise StackError(f"{dockerfile}: expected a line such as ARG BASE_IMAGE=python:3.12-slim; found none")
    return match[1]


def made_base(reason: str) -> Path:
    """Our own base as a tar archive, made if it is not there yet. Raises StackError, which begins with ``reason``."""
    tar = _tar()
    tar.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(tar.with_suffix(".lock")):
        if not tar.exists():
            if shutil.which("debootstrap") is None or os.geteuid() != 0:
                raise StackError(f"{reason}; pull it by hand, or, as root on Debian: apt-get install debootstrap")
            _make(tar)
    return tar


def _tar() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    architecture = os.uname().machine
    return cache / "rps" / f"base-{SUITE}-{architecture}.tar"


def _make(tar: Path) -> None:
    # debootstrap takes no path with a space in it, and a home may have one.
    with (
        tempfile.TemporaryDirectory(prefix="rps-base-") as scratch,
        tempfile.TemporaryDirectory(dir=tar.parent, prefix="base-") as beside,
    ):
        root, packed = Path(scratch, "root"), Path(beside, "tar")
        output_of(["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root)])
        bundle = Path(os.environ.get("SSL_CERT_FILE") or _CERTIFICATES)
        if bundle.is_file():  # so that a build trusts whom this machine trusts
            shutil.copyfile(bundle, root / _CERTIFICATES.relative_to("/"))
        output_of(["tar", "--numeric-owner", *_CONTENTS, "-C", str(root), "-cf", str(packed), "."])
        packed.replace(tar)


def _import(docker_host: str, tar: Path) -> None:
    repository, _, tag = OWN_BASE.partition(":")
    with contextlib.closing(client(docker_host, timeout_seconds=IMPORT_SECONDS)) as found:
        try:
            found.api.import_image_from_file(str(tar), repository=repository, tag=tag, changes=['CMD ["python3"]'])
            found.images.get(OWN_BASE)
        except (DockerException, RequestException) as error:
            raise StackError(f"the container engine did not take the base image {tar}: {error}") from error
