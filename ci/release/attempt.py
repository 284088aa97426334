"""`python -m ci release`: from a gated model version and a commit of master to a verified image that production runs.

Each step looks for what an earlier attempt has left, so that a release that was ended at any instant is carried on by
running it again. Production is what the newest Git tag says: it is moved last, after what was pushed has been pulled
and verified.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ci.release.choose import Choice, choose
from ci.release.code_history import History
from ci.release.context import REQUIREMENTS, read_context
from ci.release.delivery import Delivery
from ci.release.ledger import named, reservation_message, tag_message
from ci.release.notes import Released, render, without_latest
from ci.release.numbering import Named, changes_since, last_release, next_number, own, require_not_older
from ci.release.plan import Number, Plan
from ci.release.promotion import Promotion
from ci.release.provenance import statement
from ci.release.registered import Models, open_models
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
from forecasting.models.manifest import Manifest
from records.mlflow_names import measure_of

RECORD = "release.json"
NOTES = "notes.md"
SBOM = "sbom.spdx.json"
PROVENANCE = "provenance.json"
FILES = (SBOM, PROVENANCE)
CONSIDERED_SHOWN = 10
RESERVE_TRIES = 20
"""How many numbers are tried, should others be reserving at the same time."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be released."""

    challenge: str
    sha: str
    """The commit of master that is built."""
    repository: Path
    """A checkout that holds its whole history."""
    pinned: int | None
    """The requested model version; None chooses."""
    health_deadline: timedelta
    patience: timedelta
    """How long a fault of MLflow or of the registry is waited for."""
    output: Path


@dataclass(frozen=True)
class Services:
    """Everything that a release talks to."""

    mlflow: MlflowSettings
    github: GitHubSettings
    image: ImageSettings


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What `release.json` holds: how far the release has come, and what it is of."""

    challenge: str
    sha: str
    tag: str = ""
    model_version: int = 0
    image: str = ""
    """`repository@sha256:…`, once it is pushed."""
    url: str = ""
    """Of the release on GitHub."""
    steps: tuple[Step, ...] = ()


def release(request: Request, services: Services, log: Log) -> Record:
    """Release, or carry on; what has come out. Raises RpsError: production is then what it was."""
    image = services.image
    credentials = Credentials(image.username, image.password) if image.username else None
    patience = request.patience.total_seconds()
    with (
        cancelled_by_signals("run the release again to carry it on"),
        closing(Engine.connect(os.environ, credentials, log, patience_seconds=patience)) as engine,
    ):
        try:
            return _Release(request, services, engine, log).run()
        except Missing as error:
            raise NotReleased(str(error)) from error
        except NoVerdict as error:
            raise PassingFault(str(error)) from error


class _Release:
    """One attempt: what it has learnt so far."""

    def __init__(self, request: Request, services: Services, engine: Engine, log: Log) -> None:
        self.request = request
        self.services = services
        self.log = log
        self.history = History(request.repository)
        self.releases = Releases(GitHub(services.github, note=log.line), self.history.tag_object)
        self.models: Models = open_models(
            services.mlflow, request.challenge, patience_seconds=request.patience.total_seconds()
        )
        self.terms = read_terms(self.history, request.sha, request.challenge)
        self.steps = Steps(log, self._write)
        self.record = Record(challenge=request.challenge, sha=request.sha)
        server, repository = services.github.server_url, services.github.repository
        self.delivery = Delivery(
            engine, self.history, services.image, request.health_deadline, self.steps, log, f"{server}/{repository}"
        )

    def run(self) -> Record:
        self.history.require_whole()
        self._write()
        taken = self._taken()
        require_not_older(last_release(taken, self.request.challenge), self.history, self.request.sha)
        production = self.models.production()
        choice = self._choose(production)
        plan = self._number(choice, taken, production)
        with one_at_a_time(f"{self.delivery.engine.address} {self.delivery.name(plan)}", self.log):
            self._ship(plan, choice)
        return self.record

    def _ship(self, plan: Plan, choice: Choice) -> None:
        manifest, bundle = self._fetch(plan)
        tagged = self._tagged(plan)
        image = self.delivery.deliver(plan, bundle, tagged)
        if tagged:
            self.steps.skip("tag", f"{plan.tag} is commit {plan.sha[:12]}")
        else:
            image = self._tag(plan, image)
        self._note(image=image)
        notes = self._publish(plan, choice, manifest, bundle, image)
        self._promote(plan, image, notes)

    def _taken(self) -> tuple[Named, ...]:
        """The numbers that are reserved or released, of all challenges."""
        found = (*self.releases.tags(), *self.releases.reservations())
        return tuple(each for tag in found if (each := named(tag.ref, tag.sha, tag.message)) is not None)

    def _choose(self, production: int | None) -> Choice:
        request = self.request
        with self.steps.step("choose") as step:
            choice = choose(
                self.models.versions(),
                production=production,
                measure=self.terms.measure,
                in_history=partial(self.history.is_part, of=request.sha),
                pinned=request.pinned,
            )
            self.log.line(f"versions of {request.challenge}; production is {production or 'none yet'}:")
            for one in choice.considered[:CONSIDERED_SHOWN]:
                self.log.line(f"  {'->' if one.version == choice.version else '  '} {one.told}")
            if len(choice.considered) > CONSIDERED_SHOWN:
                self.log.line(f"     and {len(choice.considered) - CONSIDERED_SHOWN} more")
            step.done(f"version {choice.version.version}: {choice.reason}")
        return choice

    def _number(self, choice: Choice, taken: Sequence[Named], production: int | None) -> Plan:
        """Reserve a number, or find the one that an earlier attempt at the same has reserved."""
        request, model = self.request, choice.version
        with self.steps.step("number") as step:
            found = own(taken, request.challenge, request.sha, model.version)
            if found:
                plan = self._plan(choice, found.number, found.withdraws)
            else:
                # Of versions of one model, a lower one is an earlier one: to ask for it is to go back.
                back = request.pinned is not None and production is not None and request.pinned < production
                newest = max(one.version.version for one in choice.considered)
                plan = self._reserved(choice, taken, newest if back else None)
            told = f"{plan.tag}, of commit {plan.sha[:12]} and version {model.version} of {plan.challenge}"
            step.done(told, found=found is not None)
        self._note(tag=plan.tag, model_version=model.version)
        return plan

    def _reserved(self, choice: Choice, taken: Sequence[Named], withdraws: int | None) -> Plan:
        for _ in range(RESERVE_TRIES):
            number = next_number(taken, self.history, self.request.sha)
            plan = self._plan(choice, number, withdraws)
            if self.releases.reserve(plan.reservation, plan.sha, reservation_message(plan)).ours:
                return plan
            taken = self._taken()  # somebody else was quicker
        raise NotReleased(f"no number could be reserved in {RESERVE_TRIES} tries: who else is releasing?")

    def _plan(self, choice: Choice, number: Number, withdraws: int | None) -> Plan:
        request = self.request
        return Plan(
            challenge=request.challenge,
            title=self.terms.title,
            number=number,
            sha=request.sha,
            model=choice.version,
            withdraws=withdraws,
        )

    def _fetch(self, plan: Plan) -> tuple[Manifest, Path]:
        directory = self.request.output / "bundle"
        with self.steps.step("fetch") as step:
            manifest = self.models.fetch(plan.model, directory)
            size = sum(path.stat().st_size for path in directory.iterdir())
            told = f"the bundle of version {plan.model.version}, {size / 1e6:.1f} MB"
            step.done(f"{told}, trained to {manifest.train_end:%Y-%m-%d %H:%M} UTC")
        return manifest, directory

    def _publish(self, plan: Plan, choice: Choice, manifest: Manifest, bundle: Path, image: str) -> str:
        """The release on GitHub, with the list of what is in the image, and where that came from; its notes."""
        earlier = [each for each in self._taken() if each.number < plan.number]
        notes = render(
            Released(
                plan=plan,
                choice=choice,
                manifest=manifest,
                before=last_release(earlier, plan.challenge),
                since=last_release(earlier),
                commits=changes_since(last_release(earlier), self.history, plan.sha),
                image=image,
                repository_url=self.delivery.source_url,
                model_url=self.models.link(plan.model.version),
            )
        )
        with self.steps.step("publish") as step:
            there = self.releases.release_of(plan.tag)
            found = there is not None and not there.draft and set(FILES) <= set(there.files)
            if there is None or not found:
                there = self.releases.put_release(
                    plan.tag,
                    name=plan.heading,
                    body=notes,
                    files=self._files(plan, bundle, image),
                    latest=True,
                )
            step.done(f"{there.url}, with {', '.join(FILES)}", found=found)
        (self.request.output / NOTES).write_text(notes, encoding="utf-8")
        self._note(url=there.url)
        return notes

    def _files(self, plan: Plan, bundle: Path, image: str) -> dict[str, Attachment]:
        """What is in the image, and what it was made from."""
        from ci.release.sbom import sbom  # half a second, which no attempt that ends before waits for

        engine = self.delivery.engine
        labels = engine.pull(image).labels
        context = read_context(self.request.repository, plan.sha, bundle)
        told = statement(
            plan, context, image=image, labels=labels, source_url=self.delivery.source_url, environment=os.environ
        )
        contents = {SBOM: sbom(engine.client, image, context.files[REQUIREMENTS]), PROVENANCE: told}
        for name, content in contents.items():
            (self.request.output / name).write_bytes(content)
        return {name: Attachment(content, "application/json") for name, content in contents.items()}

    def _tagged(self, plan: Plan) -> str:
        """The image that the release's Git tag names; empty when there is no tag yet."""
        found = next((each for each in self._taken() if each.released and each.number == plan.number), None)
        return found.image if found else ""

    def _tag(self, plan: Plan, image: str) -> str:
        """Make the Git tag; the image that it names, should another attempt at the same have been quicker."""
        with self.steps.step("tag") as step:
            message = tag_message(plan, image)
            found = self.releases.reserve(f"{TAGS}{plan.tag}", plan.sha, message)
            there = named(found.tag.ref, found.tag.sha, found.tag.message)
            if not found.ours and there and there.image and there.is_of(plan.challenge, plan.sha, plan.model.version):
                self.delivery.restore(plan, there.image)
                image = there.image
            else:
                self.releases.create_tag(plan.tag, plan.sha, message)
            step.done(f"{plan.tag} is commit {plan.sha[:12]}")
        return image

    def _promote(self, plan: Plan, image: str, notes: str) -> None:
        own = Named(
            plan.number,
            plan.challenge,
            plan.sha,
            plan.model.version,
            released=True,
            image=image,
            withdraws=plan.withdraws,
        )
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


def one_at_a_time(what: str, log: Log) -> AbstractContextManager[None]:
    """Of several releases of the same on one machine, let one go on: they would take each other's images away.

    A release that is killed lets the next go on.
    """
    path = (
        Path(tempfile.gettempdir()) / f"rps-release-{os.getuid()}-{hashlib.sha256(what.encode()).hexdigest()[:16]}.lock"
    )
    return locked(path, "the same release on this machine", log.line)


@dataclass(frozen=True)
class Terms:
    """What a release reads of its challenge, whose file may be of an older or newer schema in all else."""

    title: str
    measure: str
    """`rmse` or `mae`, by the loss."""


def read_terms(history: History, sha: str, challenge: str) -> Terms:
    """Raises ConfigurationError when the commit has no such challenge, or what is read of its file is wrong."""
    path = f"challenges/{challenge}.toml"
    where = f"{path} of commit {sha[:12]}"
    try:
        whole = parse_table(history.content(sha, path), where)
        title = parse_part(whole, "title", str, where, default=challenge)
        target = parse_part(whole, "target", dict[str, Any], where, default={})
    except ChallengeError as error:
        raise ConfigurationError(str(error)) from error
    return Terms(title, measure_of(str(target.get("loss"))))
