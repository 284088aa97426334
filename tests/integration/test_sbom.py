"""The bill of materials of a real image: valid by SPDX's own library, complete, and always the same."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from ci.release.context import REQUIREMENTS
from ci.release.sbom import pinned, sbom
from clients.errors import ConfigurationError, NotReleased
from doubles.release_image import Building
from scripts.services import ROOT

TAG = f"rps-test/sbom-{os.urandom(4).hex()}:v1.2.9"
IMAGE = f"registry.example:5000/team/rps@sha256:{'a' * 64}"


@pytest.fixture(scope="module")
def building(service_building: Building) -> Iterator[Building]:
    """An image of its own number, so that no container of another module is one of it."""
    made = replace(service_building, tag=TAG)
    made.build(patch=9)
    yield made
    with contextlib.suppress(docker.errors.DockerException):
        made.client.images.remove(TAG, force=True)


@pytest.fixture(scope="module")
def written(building: Building) -> bytes:
    return sbom(building.client, IMAGE, building.context.files[REQUIREMENTS], reference=TAG)


@pytest.fixture(scope="module")
def packages(written: bytes) -> dict[str, dict[str, Any]]:
    """By SPDX id."""
    return {each["SPDXID"]: each for each in json.loads(written)["packages"]}


def purl(package: dict[str, Any]) -> str:
    (found,) = package["externalRefs"]
    return str(found["referenceLocator"])


def test_it_is_valid_spdx(written: bytes, tmp_path: Path):
    path = tmp_path / "image.spdx.json"
    path.write_bytes(written)
    document = parse_file(str(path))
    assert validate_full_spdx_document(document) == []
    assert document.creation_info.spdx_version == "SPDX-2.3"
    assert document.creation_info.name == IMAGE


def test_the_same_image_gives_the_same_document(building: Building, written: bytes):
    again = sbom(building.client, IMAGE, building.context.files[REQUIREMENTS], reference=TAG)
    assert again == written
    assert json.loads(written)["creationInfo"]["created"] == "2026-01-02T03:04:05Z"
    other = sbom(
        building.client, IMAGE.replace("a" * 64, "b" * 64), building.context.files[REQUIREMENTS], reference=TAG
    )
    assert json.loads(other)["documentNamespace"] != json.loads(written)["documentNamespace"]


def test_every_distribution_is_listed_with_the_hash_that_the_requirements_pin(
    building: Building, packages: dict[str, dict[str, Any]]
):
    names = building.client.containers.run(
        TAG,
        ["-c", "import importlib.metadata as m; print(*(d.name for d in m.distributions(path=['/app/packages'])))"],
        entrypoint=["python3"],
        remove=True,
    ).decode()
    listed = {key: each for key, each in packages.items() if key.startswith("SPDXRef-Python-")}
    assert {each["name"].lower() for each in listed.values()} == {name.lower() for name in names.split()}
    allowed = pinned(building.context.files[REQUIREMENTS])
    for package in listed.values():
        name, version = purl(package).removeprefix("pkg:pypi/").split("@")
        (checksum,) = package["checksums"]
        assert checksum["checksumValue"] in allowed[name, version]
    assert listed["SPDXRef-Python-litestar"]["licenseDeclared"] == "MIT"
    assert listed["SPDXRef-Python-prometheus-client"]["licenseDeclared"] == "Apache-2.0 AND BSD-2-Clause"


def test_the_script_of_the_apis_page_is_listed(packages: dict[str, dict[str, Any]]):
    package = packages["SPDXRef-RapiDoc"]
    script = (ROOT / "service" / "page" / "static" / "rapidoc-min.js.gz").read_bytes()
    assert package["checksums"] == [{"algorithm": "SHA256", "checksumValue": hashlib.sha256(script).hexdigest()}]
    assert f"/*! RapiDoc {package['versionInfo']} |".encode() in gzip.decompress(script)
    assert purl(package) == f"pkg:npm/rapidoc@{package['versionInfo']}"
    assert package["licenseDeclared"] == "MIT"


def test_every_package_of_debian_is_listed(building: Building, packages: dict[str, dict[str, Any]]):
    script = "import pathlib; print(pathlib.Path('/var/lib/dpkg/status').read_text())"
    status = building.client.containers.run(TAG, ["-c", script], entrypoint=["python3"], remove=True).decode()
    listed = {key: each for key, each in packages.items() if key.startswith("SPDXRef-Debian-")}
    assert len(listed) == status.count("\nStatus: install ok installed\n") > 20
    libc = next(each for each in listed.values() if each["name"] == "libc6")
    assert purl(libc).startswith(f"pkg:deb/debian/libc6@{libc['versionInfo'].replace('+', '%2B')}?arch=")
    assert "&distro=debian-" in purl(libc)


def test_the_bundles_files_have_their_checksums(
    building: Building, written: bytes, packages: dict[str, dict[str, Any]]
):
    files = json.loads(written)["files"]
    found = {
        each["fileName"].removeprefix("./bundle/"): next(
            checksum["checksumValue"] for checksum in each["checksums"] if checksum["algorithm"] == "SHA256"
        )
        for each in files
    }
    assert found == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in building.bundle.iterdir()}
    assert packages["SPDXRef-Bundle"]["versionInfo"] == "7"


def test_all_hang_together(written: bytes, packages: dict[str, dict[str, Any]]):
    document = json.loads(written)
    related = {
        (each["spdxElementId"], each["relationshipType"], each["relatedSpdxElement"])
        for each in document["relationships"]
    }
    assert ("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image") in related
    for key in set(packages) - {"SPDXRef-Image"}:
        assert ("SPDXRef-Image", "CONTAINS", key) in related, key
    image = packages["SPDXRef-Image"]
    assert image["primaryPackagePurpose"] == "CONTAINER"
    assert image["checksums"] == [{"algorithm": "SHA256", "checksumValue": "a" * 64}]
    assert image["licenseDeclared"] == "Apache-2.0"


def test_a_distribution_that_the_requirements_do_not_pin_stops_the_release(building: Building):
    requirements = building.context.files[REQUIREMENTS].replace(b"litestar==", b"litestar==0")
    with pytest.raises(NotReleased, match=r"the image holds litestar-.*\.whl .* do not name"):
        sbom(building.client, IMAGE, requirements, reference=TAG)
    assert building.client.containers.list(all=True, ignore_removed=True, filters={"ancestor": TAG}) == []


def test_an_image_that_is_not_there_is_named(building: Building):
    with pytest.raises(ConfigurationError, match=r"looking into .*: No such image"):
        sbom(building.client, IMAGE, b"", reference="rps-image-test/none:1")
