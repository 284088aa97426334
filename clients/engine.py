"""The container engine as `ci` uses it: images to and from a registry, faults waited out, credentials kept to the call.

It speaks Docker's API through its SDK: Docker from 20.10 on, with either image store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import docker
import requests
from docker.errors import APIError, ImageNotFound
from docker.utils import kwargs_from_env, parse_repository_tag

from clients import engine_faults
from clients.engine_faults import ENGINE_ERRORS, MissingImage, UnknownAnswer, connection_fault, registry_fault
from clients.errors import ConfigurationError, PassingFault, RpsError
from clients.patience import Patience
from clients.progress import Log

T = TypeVar("T")
DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
PATIENCE_SECONDS = 120.0
"""How long a fault is waited out, on top of the engine's own waits."""
SILENCE_SECONDS = 300.0
"""How long the engine may be silent in an answer: a registry may work that long on a large layer."""
_DIGEST = re.compile(r"\bsha256:[0-9a-f]{64}\b")
_MEGABYTE = 1e6
_MOVED = {"Pushed", "Pull complete", "Download complete"}
_KEPT = {"Layer already exists", "Already exists"}
"""What the engine says of a layer that went over the network, and of one that need not."""


@dataclass(frozen=True)
class Credentials:
    """A login at the registry; the engine gets it with each call that needs it, and nothing stores it."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Image:
    """An image in the engine."""

    id: str
    digest: str
    """Its digest in the registry; empty when it was not pulled now."""
    labels: Mapping[str, str]


class Engine:
    """One container engine, and a login at the registries.

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

        credentials: without them, the login that `docker login` has left on this machine applies.
        Raises ConfigurationError when no engine answers there, or we may not use it.
        """
        address = environment.get("DOCKER_HOST") or DEFAULT_ADDRESS
        arguments: dict[str, Any] = {
            **kwargs_from_env({**environment, "DOCKER_HOST": address}),
            "timeout": silence_seconds,
            "use_ssh_client": address.startswith("ssh://"),
        }
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
        """An image of the engine; None when it has no such image."""
        with self.faults(f"looking at {reference}"):
            try:
                return self._image(reference)
            except ImageNotFound:
                return None

    def tag(self, reference: str, name: str) -> None:
        """Give an image of the engine another name, ``repository:tag``; an image that had this name loses it."""
        with self.faults(f"naming {reference} {name}"):
            self.client.images.get(reference).tag(*parse_repository_tag(name))

    def push(self, reference: str) -> str:
        """Send an image, ``repository:tag``, to the registry of its name; its digest there."""
        if self.image(reference) is None:
            raise ConfigurationError(f"pushing {reference}: the container engine has no such image")
        return self._patiently(f"pushing {reference}", reference, lambda: self._push(reference))

    def pull(self, reference: str) -> Image:
        """Get an image, ``repository:tag`` or ``repository@digest``, from its registry, even when the engine has one.

        The engine's layers are not fetched again: ``remove`` the image first where that matters.
        Raises ConfigurationError when the registry has no such image.
        """
        return self._patiently(f"pulling {reference}", reference, lambda: self._pull(reference))

    def digest_in_registry(self, reference: str) -> str | None:
        """The digest of ``repository:tag`` or ``repository@digest`` in its registry; None when it has no such image.

        Only the registry's own answer that it does not know the image counts: a refusal or a fault is raised.
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
        """Remove an image under all its names, so that a pull has to fetch it from the registry; whether it is gone.

        An image that a container runs stays. So do layers that another image or BuildKit's cache holds: engines check
        them against the digests in the manifest, so a pull by digest gives the same image either way.
        """
        found = self.image(reference)
        with self.faults(f"removing {reference}"):
            try:
                if found:
                    self.client.images.remove(found.id, force=True)
            except ImageNotFound:
                pass
            except APIError as error:
                if error.status_code != 409:
                    raise
                self.note(f"{reference} stays in the engine: a container runs it")
                return False
        return True

    def faults(self, doing: str) -> AbstractContextManager[None]:
        """While the block runs: an error of this engine alone becomes what it means."""
        return engine_faults.faults(doing, engine=f"the container engine at {self.address}")

    def _image(self, reference: str, digest: str = "") -> Image:
        found = self.client.images.get(reference)
        return Image(str(found.id), digest, dict(found.labels))

    def _push(self, reference: str) -> str:
        layers = _Layers(self.note, "sent", "were there")
        digest = ""
        for event in self._events(self.client.api.push, reference, layers):
            digest = str((event.get("aux") or {}).get("Digest") or digest)
        if not _DIGEST.fullmatch(digest):
            raise APIError("the push ended without a digest of what the registry has taken")
        self.note(f"pushed {reference} as {digest}: {layers.summary}")
        return digest

    def _pull(self, reference: str) -> Image:
        layers = _Layers(self.note, "fetched", "were here")
        repository, tag = parse_repository_tag(reference)
        digest = tag if tag and _DIGEST.fullmatch(tag) else ""
        for event in self._events(self.client.api.pull, reference, layers):
            if str(event.get("status", "")).startswith("Digest: "):
                digest = event["status"].removeprefix("Digest: ").strip()
        found = self._image(reference if tag else f"{repository}:latest", digest)
        self.note(f"pulled {reference}: {layers.summary}")
        return found

    def _events(self, transfer: Callable[..., Any], reference: str, layers: _Layers) -> Iterator[Mapping[str, Any]]:
        """What the engine says of a push or pull. Raises APIError for an error in the midst of a good answer."""
        repository, tag = parse_repository_tag(reference)
        for event in transfer(repository, tag=tag or "latest", stream=True, decode=True, auth_config=self._login):
            if message := event.get("error") or (event.get("errorDetail") or {}).get("message"):
                raise APIError(str(message))
            layers.follow(event)
            yield event

    def _patiently(self, doing: str, reference: str, operation: Callable[[], T]) -> T:
        """Do it; again after a fault that may pass, and once more after an unknown answer."""
        faults: list[RpsError] = []

        def passes(error: Exception) -> bool:
            if not isinstance(error, ENGINE_ERRORS):
                return False
            fault = registry_fault(error, reference=reference, login=bool(self._login))
            if not isinstance(fault, PassingFault):
                raise fault
            if isinstance(fault, UnknownAnswer) and any(isinstance(each, UnknownAnswer) for each in faults):
                raise PassingFault(f"{doing}: {fault}. It says so again; look at what it says, then run it again")
            faults.append(fault)
            return True

        def waiting(seconds: float) -> None:
            self.note(f"{doing}: {faults[-1]}; trying again in {seconds:.0f} s")

        patience = Patience(self._patience_seconds, first_pause=1.0, longest_pause=15.0)
        try:
            return patience.ask(operation, passes, waiting)
        except ENGINE_ERRORS as error:
            tried = f"Tried for {self._patience_seconds:g} s; run it again later"
            raise PassingFault(f"{doing}: {faults[-1]}. {tried}") from error


class _Bounded(docker.APIClient):
    """The SDK waits for ever for a word of a pull; this waits as long as for all else."""

    def post(self, url: str, *arguments: Any, **options: Any) -> requests.Response:  # type: ignore[override]  # noqa: ANN401
        options["timeout"] = options.get("timeout") or self.timeout
        return super().post(url, *arguments, **options)


class _Layers:
    """The layers of one push or pull: a line when one is through, and a count of all."""

    def __init__(self, note: Callable[[str], None], went: str, stayed: str) -> None:
        self._note = note
        self._went, self._stayed = went, stayed
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
        elif status in _KEPT or status.startswith("Mounted from"):
            self._through[layer] = False
        elif status in _MOVED and layer not in self._through:
            self._through[layer] = True
            self._note(f"  layer {layer}: {self._bytes.get(layer, 0) / _MEGABYTE:.1f} MB {self._went}")
