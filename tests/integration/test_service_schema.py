"""The service does what its OpenAPI document says; schemathesis asks, in good form and in bad."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis

from tests import serving
from tests.serving import Running

KEY = "a key for schemathesis"
EXAMPLES = 25
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "missing_required_header",
    "ignored_auth",
)
"""All but `positive_data_acceptance`: that columns are of one length, or times on the grid, is beyond a schema."""


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """With a key, so that its check is described and asked for, too."""
    with serving.running(bundle, tmp_path_factory.mktemp("service") / "log", {"RPS_API_KEY": KEY}) as found:
        yield found


@pytest.fixture(scope="module")
def document(service: Running) -> dict[str, Any]:
    return service.get("/schema").json()


def test_schemathesis_finds_no_answer_that_is_not_as_described(service: Running, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{service.url}/schema",
        "--header", f"Authorization: Bearer {KEY}", "--checks", ",".join(CHECKS),
        "--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", "1",
        "--generation-deterministic", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[:5000] + done.stderr
    assert "No issues found" in done.stdout, done.stdout
    assert service.get("/health").status_code == 200


def test_document_is_openapi_and_its_schemas_are_json_schema(service: Running, document: dict[str, Any]) -> None:
    schemathesis.openapi.from_url(f"{service.url}/schema").validate()
    assert document["openapi"] == "3.1.0"
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    ids = [operation["operationId"] for operation in operations(document)]
    assert len(ids) == len(set(ids)) > 10


def test_examples_fit_their_schemas_and_are_answered(service: Running, document: dict[str, Any]) -> None:
    tried = 0
    for path, methods in document["paths"].items():
        for media, body in methods.get("post", {}).get("requestBody", {}).get("content", {}).items():
            if "example" not in body:
                continue
            schema = {"components": document["components"], **body["schema"]}
            jsonschema.Draft202012Validator(schema).validate(body["example"])
            sent = {"json": body["example"]} if media == "application/json" else {"content": body["example"]}
            headers = {"content-type": media, "x-api-key": KEY}
            assert service.post(path, headers=headers, **sent).status_code == 200, (path, media)
            tried += 1
    assert tried == 5


def test_every_operation_describes_its_answers(document: dict[str, Any]) -> None:
    for operation in operations(document):
        assert operation["summary"]
        (schemas,) = [operation["responses"]["200"]["content"]]
        assert all(body["schema"] not in ({}, {"type": "object"}) for body in schemas.values()), operation
        assert {"408", "500", "503"} <= set(operation["responses"])


def test_only_observations_want_a_key(document: dict[str, Any]) -> None:
    secured = [operation["operationId"] for operation in operations(document) if "security" in operation]
    assert secured == ["post__v1_observations"]


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for methods in document["paths"].values() for operation in methods.values()]
