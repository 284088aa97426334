"""The statement of where an image comes from: in-toto's and SLSA's published fields, and what they must name."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ci.release.build import Base, labels
from ci.release.context import Context, read_context
from ci.release.plan import Plan
from ci.release.provenance import statement
from doubles.release_image import SOURCE_URL, made_plan, made_source
from tests.serving import make_bundle

IMAGE = f"registry.example/team/rps@sha256:{'1' * 64}"
BASE = Base("python:3.12.0-slim-bookworm", f"sha256:{'2' * 64}", f"sha256:{'3' * 64}")
RUN = {
    "GITHUB_SERVER_URL": "https://git.example",
    "GITHUB_REPOSITORY": "team/rps",
    "GITHUB_RUN_ID": "123",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_WORKFLOW_REF": "team/rps/.github/workflows/release.yml@refs/heads/master",
}


class Descriptor(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """https://github.com/in-toto/attestation/blob/main/spec/v1/resource_descriptor.md"""

    name: str = ""
    uri: str = ""
    digest: dict[str, str] = {}
    content: str = ""
    downloadLocation: str = ""  # noqa: N815
    mediaType: str = ""  # noqa: N815
    annotations: dict[str, Any] = {}


class BuildDefinition(msgspec.Struct, forbid_unknown_fields=True):
    """https://slsa.dev/spec/v1.0/provenance#builddefinition"""

    buildType: str  # noqa: N815
    externalParameters: dict[str, str]  # noqa: N815
    internalParameters: dict[str, Any] = {}  # noqa: N815
    resolvedDependencies: list[Descriptor] = []  # noqa: N815


class Builder(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    builderDependencies: list[Descriptor] = []  # noqa: N815
    version: dict[str, str] = {}


class Metadata(msgspec.Struct, forbid_unknown_fields=True):
    invocationId: str = ""  # noqa: N815
    startedOn: datetime | None = None  # noqa: N815
    finishedOn: datetime | None = None  # noqa: N815


class RunDetails(msgspec.Struct, forbid_unknown_fields=True):
    builder: Builder
    metadata: Metadata
    byproducts: list[Descriptor] = []


class Predicate(msgspec.Struct, forbid_unknown_fields=True):
    buildDefinition: BuildDefinition  # noqa: N815
    runDetails: RunDetails  # noqa: N815


class Statement(msgspec.Struct, forbid_unknown_fields=True):
    """https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md"""

    type: str = msgspec.field(name="_type")
    subject: list[Descriptor]
    predicateType: str  # noqa: N815
    predicate: Predicate


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    source = made_source(tmp_path_factory.mktemp("source") / "repository")
    bundle = make_bundle(tmp_path_factory.mktemp("bundle") / "bundle", trees=1, leaves=3)
    return read_context(source.repository, source.sha, bundle)


@pytest.fixture(scope="module")
def plan(context: Context) -> Plan:
    return made_plan(context.sha)


def written(plan: Plan, context: Context, environment: dict[str, str], base: Base = BASE) -> bytes:
    return statement(
        plan,
        context,
        image=IMAGE,
        labels=labels(plan, context, base, SOURCE_URL),
        source_url=SOURCE_URL,
        environment=environment,
    )


def test_it_has_the_published_fields_and_no_others(plan: Plan, context: Context):
    shown = msgspec.json.decode(written(plan, context, RUN), type=Statement)
    assert shown.type == "https://in-toto.io/Statement/v1"
    assert shown.predicateType == "https://slsa.dev/provenance/v1"
    assert [(each.name, each.digest) for each in shown.subject] == [("registry.example/team/rps", {"sha256": "1" * 64})]
    for each in shown.predicate.buildDefinition.resolvedDependencies:
        assert each.uri or each.digest or each.content, each
        for algorithm, value in each.digest.items():
            assert re.fullmatch(r"[0-9a-f]+", value), (each.name, algorithm)
    uris = [each.uri for each in shown.predicate.buildDefinition.resolvedDependencies if each.uri]
    for uri in [shown.predicate.buildDefinition.buildType, shown.predicate.runDetails.builder.id, *uris]:
        assert re.match(r"[a-z][a-z0-9+.-]*:", uri), uri


def test_it_names_commit_model_dataset_requirements_base_and_bundle(plan: Plan, context: Context):
    definition = msgspec.json.decode(written(plan, context, RUN), type=Statement).predicate.buildDefinition
    assert definition.externalParameters == {
        "repository": SOURCE_URL, "commit": plan.sha, "challenge": "weather", "modelVersion": "7", "version": "1.2.3",
    }  # fmt: skip
    named = {each.name: each for each in definition.resolvedDependencies}
    assert named["source"].digest == {"gitCommit": plan.sha}
    assert named["model's code"].digest == {"gitCommit": "d" * 40}
    assert named["dataset"].digest == {"md5": "f" * 32}
    assert named["model"].annotations == {"mlflowRun": "e" * 32, "dagRun": "gate__weather__1"}
    assert named["base"].uri == f"docker-image://{BASE.name}"
    assert named["base"].digest == {"sha256": "3" * 64}
    assert named["base"].annotations == {"imageId": BASE.id}
    requirements = context.files["requirements/service.txt"]
    assert named["requirements/service.txt"].digest == {"sha256": hashlib.sha256(requirements).hexdigest()}
    for name, content in context.bundle_files.items():
        assert named[f"bundle/{name}"].digest == {"sha256": hashlib.sha256(content).hexdigest()}


def test_it_names_the_workflow_and_the_attempt(plan: Plan, context: Context):
    details = msgspec.json.decode(written(plan, context, RUN), type=Statement).predicate.runDetails
    assert details.builder.id == "https://git.example/team/rps/.github/workflows/release.yml@refs/heads/master"
    assert details.metadata.invocationId == "https://git.example/team/rps/actions/runs/123/attempts/2"


def test_a_release_by_hand_says_so(plan: Plan, context: Context):
    shown = msgspec.json.decode(written(plan, context, {}), type=Statement).predicate
    assert shown.runDetails.builder.id == f"{SOURCE_URL}/blob/{plan.sha}/docs/reference/image.md#by-hand"
    assert not shown.runDetails.metadata.invocationId


def test_a_base_that_came_from_no_registry_has_no_digest(plan: Plan, context: Context):
    local = Base("local:1", f"sha256:{'4' * 64}", "")
    shown = msgspec.json.decode(written(plan, context, RUN, local), type=Statement).predicate.buildDefinition
    base = next(each for each in shown.resolvedDependencies if each.name == "base")
    assert base.digest == {}
    assert base.annotations == {"imageId": local.id}


def test_the_same_release_gives_the_same_statement_wherever_it_is_carried_on(
    plan: Plan, context: Context, tmp_path: Path
):
    again = read_context_again(context, tmp_path)
    assert written(plan, again, RUN) == written(plan, context, RUN)


def read_context_again(context: Context, directory: Path) -> Context:
    """The same context from another checkout and another copy of the bundle."""
    source = made_source(directory / "repository")
    assert source.sha == context.sha
    bundle = directory / "bundle"
    bundle.mkdir()
    for name, content in context.bundle_files.items():
        (bundle / name).write_bytes(content)
    return read_context(source.repository, source.sha, bundle)
