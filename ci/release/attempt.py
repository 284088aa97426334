"""`python -m ci release`: from a gated model version and a commit of master to a verified image that production runs.

Each step looks for what an earlier attempt has left, so running an interrupted release again carries it on. Production
is what the newest Git tag says: it moves last, after the pushed image has been pulled and verified.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ci.release import numbering
from ci.release.choose import Choice, choose
from ci.release.code_history import History
from ci.release.context import REQUIREMENTS, read_context
from ci.release.delivery import Delivery
from ci.release.notes import Released, render, without_latest
from ci.release.numbering import Named, changes_since, last_release, named
from ci.release.plan import Number, Plan
from ci.release.promotion import Promotion
from ci.release.provenance import statement
from ci.release.registered import open_models
from ci.release.steps import Step, Steps
from ci.signals import cancelled_by_signals
from clients.disk import locked, write_whole
from clients.engine import Credentials, Engine
from clients.errors import ConfigurationError, NotReleased, NoVerdict, PassingFault
from clients.github import GitHub
from clients.github_releases import TAGS, Attachment, Releases
from clients.progress import Log
from clients.settings import GitHubSettings, ImageSettings, MlflowSettings
from clients.tracking import Missing
from forecasting.challenge.schema import ChallengeError, parse_part, parse_table
from forecasting.judging.losses import LOSSES, LossName
from forecasting.models.manifest import Manifest

RECORD = "release.json"
NOTES = "notes.md"
SBOM = "sbom.spdx.json"
PROVENANCE = "provenance.json"
FILES = (SBOM, PROVENANCE)
CONSIDERED_SHOWN = 10
RESERVE_TRIES = 20
"""How many numbers to try while others reserve at the same time."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to release, and the services for it."""

    challenge: str
    sha: str
    repository: Path
    """A checkout with the commit's whole history."""
    pinned: int | None
    """The requested model version; None chooses."""
    health_seconds: float
    """How long the image may take to become healthy."""
    patience_seconds: float
    """How long to wait out a fault of MLflow or of the registry."""
    output: Path
    mlflow: MlflowSettings
    github: GitHubSettings
    image: ImageSettings


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What `release.json` holds: the release and its progress."""

    challenge: str
    sha: str
    tag: str = ""
    model_version: int = 0
    image: str = ""
    """`repository@sha256:…`, once pushed."""
    url: str = ""
    """The release's page on GitHub."""
    steps: tuple[Step, ...] = ()


def release(request: Request, log: Log) -> Record:
    """Release, or carry on; the result. Raises RpsError: production is then what it was."""
    login = Credentials(request.image.username, request.image.password)
    with (
        cancelled_by_signals("run the release again to carry it on"),
        closing(Engine.connect(os.environ, login, log, patience_seconds=request.patience_seconds)) as engine,
    ):
        try:
            return _Release(request, engine, log).run()
        except Missing as error:
            raise NotReleased(str(error)) from error
        except NoVerdict as error:
            raise PassingFault(str(error)) from error


class _Release:
    """One attempt, and what it has found out so far."""

    def __init__(self, request: Request, engine: Engine, log: Log) -> None:
        self.request = request
        self.log = log
        self.history = History(request.repository)
        self.releases = Releases(GitHub(request.github, note=log.line), self.history.tag_object)
        self.models = open_models(request.mlflow, request.challenge, patience_seconds=request.patience_seconds)
        self.title, self.measure = _terms(self.history, request.sha, request.challenge)
        self.steps = Steps(log, self._write)
        self.record = Record(challenge=request.challenge, sha=request.sha)
        source_url = f"{request.github.server_url}/{request.github.repository}"
        self.delivery = Delivery(
            engine, self.history, request.image, request.health_seconds, self.steps, log, source_url
        )

    def run(self) -> Record:
        self.history.require_whole()
        self._write()
        taken = self._taken()
        numbering.require_not_older(last_release(taken, self.request.challenge), self.history, self.request.sha)
        production = self.models.production()
        choice = self._choose(production)
        plan = self._number(choice, taken, production)
        # Two of the same release on one machine would remove each other's images.
        what = f"{self.delivery.engine.address} {self.delivery.name(plan)}"
        name = f"rps-release-{os.getuid()}-{hashlib.sha256(what.encode()).hexdigest()[:16]}.lock"
        with locked(Path(tempfile.gettempdir()) / name, "the same release on this machine", self.log.line):
            self._ship(plan, choice)
        return self.record

    def _ship(self, plan: Plan, choice: Choice) -> None:
        manifest, bundle = self._fetch(plan)
        tagged = next((each.image for each in self._taken() if each.released and each.number == plan.number), "")
        image = self.delivery.deliver(plan, bundle, tagged)
        if tagged:
            self.steps.skip("tag", f"{plan.tag} is commit {plan.sha[:12]}")
        else:
            image = self._tag(plan, image)
        self._note(image=image)
        notes = self._publish(plan, choice, manifest, bundle, image)
        self._promote(plan, image, notes)

    def _taken(self) -> tuple[Named, ...]:
        """The reserved and released numbers of all challenges."""
        found = (*self.releases.tags(), *self.releases.reservations())
        return tuple(each for tag in found if (each := named(tag)) is not None)

    def _choose(self, production: int | None) -> Choice:
        request = self.request
        with self.steps.step("choose") as step:
            choice = choose(
                self.models.versions(),
                production=production,
                measure=self.measure,
                in_history=partial(self.history.is_part, of=request.sha),
                pinned=request.pinned,
            )
            self.log.line(f"versions of {request.challenge}; production is {production or 'none yet'}:")
            for one in choice.considered[:CONSIDERED_SHOWN]:
                self.log.line(f"  {'->' if one.version == choice.version else '  '} {one.summary}")
            if len(choice.considered) > CONSIDERED_SHOWN:
                self.log.line(f"     and {len(choice.considered) - CONSIDERED_SHOWN} more")
            step.done(f"version {choice.version.version}: {choice.reason}")
        return choice

    def _number(self, choice: Choice, taken: Sequence[Named], production: int | None) -> Plan:
        """Reserve a number, or find the one of an earlier attempt at the same release."""
        request, model = self.request, choice.version
        with self.steps.step("number") as step:
            found = numbering.own(taken, request.challenge, request.sha, model.version)
            if found:
                plan = self._plan(choice, found.number, found.withdraws)
            else:
                # A lower version of a model is an earlier one: to ask for it is to go back.
                back = request.pinned is not None and production is not None and request.pinned < production
                newest = max(one.version.version for one in choice.considered)
                plan = self._reserved(choice, taken, newest if back else None)
            what = f"{plan.tag}, of commit {plan.sha[:12]} and version {model.version} of {plan.challenge}"
            step.done(what, found=found is not None)
        self._note(tag=plan.tag, model_version=model.version)
        return plan

    def _reserved(self, choice: Choice, taken: Sequence[Named], withdraws: int | None) -> Plan:
        for _ in range(RESERVE_TRIES):
            number = numbering.next_number(taken, self.history, self.request.sha)
            plan = self._plan(choice, number, withdraws)
            if self.releases.reserve(plan.reservation, plan.sha, numbering.message(plan)).ours:
                return plan
            taken = self._taken()  # somebody else was quicker
        raise NotReleased(f"no number could be reserved in {RESERVE_TRIES} tries: who else is releasing?")

    def _plan(self, choice: Choice, number: Number, withdraws: int | None) -> Plan:
        challenge, sha, model = self.request.challenge, self.request.sha, choice.version
        return Plan(challenge=challenge, title=self.title, number=number, sha=sha, model=model, withdraws=withdraws)

    def _fetch(self, plan: Plan) -> tuple[Manifest, Path]:
        directory = self.request.output / "bundle"
        with self.steps.step("fetch") as step:
            manifest = self.models.fetch(plan.model, directory)
            size = sum(path.stat().st_size for path in directory.iterdir())
            bundle = f"the bundle of version {plan.model.version}, {size / 1e6:.1f} MB"
            step.done(f"{bundle}, trained to {manifest.train_end:%Y-%m-%d %H:%M} UTC")
        return manifest, directory

    def _publish(self, plan: Plan, choice: Choice, manifest: Manifest, bundle: Path, image: str) -> str:
        """The release on GitHub, with the image's bill of materials and provenance; its notes."""
        earlier = [each for each in self._taken() if each.number < plan.number]
        since = last_release(earlier)
        notes = render(
            Released(
                plan=plan,
                choice=choice,
                manifest=manifest,
                before=last_release(earlier, plan.challenge),
                since=since,
                commits=changes_since(since, self.history, plan.sha),
                image=image,
                repository_url=self.delivery.source_url,
                model_url=self.models.link(plan.model.version),
            )
        )
        with self.steps.step("publish") as step:
            there = self.releases.release_of(plan.tag)
            found = there is not None and not there.draft and set(FILES) <= set(there.files)
            if there is None or not found:
                files = self._files(plan, bundle, image)
                there = self.releases.put_release(plan.tag, name=plan.heading, body=notes, files=files, latest=True)
            step.done(f"{there.url}, with {', '.join(FILES)}", found=found)
        (self.request.output / NOTES).write_text(notes, encoding="utf-8")
        self._note(url=there.url)
        return notes

    def _files(self, plan: Plan, bundle: Path, image: str) -> dict[str, Attachment]:
        from ci.release.sbom import sbom  # half a second, which an attempt that ends before does not pay

        engine = self.delivery.engine
        labels = engine.pull(image).labels
        context = read_context(self.request.repository, plan.sha, bundle)
        url = self.delivery.source_url
        origin = statement(plan, context, image=image, labels=labels, source_url=url, environment=os.environ)
        contents = {SBOM: sbom(engine.client, image, context.files[REQUIREMENTS]), PROVENANCE: origin}
        for name, content in contents.items():
            (self.request.output / name).write_bytes(content)
        return {name: Attachment(content, "application/json") for name, content in contents.items()}

    def _tag(self, plan: Plan, image: str) -> str:
        """Make the Git tag; its image, which is another one if another attempt at the same release was quicker."""
        with self.steps.step("tag") as step:
            annotation = numbering.message(plan, image)
            found = self.releases.reserve(f"{TAGS}{plan.tag}", plan.sha, annotation)
            there = named(found.tag)
            if not found.ours and there and there.image and there.is_of(plan.challenge, plan.sha, plan.model.version):
                self.delivery.restore(plan, there.image)
                image = there.image
            else:
                self.releases.create_tag(plan.tag, plan.sha, annotation)
            step.done(f"{plan.tag} is commit {plan.sha[:12]}")
        return image

    def _promote(self, plan: Plan, image: str, notes: str) -> None:
        number, version = plan.number, plan.model.version
        own = Named(number, plan.challenge, plan.sha, version, released=True, image=image, withdraws=plan.withdraws)
        promotion = Promotion(plan.challenge, self.models, self.delivery.engine, self._taken, self.steps, self.log)
        newest = promotion.promote(own)
        if any(step.refused for step in self.steps.ended):
            notes = without_latest(notes, image)
            (self.request.output / NOTES).write_text(notes, encoding="utf-8")
            self.releases.put_release(plan.tag, name=plan.heading, body=notes, files={}, latest=newest == own)
        self.releases.delete(plan.reservation)

    def _note(self, **known: object) -> None:
        self.record = msgspec.structs.replace(self.record, **known)
        self._write()

    def _write(self) -> None:
        """`release.json`, whole at any instant."""
        record = msgspec.structs.replace(self.record, steps=tuple(self.steps.ended))
        write_whole(self.request.output / RECORD, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def _terms(history: History, sha: str, challenge: str) -> tuple[str, str]:
    """The challenge's title, and its loss's measure among metrics; the rest of its file may have another schema.

    Raises ConfigurationError when the commit has no such challenge, or these values are wrong.
    """
    path = f"challenges/{challenge}.toml"
    where = f"{path} of commit {sha[:12]}"
    try:
        whole = parse_table(history.output("cat-file", "blob", f"{sha}:{path}"), where)
        title = parse_part(whole, "title", str, where, default=challenge)
        target = parse_part(whole, "target", dict[str, Any], where, default={})
        loss: LossName = parse_part(target, "loss", LossName, f"{where}: target", default="squared_error")  # type: ignore[arg-type]
    except ChallengeError as error:
        raise ConfigurationError(str(error)) from error
    return title, LOSSES[loss].measure
