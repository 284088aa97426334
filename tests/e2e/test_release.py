"""The release from end to end: the real workflow files, run by act, on what Airflow has made and the gate has passed.

The engine, the registry, Airflow and MLflow are real; GitHub is the double. The tests tell one story, in order.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

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

    def served(self, tag: str) -> dict:
        """What a container of the pushed image says of itself."""
        with running_image(
            self.docker_host, self.registry, f"{self.registry.address}/ana/{CHALLENGE}:{tag}"
        ) as address:
            forecasts = httpx.get(f"{address}/v1/forecasts/EWR").raise_for_status().json()["forecasts"]
            assert [each["horizon"] for each in forecasts] == [4, 5, 6]
            return httpx.get(f"{address}/health").raise_for_status().json()


def released(outcome: Outcome) -> Released:
    assert outcome.jobs == {"release": "success"}
    return msgspec.json.decode((outcome.artifacts / "release" / "release.json").read_bytes(), type=Released)


@pytest.fixture(scope="module")
def shipping(
    laptop: Laptop, docker_host: str, base: str, image_registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shipping]:
    """dev, test and master are at the checkout's commit, whose model the gate has passed; nothing is released yet."""
    laptop.git("switch", "--quiet", "--force-create", "released")  # so that every other branch can be pushed to
    address = laptop.stack.addresses["MLFLOW_TRACKING_URI"]
    client = MlflowClient(tracking_uri=address, registry_uri=address)
    addresses = {**laptop.stack.addresses, **registry_settings(image_registry, docker_host, base)}
    with team(tmp_path_factory.mktemp("github"), laptop.repository, addresses) as made:
        made.make_branches(made.head("released"))
        rules = [sys.executable, "-m", "ci", "rules", "apply"]
        subprocess.run(rules, cwd=ROOT, env={**os.environ, **made.environment}, check=True, capture_output=True)
        gate = [
            sys.executable, "-m", "ci", "gate", "--challenge", CHALLENGE, "--sha", made.head("master"), "--repository",
            str(laptop.repository), "--output", str(tmp_path_factory.mktemp("gate")),
        ]  # fmt: skip
        subprocess.run(gate, cwd=ROOT, env=laptop.environment, check=True, capture_output=True)
        yield Shipping(made, image_registry, docker_host, client)
        assert httpx.get(f"{made.runner.server_url}/_double/violations").json() == {"violations": []}
    with contextlib.suppress(Exception):
        client.delete_registered_model_alias(CHALLENGE, "production")


@pytest.fixture(scope="module")
def first(shipping: Shipping) -> Released:
    """What a push to master ships."""
    return released(shipping.team.start_release().wait())


def test_a_push_to_master_ships_a_model_that_the_gate_has_passed(shipping: Shipping, first: Released) -> None:
    assert first.tag == "v1.0.0"
    assert shipping.alias == str(first.model_version)
    assert shipping.tags == ["v1.0.0"]
    health = shipping.served("latest")
    assert health["model_version"] == str(first.model_version)


@pytest.fixture(scope="module")
def merged(shipping: Shipping, first: Released) -> tuple[str, Released]:
    """What a merge from dev through test into master ships, and the version that its pull request has made."""
    here = shipping.team
    number = propose(here, CODE_ALONE)
    assert judge(here, number).state == "success"
    sha = here.pull_request(number)["head"]["sha"]
    here.approve(number)
    assert here.merge(number) == ""
    shipped = released(here.release("feat: say more"))
    (version,) = shipping.client.search_model_versions(f"name = '{CHALLENGE}' and tags.git_sha = '{sha}'")
    return str(version.version), shipped


def test_a_merge_ships_the_better_of_production_and_what_its_pull_request_has_trained(
    shipping: Shipping, first: Released, merged: tuple[str, Released]
) -> None:
    new, shipped = merged
    run = shipping.client.get_run(shipping.client.get_model_version(CHALLENGE, new).run_id).data
    assert run.tags["rps.production_version"] == str(first.model_version)
    skill = 1 - run.metrics["rmse"] / run.metrics["production.rmse"]
    assert str(shipped.model_version) == (new if round(skill, 4) >= 0 else str(first.model_version))
    assert shipped.tag == "v1.1.0"
    assert shipping.alias == str(shipped.model_version)
    assert shipping.served("latest")["model_version"] == str(shipped.model_version)


def test_a_dispatch_ships_the_version_that_it_names_and_rolls_back(
    shipping: Shipping, first: Released, merged: tuple[str, Released]
) -> None:
    new, shipped = merged
    named = ship(shipping, new)
    assert named.tag == ("v1.1.0" if str(shipped.model_version) == new else "v1.1.1")
    assert shipping.alias == new

    back = ship(shipping, str(first.model_version))
    assert back.tag not in {first.tag, shipped.tag, named.tag}
    assert shipping.alias == str(first.model_version)
    assert shipping.tags[-1] == back.tag
    assert shipping.served("latest")["model_version"] == str(first.model_version)
    assert back.tag in shipping.client.get_model_version(CHALLENGE, new).tags["withdrawn"]


def ship(shipping: Shipping, model_version: str) -> Released:
    """What release.yml makes when it is started by hand for a version."""
    run = run_on_dispatch(shipping.team.runner, ON_RELEASE, "master", {"model_version": model_version})
    return released(run.wait())


def test_only_master_is_released(shipping: Shipping, first: Released) -> None:
    outcome = run_on_dispatch(shipping.team.runner, ON_RELEASE, "test", {}).wait()
    assert outcome.jobs == {"release": "failure"}


def test_a_released_image_is_verified_by_hand(shipping: Shipping, first: Released) -> None:
    outcome = run_on_dispatch(shipping.team.runner, "verify.yml", "master", {"image": first.image}).wait()
    assert set(outcome.jobs.values()) == {"success"}


def test_nothing_of_it_is_left_in_the_engine(
    shipping: Shipping, first: Released, docker_client: docker.DockerClient
) -> None:
    ours = {"label": f"io.rps.challenge={CHALLENGE}"}
    assert [str(each.name) for each in docker_client.containers.list(all=True, filters=ours)] == []
