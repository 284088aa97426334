"""A real container engine, registry and base image for the tests, and small images that are wrong in one way each."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import docker
import pytest
from filelock import FileLock

from clients.engine import DEFAULT_ADDRESS
from scripts.base_image import base_image
from scripts.docker_engine import answers, client, engine, start_engine, sweep
from scripts.registry import Registry, registry
from scripts.services import ROOT, StackError, free_ports
from tests.sharing import used_together


@contextlib.contextmanager
def _or_left_out() -> Iterator[None]:
    """A machine that has no engine, registry or base leaves the tests out that need it, with its reason."""
    try:
        yield
    except StackError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def docker_host(shared: Path) -> Iterator[str]:
    """The address of a container engine: the machine's own, or one that all processes of the test run use together."""
    if "DOCKER_HOST" in os.environ or answers(DEFAULT_ADDRESS):
        with _or_left_out(), engine(shared / "engine") as address:
            yield address
        return
    with contextlib.ExitStack() as held:
        with _or_left_out():
            address = held.enter_context(used_together(shared / "engine", _start, _forget))
        yield address


def _start(home: Path) -> str:
    try:
        return start_engine(home)
    except BaseException:  # an interruption, too
        sweep(home)
        raise


def _forget(home: Path) -> None:
    sweep(home)
    shutil.rmtree(home / "data", ignore_errors=True)  # gigabytes, which pytest would keep for three sessions


@pytest.fixture(scope="session")
def docker_client(docker_host: str) -> Iterator[docker.DockerClient]:
    with contextlib.closing(client(docker_host, timeout_seconds=300)) as found:
        yield found


@pytest.fixture(scope="session")
def base(docker_host: str, shared: Path) -> str:
    """The name of the base image, in the engine."""
    with _or_left_out(), FileLock(shared / "base.lock"):
        return base_image(docker_host, ROOT / "Dockerfile")


@pytest.fixture(scope="session")
def image_registry(docker_host: str, shared: Path) -> Iterator[Registry]:
    """A registry with a login, which all processes of the test run use together; no test stops it."""

    def given(home: Path, port: int, password: str, container: str = "") -> Registry:
        return Registry(home, home / "storage", docker_host, port, "rps", password, container=container)

    def begin(home: Path) -> str:
        made = given(home, free_ports(1), secrets.token_urlsafe(12))
        made.start()
        return json.dumps([made.port, made.password, made.container])

    def finish(home: Path) -> None:
        given(home, *json.loads(shown)).remove()

    home = shared / "registry"
    with contextlib.ExitStack() as held:
        with _or_left_out():
            shown = held.enter_context(used_together(home, begin, finish))
        yield given(home, *json.loads(shown))


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
        self,
        files: Mapping[str, bytes],
        *instructions: str,
        labels: Mapping[str, str] | None = None,
        name: str = "",
        base: str = "",
    ) -> str:
        """The name of an image: the base, the files (by absolute path) in a layer, and further lines of a Dockerfile.

        base: `scratch` for an image that is not run, which goes to a registry in a moment.
        """
        name = self.named(name or f"rps-test/{uuid.uuid4().hex[:12]}:1")
        context = {f"files{path}": content for path, content in files.items()}
        context["Dockerfile"] = "\n".join([f"FROM {base or self._base}", "COPY files/ /", *instructions, ""]).encode()
        for left in reversed(range(3)):
            try:
                self._engine.images.build(
                    fileobj=archive(context), custom_context=True, tag=name, labels=dict(labels or {}), rm=True,
                    forcerm=True,
                )  # fmt: skip
                break
            except docker.errors.BuildError as error:
                # The engine is shared: when another test removes an image, a step that both were built from goes too.
                if "unable to find image" not in str(error) or not left:
                    raise
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
        return [
            str(each.name)
            for each in docker_client.containers.list(all=True, ignore_removed=True, filters={"ancestor": image})
        ]

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
