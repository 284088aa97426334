"""What an answer of the container engine, or of a registry through it, means.

Each table is read from the top; the first row whose pattern is in the answer counts, and the last row takes the rest.
A PassingFault is worth waiting for, an UnknownAnswer one more try; all else is final.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import requests
import urllib3
from docker.credentials.errors import StoreError
from docker.errors import APIError, DockerException
from docker.utils.config import find_config_file

from clients.errors import ConfigurationError, PassingFault, RpsError, one_line

ENGINE_ERRORS = (DockerException, StoreError, requests.RequestException, urllib3.exceptions.HTTPError, OSError)
"""What the SDK raises. An engine that ends in the midst of an answer comes as any of the last three."""
WORDS_LIMIT = 500


class MissingImage(ConfigurationError):
    """The registry knows no such image."""


class TagTaken(ConfigurationError):
    """The registry does not move the tag to another image."""


class UnknownAnswer(PassingFault):
    """An answer that no row explains: asked once more, then reported."""


@dataclass(frozen=True)
class Row:
    """One answer. message: a template with `words` (the answer), `config` and what the table's function adds."""

    pattern: str
    kind: type[RpsError]
    message: str


_HELPER = Row(
    r"Credentials store|docker-credential-",
    ConfigurationError,
    "{config} names a credential helper that gives no login: {words}. Install the helper, or take it out of that file",
)
PLATFORM = Row(
    r"no matching manifest for|no match for platform in manifest|cannot be used on this platform",
    ConfigurationError,
    "{subject} is not there for this engine's platform: {words}. Name an image for it, or another DOCKER_HOST",
)
_AT_FAULT = "the registry {registry} or the way to it is at fault: {words}"

REGISTRY = (
    _HELPER,
    Row("^no answer: ", PassingFault, "the container engine does not answer: {words}"),
    Row(
        r"invalid reference format|invalid repository name|invalid tag format",
        ConfigurationError,
        "{subject}: expected the name of an image; the engine says: {words}",
    ),
    Row(
        r"server gave HTTP response to HTTPS client|x509: |certificate",
        ConfigurationError,
        "the registry {registry} cannot be trusted ({words}): give it a certificate that the engine trusts, or name it "
        "in the engine's insecure-registries",
    ),
    Row(  # Amazon ECR, Quay, Alibaba; Harbor; Google Artifact Registry
        r"cannot be overwritten|tag is immutable|configured as immutable|enabled tag immutability|immutable tag",
        TagTaken,
        "the registry {registry} does not move {subject} to another image, as its tags are immutable: {words}. Run it "
        "again to use the image that is there; if that is another one, delete the tag or exempt it in the registry",
    ),
    PLATFORM,
    Row(
        r"^HTTP 404: |manifest unknown|name unknown|manifest for .* not found",
        MissingImage,
        "the registry {registry} has no {subject}: {words}",
    ),
    Row(
        r"unauthorized|denied|forbidden|no basic auth|incorrect username|authentication required|authorization failed"
        r"|\b40[13]\b",
        ConfigurationError,
        "the registry {registry} refuses {subject}: {words}. {advice}",
    ),
    Row("failed to register layer", PassingFault, "the container engine cannot keep {subject}: {words}"),
    Row(
        r"no such host|name resolution|server misbehaving",
        PassingFault,
        "the registry {registry} is not found ({words}): is its name right, and the network there?",
    ),
    Row(r"\b50\d\b", PassingFault, f"{_AT_FAULT} (its own log says why: is its disk full?)"),
    Row(
        r"connection (refused|reset|aborted)|time(d )?-?out|deadline exceeded|\bEOF\b|broken pipe|too ?many ?requests"
        r"|\b429\b|unreachable|no route to host|TLS handshake|closed network connection|dial tcp",
        PassingFault,
        _AT_FAULT,
    ),
    Row("unknown: ", UnknownAnswer, f"{_AT_FAULT} (its own log says why: is its disk full?)"),
    Row("", UnknownAnswer, _AT_FAULT),
)
ENGINE = (
    _HELPER,
    PLATFORM,
    Row(r"^HTTP 40[04]: |runtime create failed", ConfigurationError, "{subject}: {words}"),
    Row("", PassingFault, "{subject}: {engine} is at fault: {words}; run it again"),
)
CONNECTION = (
    Row(
        "PermissionError|Permission denied", ConfigurationError, "{engine} is not for this user: join the group docker"
    ),
    Row("Invalid configuration for registry", ConfigurationError, "{config} cannot be used: {words}. Correct it there"),
    Row(r"\bTLS\b", ConfigurationError, "{engine}: {words}"),
    Row(
        "",
        ConfigurationError,
        "no container engine answers at {subject}: install and start Docker (https://docs.docker.com/engine/install/), "
        "or name an engine in DOCKER_HOST. It says: {words}",
    ),
)


def words(error: Exception | str) -> str:
    """An error's message on one line, without the SDK's frame around it."""
    said = error.explanation if isinstance(error, APIError) else None
    return one_line(str(said or error), WORDS_LIMIT) or ("" if isinstance(error, str) else type(error).__name__)


def meaning(table: Sequence[Row], answer: str, **said: str) -> RpsError:
    """The error of the table's first row that matches the answer."""
    row = next(row for row in table if re.search(row.pattern, answer, re.IGNORECASE))
    return row.kind(row.message.format(config=find_config_file() or "~/.docker/config.json", **said))


def registry_fault(error: Exception, *, reference: str, login: bool) -> RpsError:
    """What an error of an exchange with a registry means. login: whether we have a user name and a password there."""
    advice = "Set REGISTRY_USERNAME and REGISTRY_PASSWORD, unless there is no such image"
    if login:
        advice = "Are REGISTRY_USERNAME and REGISTRY_PASSWORD right, and may that user do this there?"
    said = {"subject": reference, "registry": registry_of(reference), "advice": advice}
    return meaning(REGISTRY, _answer(error), words=words(error), **said)


@contextmanager
def faults(doing: str, *, engine: str = "the container engine") -> Iterator[None]:
    """While the block runs: an error of the engine alone becomes what it means. engine: its name in the message."""
    try:
        yield
    except ENGINE_ERRORS as error:
        raise meaning(ENGINE, _answer(error), words=words(error), subject=doing, engine=engine) from error


def connection_fault(error: Exception, address: str) -> RpsError:
    """Why we cannot use the engine at the address."""
    engine = f"the container engine at {address}"
    return meaning(CONNECTION, words(error), words=words(error), subject=address, engine=engine)


def registry_of(reference: str) -> str:
    """The registry's host, with its port, as an image's name has it."""
    first, slash, _ = reference.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"


def _answer(error: Exception) -> str:
    """What the tables match. The engine's own status 500 means nothing: it stands for any answer of a registry."""
    if not isinstance(error, APIError):
        return f"no answer: {words(error)}"
    refused = error.status_code is not None and error.status_code < 500
    return f"HTTP {error.status_code}: {words(error)}" if refused else words(error)
