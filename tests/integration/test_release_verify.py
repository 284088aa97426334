"""An image is verified as a container by a real engine: the service itself, and small images with one fault each."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import msgspec
import pytest

from ci.release.build import build
from ci.release.container import EXEC_TRIES
from ci.release.verify import Verification, verify
from clients.engine import Credentials, Engine
from clients.errors import ConfigurationError, NotReleased, PassingFault, RpsError
from clients.progress import Log
from doubles.connection import LosingEngine
from doubles.release_image import Building
from forecasting.models.bundle import read_bundle
from forecasting.models.manifest import MANIFEST, Manifest
from records.image_labels import Label
from scripts.registry import Registry
from scripts.services import ROOT
from tests.conftest import wait_while
from tests.docker_engine import Images, random_bytes

SERVER = (ROOT / "tests" / "small_service.py").read_bytes()
PROBE = b"import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=2)\n"
FINE = ("USER 10001", 'HEALTHCHECK --interval=1h --retries=2 CMD ["python3", "/app/probe.py"]')
START = 'ENTRYPOINT ["python3", "/app/server.py"]'
MODEL_VERSION = "7"
Connect = Callable[[str], Engine]


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def connect(image_registry: Registry, said: io.StringIO) -> Iterator[Connect]:
    """Makes a connected engine; its notes go to ``said``."""
    credentials = Credentials(image_registry.username, image_registry.password)
    with contextlib.ExitStack() as made:

        def connect_to(docker_host: str) -> Engine:
            environment = {**os.environ, "DOCKER_HOST": docker_host}
            engine = Engine.connect(environment, credentials, Log(said, grouped=False), patience_seconds=2.0)
            made.callback(engine.close)
            return engine

        yield connect_to


@pytest.fixture
def engine(connect: Connect, docker_host: str) -> Engine:
    return connect(docker_host)


@pytest.fixture(scope="session")
def manifest(bundle: Path) -> Manifest:
    return read_bundle(bundle).manifest


@pytest.fixture(scope="module")
def service_image(service_building: Building, manifest: Manifest) -> Iterator[str]:
    """The service's own image, as a release builds it, with true labels."""
    client, context, base = service_building.client, service_building.context, service_building.base
    name = f"rps-test/verified-{os.urandom(4).hex()}:1"
    build(client, context, tag=name, labels=labels_of(manifest), base=base, log=service_building.log, network="host")
    yield name
    client.images.remove(name, force=True)


def labels_of(manifest: Manifest) -> dict[str, str]:
    return {
        Label.CHALLENGE.value: manifest.challenge,
        Label.MODEL_VERSION.value: MODEL_VERSION,
        Label.MODEL_RUN.value: manifest.mlflow_run,
        Label.MODEL_GIT_SHA.value: manifest.git_sha,
        Label.DATASET_MD5.value: manifest.dataset_md5,
    }


@dataclass
class Small:
    """A small image that answers as the service would; changed before it is built, it does not."""

    images: Images
    manifest: Manifest
    encoded: bytes
    labels: dict[str, str]
    health: tuple[int, Any]
    forecast: dict[str, Any]
    scored: dict[str, Any]
    fault: str = ""
    instructions: tuple[str, ...] = (*FINE, START)
    files: dict[str, bytes] = field(default_factory=dict)

    def build(self, name: str = "") -> str:
        answers = {"/health": self.health, "/v1/forecast": (200, self.forecast), "/invocations": (200, self.scored)}
        files = {
            "/app/server.py": SERVER,
            "/app/probe.py": PROBE,
            "/app/settings.json": json.dumps({"fault": self.fault, "answers": answers}).encode(),
            f"/app/bundle/{MANIFEST}": self.encoded,
            **self.files,
        }
        return self.images.build(files, *self.instructions, labels=self.labels, name=name)


@pytest.fixture
def small(images: Images, bundle: Path, manifest: Manifest) -> Small:
    forecasts = manifest.example.forecasts
    health = {
        "challenge": manifest.challenge,
        "model_version": MODEL_VERSION,
        "git_sha": manifest.git_sha,
        "mlflow_run": manifest.mlflow_run,
    }
    row = {f"h{each.horizon}{end}": getattr(each, name) for each in forecasts for name, end in _ENDS.items()}
    return Small(
        images,
        manifest,
        (bundle / MANIFEST).read_bytes(),
        labels_of(manifest) | {"io.rps.bundle": "/app/bundle"},
        (200, health),
        {"forecasts": msgspec.to_builtins(forecasts), "features": {"one": 1.0}},
        {"predictions": [row]},
    )


_ENDS = {"value": "", "lower": "_lower", "upper": "_upper"}


def test_the_services_own_image_passes(
    engine: Engine, service_image: str, containers_left: Callable[[str], list[str]], manifest: Manifest
) -> None:
    shown: list[str] = []
    found = verify(engine, service_image, pull=False, note=lambda check: shown.append(check.name))
    assert shown == ["image", "health", "confinement", "identity", "worked example", "stop"]
    identity = next(check.found for check in found.checks if check.name == "identity")
    assert identity.startswith(f"{manifest.challenge}, model {MODEL_VERSION} of commit")
    assert found.seconds_to_healthy > 0
    assert "user 10001, nothing can be written to /, no capabilities" in found.report
    assert "horizons 4, 5, 6 by POST /v1/forecast and /invocations" in found.report
    assert not containers_left(service_image)


def test_an_image_is_verified_as_its_registry_gives_it(
    engine: Engine, image_registry: Registry, service_image: str, images: Images, tmp_path: Path, docker_host: str
) -> None:
    name = images.named(f"{image_registry.address}/rps/verified:1")
    engine.tag(service_image, name)
    digest = engine.push(name)
    code, output = verify_by_hand(name, docker_host, image_registry, tmp_path, "--expect-digest", digest)
    assert code == 0, output
    assert f"ok  image: {digest} pulled" in output
    assert f"{name} works" in output
    assert "The image works" in (tmp_path / "summary").read_text(encoding="utf-8")
    code, output = verify_by_hand(name, docker_host, image_registry, tmp_path, "--expect-digest", f"sha256:{'0' * 64}")
    assert code == 1
    assert f"expected sha256:{'0' * 64}; the registry gave {digest}" in output
    assert "The image does not work" in (tmp_path / "summary").read_text(encoding="utf-8")
    code, output = verify_by_hand(f"{name}-other", docker_host, image_registry, tmp_path)
    assert code == 64
    assert "has no" in output
    assert "The image could not be verified" in (tmp_path / "summary").read_text(encoding="utf-8")
    assert image_registry.password not in output


def test_a_small_image_without_a_fault_passes(engine: Engine, small: Small) -> None:
    """So that each of the others fails by its fault."""
    found = verify(engine, small.build(), pull=False)
    assert [check.name for check in found.checks][-1] == "stop"


@pytest.mark.parametrize("name", ["value", "lower", "upper"])
@pytest.mark.parametrize("off", [1e-6, None])
def test_a_forecast_that_is_not_the_worked_examples(engine: Engine, small: Small, name: str, off: float | None) -> None:
    one = small.forecast["forecasts"][-1]
    one[name] = None if off is None else one[name] + off
    horizon = one["horizon"]
    refused(engine, small.build(), f"comes out wrong: POST /v1/forecast, the {name} {horizon} steps ahead: expected")


def test_a_forecast_for_another_time(engine: Engine, small: Small) -> None:
    small.forecast["forecasts"][0]["ds"] = "2013-01-01T00:00:00Z"
    refused(engine, small.build(), "worked example comes out wrong.*2013-01-01T00:00:00Z")


def test_another_protocol_that_forecasts_otherwise(engine: Engine, small: Small) -> None:
    small.scored["predictions"][0]["h4"] += 1e-6
    refused(engine, small.build(), "comes out wrong: POST /invocations, the value 4 steps ahead")


def test_an_answer_of_another_shape(engine: Engine, small: Small) -> None:
    small.forecast = {"forecasts": "none"}
    refused(engine, small.build(), "POST /v1/forecast: expected forecasts and features; found")


def test_a_service_that_is_not_the_model_of_its_labels(engine: Engine, small: Small) -> None:
    small.labels["io.rps.model-version"] = "8"
    del small.labels["io.rps.dataset-md5"]
    shown = refused(engine, small.build(), "not what it says it is")
    assert "the label io.rps.model-version: 8; model_version of /health: 7" in shown
    assert "the label io.rps.dataset-md5: nothing; the bundle's manifest: 0000" in shown


def test_an_image_that_is_not_the_one_that_was_asked_for(engine: Engine, small: Small) -> None:
    expected = {"io.rps.challenge": "weather", "io.rps.git-sha": "f" * 40}
    refused(engine, small.build(), "io.rps.git-sha: expected fff.*found no such label", expected=expected)


def test_a_service_that_never_becomes_healthy(engine: Engine, small: Small) -> None:
    small.health = (503, {"detail": "the state cannot be reached"})
    small.instructions = ("USER 10001", "HEALTHCHECK --start-period=1h CMD python3 /app/probe.py", START)
    shown = refused(engine, small.build(), "did not become healthy within 3 s", deadline_seconds=3.0)
    assert 'GET /health: 503 {"detail": "the state cannot be reached"}' in shown
    assert "the small service starts" in shown


def test_a_service_that_hangs(engine: Engine, small: Small) -> None:
    small.fault = "hangs"
    refused(engine, small.build(), "did not become healthy within 3 s: GET /health: no answer", deadline_seconds=3.0)


def test_a_service_whose_own_healthcheck_fails(engine: Engine, small: Small) -> None:
    small.files["/app/probe.py"] = b"import sys; sys.exit('the queue is stuck')\n"
    shown = refused(engine, small.build(), "its HEALTHCHECK calls it unhealthy: exit code 1, the queue is stuck")
    assert "GET /health: 200" in shown


def test_an_image_without_a_healthcheck(engine: Engine, small: Small) -> None:
    small.instructions = ("USER 10001", START)
    refused(engine, small.build(), "it has no HEALTHCHECK")


def test_a_service_that_ends_at_once(engine: Engine, small: Small) -> None:
    small.fault = "ends at once"
    shown = refused(engine, small.build(), "it ended with exit code 65 after")
    assert "the bundle is of another version" in shown


def test_a_service_that_writes_to_its_root(engine: Engine, small: Small) -> None:
    small.fault = "writes to its root"
    shown = refused(engine, small.build(), "it ended with exit code 1 after")
    assert "Read-only file system" in shown


def test_a_service_that_dies_of_a_request(engine: Engine, small: Small) -> None:
    small.fault = "dies of a request"
    refused(engine, small.build(), "it ended with exit code 9 after")


def test_a_service_that_does_not_end_when_asked(engine: Engine, small: Small) -> None:
    small.fault = "ignores SIGTERM"
    refused(engine, small.build(), r"did not end within 10 s of being asked to \(SIGTERM\), and was killed")


def test_a_service_that_ends_badly(engine: Engine, small: Small) -> None:
    small.fault = "ends badly"
    refused(engine, small.build(), "ended with exit code 3 when it was asked to")


@pytest.mark.parametrize(("lost", "works"), [(2, True), (99, False)])
def test_an_output_that_the_engine_loses_is_asked_for_again(
    connect: Connect, docker_host: str, small: Small, lost: int, works: bool
) -> None:
    start_of_program = rb"POST \S*/exec/\w+/start "
    with LosingEngine(docker_host, start_of_program, head=True, times=lost) as losing:
        engine = connect(losing.docker_host)
        with contextlib.nullcontext() if works else pytest.raises(NotReleased, match=r"a line of Python \(exit code 0"):
            verify(engine, small.build(), pull=False)
    assert losing.fitting == (lost + 1 if works else EXEC_TRIES)


def test_an_image_that_runs_as_root(engine: Engine, small: Small) -> None:
    small.instructions = (*FINE[1:], START)
    refused(engine, small.build(), "the image runs as root: give its Dockerfile a USER")


def test_an_image_that_cannot_be_started(engine: Engine, small: Small) -> None:
    small.instructions = (*FINE, 'ENTRYPOINT ["/no/such/program"]')
    refused(engine, small.build(), "the image cannot be started: .*no such file")


def test_an_image_of_something_else(engine: Engine, images: Images) -> None:
    name = images.build({"/one": random_bytes(0.01)}, base="scratch")
    refused(engine, name, f"{name} is not an image of this system: expected the label io.rps.bundle")


def test_an_image_without_its_bundle(engine: Engine, small: Small) -> None:
    small.labels["io.rps.bundle"] = "/app/no-bundle"
    refused(engine, small.build(), "/app/no-bundle/manifest.json: expected this file in the image; there is none")


def test_an_image_with_a_damaged_bundle(engine: Engine, small: Small) -> None:
    small.encoded = small.encoded.replace(b'"unit": "', b'"unit": "k')
    refused(engine, small.build(), "the bundle in the image, /app/bundle: manifest.json: expected SHA-256")


def test_an_image_that_is_nowhere(engine: Engine, image_registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match="has no such image; pull it"):
        verify(engine, "rps-test/nowhere:1", pull=False)
    with pytest.raises(ConfigurationError, match="--expect-digest"):
        verify(engine, "rps-test/nowhere:1", pull=False, expected_digest="sha256:1")


def test_a_registry_that_is_away_is_not_the_images_fault(engine: Engine, own_registry: Registry, small: Small) -> None:
    name = small.build(f"{own_registry.address}/rps/small:1")
    own_registry.stop()
    with pytest.raises(PassingFault, match="connection refused"):
        verify(engine, name)
    assert verify(engine, name, pull=False).image == name


def test_two_verifications_at_once_do_not_meet(engine: Engine, small: Small) -> None:
    name = small.build()
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda _: verify(engine, name, pull=False), range(2)))
    assert all(isinstance(each, Verification) for each in found)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_verification_that_is_cancelled_leaves_no_container(
    small: Small,
    docker_host: str,
    containers_left: Callable[[str], list[str]],
    tmp_path: Path,
    image_registry: Registry,
    number: signal.Signals,
) -> None:
    small.fault = "hangs"
    name = small.build()
    process = start_by_hand(name, docker_host, image_registry, tmp_path, "--no-pull")
    assert wait_while(lambda: not containers_left(name), seconds=60)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert f"cancelled by {number.name}" in output
    assert not containers_left(name)


def test_a_container_is_removed_when_a_signal_comes_before_the_engines_answer(
    small: Small,
    docker_host: str,
    containers_left: Callable[[str], list[str]],
    tmp_path: Path,
    image_registry: Registry,
) -> None:
    name = small.build()
    with LosingEngine(docker_host, rb"POST \S*/containers/create[? ]") as losing:
        process = start_by_hand(name, losing.docker_host, image_registry, tmp_path, "--no-pull")
        assert losing.lost.wait(timeout=60)
        assert len(containers_left(name)) == 1
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert "cancelled by SIGTERM" in output
    assert not containers_left(name)


def test_what_a_killed_verification_left_goes_when_nobody_waits_for_it(
    engine: Engine, small: Small, docker_client: docker.DockerClient, containers_left: Callable[[str], list[str]]
) -> None:
    name = small.build()
    for until in (time.time() - 1, time.time() + 3600):
        docker_client.containers.create(name, labels={Label.VERIFIED_UNTIL.value: str(int(until))})
    verify(engine, name, pull=False)
    left = containers_left(name)
    for each in left:
        docker_client.containers.get(each).remove(force=True)
    assert len(left) == 1


def test_where_a_port_of_a_remote_engine_is(engine: Engine) -> None:
    log = Log(io.StringIO(), grouped=False)
    assert Engine(engine.client, "tcp://10.1.2.3:2376", None, log).published_at == ("", "10.1.2.3")
    assert Engine(engine.client, "tcp://127.0.0.1:2375", None, log).published_at == ("127.0.0.1", "127.0.0.1")
    with pytest.raises(ConfigurationError, match="DOCKER_HOST: expected unix://… or tcp://…"):
        _ = Engine(engine.client, "ssh://somebody@host", None, log).published_at


def refused(engine: Engine, name: str, why: str, **options: Any) -> str:
    """What the verification says that refuses an image; its container must be gone."""
    with pytest.raises(NotReleased, match=why) as found:
        verify(engine, name, pull=False, **options)
    error: RpsError = found.value
    assert error.exit_code == 1
    assert not engine.client.containers.list(all=True, ignore_removed=True, filters={"ancestor": name})
    return str(error)


def start_by_hand(
    name: str, docker_host: str, registry: Registry, home: Path, *arguments: str
) -> subprocess.Popen[str]:
    environment: Mapping[str, str] = {
        **os.environ,
        "DOCKER_HOST": docker_host,
        "REGISTRY_USERNAME": registry.username,
        "REGISTRY_PASSWORD": registry.password,
        "GITHUB_STEP_SUMMARY": str(home / "summary"),
    }
    command = [sys.executable, "-m", "ci", "verify", name, *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def verify_by_hand(name: str, docker_host: str, registry: Registry, home: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and output of the command."""
    process = start_by_hand(name, docker_host, registry, home, *arguments)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output
