"""What the answers of registries and engines mean, in the words in which they give them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ci.release.build import find_base, followed
from clients.engine import Credentials, Engine
from clients.engine_faults import MissingImage, TagTaken
from clients.errors import ConfigurationError, PassingFault, RpsError
from clients.progress import Log
from doubles.scripted_http import Scripted, scripted

IMAGE = "registry.example/rps/weather:v1.2.3"
BASE = "registry.example/python:3.12"
API = "/v1.44"
VERSION = Scripted(body=b'{"ApiVersion": "1.44", "MinAPIVersion": "1.24"}')
ECR = (
    "tag invalid: The image tag 'v1.2.3' already exists in the 'rps/weather' repository and cannot be overwritten "
    "because the repository is immutable."
)
ECR_BY_TAG = (
    "The image tag 'v1.2.3' already exists in the 'rps/weather' repository and cannot be overwritten because the tag "
    "is immutable."
)
HARBOR = "unknown: Failed to process request due to 'rps/weather:v1.2.3' configured as immutable."
ARTIFACT_REGISTRY = "manifest invalid: cannot update tag v1.2.3. The repository has enabled tag immutability"
NO_PLATFORM = "no matching manifest for linux/arm64/v8 in the manifest list entries"


@contextmanager
def answering(
    action: str, *answers: Scripted, login: bool = True, patience: float = 0.0, said: io.StringIO | None = None
) -> Iterator[Engine]:
    """An engine that has the image, and gives these answers when it is asked for the action."""
    by_path = {
        "/version": [VERSION],
        f"{API}/images/{IMAGE}/json": [Scripted(body=b'{"Id": "sha256:1", "Config": {}}')],
        f"{API}/images/{BASE}/json": [Scripted(404, b'{"message": "No such image: python"}')],
        f"{API}{action}": list(answers),
    }
    with scripted(by_path=by_path) as server:
        environment = {"DOCKER_HOST": server.url.replace("http://", "tcp://")}
        credentials = Credentials("ana", "secret") if login else None
        log = Log(said or io.StringIO(), grouped=False)
        engine = Engine.connect(environment, credentials, log, patience_seconds=patience)
        try:
            yield engine
        finally:
            engine.close()


def in_stream(words: str) -> Scripted:
    return Scripted(body=json.dumps({"errorDetail": {"message": words}, "error": words}).encode())


def refused(words: str, status: int) -> Scripted:
    return Scripted(status, json.dumps({"message": words}).encode())


@pytest.fixture(autouse=True)
def no_docker_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (ECR, TagTaken, "delete the tag or exempt it"),
        (ECR_BY_TAG, TagTaken, "delete the tag or exempt it"),
        (HARBOR, TagTaken, "delete the tag or exempt it"),
        (ARTIFACT_REGISTRY, TagTaken, "delete the tag or exempt it"),
        ("tag is immutable and cannot be overwritten", TagTaken, "delete the tag or exempt it"),
        ("denied: requested access to the resource is denied", ConfigurationError, "REGISTRY_USERNAME and"),
        ("unauthorized: authentication required", ConfigurationError, "REGISTRY_USERNAME and"),
        (
            "Get https://registry.example/v2/: x509: certificate signed by unknown authority",
            ConfigurationError,
            "trust",
        ),
        ("name unknown: no such repository", MissingImage, "has no"),
        ("dial tcp 10.0.0.1:443: connect: connection refused", PassingFault, "or the way to it is at fault"),
        ("dial tcp: lookup registry.example: no such host", PassingFault, "is its name right"),
        ("received unexpected HTTP status: 503 Service Unavailable", PassingFault, "is its disk full"),
        ("toomanyrequests: Too Many Requests", PassingFault, "or the way to it is at fault"),
        ("unknown: unknown error", PassingFault, "is its disk full"),
        ("the flux capacitor is empty", PassingFault, "the flux capacitor is empty"),
    ],
)
def test_what_a_registry_says_to_a_push_is_reported_as_what_it_is(
    words: str, kind: type[RpsError], message: str
) -> None:
    with answering(f"/images/{IMAGE.rpartition(':')[0]}/push", in_stream(words)) as engine:
        with pytest.raises(kind, match=message) as caught:
            engine.push(IMAGE)
        assert type(caught.value) is kind
        assert words in str(caught.value)


@pytest.mark.parametrize("answer", [in_stream(NO_PLATFORM), refused(NO_PLATFORM, 404), refused(NO_PLATFORM, 500)])
def test_an_image_for_another_platform_is_a_wrong_setting(answer: Scripted) -> None:
    with answering("/images/create", answer, patience=60.0) as engine, pytest.raises(ConfigurationError) as caught:
        engine.pull(IMAGE)
    assert NO_PLATFORM in str(caught.value)
    assert "DOCKER_HOST" in str(caught.value)


def test_a_base_image_for_another_platform_is_a_wrong_setting() -> None:
    log = Log(io.StringIO(), grouped=False)
    answer = refused(NO_PLATFORM, 404)
    with answering("/images/create", answer) as engine, pytest.raises(ConfigurationError, match="RPS_BASE_IMAGE"):
        find_base(engine.client, BASE, log)
    with pytest.raises(ConfigurationError, match="no matching manifest for linux/arm64"):
        followed([{"error": NO_PLATFORM}], log)


def test_an_unknown_answer_is_asked_once_more_and_then_reported() -> None:
    said = io.StringIO()
    answer = refused("the flux capacitor is empty", 500)
    with (
        answering(f"/distribution/{IMAGE}/json", answer, patience=600.0, said=said) as engine,
        pytest.raises(PassingFault, match=r"the flux capacitor is empty.*says so again"),
    ):
        engine.digest_in_registry(IMAGE)
    assert said.getvalue().count("trying again") == 1


@pytest.mark.parametrize("setting", [{"credsStore": "nowhere"}, {"credHelpers": {"registry.example": "nowhere"}}])
@pytest.mark.filterwarnings("ignore:docker-credential-nowhere:UserWarning")
def test_a_credential_helper_that_is_not_installed_is_named_with_its_file(
    setting: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(setting), encoding="utf-8")
    said = io.StringIO()
    with answering("/images/create", login=False, patience=60.0, said=said) as engine:
        for ask in (engine.pull, engine.push, engine.digest_in_registry):
            with pytest.raises(ConfigurationError) as caught:
                ask(IMAGE)
            assert f"{tmp_path}/config.json" in str(caught.value)
            assert "docker-credential-nowhere" in str(caught.value)
    assert "trying again" not in said.getvalue()


def test_a_docker_config_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auths": {"registry.example": "a word"}}', encoding="utf-8")
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/config.json cannot be used"):
        Engine.connect({"DOCKER_HOST": "tcp://127.0.0.1:9"}, None, Log(io.StringIO(), grouped=False))
