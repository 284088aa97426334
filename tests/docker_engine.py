"""A real container engine, registry and base image for the tests, and small images that are wrong in one way each."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import docker
import pytest

from scripts.base_image import base_image
from scripts.docker_engine import client, engine
from scripts.registry import Registry, registry
from scripts.services import ROOT, StackError


@contextlib.contextmanager
def _or_left_out() -> Iterator[None]:
    """A machine that has no engine, registry or base leaves the tests out that need it, with its reason."""
    try:
        yield
    except StackError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def docker_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a container engine: the machine's own, or one that ends with the session."""
    home = tmp_path_factory.mktemp("engine")
    with contextlib.ExitStack() as held:
        with _or_left_out():
            address = held.enter_context(engine(home))
        yield address
    shutil.rmtree(home / "data", ignore_errors=True)  # gigabytes, which pytest would keep for three sessions


@pytest.fixture(scope="session")
def docker_client(docker_host: str) -> Iterator[docker.DockerClient]:
    with contextlib.closing(client(docker_host, timeout_seconds=300)) as found:
        yield found


@pytest.fixture(scope="session")
def base(docker_host: str) -> str:
    """The name of the base image, in the engine."""
    with _or_left_out():
        return base_image(docker_host, ROOT / "Dockerfile")


@pytest.fixture(scope="session")
def image_registry(docker_host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with a login, for the session; no test stops it."""
    with contextlib.ExitStack() as held:
        with _or_left_out():
            made = held.enter_context(registry(tmp_path_factory.mktemp("registry"), docker_host))
        yield made


@pytest.fixture
def own_registry(docker_host: str, tmp_path: Path) -> Iterator[Registry]:
    """A registry that the test may stop, start again, or fill."""
    with contextlib.ExitStack() as held:
        with _or_left_out():
            made = held.enter_context(registry(tmp_path / "registry", docker_host))
        yield made


class Images:
    """Builds images on the base, and removes them afterwards with all that was named or pulled beside them."""

    def __init__(self, engine: docker.DockerClient, base: str) -> None:
        self._engine = engine
        self._base = base
        self._names: list[str] = []

    def build(
        self, files: Mapping[str, bytes], *instructions: str, labels: Mapping[str, str] | None = None, name: str = ""
    ) -> str:
        """The name of an image: the base, the files (by absolute path), and further lines of a Dockerfile."""
        name = self.named(name or f"rps-test/{uuid.uuid4().hex[:12]}:1")
        copies = [f"COPY {index} {path}" for index, path in enumerate(files)]
        context = {str(index): content for index, content in enumerate(files.values())}
        context["Dockerfile"] = "\n".join([f"FROM {self._base}", *copies, *instructions, ""]).encode()
        self._engine.images.build(
            fileobj=archive(context), custom_context=True, tag=name, labels=dict(labels or {}), rm=True, forcerm=True
        )
        return name

    def named(self, name: str) -> str:
        """Remember a name that the test gives to an image."""
        self._names.append(name)
        return name

    def remove(self) -> None:
        for name in self._names:
            with contextlib.suppress(docker.errors.DockerException):
                self._engine.images.remove(name, force=True)


@pytest.fixture
def images(docker_client: docker.DockerClient, base: str) -> Iterator[Images]:
    made = Images(docker_client, base)
    yield made
    made.remove()


@pytest.fixture
def containers_left(docker_client: docker.DockerClient) -> Callable[[str], list[str]]:
    """The containers of an image that are there, running or not."""

    def of(image: str) -> list[str]:
        return [str(each.name) for each in docker_client.containers.list(all=True, filters={"ancestor": image})]

    return of


def archive(files: Mapping[str, bytes]) -> io.BytesIO:
    """A tar archive of the files, to be read from its start."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(content))
    buffer.seek(0)
    return buffer


def random_bytes(megabytes: float) -> bytes:
    """Content that no registry can compress, and no cache has."""
    return os.urandom(int(megabytes * 1e6))


@contextlib.contextmanager
def small_disk(path: Path, *, megabytes: int) -> Iterator[Path]:
    """A directory that is full after so many megabytes."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"only root may mount a small disk: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
