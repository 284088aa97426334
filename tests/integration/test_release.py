"""Releases from end to end: a real engine, registry, MLflow and Git; only GitHub is the double.

After each, what is asserted is what production is by all that say so: `latest`, the alias, the Git tags.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from doubles.immutable_registry import immutable
from doubles.release_image import Building
from doubles.releasing import NOTHING, Releasing, State
from forecasting.models.bundle import read_bundle
from scripts.registry import Registry, registry
from scripts.services import free_ports
from tests.docker_engine import small_disk

pytestmark = pytest.mark.timeout(900)

STEPS = ("choose", "number", "fetch", "build", "smoke", "push", "verify", "tag", "publish", "promote", "latest")
SLEEPER = '"""Never answers."""\n\nimport time\n\nif __name__ == "__main__":\n    time.sleep(600)\n'


def steps_of(releasing: Releasing) -> dict[str, bool]:
    """The steps of the last attempt, and whether each was found done."""
    return {step["name"]: step["found"] for step in releasing.record()["steps"]}


def test_a_release_and_the_next_and_a_roll_back(releasing: Releasing) -> None:
    first, oldest = releasing.version(0.8), releasing.git("rev-parse", "HEAD")
    done = releasing.release()
    assert done.code == 0, done.output
    v1 = releasing.digest("v1.0.0")
    assert v1.startswith("sha256:")
    assert releasing.state() == State(str(first), v1, ("v1.0.0",), ("v1.0.0",), ())
    assert tuple(steps_of(releasing)) == STEPS
    assert not any(steps_of(releasing).values())
    labels = releasing.labels("v1.0.0")
    assert labels["io.rps.git-sha"] == oldest
    assert labels["io.rps.model-version"] == str(first)
    assert labels["org.opencontainers.image.version"] == "1.0.0"
    assert f"version {first} of {releasing.challenge} in {releasing.repository}@{v1}" in done.output

    again = releasing.release()
    assert again.code == 0, again.output
    assert releasing.state() == State(str(first), v1, ("v1.0.0",), ("v1.0.0",), ())
    assert {name for name, found in steps_of(releasing).items() if not found} <= {"choose", "fetch"}

    releasing.commit("feat: tell of the dew point")
    second = releasing.version(0.9, against=first)
    worse = releasing.version(0.95, against=first)
    done = releasing.release()
    assert done.code == 0, done.output
    assert f"version {second} " in done.output
    assert f"version {worse} " in done.output, "it is told what was considered"
    v2 = releasing.digest("v1.1.0")
    assert releasing.state() == State(str(second), v2, ("v1.0.0", "v1.1.0"), ("v1.0.0", "v1.1.0"), ())
    notes = releasing.double.request("GET", "releases/tags/v1.1.0").json()
    assert "tell of the dew point" in notes["body"]
    assert v2 in notes["body"]
    assert {asset["name"] for asset in notes["assets"]} == {"sbom.spdx.json", "provenance.json"}

    done = releasing.release("--model-version", str(first))
    assert done.code == 0, done.output
    tags = ("v1.0.0", "v1.1.0", "v1.1.1")
    assert releasing.state() == State(str(first), releasing.digest("v1.1.1"), tags, tags, ())
    assert releasing.labels("latest")["io.rps.model-version"] == str(first)
    assert "roll-back" in releasing.double.request("GET", "releases/tags/v1.1.1").json()["body"]
    withdrawn = releasing.client.get_model_version(releasing.challenge, str(second)).tags
    assert "v1.1.1" in withdrawn["withdrawn"]

    releasing.commit("fix: mend the page")
    done = releasing.release()
    assert done.code == 0, done.output
    state = releasing.state()
    assert (state.alias, state.tags[-1]) == (str(first), "v1.1.2"), "what was rolled back from does not come back"

    refused(releasing, 1, "older than v1.1.2", "--sha", oldest)


def killed_after(releasing: Releasing, step: str) -> list[str]:
    """Run a release, and kill -9 it as soon as it says that a step has ended; what it said."""
    process = releasing.start()
    said = []
    assert process.stdout
    for line in process.stdout:
        said.append(line)
        if line.startswith(f"{step} "):
            process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "".join(said)
    return said


def test_a_release_that_is_killed_after_each_step_is_carried_on(production: Releasing) -> None:
    production.commit("feat: more")
    released = production.state()
    second = production.version(0.9, against=int(released.alias))
    tag = released.following(feature=True)
    for place, step in enumerate(STEPS):
        if step == "latest":
            break  # after it only the reservation is left to be taken away
        said = killed_after(production, step)
        state = production.state()
        if place < STEPS.index("verify"):
            assert replace(state, reserved=()) == replace(released, reserved=()), said
            assert not set(state.reserved) - {*released.reserved, tag}
        if place < STEPS.index("publish"):
            assert (state.alias, state.latest) == (released.alias, released.latest), said
            assert set(state.tags) <= {*released.tags, tag}
        if place > STEPS.index("push"):
            assert any(line.startswith("push ") and "done already" in line for line in said), said
    done = production.release()
    assert done.code == 0, done.output
    assert production.state() == released.with_release(tag, str(second), production.digest(tag))


def refused(releasing: Releasing, code: int, shown: str, *arguments: str, **settings: str) -> None:
    """A release that must end so, and leave production as it was."""
    before = releasing.state()
    done = releasing.release(*arguments, **settings)
    assert done.code == code, done.output
    assert shown in done.output, done.output
    assert replace(releasing.state(), reserved=()) == replace(before, reserved=())
    assert "Traceback" not in done.output


def test_a_bundle_that_answers_its_example_wrongly_is_not_pushed(production: Releasing) -> None:
    example = read_bundle(production.bundle).manifest.example
    first, *others = example.forecasts
    wrong = msgspec.structs.replace(first, value=first.value + 0.01)
    production.commit()
    before = production.state()
    wrong_example = msgspec.structs.replace(example, forecasts=(wrong, *others))
    production.version(0.5, against=int(before.alias), example=wrong_example)
    refused(production, 1, "example.forecasts")
    assert not production.digest(before.following())


def test_an_image_that_does_not_become_healthy_is_not_pushed(production: Releasing) -> None:
    before = production.state()
    path = production.checkout / "service" / "__main__.py"
    path.write_text(SLEEPER, encoding="utf-8")
    production.git("add", "--all")
    production.commit("fix: sleep")
    refused(production, 1, "health", "--deadline-seconds", "5")
    assert not production.digest(before.following())
    production.git("revert", "--no-edit", "HEAD")
    production.commit()
    reserved = production.state()
    done = production.release()
    assert done.code == 0, done.output
    after = production.state()
    assert after.newest == reserved.following(), "a number that was reserved for another commit is not taken"
    assert set(after.tags) == {*before.tags, after.newest}


def test_a_damaged_bundle_is_not_released(production: Releasing) -> None:
    production.commit()
    production.version(0.5, against=int(production.state().alias), mlflow_run="f" * 32)
    refused(production, 1, "its manifest has ffff")


def test_without_a_gated_version_nothing_is_released(releasing: Releasing) -> None:
    releasing.version(0.8, gate="blocked")
    releasing.version(0.7, gate="pending")
    summary = releasing.home / "summary.md"
    refused(releasing, 1, "no version passed the gate", GITHUB_STEP_SUMMARY=str(summary))
    assert "is not released" in summary.read_text(encoding="utf-8")
    assert "no version passed the gate" in summary.read_text(encoding="utf-8")
    refused(releasing, 1, "blocked by the gate", "--model-version", "1")
    refused(releasing, 64, "expected a version of the registry (1, 2); found 9", "--model-version", "9")
    assert releasing.state() == NOTHING


def test_a_version_of_a_commit_that_was_not_merged_is_not_released(releasing: Releasing) -> None:
    releasing.version(0.8, sha="a" * 40)
    refused(releasing, 1, "not in the history")
    assert releasing.state() == NOTHING


def test_mlflow_that_is_down_ends_the_release(production: Releasing) -> None:
    production.commit()
    nowhere = f"http://127.0.0.1:{free_ports(1)}"
    refused(production, 75, "MLflow", "--patience-seconds", "2", MLFLOW_TRACKING_URI=nowhere)


def test_an_engine_that_is_not_there_is_reported_before_any_work(production: Releasing) -> None:
    production.commit()
    before = production.state().reserved
    refused(production, 64, "no container engine answers", DOCKER_HOST=f"unix://{production.home}/none.sock")
    assert production.state().reserved == before


def test_a_wrong_password_is_reported_by_name(production: Releasing) -> None:
    production.commit()
    refused(production, 64, "REGISTRY_PASSWORD", REGISTRY_PASSWORD="wrong")


@pytest.mark.parametrize("missing", ["RPS_IMAGE", "MLFLOW_TRACKING_URI", "GITHUB_TOKEN", "REGISTRY_PASSWORD"])
def test_a_missing_setting_is_reported_by_name(production: Releasing, missing: str) -> None:
    done = production.release(**{missing: ""})
    assert done.code == 64
    assert missing in done.output


def test_a_registry_that_is_lost_during_the_push(releasing: Releasing, own_registry: Registry) -> None:
    releasing.registry = own_registry
    releasing.version(0.8)
    process = releasing.start("--patience-seconds", "5")
    said = []
    assert process.stdout
    for line in process.stdout:
        said.append(line)
        if line.strip().startswith("layer ") and own_registry.pid:
            own_registry.stop()
    assert process.wait() == 75, "".join(said)
    own_registry.start()
    assert releasing.state() == replace(NOTHING, reserved=("v1.0.0",))
    done = releasing.release()
    assert done.code == 0, done.output
    assert releasing.state() == State("1", releasing.digest("v1.0.0"), ("v1.0.0",), ("v1.0.0",), ())


def test_a_registry_that_takes_nothing(releasing: Releasing, own_registry: Registry) -> None:
    own_registry.stop()
    own_registry.read_only = True
    own_registry.start()
    releasing.registry = own_registry
    releasing.version(0.8)
    done = releasing.release("--patience-seconds", "3")
    assert done.code in {64, 75}, done.output
    assert releasing.state() == replace(NOTHING, reserved=("v1.0.0",))


def test_a_registry_that_is_full(releasing: Releasing, docker_host: str, tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", megabytes=2) as disk,
        registry(tmp_path / "full", docker_host, storage=disk) as full,
    ):
        releasing.registry = full
        releasing.version(0.8)
        done = releasing.release("--patience-seconds", "2")
        assert done.code == 75, done.output
        assert releasing.state() == replace(NOTHING, reserved=("v1.0.0",))


HARBOR = "Failed to process request due to 'rps/weather:{tag}' configured as immutable."


def test_a_registry_that_does_not_move_latest_gets_the_release_without_it(releasing: Releasing) -> None:
    version = releasing.version(0.8)
    with immutable(releasing.registry.address, "latest", message=HARBOR) as address:
        done = releasing.release(RPS_IMAGE=f"{address}/rps/{{challenge}}")
    assert done.code == 0, done.output
    state = releasing.state()
    assert (state.alias, state.tags, state.releases) == (str(version), ("v1.0.0",), ("v1.0.0",))
    name = f"{address}/rps/{releasing.challenge}:latest"
    assert f"left out: {name} stays what it was" in done.output
    last = releasing.record()["steps"][-1]
    assert (last["name"], last["refused"]) == ("latest", True)
    notes = releasing.double.request("GET", "releases/tags/v1.0.0").json()["body"]
    assert f"`{name}` is not this image" in notes
    assert notes.strip() == (releasing.home / "release" / "notes.md").read_text(encoding="utf-8").strip()


def test_a_version_tag_that_the_registry_does_not_give_is_a_wrong_setting(releasing: Releasing) -> None:
    releasing.version(0.8)
    with immutable(releasing.registry.address, "v1.0.0", message=HARBOR) as address:
        done = releasing.release(RPS_IMAGE=f"{address}/rps/{{challenge}}")
    assert done.code == 64, done.output
    assert "delete the tag or exempt it in the registry" in done.output
    assert releasing.state() == replace(NOTHING, reserved=("v1.0.0",))


def at_once(*releases: subprocess.Popen[str]) -> list[tuple[int, str]]:
    """Wait for all of them; how each ended, and what it said."""
    ended: list[tuple[int, str]] = [(0, "")] * len(releases)

    def wait(place: int, process: subprocess.Popen[str]) -> None:
        said = process.communicate()[0]
        ended[place] = (process.returncode, said)

    threads = [threading.Thread(target=wait, args=each) for each in enumerate(releases)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


def test_two_of_the_same_at_once_come_to_the_same(production: Releasing) -> None:
    before = production.state()
    production.commit("fix: one")
    version = production.version(0.9, against=int(before.alias))
    outputs = [str(production.home / name) for name in ("one", "two")]
    ended = at_once(*(production.start("--output", output) for output in outputs))
    assert [code for code, _ in ended] == [0, 0], ended
    tag = before.following()
    assert production.state() == before.with_release(tag, str(version), production.digest(tag))


def test_two_different_ones_at_once_get_a_number_each_and_the_higher_one_is_production(production: Releasing) -> None:
    before = production.state()
    production.commit("fix: one")
    second = production.version(0.9, against=int(before.alias))
    third = production.version(0.9, against=int(before.alias))
    ended = at_once(
        *(
            production.start("--model-version", str(version), "--output", str(production.home / str(version)))
            for version in (second, third)
        )
    )
    assert [code for code, _ in ended] == [0, 0], ended
    state = production.state()
    lower = before.following()
    higher = replace(before, tags=(lower,)).following()
    assert set(state.tags) - set(before.tags) == {lower, higher}
    assert set(state.releases) == set(state.tags)
    assert state.latest == production.digest(higher)
    assert state.alias == production.labels(higher)["io.rps.model-version"]
    versions = {production.labels(tag)["io.rps.model-version"] for tag in (lower, higher)}
    assert versions == {str(second), str(third)}


def put_under(tag: str, building: Building, production: Releasing) -> None:
    """Push an image that is of no release of ours, as somebody else would who has the login."""
    building.client.images.get(building.tag).tag(production.repository, tag)
    login = {"username": production.registry.username, "password": production.registry.password}
    shown = building.client.images.push(production.repository, tag=tag, auth_config=login)
    assert "errorDetail" not in shown
    building.client.images.remove(f"{production.repository}:{tag}")


def test_an_image_that_somebody_else_has_put_under_our_tag_is_not_promoted(
    production: Releasing, service_building: Building
) -> None:
    production.commit("fix: one")
    put_under(production.state().following(), service_building, production)
    before = production.state()
    done = production.release()
    assert done.code == 1, done.output
    assert replace(production.state(), reserved=()) == replace(before, reserved=())


def test_a_tag_that_was_moved_in_the_registry_is_put_back(production: Releasing, service_building: Building) -> None:
    state = production.state()
    put_under(state.newest, service_building, production)
    assert production.digest(state.newest) != state.latest
    done = production.release()
    assert done.code == 0, done.output
    assert production.state() == state
    assert production.digest(state.newest) == state.latest


def test_github_that_fails_for_a_while_is_waited_for_and_no_secret_is_reported(production: Releasing) -> None:
    before = production.state()
    production.commit("fix: one")
    version = production.version(0.9, against=int(before.alias))
    production.double.fault("server_error", times=4)
    done = production.release()
    assert done.code == 0, done.output
    tag = before.following()
    assert production.state() == before.with_release(tag, str(version), production.digest(tag))
    shown = done.output + json.dumps(production.record())
    shown += production.double.request("GET", f"releases/tags/{tag}").text
    for secret in (production.registry.password, production.double.token):
        assert secret not in shown


def test_help_says_what_a_release_does(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "ci", "release", "--help"], capture_output=True, text=True, check=True)
    assert "--model-version" in done.stdout
