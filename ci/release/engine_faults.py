"""Why a container engine or a registry did not do what it was asked, and whether asking again may help."""

from __future__ import annotations

import re

import requests
import urllib3
from docker.errors import APIError, DockerException

from ci.errors import CiError, ConfigurationError

ENGINE_ERRORS = (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)
"""What the SDK raises. An engine that ends in the midst of an answer comes as any of the last three."""
TOLD_LIMIT = 500

_REFUSED = re.compile(
    r"unauthorized|denied|forbidden|no basic auth|incorrect username|authentication required|authorization failed"
    r"|\b40[13]\b",
    re.IGNORECASE,
)
_NO_TLS = re.compile(r"server gave HTTP response to HTTPS client|x509: |certificate", re.IGNORECASE)
_NO_HOST = re.compile(r"no such host|name resolution|server misbehaving", re.IGNORECASE)
_MALFORMED = re.compile(r"invalid reference format|invalid repository name|invalid tag format", re.IGNORECASE)


class Passing(Exception):
    """A fault that may pass: said in the engine's or the registry's own words, with what to look at."""


class Missing(Exception):
    """The registry, or the engine, knows no such image."""


def words(error: Exception | str) -> str:
    """What an error says, on one line, without the SDK's frame around it."""
    told = error.explanation if isinstance(error, APIError) else None
    line = " ".join(str(told or error).split()) or ("" if isinstance(error, str) else type(error).__name__)
    return line if len(line) <= TOLD_LIMIT else f"{line[: TOLD_LIMIT - 1]}…"


def fault(error: Exception | str, *, reference: str, login: bool) -> CiError | Passing | Missing:
    """What an error of an exchange with a registry means. login: whether we have a user name and a password there.

    An error in the stream of a push or a pull has only its text; a status is looked at where there is one.
    """
    told = words(error)
    registry = registry_of(reference)
    status = error.status_code if isinstance(error, APIError) else None
    if not isinstance(error, APIError | str):
        return Passing(f"the container engine does not answer: {told}")
    if _MALFORMED.search(told):
        return ConfigurationError(f"{reference}: expected the name of an image; the engine says: {told}")
    if _NO_TLS.search(told):
        advice = "give it a certificate that the engine trusts, or name it in the engine's insecure-registries"
        return ConfigurationError(f"the registry {registry} cannot be trusted ({told}): {advice}")
    if status == 404 or re.search(r"manifest unknown|name unknown|manifest for .* not found", told):
        return Missing(f"the registry {registry} has no {reference}: {told}")
    if _REFUSED.search(told):
        return ConfigurationError(f"the registry {registry} refuses {reference}: {told}. {_login_advice(login=login)}")
    if "failed to register layer" in told:
        return Passing(f"the container engine cannot keep {reference}: {told}")
    if _NO_HOST.search(told):
        return Passing(f"the registry {registry} is not found ({told}): is its name right, and the network there?")
    hint = " (its own log says why: is its disk full?)" if re.search(r"\b50\d\b|unknown: ", told) else ""
    return Passing(f"the registry {registry} or the way to it is at fault: {told}{hint}")


def registry_of(reference: str) -> str:
    """The registry's host, with its port, as an image's name has it."""
    first, slash, _ = reference.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"


def _login_advice(*, login: bool) -> str:
    if login:
        return "Are REGISTRY_USERNAME and REGISTRY_PASSWORD right, and may that user do this there?"
    return "Set REGISTRY_USERNAME and REGISTRY_PASSWORD, unless there is no such image"
