"""Fixtures of a release: the service's image, and teams that release it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from doubles.release_image import Building, Source, made_building, made_source
from doubles.releasing import Releasing, team
from scripts.registry import Registry
from tests.sharing import made_once, used_together


@pytest.fixture(scope="session")
def service_building(docker_client: docker.DockerClient, base: str, bundle: Path, shared: Path) -> Iterator[Building]:
    """Builds the service's images of the working tree; one is built once for all processes of the test run.

    It stays until the last of them ends, and with it the layers that every release shares: no other process takes away
    what this one builds on.
    """
    source = Source(made_once(shared / "source", made_source))
    tag = f"rps-test/service-{hashlib.sha256(os.fsencode(shared)).hexdigest()[:8]}:v1.2.3"
    made = made_building(docker_client, base, bundle, source, tag)

    def begin(_home: Path) -> str:
        return made.build().id

    def finish(_home: Path) -> None:
        docker_client.images.remove(tag, force=True)

    with used_together(shared / "service-image", begin, finish):
        yield made


@pytest.fixture
def releasing(
    tmp_path: Path, service_building: Building, image_registry: Registry, docker_host: str, mlflow_server: str
) -> Iterator[Releasing]:
    with team(tmp_path, service_building, image_registry, docker_host, mlflow_server) as made:
        yield made


@pytest.fixture(scope="module")
def in_production(
    tmp_path_factory: pytest.TempPathFactory, service_building: Building, image_registry: Registry, docker_host: str,
    mlflow_server: str,
) -> Iterator[Releasing]:  # fmt: skip
    home = tmp_path_factory.mktemp("production")
    with team(home, service_building, image_registry, docker_host, mlflow_server) as made:
        made.version(0.8)
        done = made.release()
        assert done.code == 0, done.output
        yield made


@pytest.fixture
def production(in_production: Releasing) -> Iterator[Releasing]:
    """A team with a release, which the module's tests share: each goes on from the newest one, on its commit."""
    versions = in_production.client.search_model_versions(f"name = '{in_production.challenge}'")
    yield in_production
    in_production.take_back(max(int(each.version) for each in versions))
