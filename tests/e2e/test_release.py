"""The release from end to end: the real workflow files, run by act, on what Airflow has made and the gate has passed.

The engine, the registry, Airflow and MLflow are real; GitHub is the double. A release follows the one before, so each
fixture begins where the one that it names has ended, and notes what then says what production is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import httpx
import msgspec
import pytest
from mlflow.tracking import MlflowClient

from scripts.gate_demo import CHALLENGE, Proposal, judge, propose
from scripts.github_actions import Outcome, run_on_dispatch
from scripts.github_team import ON_RELEASE, Team, team
from scripts.registry import Registry
from scripts.release_demo import Released, registry_settings, running_image
from scripts.services import ROOT
from tests.e2e.conftest import Laptop

pytestmark = pytest.mark.timeout(1200)  # the first test waits for the stack, its environment and the first model
CODE_ALONE = Proposal(
    title="feat: say more",
    body="No model changes by this.",
    changes={f"challenges/{CHALLENGE}.toml": {"# Every time is UTC.": "# Every time in this file is UTC."}},
    expected="success",
)


@dataclass(frozen=True)
class Shipped:
    """A release, and what said right after it what production is."""

    released: Released
    alias: str
    tags: list[str]
    """Git's, oldest first."""
    served: dict
    """What a container of `latest` says of itself; empty when none was asked."""

    @property
    def version(self) -> str:
        """Of the model."""
        return str(self.released.model_version)


@dataclass(frozen=True)
class Shipping:
    """A team with a registry, and what the releases so far have left."""

    team: Team
    registry: Registry
    docker_host: str
    client: MlflowClient

    @property
    def alias(self) -> str:
        return str(self.client.get_registered_model(CHALLENGE).aliases.get("production", ""))

    @property
    def tags(self) -> list[str]:
        command = ["git", "-C", str(self.team.runner.repository), "tag", "--list", "v*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    def shipped(self, outcome: Outcome, *, asked: bool = True) -> Shipped:
        """What a workflow run has released. asked: whether to run what it has pushed, too."""
        assert outcome.jobs == {"release": "success"}
        record = (outcome.artifacts / "release" / "release.json").read_bytes()
        released = msgspec.json.decode(record, type=Released)
        return Shipped(released, self.alias, self.tags, self.served("latest") if asked else {})

    def served(self, tag: str) -> dict:
        """What a container of the pushed image says of itself."""
        with running_image(
            self.docker_host, self.registry, f"{self.registry.address}/ana/{CHALLENGE}:{tag}"
        ) as address:
            forecasts = httpx.get(f"{address}/v1/forecasts/EWR").raise_for_status().json()["forecasts"]
            assert [each["horizon"] for each in forecasts] == [4, 5, 6]
            return httpx.get(f"{address}/health").raise_for_status().json()


@pytest.fixture(scope="module")
def shipping(
    laptop: Laptop,
    docker_host: str,
    base: str,
    image_registry: Registry,
    kept: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shipping]:
    """dev, test and master are at the checkout's commit, whose model the gate has passed; nothing is released yet."""
    addresses = {**laptop.stack.addresses, **registry_settings(image_registry, docker_host, base)}
    with team(tmp_path_factory.mktemp("github"), laptop.repository, addresses, tools=kept / "tools") as made:
        made.make_branches(made.head("checked-out"))
        rules = [sys.executable, "-m", "ci", "rules", "apply"]
        subprocess.run(rules, cwd=ROOT, env={**os.environ, **made.environment}, check=True, capture_output=True)
        gate = [
            sys.executable, "-m", "ci", "gate", "--challenge", CHALLENGE, "--sha", made.head("master"), "--repository",
            str(laptop.repository), "--output", str(tmp_path_factory.mktemp("gate")),
        ]  # fmt: skip
        subprocess.run(gate, cwd=ROOT, env=laptop.environment, check=True, capture_output=True)
        yield Shipping(made, image_registry, docker_host, laptop.mlflow)
        assert httpx.get(f"{made.runner.server_url}/_double/violations").json() == {"violations": []}


@pytest.fixture(scope="module")
def first(shipping: Shipping) -> Shipped:
    """What a push to master ships."""
    return shipping.shipped(shipping.team.start_release().wait())


@pytest.fixture(scope="module")
def merged(shipping: Shipping, first: Shipped) -> tuple[str, Shipped]:
    """The version that a pull request has made, and what its merge from dev through test into master ships."""
    here = shipping.team
    number = propose(here, CODE_ALONE)
    assert judge(here, number).state == "success"
    sha = here.pull_request(number)["head"]["sha"]
    here.approve(number)
    assert here.merge(number) == ""
    shipped = shipping.shipped(here.release("feat: say more"))
    (version,) = shipping.client.search_model_versions(f"name = '{CHALLENGE}' and tags.git_sha = '{sha}'")
    return str(version.version), shipped


@pytest.fixture(scope="module")
def named(shipping: Shipping, merged: tuple[str, Shipped]) -> Shipped:
    """What a dispatch ships that names the pull request's version."""
    return dispatched(shipping, merged[0], asked=False)


@pytest.fixture(scope="module")
def rolled_back(shipping: Shipping, first: Shipped, named: Shipped) -> Shipped:
    """What a dispatch ships that names the first version."""
    return dispatched(shipping, first.version)


def dispatched(shipping: Shipping, model_version: str, *, asked: bool = True) -> Shipped:
    """What release.yml makes when it is started by hand for a version."""
    run = run_on_dispatch(shipping.team.runner, ON_RELEASE, "master", {"model_version": model_version})
    return shipping.shipped(run.wait(), asked=asked)


def test_a_push_to_master_ships_a_model_that_the_gate_has_passed(first: Shipped) -> None:
    assert first.released.tag == "v1.0.0"
    assert first.alias == first.version
    assert first.tags == ["v1.0.0"]
    assert first.served["model_version"] == first.version


def test_a_merge_ships_the_better_of_production_and_what_its_pull_request_has_trained(
    shipping: Shipping, first: Shipped, merged: tuple[str, Shipped]
) -> None:
    new, shipped = merged
    run = shipping.client.get_run(shipping.client.get_model_version(CHALLENGE, new).run_id).data
    assert run.tags["rps.production_version"] == first.version
    skill = 1 - run.metrics["rmse"] / run.metrics["production.rmse"]
    assert shipped.version == (new if round(skill, 4) >= 0 else first.version)
    assert shipped.released.tag == "v1.1.0"
    assert shipped.alias == shipped.version
    assert shipped.served["model_version"] == shipped.version


def test_a_dispatch_ships_the_version_that_it_names(merged: tuple[str, Shipped], named: Shipped) -> None:
    new, shipped = merged
    assert named.released.tag == ("v1.1.0" if shipped.version == new else "v1.1.1")
    assert named.alias == new


def test_a_dispatch_of_an_earlier_version_rolls_back(
    shipping: Shipping, first: Shipped, merged: tuple[str, Shipped], named: Shipped, rolled_back: Shipped
) -> None:
    new, shipped = merged
    tag = rolled_back.released.tag
    assert tag not in {each.released.tag for each in (first, shipped, named)}
    assert rolled_back.alias == first.version
    assert rolled_back.tags[-1] == tag
    assert rolled_back.served["model_version"] == first.version
    assert tag in shipping.client.get_model_version(CHALLENGE, new).tags["withdrawn"]


def test_a_released_image_is_verified_by_hand(shipping: Shipping, first: Shipped) -> None:
    image = {"image": first.released.image}
    outcome = run_on_dispatch(shipping.team.runner, "verify.yml", "master", image).wait()
    assert set(outcome.jobs.values()) == {"success"}


def test_nothing_of_it_is_left_in_the_engine(
    shipping: Shipping, first: Shipped, docker_client: docker.DockerClient
) -> None:
    repository = f"{shipping.registry.address}/ana/{CHALLENGE}"
    ours = docker_client.images.list(repository)
    assert ours
    for image in ours:
        left = docker_client.containers.list(all=True, filters={"ancestor": image.id}, ignore_removed=True)
        assert [str(each.name) for each in left] == []
