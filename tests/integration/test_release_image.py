"""The image: always the same from the same, nothing in it that a server does not need, and what it takes to run it."""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import docker
import httpx
import pytest
from packaging.requirements import Requirement

from ci.release.sbom import normalised
from clients.errors import NotReleased, PassingFault
from doubles.release_image import Building, made_source
from scripts.services import ROOT, free_ports
from tests.conftest import wait_while
from tests.integration.redis_server import RedisServer

SECRET = "s3cr3t-of-the-package-index"
START_SECONDS = 120
UNWANTED = re.compile(
    r"^app/packages/(scikit_learn|sklearn|pandas|mlflow|mlflow_skinny|dvc|airflow|scipy|joblib|pyarrow|pip|setuptools|wheel)"
    r"(-[0-9][^/]*\.dist-info)?/"
)
COMPILERS = re.compile(r"^usr/(local/)?bin/([a-z0-9_]+-)*(gcc|g\+\+|cc|c\+\+|clang|ld|as|make|rustc|go)(-[0-9.]+)?$")
SECRET_FILES = re.compile(r"(^|/)(\.env|\.git|\.netrc|\.pypirc|pip\.conf|id_[a-z0-9]+|credentials)(/|$)|\.(pem|key)$")
PICKLES = re.compile(r"\.(pickle|pkl|joblib|skops|npy|npz)$")


@pytest.fixture(scope="module")
def building(service_building: Building) -> Iterator[Building]:
    """An image of the working tree's service and the bundle, built once, whose tag begins those of the others."""
    made = replace(service_building, said=io.StringIO())
    yield made
    for image in made.client.images.list(made.tag.partition(":")[0]):
        for tag in image.tags:
            if tag.startswith(f"{made.tag}-"):
                with contextlib.suppress(docker.errors.DockerException):
                    made.client.images.remove(tag, force=True)


@pytest.fixture(scope="module")
def tree(building: Building, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tarfile.TarFile]:
    """The image's whole file system."""
    with exported(building.client, building.tag, tmp_path_factory.mktemp("tree") / "image.tar") as archive:
        yield archive


@contextlib.contextmanager
def exported(client: docker.DockerClient, image: str, path: Path) -> Iterator[tarfile.TarFile]:
    container = client.containers.create(image, ["true"])
    try:
        with path.open("wb") as file:
            for chunk in container.export():
                file.write(chunk)
    finally:
        container.remove(force=True)
    with tarfile.open(path) as archive:
        yield archive


@contextlib.contextmanager
def running(building: Building, **options) -> Iterator[docker.models.containers.Container]:
    """A container of the image, as strict as can be, until the block ends."""
    strict = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"], "network_mode": "none"}
    container = building.client.containers.run(building.tag, detach=True, **{**strict, **options})
    try:
        yield container
    finally:
        container.remove(force=True)


def healthy(container: docker.models.containers.Container) -> bool:
    """What the image's own health check says, run in the container."""
    check = container.image.attrs["Config"]["Healthcheck"]["Test"]
    assert check[0] == "CMD", "the health check needs a shell"
    return bool(container.exec_run(check[1:]).exit_code == 0)


def comes_up(container: docker.models.containers.Container) -> None:
    def still_starting() -> bool:
        container.reload()
        return container.status == "running" and not healthy(container)

    assert wait_while(still_starting, seconds=START_SECONDS), container.logs().decode()
    assert container.status == "running", container.logs().decode()


# The same from the same


def layers(building: Building, image: str) -> list[str]:
    return list(building.client.images.get(image).attrs["RootFS"]["Layers"])


@contextlib.contextmanager
def empty_index() -> Iterator[tuple[str, list[str]]]:
    """A package index that has nothing and asks for a password; its address, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://somebody:{SECRET}@127.0.0.1:{server.server_port}/simple", asked
    finally:
        server.shutdown()
        server.server_close()


def test_a_build_from_nothing_at_another_time_gives_the_same_image_and_keeps_no_secret(
    building: Building, tmp_path: Path
):
    first = building.client.images.get(building.tag)
    with empty_index() as (address, asked):
        second = building.build(tag=f"{building.tag}-again", cached=False, environment={"PIP_EXTRA_INDEX_URL": address})
    assert asked, "the build did not ask the index that the environment names"
    assert not second.found
    assert layers(building, f"{building.tag}-again") == layers(building, building.tag)
    assert len(layers(building, building.tag)) == len(layers(building, building.base.id)) + 2
    if "containerd" not in json.dumps(building.client.info()["DriverStatus"]):
        assert second.id == first.id
    shown = json.dumps([building.client.images.get(second.id).attrs, building.client.images.get(second.id).history()])
    assert SECRET not in shown
    assert SECRET not in building.said.getvalue()
    with exported(building.client, second.id, tmp_path / "tree.tar") as archive:
        for entry in archive:
            if entry.isreg() and entry.name.startswith("app/"):
                assert SECRET.encode() not in archive.extractfile(entry).read(), entry.name


def test_a_build_by_hand_gives_the_same_layers(building: Building, tmp_path: Path):
    """From the commit's tree with the bundle beside, and things around that must not get in."""
    packed = subprocess.run(
        ["git", "-C", building.source.repository, "archive", "HEAD"], capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "bundle").mkdir()
    for path in building.bundle.iterdir():
        (tmp_path / "bundle" / path.name).write_bytes(path.read_bytes())
    (tmp_path / ".env").write_text(f"REGISTRY_PASSWORD={SECRET}\n")
    (tmp_path / "service" / "__pycache__").mkdir()
    (tmp_path / "service" / "__pycache__" / "settings.cpython-311.pyc").write_bytes(b"stale")
    arguments = {
        "BASE": building.base.name,
        "SOURCE_DATE_EPOCH": str(building.context.epoch_seconds),
        "RPS_MODEL_VERSION": "7",
    }
    image, _ = building.client.images.build(path=str(tmp_path), buildargs=arguments, network_mode="host", rm=True)
    try:
        assert image.attrs["RootFS"]["Layers"] == layers(building, building.tag)
    finally:
        building.client.images.remove(image.id, force=True, noprune=True)


def test_a_commit_at_another_time_does_not_get_the_times_of_the_one_before(building: Building, tmp_path: Path):
    """A builder's cache takes files for the same whose times alone differ."""
    source = made_source(tmp_path / "repository", committed="2026-02-03T04:05:06Z")
    later = Building(building.client, source, building.bundle, building.base, f"{building.tag}-later")
    later.build()
    with exported(building.client, later.tag, tmp_path / "tree.tar") as archive:
        times = {entry.mtime for entry in archive if re.match(r"app/(bundle|forecasting|service)(/|$)", entry.name)}
    assert times == {later.context.epoch_seconds}
    assert layers(building, later.tag)[:-1] == layers(building, building.tag)[:-1]


def test_what_is_there_is_not_built_again_and_another_release_is(building: Building):
    building.said.truncate(0)
    again = building.build(tag=f"{building.tag}-found")
    assert again.found
    assert again.id == building.client.images.get(building.tag).id
    assert "step" not in building.said.getvalue()
    other = building.build(tag=f"{building.tag}-other", patch=4)
    assert not other.found
    assert building.client.images.get(other.id).labels["org.opencontainers.image.version"] == "1.2.4"
    assert layers(building, other.id) == layers(building, building.tag)


def test_the_labels_say_what_it_is(building: Building):
    labels = building.client.images.get(building.tag).labels
    assert labels["org.opencontainers.image.revision"] == labels["io.rps.git-sha"] == building.source.sha
    assert labels["org.opencontainers.image.version"] == "1.2.3"
    assert labels["org.opencontainers.image.created"] == "2026-01-02T03:04:05Z"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.base.name"] == building.base.name
    assert labels["io.rps.model-version"] == "7"
    assert labels["io.rps.model-run"] == "e" * 32
    assert labels["io.rps.run-id"] == "gate__weather__1"
    assert labels["io.rps.dataset-md5"] == "f" * 32 + ".dir"
    assert labels["io.rps.model-git-sha"] == "d" * 40
    assert labels["io.rps.bundle"] == "/app/bundle"


# What is in it


def test_it_adds_nothing_outside_its_own_directory(building: Building, tree: tarfile.TarFile, tmp_path: Path):
    with exported(building.client, building.base.id, tmp_path / "base.tar") as archive:
        before = {entry.name for entry in archive}
    added = {entry.name for entry in tree} - before
    assert {name for name in added if not (name == "app" or name.startswith("app/"))} == set()
    assert {name.split("/")[1] for name in added if name.count("/") == 1} == {
        "LICENSE", "bundle", "clients", "committed", "forecasting", "packages", "packages.json", "pycache", "service",
    }  # fmt: skip


def test_nothing_in_it_trains_compiles_installs_or_can_be_unpickled(tree: tarfile.TarFile):
    names = [entry.name for entry in tree]
    ours = [name for name in names if name.startswith("app/")]
    assert [name for name in ours if UNWANTED.search(f"{name}/")] == []
    assert [name for name in names if COMPILERS.match(name)] == []
    assert [name for name in ours if PICKLES.search(name)] == []
    assert [name for name in ours if re.search(r"/tests?/|\.(pyi|h|a|c|pyx)$", name)] == []


def test_no_secret_is_in_it(tree: tarfile.TarFile):
    ours = [entry for entry in tree if entry.name.startswith("app/")]
    assert [
        entry.name for entry in ours if SECRET_FILES.search(entry.name) and "certifi/cacert.pem" not in entry.name
    ] == []
    for entry in ours:
        if entry.isreg():
            content = tree.extractfile(entry).read()
            assert b"PRIVATE KEY-----\n" not in content, entry.name
            assert str(ROOT).encode() not in content, entry.name


def test_only_root_may_write_in_it_and_nothing_gains_rights(tree: tarfile.TarFile):
    for entry in tree:
        if entry.name == "app" or entry.name.startswith("app/"):
            assert (entry.uid, entry.gid) == (0, 0), entry.name
            assert not entry.mode & 0o022, entry.name
            assert not entry.mode & 0o7000, entry.name
            assert entry.isreg() or entry.isdir(), entry.name


def test_the_distributions_are_exactly_the_pinned_ones(building: Building, tree: tarfile.TarFile):
    found = set()
    for entry in tree:
        if match := re.fullmatch(r"app/packages/([^/]+)-([^/-]+)\.dist-info/METADATA", entry.name):
            found.add((normalised(match[1]), match[2]))
    version = building.client.containers.run(
        building.tag, ["-c", "import platform; print(platform.python_version())"], entrypoint=["python3"], remove=True
    )
    environment = {"python_full_version": version.decode().strip(), "sys_platform": "linux"}
    lines = re.findall(r"^[a-z0-9].*==[^\\\n]+", (ROOT / "requirements" / "service.txt").read_text(), re.MULTILINE)
    pinned = [Requirement(line) for line in lines]
    wanted = {
        (normalised(each.name), str(each.specifier).removeprefix("=="))
        for each in pinned
        if each.marker is None or each.marker.evaluate(environment)
    }
    assert len(wanted) > 5
    assert found == wanted


# Running it


def test_it_runs_read_only_without_capabilities_or_network_and_stops_well(building: Building):
    with running(building) as container:
        comes_up(container)
        assert container.exec_run(["python3", "-c", "import os; assert os.getuid() == 10001"]).exit_code == 0
        written = container.exec_run(["python3", "-c", "open('/app/x', 'w')"])
        assert written.exit_code != 0
        container.stop(timeout=30)
        assert container.wait()["StatusCode"] == 0, container.logs().decode()


def test_it_runs_as_any_user(building: Building):
    with running(building, user="1234567:0") as container:
        comes_up(container)


def test_everything_that_it_loads_at_the_start_is_byte_code(building: Building):
    """Else each start compiles it anew, as nothing may be written: an official Python image brings none along."""
    with running(building, environment={"PYTHONVERBOSE": "1"}) as container:
        comes_up(container)
        loaded = re.findall(r"code object from '?([^\s']+)", container.logs().decode())
    assert len(loaded) > 300
    assert [path for path in loaded if not path.endswith(".pyc")] == []


def test_the_health_check_fails_without_a_service(building: Building):
    sleeping = ["python3", "-c", "import time; time.sleep(600)"]
    with running(building, entrypoint=sleeping) as container:
        check = container.image.attrs["Config"]["Healthcheck"]["Test"][1:]
        done = container.exec_run(check)
    assert done.exit_code == 1
    assert b"no answer from the service on port 8000" in done.output


def test_several_workers_need_a_shared_state(building: Building):
    with running(building, environment={"RPS_WORKERS": "2"}) as container:
        assert container.wait(timeout=START_SECONDS)["StatusCode"] == 64
        assert "set RPS_STATE=redis://" in container.logs().decode()


def test_several_workers_share_a_redis_on_a_read_only_file_system(building: Building, tmp_path: Path):
    redis = RedisServer(tmp_path)
    redis.start()
    port = free_ports(1)
    settings = {"RPS_WORKERS": "2", "RPS_STATE": redis.url, "RPS_HOST": "127.0.0.1", "RPS_PORT": str(port)}
    try:
        with running(building, environment=settings, network_mode="host") as container:
            comes_up(container)
            shown = httpx.get(f"http://127.0.0.1:{port}/health", timeout=30).json()
            assert shown["model_version"] == "7"
            assert shown["state"] == "redis"
            assert "rps_requests_total" in httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
    finally:
        redis.stop()


# When it cannot be built


def test_a_package_that_is_not_the_pinned_one_stops_the_release(building: Building, tmp_path: Path):
    source = made_source(tmp_path / "repository")
    text = (source.repository / "requirements" / "service.txt").read_text()
    hashes = re.compile(r"sha256:[0-9a-f]{64}")
    first, rest = text.split("\n    # via", 1)
    source.commit({"requirements/service.txt": hashes.sub(f"sha256:{'0' * 64}", first) + "\n    # via" + rest})
    other = Building(building.client, source, building.bundle, building.base, f"{building.tag}-wrong")
    with pytest.raises(NotReleased, match=r"is not the one that requirements/service.txt names"):
        other.build()


def test_code_that_cannot_be_imported_stops_the_release(building: Building, tmp_path: Path):
    source = made_source(tmp_path / "repository")
    source.commit({"service/service_settings.py": "import sklearn\n"})
    other = Building(building.client, source, building.bundle, building.base, f"{building.tag}-wrong")
    with pytest.raises(NotReleased, match="No module named 'sklearn'"):
        other.build()


def test_a_package_index_that_is_not_there_is_a_passing_fault(building: Building):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/simple"
        with pytest.raises(PassingFault, match="pip cannot reach the package index"):
            building.build(tag=f"{building.tag}-wrong", patch=5, environment={"PIP_INDEX_URL": address})
