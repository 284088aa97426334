"""What is in an image, as an SPDX 2.3 document: https://spdx.github.io/spdx-spec/v2.3/.

It reads the image without running it: the distributions that the build recorded, the Debian packages of the base, the
bundle's files. The same image gives the same bytes. SPDX's library is slow to import, and so is this module.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.message import Message
from email.parser import HeaderParser
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
from docker.errors import APIError, NotFound
from license_expression import ExpressionError, LicenseExpression  # type: ignore[import-untyped]
from spdx_tools.common.spdx_licensing import spdx_licensing  # type: ignore[import-untyped]
from spdx_tools.spdx.model.actor import Actor, ActorType
from spdx_tools.spdx.model.checksum import Checksum, ChecksumAlgorithm
from spdx_tools.spdx.model.document import CreationInfo, Document
from spdx_tools.spdx.model.file import File
from spdx_tools.spdx.model.package import ExternalPackageRef, ExternalPackageRefCategory, Package, PackagePurpose
from spdx_tools.spdx.model.relationship import Relationship, RelationshipType
from spdx_tools.spdx.model.spdx_no_assertion import SpdxNoAssertion
from spdx_tools.spdx.spdx_element_utils import calculate_package_verification_code
from spdx_tools.spdx.writer.json.json_writer import write_document_to_stream

from clients.engine_faults import faults
from clients.errors import NotReleased
from records.image_labels import Label

if TYPE_CHECKING:
    import docker

Files = Callable[[str], dict[str, bytes]]
"""By name, the plain files in a directory of the image, or the one file; empty when there is none."""
Allowed = Mapping[tuple[str, str], frozenset[str]]
"""By a distribution's name and version, the SHA-256 of the files that the requirements allow."""

WHEELS = "/app/packages.json"
PACKAGES = "/app/packages"
RAPIDOC = "/app/service/page/static/rapidoc-min.js.gz"
DPKG_STATUS = "/var/lib/dpkg/status"
OS_RELEASE = "/usr/lib/os-release"
ROOT = "SPDXRef-Image"
_unopened = partial(Package, download_location=SpdxNoAssertion(), files_analyzed=False)
"""A package whose files the document does not list."""
_PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:(?P<sha256>[0-9a-f]{64})")
_CLASSIFIED = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: MIT License": "MIT",
    "MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
"""The classifiers and names that mean one licence; that of BSD does not."""


class Wheel(msgspec.Struct, frozen=True):
    """A distribution, as `scripts/image_tree.py` records it in the image."""

    name: str
    version: str
    wheel: str
    sha256: str


def sbom(client: docker.DockerClient, image: str, requirements: bytes, *, reference: str = "") -> bytes:
    """The document of an image that the engine has, as JSON.

    image: `repository@sha256:…`; requirements: the pinned requirements of the commit that it was built from; reference:
    the engine's name for the image, if it differs.
    Raises NotReleased when a distribution is not the one that the requirements name; for errors of the engine see
    `engine_faults`.
    """
    with faults(f"looking into {image}"):
        attributes = client.images.get(reference or image).attrs
        with _files_of(client, reference or image) as files:
            document = _document(image, attributes["Config"], files, pinned(requirements))
    written = io.StringIO()
    write_document_to_stream(document, written, drop_duplicates=False)
    return f"{written.getvalue()}\n".encode()


def pinned(requirements: bytes) -> Allowed:
    """What hash-checked requirements allow."""
    found = {}
    for entry in re.sub(r"\\\n", " ", requirements.decode("utf-8")).splitlines():
        if match := _PINNED.match(entry):
            key = (normalised(match["name"]), match["version"])
            found[key] = frozenset(each["sha256"] for each in _HASH.finditer(entry))
    return found


def normalised(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@contextmanager
def _files_of(client: docker.DockerClient, image: str) -> Iterator[Files]:
    container = client.containers.create(image, network_disabled=True)

    def files(path: str) -> dict[str, bytes]:
        try:
            chunks, _ = container.get_archive(path)
        except NotFound:
            return {}
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            entries = [(entry.name, archive.extractfile(entry)) for entry in archive if entry.isreg()]
            return {name.rpartition("/")[2]: content.read() for name, content in entries if content is not None}

    try:
        yield files
    finally:
        try:
            container.remove(force=True)
        except APIError as error:
            if error.status_code not in {404, 409}:
                raise


def _text(files: Files, path: str) -> str:
    """A file's content; empty when there is none."""
    return files(path).get(path.rpartition("/")[2], b"").decode("utf-8", errors="replace")


def _document(image: str, settings: Mapping[str, Any], files: Files, allowed: Allowed) -> Document:
    labels: dict[str, str] = settings.get("Labels") or {}
    variables: list[str] = settings.get("Env") or []
    bundled = [_file(name, content) for name, content in sorted(files(labels[Label.BUNDLE]).items())]
    bundle = _bundle(labels, bundled)
    packages = [*_distributions(files, allowed), *_rapidoc(files), *_debian(files), *_interpreter(variables)]
    relationships = [
        Relationship("SPDXRef-DOCUMENT", RelationshipType.DESCRIBES, ROOT),
        *(Relationship(ROOT, RelationshipType.CONTAINS, each.spdx_id) for each in (bundle, *packages)),
        *(Relationship(bundle.spdx_id, RelationshipType.CONTAINS, each.spdx_id) for each in bundled),
    ]
    created = datetime.fromisoformat(labels[Label.CREATED].replace("Z", "+00:00")).astimezone(UTC)
    creation = CreationInfo(
        spdx_version="SPDX-2.3",
        spdx_id="SPDXRef-DOCUMENT",
        name=image,
        document_namespace=f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'docker-image://{image}')}",
        creators=[Actor(ActorType.TOOL, "rps-release")],
        created=created.replace(tzinfo=None),
    )
    return Document(creation, [_image(image, labels), bundle, *packages], bundled, relationships=relationships)


def _image(image: str, labels: Mapping[str, str]) -> Package:
    repository, _, digest = image.partition("@")
    name = repository.rpartition("/")[2]
    return _unopened(
        ROOT,
        repository,
        version=labels.get(Label.VERSION),
        checksums=_sha256(digest.removeprefix("sha256:")),
        license_declared=_license(labels.get(Label.LICENSES, "")),
        external_references=[_purl(f"pkg:oci/{name}@{quote(digest, safe='')}?repository_url={repository}")],
        primary_package_purpose=PackagePurpose.CONTAINER,
        comment=f"Built from commit {labels.get(Label.GIT_SHA, '')} on {labels.get(Label.BASE_NAME, '')}; {digest} is "
        "its manifest's digest.",
    )


def _bundle(labels: Mapping[str, str], files: list[File]) -> Package:
    return Package(
        "SPDXRef-Bundle",
        f"model {labels.get(Label.CHALLENGE, '')}",
        SpdxNoAssertion(),
        version=labels.get(Label.MODEL_VERSION),
        verification_code=calculate_package_verification_code(files),
        primary_package_purpose=PackagePurpose.OTHER,
        comment=f"Trained by the MLflow run {labels.get(Label.MODEL_RUN, '')} on the dataset with the MD5 "
        f"{labels.get(Label.DATASET_MD5, '')}, with the code of commit {labels.get(Label.MODEL_GIT_SHA, '')}.",
    )


def _file(name: str, content: bytes) -> File:
    sha1 = hashlib.sha1(content, usedforsecurity=False).hexdigest()  # SPDX requires it
    checksums = [Checksum(ChecksumAlgorithm.SHA1, sha1), *_sha256(hashlib.sha256(content).hexdigest())]
    return File(f"./bundle/{name}", _id("File", name), checksums)


def _distributions(files: Files, allowed: Allowed) -> Iterator[Package]:
    for wheel in msgspec.json.decode(_text(files, WHEELS), type=list[Wheel]):
        name = normalised(wheel.name)
        if wheel.sha256 not in allowed.get((name, wheel.version), frozenset()):
            found = f"{wheel.wheel} (SHA-256 {wheel.sha256})"
            raise NotReleased(f"the image holds {found}, which the requirements of its commit do not name")
        directory = "-".join(wheel.wheel.split("-")[:2])
        metadata = HeaderParser().parsestr(_text(files, f"{PACKAGES}/{directory}.dist-info/METADATA"))
        declared, comment = _declared(metadata)
        yield _unopened(
            _id("Python", name),
            wheel.name,
            version=wheel.version,
            file_name=wheel.wheel,
            checksums=_sha256(wheel.sha256),
            license_declared=_license(declared),
            license_comment=comment or None,
            external_references=[_purl(f"pkg:pypi/{name}@{quote(wheel.version, safe='')}")],
            primary_package_purpose=PackagePurpose.LIBRARY,
        )


def _rapidoc(files: Files) -> Iterator[Package]:
    """The script of the API's page, whose first line names its version; none in an image without that page."""
    for content in files(RAPIDOC).values():
        script = gzip.decompress(content)
        version = script.partition(b"|")[0].decode().split()[-1]
        yield _unopened(
            "SPDXRef-RapiDoc",
            "rapidoc",
            version=version,
            file_name=RAPIDOC.rpartition("/")[2],
            checksums=_sha256(hashlib.sha256(content).hexdigest()),
            license_declared=_license("MIT"),
            external_references=[_purl(f"pkg:npm/rapidoc@{version}")],
            primary_package_purpose=PackagePurpose.LIBRARY,
        )


def _declared(metadata: Message) -> tuple[str, str]:
    """The licence that a distribution declares as an SPDX expression, or else its own wording."""
    if expression := metadata.get("License-Expression", ""):
        return expression, ""
    classifiers = [each for each in metadata.get_all("Classifier", []) if each.startswith("License :: ")]
    known = {_CLASSIFIED[each] for each in classifiers if each in _CLASSIFIED}
    text = metadata.get("License", "").strip().partition("\n")[0]
    if _license(expression := _CLASSIFIED.get(text, text)) is not None:
        return expression, ""
    if len(known) == len(classifiers) == 1:
        return known.pop(), ""
    return "", "; ".join(filter(None, [text, *classifiers]))


def _debian(files: Files) -> Iterator[Package]:
    """The packages of dpkg; none on a base without it."""
    release = dict(line.split("=", 1) for line in _text(files, OS_RELEASE).splitlines() if "=" in line)
    system = {key: value.strip('"') for key, value in release.items()}
    distribution = f"{system.get('ID', 'debian')}-{system.get('VERSION_ID', '')}".rstrip("-")
    for stanza in sorted(filter(str.strip, _text(files, DPKG_STATUS).split("\n\n"))):
        entry = HeaderParser().parsestr(stanza)
        if not entry.get("Status", "").endswith(" installed"):
            continue
        name, version, architecture = entry["Package"], entry["Version"], entry.get("Architecture", "")
        purl = f"pkg:deb/{system.get('ID', 'debian')}/{quote(name)}@{quote(version, safe='')}"
        references = [_purl(f"{purl}?arch={architecture}&distro={distribution}")]
        yield _unopened(_id("Debian", f"{name}-{architecture}"), name, version=version, external_references=references)


def _interpreter(variables: Iterable[str]) -> Iterator[Package]:
    """The interpreter of an official Python image, which dpkg does not know."""
    for variable in variables:
        name, _, version = variable.partition("=")
        if name == "PYTHON_VERSION" and version:
            references = [_purl(f"pkg:generic/python@{version}")]
            yield _unopened("SPDXRef-Interpreter", "python", version=version, external_references=references)


def _license(expression: str) -> LicenseExpression | None:
    """A licence expression, parsed; None when SPDX does not know it."""
    try:
        return spdx_licensing.parse(expression, validate=True) if expression else None
    except ExpressionError:
        return None


def _purl(locator: str) -> ExternalPackageRef:
    return ExternalPackageRef(ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", locator)


def _sha256(value: str) -> list[Checksum]:
    return [Checksum(ChecksumAlgorithm.SHA256, value)]


def _id(kind: str, name: str) -> str:
    return f"SPDXRef-{kind}-{re.sub(r'[^A-Za-z0-9.-]', '-', name)}"
