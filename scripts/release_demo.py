"""`make release-demo`: three releases by the real workflow: the first, that of a better model, and a roll-back.

The container engine is the machine's own, or one that is started for the demo; the registry has a login; Airflow,
MLflow and S3 are real; act runs `model-gate.yml` and `release.yml` as they are; GitHub is the double. All of them end
with the demo. State and logs stay in `.rps/release-demo/`.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import msgspec
from docker.errors import DockerException
from docker.models.containers import Container
from rich.console import Console
from rich.table import Table

from scripts.base_image import base_image
from scripts.demo_frame import print_document, print_line, run_alone
from scripts.docker_engine import client, engine
from scripts.gate_demo import BETTER, CHALLENGE, WEAK_START, Proposal, judge, propose, stack_and_team
from scripts.github_actions import Outcome, run_on_dispatch
from scripts.github_team import ON_RELEASE, Team
from scripts.processes import wait_while
from scripts.registry import Registry, registry
from scripts.services import ROOT, Stack, StackError, answers

FIRST = Proposal(
    title="feat: predict the temperature", body="Fifty trees, to begin with.", changes=WEAK_START, expected="success"
)
SECOND = replace(BETTER, title="feat: grow more trees")
REPOSITORY = f"ana/{CHALLENGE}"
"""Of the images."""
ANSWER_SECONDS = 30.0
SHOWN = ("/health", "/v1/forecasts/EWR")


class Released(msgspec.Struct):
    """What is read of a release's `release.json`."""

    tag: str
    model_version: int
    image: str
    url: str


@dataclass(frozen=True)
class Shipped:
    """A release of the demo, and how long its workflow took."""

    what: str
    released: Released
    seconds: float


def demo(console: Console, home: Path) -> list[str]:
    """All three; what is not as it must be. Raises RpsError."""
    done: list[Shipped] = []
    with made_premises(console, home) as premises:
        here, on_line = premises.here, premises.on_line
        for proposal in (FIRST, SECOND):
            console.rule(f"dev into test, and test into master: {proposal.title}")
            gated(premises, proposal)
            outcome = here.release(proposal.title, on_line)
            done.append(shipped(proposal.title, outcome))
            notes = outcome.artifacts / "release" / "notes.md"
            print_document(console, "The release's notes", notes.read_text(encoding="utf-8"))
            _query(premises, done[-1].released)
        console.rule("Roll back")
        first = done[0].released.model_version
        run = run_on_dispatch(here.runner, ON_RELEASE, "master", {"model_version": str(first)})
        done.append(shipped(f"roll back to version {first}", run.wait(on_line)))
        _query(premises, done[-1].released)
        wrong = _wrong(done, premises.images)
    _summarise(console, done)
    return wrong


@dataclass
class Premises:
    """All that a release needs: the engine's address, a registry, a stack, and a team with its three branches."""

    console: Console
    host: str
    images: Registry
    stack: Stack
    here: Team

    def on_line(self, job: str, line: str) -> None:
        print_line(self.console, job, line)

    def image(self, released: Released) -> str:
        return f"{self.images.address}/{REPOSITORY}:{released.tag}"


@contextlib.contextmanager
def made_premises(console: Console, home: Path, clock: str = "") -> Iterator[Premises]:
    """They end with the block. clock and errors: as of ``stack_and_team``."""
    with contextlib.ExitStack() as held:
        console.rule("The container engine, and a registry with a login")
        host = held.enter_context(engine(home / "engine"))
        base = base_image(host, ROOT / "Dockerfile")
        shutil.rmtree(home / "registry", ignore_errors=True)  # what an earlier demo has released
        images = held.enter_context(registry(home / "registry", host))
        console.print(f"engine {host}\nbase {base}\nregistry {images.address}, user {images.username}", highlight=False)
        settings = registry_settings(images, host, base)
        stack, here = held.enter_context(stack_and_team(console, home, {}, settings=settings, clock=clock))
        yield Premises(console, host, images, stack, here)


def registry_settings(images: Registry, host: str, base: str) -> dict[str, str]:
    """What a team sets in its repository's variables and secrets, and where its runner finds an engine."""
    settings = {
        "DOCKER_HOST": host,
        "RPS_IMAGE": f"{images.address}/{REPOSITORY}",
        "REGISTRY_USERNAME": images.username,
        "REGISTRY_PASSWORD": images.password,
    }
    # A base that was made here reaches the network only through the machine's own.
    return settings | ({"RPS_BASE_IMAGE": base, "RPS_BUILD_NETWORK": "host"} if base.startswith("rps-base") else {})


def gated(premises: Premises, proposal: Proposal) -> None:
    """A pull request from dev into test, judged and merged. Raises StackError when the gate blocks it."""
    here = premises.here
    number = propose(here, proposal)
    judged = judge(here, number, premises.on_line)
    here.approve(number)
    held = here.merge(number)
    if judged.state != proposal.expected or held:
        raise StackError(f"#{number} was to end in {proposal.expected}; it is {judged.state}: {held}")


def shipped(what: str, outcome: Outcome) -> Shipped:
    """What a workflow run has released. Raises StackError when it failed."""
    record = outcome.artifacts / "release" / "release.json"
    if set(outcome.jobs.values()) != {"success"} or not record.exists():
        raise StackError(f"the release {what!r} failed: {dict(outcome.jobs)}; its log is in {outcome.artifacts.parent}")
    return Shipped(what, msgspec.json.decode(record.read_bytes(), type=Released), outcome.seconds)


def _query(premises: Premises, released: Released) -> None:
    """Run the pushed image as anybody would, `docker run`, and ask it. Raises StackError when it does not answer."""
    console, name = premises.console, premises.image(released)
    console.print(f"\n[bold]docker run --rm --read-only -p 8000:8000 {name}[/]", highlight=False)
    with running_image(premises.host, premises.images, name) as address:
        for path in SHOWN:
            answer = httpx.get(f"{address}{path}", timeout=10.0)
            console.print(f"GET {path}: {answer.status_code}", highlight=False)
            console.print(answer.text, markup=False, highlight=False, soft_wrap=True)
        served = httpx.get(f"{address}/health", timeout=10.0).json()["model_version"]
    if served != str(released.model_version):
        raise StackError(f"{name}: expected model version {released.model_version}; it serves {served}")


@contextlib.contextmanager
def running_image(
    host: str, images: Registry, name: str, *, port: int = 0, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The address of a container of a freshly pulled image, once it is healthy. port: 0 takes a free one."""
    with contextlib.closing(client(host)) as docker_client:
        try:
            docker_client.images.pull(name, auth_config={"username": images.username, "password": images.password})
            container = docker_client.containers.run(
                name,
                detach=True,
                read_only=True,
                ports={"8000/tcp": ("127.0.0.1", port)},
                environment=dict(environment or {}),
            )
        except DockerException as error:
            raise StackError(f"{name} cannot be run: {error}") from error
        try:
            yield _healthy(container)
        finally:
            container.remove(force=True)


def _healthy(container: Container) -> str:
    def address() -> str:
        container.reload()
        published = (container.ports or {}).get("8000/tcp")
        return f"http://127.0.0.1:{published[0]['HostPort']}" if published else ""

    if wait_while(lambda: not answers(f"{address()}/health"), seconds=ANSWER_SECONDS):
        return address()
    raise StackError(f"the container did not become healthy:\n{container.logs(tail=20).decode(errors='replace')}")


def _wrong(done: list[Shipped], images: Registry) -> list[str]:
    """What is not as the three releases must leave it."""
    tags = [each.released.tag for each in done]
    versions = [each.released.model_version for each in done]
    found = []
    if tags != ["v1.0.0", "v1.1.0", "v1.1.1"]:
        found.append(f"the tags are {', '.join(tags)}")
    if versions[0] != versions[2] or versions[0] == versions[1]:
        found.append(f"the model versions are {versions}")
    if images.digest(REPOSITORY, "latest") != done[-1].released.image.partition("@")[2]:
        found.append("latest is not the last release")
    return found


def _summarise(console: Console, done: list[Shipped]) -> None:
    table = Table("release", "what", "model version", "seconds", "image")
    for each in done:
        released = each.released
        digest = released.image.partition("@")[2][:19]
        table.add_row(released.tag, each.what, str(released.model_version), f"{each.seconds:.0f}", digest)
    console.print(table)


if __name__ == "__main__":
    sys.exit(run_alone("release-demo", demo))
