"""The image of a release: its labels, and its build by a container engine.

The same commit, bundle and base give the same layers (see `scripts/image_tree.py`), and on the same engine the same
image: what the engine's builder adds, such as the time of the build, is taken out again.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from docker.errors import APIError, ImageLoadError, ImageNotFound

from clients.engine_faults import ENGINE_ERRORS, PLATFORM, Row, faults, meaning, registry_fault, words
from clients.errors import ConfigurationError, NotReleased, PassingFault, one_line
from records.image_labels import Label

if TYPE_CHECKING:
    import docker

    from ci.release.context import Context
    from ci.release.plan import Plan
    from clients.progress import Log

SILENCE_SECONDS = 900
"""How long a step of the build may say nothing; pip is silent while it unpacks."""
SHOWN_LINES = 25
SHOWN_CHARACTERS = 100
_INDEX = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
"""Passed to the build where the environment has them; no layer and no history line of the image holds them."""
_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
_BUILD = (
    Row(
        r"DO NOT MATCH THE HASHES|Hashes are required|Expected sha256",
        NotReleased,
        "the image cannot be built: a package is not the one that requirements/service.txt names: find out who changed "
        "it, where\n{end}",
    ),
    PLATFORM,
    Row(
        r"\nerror: .*(dial tcp|i/o timeout|no such host|TLS handshake|net/http|connection refused)",
        PassingFault,
        "the image is not built: the engine cannot reach what it needs; try again\n{end}",
    ),
    Row(
        r"Retrying \(Retry\(|Temporary failure in name resolution|Max retries exceeded|Read timed out"
        r"|HTTP error 5\d\d|5\d\d Server Error|Connection (?:aborted|refused|reset)",
        PassingFault,
        "the image is not built: pip cannot reach the package index from the build; try again, or see "
        "RPS_BUILD_NETWORK and PIP_INDEX_URL\n{end}",
    ),
    Row(
        "no space left on device",
        PassingFault,
        "the image is not built: the engine's disk is full; free some (docker system df)\n{end}",
    ),
    Row("", NotReleased, "the image cannot be built; the end of its output:\n{end}"),
)
"""What a failed build means, by its output; see `engine_faults`."""


@dataclass(frozen=True)
class Base:
    """The image that ours is built on."""

    name: str
    id: str
    digest: str
    """Of its manifest in its registry; empty when it has none."""


@dataclass(frozen=True)
class Built:
    """An image in the engine. found: whether it was there already."""

    id: str
    found: bool


def find_base(client: docker.DockerClient, name: str, log: Log) -> Base:
    """The base image, pulled when the engine does not have it.

    Raises ConfigurationError when there is no such image, PassingFault when it cannot be pulled now.
    """
    try:
        try:
            image = client.images.get(name)
        except ImageNotFound:
            log.line(f"pulling the base image {name}")
            image = client.images.pull(name)
    except ENGINE_ERRORS as error:
        fault = registry_fault(error, reference=name, login=False)
        if isinstance(fault, ConfigurationError):
            hint = "name another in RPS_BASE_IMAGE, or log in where it is"
            raise ConfigurationError(f"there is no base image {name}, or not for us: {fault}; {hint}") from error
        raise PassingFault(f"the base image {name} cannot be had: {fault}; run it again") from error
    names = image.attrs.get("RepoDigests") or [""]
    return Base(name, str(image.id), names[0].partition("@")[2])


def labels(plan: Plan, context: Context, base: Base, source_url: str) -> dict[str, str]:
    """The image's labels; what is not known is left out. source_url: the repository's page."""
    known = {
        Label.TITLE: plan.title,
        Label.DESCRIPTION: f"Serves version {plan.model.version} of the model {plan.model.name}",
        Label.CREATED: _written(context.epoch_seconds),
        Label.SOURCE: source_url,
        Label.LICENSES: context.license,
        Label.BASE_NAME: base.name,
        Label.BASE_DIGEST: base.digest,
        Label.BASE_ID: base.id,
    }
    return plan.labels | {label.value: value for label, value in known.items() if value}


def build(
    client: docker.DockerClient,
    context: Context,
    *,
    tag: str,
    labels: Mapping[str, str],
    base: Base,
    log: Log,
    network: str = "",
    cached: bool = True,
    environment: Mapping[str, str] = os.environ,
) -> Built:
    """Build the image, unless the engine has one of the same context, base and labels, and tag it.

    network: of the build's steps; empty is the engine's default. cached: whether to reuse steps of earlier builds.
    Raises PassingFault (the engine, the network, the package index), NotReleased (the commit cannot be built).
    """
    content = {"context": context.sha256, "base": base.id, "labels": dict(labels)}
    key = f"sha256:{hashlib.sha256(msgspec.json.encode(content, order='deterministic')).hexdigest()}"
    whole = {**labels, Label.BUILD.value: key}
    arguments = {
        "BASE": base.name,
        "SOURCE_DATE_EPOCH": str(context.epoch_seconds),
        "RPS_MODEL_VERSION": labels.get(Label.MODEL_VERSION, ""),
        **{name: environment[name] for name in _INDEX if environment.get(name)},
    }
    building = _Build(client, context, base, log, arguments, network, cached)
    with faults(f"building {tag}"):
        listed = client.images.list(filters={"label": f"{Label.BUILD}={key}"}) if cached else []
        there = next((image for image in listed if whole.items() <= image.labels.items()), None)
        image = there or client.images.get(building.settled(whole) or building.run(whole))
        image.tag(tag)
        return Built(str(image.id), found=there is not None)


@dataclass(frozen=True)
class _Build:
    """One build by the engine's classic builder."""

    client: docker.DockerClient
    context: Context
    base: Base
    log: Log
    arguments: Mapping[str, str] = field(repr=False)
    network: str
    cached: bool

    def run(self, labels: Mapping[str, str]) -> str:
        """The new image's id; logs a line for each step."""
        events = self.client.api.build(
            fileobj=io.BytesIO(self.context.tar),
            custom_context=True,
            buildargs=dict(self.arguments),
            labels=dict(labels),
            network_mode=self.network or None,
            nocache=not self.cached,
            rm=True,
            forcerm=True,
            timeout=SILENCE_SECONDS,
            decode=True,
        )
        return followed(events, self.log)

    def settled(self, labels: Mapping[str, str]) -> str | None:
        """The id of an image without what the builder adds: when, in which container, from which step.

        The engine gets a new configuration, with the labels, without the layers, which it has. None where it does not
        accept that, as containerd's image store.
        """
        stores = [str(value) for pair in self.client.info().get("DriverStatus") or [] for value in pair]
        if any("containerd" in store for store in stores):
            return None
        attributes = self.client.images.get(self.run({})).attrs
        encoded = self._configuration(attributes, labels)
        wanted = hashlib.sha256(encoded).hexdigest()
        layers = [f"{each}/layer.tar" for each in attributes["RootFS"]["Layers"]]
        listing = msgspec.json.encode([{"Config": f"{wanted}.json", "RepoTags": None, "Layers": layers}])
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name, content in ((f"{wanted}.json", encoded), ("manifest.json", listing)):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        try:
            self.client.images.load(packed.getvalue())
            return str(self.client.images.get(f"sha256:{wanted}").id)
        except (APIError, ImageLoadError) as error:
            self.log.line(f"  the engine takes no configuration ({words(error)}): the image's id is this build's own")
            return None

    def _configuration(self, attributes: Mapping[str, Any], labels: Mapping[str, str]) -> bytes:
        """As https://github.com/opencontainers/image-spec/blob/main/config.md has it, with the commit's time in it."""
        older = len(_history(self.client, self.base.id))
        history = []
        for place, entry in enumerate(_history(self.client, attributes["Id"])):
            created = entry["Created"] if place < older else self.context.epoch_seconds
            line = {"created": _written(created), "created_by": entry["CreatedBy"], "comment": entry["Comment"]}
            history.append({**line, "empty_layer": not entry["Size"]})
        layers = attributes["RootFS"]["Layers"]
        if sum(not entry["empty_layer"] for entry in history) != len(layers):
            history = []  # an empty layer: which line made it is unknown
        settings = {name: value for name, value in attributes["Config"].items() if value and name != "Image"}
        return msgspec.json.encode(
            {
                "architecture": attributes["Architecture"],
                **({"variant": attributes["Variant"]} if attributes.get("Variant") else {}),
                "os": attributes["Os"],
                "created": _written(self.context.epoch_seconds),
                "config": {**settings, "Labels": {**(settings.get("Labels") or {}), **labels}},
                "history": history,
                "rootfs": {"type": "layers", "diff_ids": layers},
            },
            order="sorted",
        )


def followed(events: Iterable[Mapping[str, Any]], log: Log) -> str:
    """Log a line for each step; the image's id. Raises as `build` does, with the end of the output."""
    image, said = "", deque[str](maxlen=SHOWN_LINES)
    for event in events:
        text = str(event.get("stream", "")).strip()
        if step := _STEP.fullmatch(text):
            log.line(f"  step {step[1]}/{step[2]}  {one_line(step[3], SHOWN_CHARACTERS)}")
        elif text:
            said += [_plain(line) for line in text.splitlines()]
        if error := event.get("error"):
            last = _plain(str(error))
            end = "\n".join(f"  | {line}" for line in [*said, one_line(last, SHOWN_CHARACTERS)])
            whole = "\n".join([*said, f"error: {last}"])
            raise meaning(_BUILD, f"\n{whole}", end=end, subject="the base image", words=last)
        image = str((event.get("aux") or {}).get("ID") or image)
    if not image:
        raise PassingFault("the container engine ended the build without an image: is it up, and its disk not full?")
    return image


def _history(client: docker.DockerClient, image: str) -> list[dict[str, Any]]:
    newest_first: list[dict[str, Any]] = client.api.history(image)  # type: ignore[no-untyped-call]
    return newest_first[::-1]


def _written(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).strip()
