"""The one reader of settings: all come from the environment, and a missing or wrong one is reported by name."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, get_type_hints
from urllib.parse import urlsplit

from clients.errors import ConfigurationError

Kind = TypeVar("Kind")
Number = TypeVar("Number", int, float)

_REPOSITORY = re.compile(
    r"(?:[a-zA-Z0-9.-]+(?::\d+)?/|\[[0-9a-f:]+\](?::\d+)?/)?(?:[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*/)*"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
)
"""https://github.com/distribution/reference, without tag and digest."""


@dataclass(frozen=True)
class AirflowSettings:
    """Airflow's REST API, and our login: a token, or a user with a password."""

    url: str
    token: str = field(repr=False)
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class MlflowSettings:
    """The tracking server and registry. MLflow's client reads user and password from the environment itself."""

    url: str


@dataclass(frozen=True)
class GitHubSettings:
    """One repository of GitHub, or of GitHub Enterprise by its API address."""

    api_url: str
    server_url: str
    repository: str
    token: str = field(repr=False)


@dataclass(frozen=True)
class ImageSettings:
    """The released image: where it is pushed to, our login there, and what it is built on."""

    repository: str
    """`owner/name` at Docker Hub, or `registry/owner/name`; no tag."""
    username: str
    password: str = field(repr=False)
    base: str = ""
    """The base image; empty: the Dockerfile's own."""
    network: str = ""
    """The network of the build's steps; empty: the engine's default."""


def read_settings(kind: type[Kind], environment: Mapping[str, str], prefix: str) -> Kind:
    """An instance of the dataclass ``kind``: each field from the variable with its name in capitals after the prefix.

    A variable that is empty counts as not set. The reader of a field's text, if any, is in its type: `Annotated[…,
    reader]`. It raises ValueError.
    Raises ConfigurationError with everything that is wrong, a line each.
    """
    values: dict[str, Any] = {}
    problems = []
    types = get_type_hints(kind, include_extras=True)
    for each in fields(kind):  # type: ignore[arg-type]
        name = f"{prefix}{each.name.upper()}"
        if text := environment.get(name, "").strip():
            try:
                (read,) = getattr(types[each.name], "__metadata__", (str,))
                values[each.name] = read(text)
            except ValueError as error:
                problems.append(f"{name}: {error}")
    if problems:
        raise ConfigurationError("\n".join(problems))
    return kind(**values)


def number(kind: type[Number], low: float, high: float = math.inf) -> Callable[[str], Number]:
    """A reader of numbers from ``low`` to ``high``; without ``high``, of finite ones above ``low``."""
    limits = f"above {low}" if high == math.inf else f"from {low} to {high}"
    expected = f"{'a whole number' if kind is int else 'a number'} {limits}"

    def read(text: str) -> Number:
        value: Number | None = None
        with contextlib.suppress(ValueError):
            value = kind(text)
        if value is None or not (low <= value <= high if high < math.inf else low < value < high):
            raise ValueError(f"expected {expected}; found {text!r}")
        return value

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """A reader of one of these words, in capitals or not."""

    def read(text: str) -> str:
        if text.upper() not in words:
            raise ValueError(f"expected one of {', '.join(words)}; found {text!r}")
        return text.upper()

    return read


def yes_or_no(text: str) -> bool:
    if text.lower() not in {"1", "true", "yes", "on", "0", "false", "no", "off"}:
        raise ValueError(f"expected true or false; found {text!r}")
    return text.lower() in {"1", "true", "yes", "on"}


def airflow_settings(environment: Mapping[str, str]) -> AirflowSettings:
    """Raises ConfigurationError with every name that is missing."""
    token = environment.get("AIRFLOW_TOKEN", "")
    user = () if token else ("AIRFLOW_USERNAME", "AIRFLOW_PASSWORD")
    require(environment, "AIRFLOW_API_URL", *user, hint="" if token else "AIRFLOW_TOKEN can stand for the last two")
    return AirflowSettings(
        address(environment, "AIRFLOW_API_URL", "AIRFLOW_USERNAME and AIRFLOW_PASSWORD"),
        token,
        environment.get("AIRFLOW_USERNAME", ""),
        environment.get("AIRFLOW_PASSWORD", ""),
    )


def mlflow_settings(environment: Mapping[str, str]) -> MlflowSettings:
    """Raises ConfigurationError."""
    require(environment, "MLFLOW_TRACKING_URI")
    keys = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return MlflowSettings(address(environment, "MLFLOW_TRACKING_URI", keys, web=False))


def github_settings(environment: Mapping[str, str]) -> GitHubSettings:
    """Raises ConfigurationError with every name that is missing, or when GITHUB_REPOSITORY is no `owner/name`."""
    require(environment, "GITHUB_TOKEN", "GITHUB_REPOSITORY")
    repository = environment["GITHUB_REPOSITORY"]
    owner, _, name = repository.partition("/")
    if not owner or not name or "/" in name:
        raise ConfigurationError(f"GITHUB_REPOSITORY: expected owner/name; found {repository!r}")
    return GitHubSettings(
        address(environment, "GITHUB_API_URL", "GITHUB_TOKEN", default="https://api.github.com"),
        address(environment, "GITHUB_SERVER_URL", "GITHUB_TOKEN", default="https://github.com"),
        repository,
        environment["GITHUB_TOKEN"],
    )


def image_settings(environment: Mapping[str, str], challenge: str, *, several: bool = False) -> ImageSettings:
    """Where the image of a challenge lives. several: whether the repository has more challenges than this one.

    Raises ConfigurationError: RPS_IMAGE is missing or no name of an image, or half of a login is missing.
    """
    require(environment, "RPS_IMAGE")
    username, password = (environment.get(name, "") for name in ("REGISTRY_USERNAME", "REGISTRY_PASSWORD"))
    if bool(username) != bool(password):
        missing = "REGISTRY_PASSWORD" if username else "REGISTRY_USERNAME"
        raise ConfigurationError(f"set {missing} in the environment, too, or neither (see .env.example)")
    template = environment["RPS_IMAGE"]
    if several and "{challenge}" not in template:
        hint = "as there are several challenges, such as owner/rps-{challenge}: each has an image of its own"
        raise ConfigurationError(f"RPS_IMAGE: expected {{challenge}} in it, {hint}; found {template!r}")
    repository = template.replace("{challenge}", challenge)
    if not _REPOSITORY.fullmatch(repository):
        expected = "owner/name or registry/owner/name, in lower case, without a tag"
        raise ConfigurationError(f"RPS_IMAGE: expected {expected}; found {repository!r}")
    return ImageSettings(
        repository,
        username,
        password,
        environment.get("RPS_BASE_IMAGE", ""),
        environment.get("RPS_BUILD_NETWORK", ""),
    )


def address(
    environment: Mapping[str, str], name: str, credentials: str = "", *, default: str = "", web: bool = True
) -> str:
    """The address of a service, without a slash at its end; the default when it is not set.

    credentials: the settings that hold them, if any, because addresses are shown in logs and statuses. web: only http
    and https.
    Raises ConfigurationError: no address, or one with a user, a password or a token in it.
    """
    text = (environment.get(name) or default).rstrip("/")
    try:
        parts = urlsplit(text)
        known = bool(parts.hostname) if parts.scheme in {"http", "https"} else not web
        secret = "@" in parts.netloc
    except ValueError:
        known = secret = False
    if secret:
        hint = f"; put them into {credentials}" if credentials else ""
        raise ConfigurationError(f"{name}: expected an address without user and password{hint}")
    if not known:
        raise ConfigurationError(f"{name}: expected an address that starts with http:// or https://; found {text!r}")
    return text


def workflow_url(environment: Mapping[str, str]) -> str:
    """The page of the workflow run that this is part of; empty elsewhere."""
    names = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")
    server, repository, run_id = (environment.get(name, "") for name in names)
    return f"{server}/{repository}/actions/runs/{run_id}" if server and repository and run_id else ""


def require(environment: Mapping[str, str], *names: str, hint: str = "") -> None:
    """Raises ConfigurationError with every name that is missing."""
    missing = [name for name in names if not environment.get(name)]
    if missing:
        message = f"set {', '.join(missing)} in the environment (see .env.example)"
        raise ConfigurationError(f"{message}; {hint}" if hint else message)
