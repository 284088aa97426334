"""The container engine as `ci` uses it: images to and from a registry, faults waited out, credentials kept to the call.

It is Docker's API through its SDK, so whatever speaks that (Docker from 20.10 on, with either image store) will do.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import docker
import requests
from docker.errors import APIError, ImageNotFound
from docker.utils import kwargs_from_env, parse_repository_tag

from clients.engine_faults import (
    ENGINE_ERRORS,
    MissingImage,
    UnknownAnswer,
    connection_fault,
    engine_fault,
    registry_fault,
)
from clients.errors import ConfigurationError, PassingFault, RpsError
from clients.progress import Log

T = TypeVar("T")
DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
PATIENCE_SECONDS = 120.0
"""How long a fault is waited out, on top of the waits that the engine itself makes."""
SILENCE_SECONDS = 300.0
"""How long the engine may say nothing in an answer: a registry may be that long at work on a large layer."""
_LONGEST_PAUSE_SECONDS = 15.0
_DIGEST = re.compile(r"\bsha256:[0-9a-f]{64}\b")
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Credentials:
    """A login at the registry; it goes to the engine with each call that needs it, and is written nowhere."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Image:
    """An image in the engine."""

    id: str
    digest: str
    """Under which the registry gave it; empty when it was not pulled now."""
    labels: Mapping[str, str]


class Engine:
    """One container engine, and a login at the registries it is sent to.

    Every method raises ConfigurationError when a login is refused or a name is wrong, and PassingFault, with the
    registry's own words, when a fault does not pass within ``patience_seconds``.
    """

    def __init__(
        self,
        client: docker.DockerClient,
        address: str,
        credentials: Credentials | None,
        log: Log,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.client = client
        self.address = address
        self.note = log.line
        self._login: dict[str, str] | None = None
        if credentials and credentials.username:
            self._login = {"username": credentials.username, "password": credentials.password}
        self._patience_seconds = patience_seconds

    @classmethod
    def connect(
        cls,
        environment: Mapping[str, str],
        credentials: Credentials | None,
        log: Log,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> Self:
        """The engine that the environment names: `DOCKER_HOST`, `DOCKER_TLS_VERIFY`, `DOCKER_CERT_PATH`.

        credentials: None, or empty ones, leave the login to what `docker login` has left on this machine.
        Raises ConfigurationError when no engine answers there, or we may not use it.
        """
        address = environment.get("DOCKER_HOST") or DEFAULT_ADDRESS
        arguments: dict[str, Any] = {
            **kwargs_from_env({**environment, "DOCKER_HOST": address}),
            "timeout": silence_seconds,
        }
        arguments["use_ssh_client"] = address.startswith("ssh://")
        try:
            client = docker.DockerClient(**arguments)
            client.api.close()
            client.api = _Bounded(**arguments)
            client.ping()
        except ENGINE_ERRORS as error:
            raise connection_fault(error, address) from error
        return cls(client, address, credentials, log, patience_seconds)

    def close(self) -> None:
        self.client.close()

    @property
    def published_at(self) -> tuple[str, str]:
        """Where to publish a container's port on the engine's machine, and by which name that is reached from here.

        Raises ConfigurationError for an engine whose ports cannot be reached.
        """
        parts = urlsplit(self.address)
        if parts.scheme in {"unix", "npipe"} or parts.hostname in {"localhost", "127.0.0.1", "::1"}:
            return "127.0.0.1", "127.0.0.1"
        if parts.scheme in {"tcp", "http", "https"} and parts.hostname:
            return "", parts.hostname
        raise ConfigurationError(
            f"DOCKER_HOST: expected unix://… or tcp://…, as a container's port must be reached; found {self.address}"
        )

    def image(self, reference: str) -> Image | None:
        """An image that the engine has; None when it has not."""
        try:
            found = self.client.images.get(reference)
        except ImageNotFound:
            return None
        except ENGINE_ERRORS as error:
            raise self.fault(error, f"looking at {reference}") from error
        return Image(str(found.id), "", dict(found.labels))

    def tag(self, reference: str, name: str) -> None:
        """Give an image of the engine another name, ``repository:tag``; one that had this name loses it."""
        repository, tag = parse_repository_tag(name)
        try:
            self.client.images.get(reference).tag(repository, tag)
        except ENGINE_ERRORS as error:
            raise self.fault(error, f"naming {reference} {name}") from error

    def push(self, reference: str) -> str:
        """Send an image, ``repository:tag``, to the registry of its name; the digest that it has there."""
        if self.image(reference) is None:
            raise ConfigurationError(f"pushing {reference}: the container engine has no such image")
        return self._patiently(f"pushing {reference}", reference, lambda: self._push(reference))

    def pull(self, reference: str) -> Image:
        """Get an image, ``repository:tag`` or ``repository@digest``, from its registry, even when the engine has one.

        Layers that the engine has are not sent again: ``remove`` the image first where that matters.
        Raises ConfigurationError when the registry has no such image.
        """
        return self._patiently(f"pulling {reference}", reference, lambda: self._pull(reference))

    def digest_in_registry(self, reference: str) -> str | None:
        """The digest of ``repository:tag`` or ``repository@digest`` in its registry; None when it has no such image.

        Only the registry's word that it does not know the image counts as none: a refusal or a fault is raised.
        """

        def look() -> str:
            answer = self.client.api.inspect_distribution(  # type: ignore[no-untyped-call]
                reference, auth_config=self._login
            )
            return str(answer["Descriptor"]["digest"])

        try:
            return self._patiently(f"asking for {reference}", reference, look)
        except MissingImage:
            return None

    def remove(self, reference: str) -> bool:
        """Remove an image under all its names, so that a pull has to fetch it from the registry.

        Its configuration and the layers that are its own leave the engine. A layer that another image has, such as
        those of the base, stays, and is not fetched again; so does what the cache of BuildKit holds. Engines check
        both against the digests in the manifest, so a pull by digest gives the same image either way.
        Whether it is gone: an image that a container runs stays, which is noted.
        """
        found = self.image(reference)
        if found is None:
            return True
        try:
            self.client.images.remove(found.id, force=True)
        except ImageNotFound:
            return True
        except APIError as error:
            if error.status_code != 409:
                raise self.fault(error, f"removing {reference}") from error
            self.note(f"{reference} stays in the engine: a container runs it")
            return False
        except ENGINE_ERRORS as error:
            raise self.fault(error, f"removing {reference}") from error
        return True

    def _push(self, reference: str) -> str:
        repository, tag = parse_repository_tag(reference)
        layers = _Layers(self.note, "sent", "were there", done={"Pushed"}, kept={"Layer already exists"})
        digest = ""
        for event in self.client.api.push(
            repository, tag=tag or "latest", stream=True, decode=True, auth_config=self._login
        ):
            layers.follow(_sound(event))
            digest = str((event.get("aux") or {}).get("Digest") or digest)
        if not _DIGEST.fullmatch(digest):
            raise APIError("the push ended without a digest of what the registry has taken")
        self.note(f"pushed {reference} as {digest}: {layers.summary}")
        return digest

    def _pull(self, reference: str) -> Image:
        repository, tag = parse_repository_tag(reference)
        layers = _Layers(
            self.note, "fetched", "were here", done={"Pull complete", "Download complete"}, kept={"Already exists"}
        )
        digest = tag if tag and _DIGEST.fullmatch(tag) else ""
        for event in self.client.api.pull(
            repository, tag=tag or "latest", stream=True, decode=True, auth_config=self._login
        ):
            layers.follow(_sound(event))
            if str(event.get("status", "")).startswith("Digest: "):
                digest = event["status"].removeprefix("Digest: ").strip()
        name = reference if tag else f"{repository}:latest"
        found = self.client.images.get(name)
        self.note(f"pulled {reference}: {layers.summary}")
        return Image(str(found.id), digest, dict(found.labels))

    def _patiently(self, doing: str, reference: str, operation: Callable[[], T]) -> T:
        """Do it; again after a fault that may pass, and once more after an answer that nobody knows."""
        deadline = time.monotonic() + self._patience_seconds
        pause = 1.0
        unknown = False
        while True:
            try:
                return operation()
            except ENGINE_ERRORS as error:
                found = registry_fault(error, reference=reference, login=bool(self._login))
            if not isinstance(found, PassingFault):
                raise found
            if isinstance(found, UnknownAnswer) and unknown:
                raise PassingFault(f"{doing}: {found}. It says so again; look at what it says, then run it again")
            unknown = unknown or isinstance(found, UnknownAnswer)
            if time.monotonic() + pause > deadline:
                raise PassingFault(f"{doing}: {found}. Tried for {self._patience_seconds:g} s; run it again later")
            self.note(f"{doing}: {found}; trying again in {pause:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def fault(self, error: Exception, doing: str) -> RpsError:
        """What an error of this engine alone means."""
        return engine_fault(error, doing, engine=f"the container engine at {self.address}")


class _Bounded(docker.APIClient):
    """The SDK waits for ever for a word of a pull; this waits as long as for all else."""

    def post(self, url: str, *arguments: Any, **options: Any) -> requests.Response:  # type: ignore[override]  # noqa: ANN401
        options["timeout"] = options.get("timeout") or self.timeout
        return super().post(url, *arguments, **options)


class _Layers:
    """The layers of one push or pull: a line when one is through, and a count of all."""

    def __init__(self, note: Callable[[str], None], went: str, stayed: str, *, done: set[str], kept: set[str]) -> None:
        self._note = note
        self._went, self._stayed = went, stayed
        self._done, self._kept = done, kept
        self._bytes: dict[str, int] = {}
        self._through: dict[str, bool] = {}
        """By layer, whether it went over the network."""
        self._retried: set[str] = set()

    @property
    def summary(self) -> str:
        went = [layer for layer, moved in self._through.items() if moved]
        size = sum(self._bytes.get(layer, 0) for layer in went) / _MEGABYTE
        stayed = len(self._through) - len(went)
        return f"{len(went)} layers {self._went} ({size:.1f} MB), {stayed} {self._stayed}"

    def follow(self, event: Mapping[str, Any]) -> None:
        layer, status = str(event.get("id", "")), str(event.get("status", ""))
        if not layer:
            return
        if status in {"Pushing", "Downloading"}:
            detail = event.get("progressDetail") or {}
            known = self._bytes.get(layer, 0)
            self._bytes[layer] = max(known, int(detail.get("total") or 0), int(detail.get("current") or 0))
        elif status.startswith("Retrying in") and layer not in self._retried:
            self._retried.add(layer)
            self._note(f"  layer {layer}: did not get through; the engine tries again by itself")
        elif status in self._kept or status.startswith("Mounted from"):
            self._through[layer] = False
        elif status in self._done and layer not in self._through:
            self._through[layer] = True
            self._note(f"  layer {layer}: {self._bytes.get(layer, 0) / _MEGABYTE:.1f} MB {self._went}")


def _sound(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """The event, unless it is an error in the midst of a good answer. Raises APIError."""
    detail = event.get("errorDetail") or {}
    message = event.get("error") or detail.get("message")
    if message:
        raise APIError(str(message))
    return event
