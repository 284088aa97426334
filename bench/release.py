"""A whole release, step by step, and the start of a container of the released image.

The release is `python -m ci release` with a real engine, registry and MLflow, as the integration tests set them up;
GitHub is the double. `python -m bench.release [--runs N]` prints Markdown.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker

from bench.image import bench_engine, seconds_of
from bench.report import arguments, met, run, table
from bench.service_model import model
from doubles.release_image import made_building, made_source
from doubles.releasing import Releasing, team
from records.mlflow_names import PRODUCTION
from scripts.base_image import base_image
from scripts.docker_engine import client
from scripts.processes import wait_while
from scripts.registry import registry
from scripts.services import Stack, StackError, answers, free_ports, running, service_named

RELEASE_GOAL_SECONDS = 60.0
START_GOAL_SECONDS = 1.5
STARTS = 10
FIRST_MODEL = ("--model-version", "1")
_POLL_SECONDS = 0.005


@contextlib.contextmanager
def releasing() -> Iterator[Releasing]:
    """A team's repository with an engine, a registry and an MLflow of its own."""
    with contextlib.ExitStack() as held:
        home = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="rps-bench-")))
        address = held.enter_context(bench_engine())
        images = held.enter_context(registry(home / "registry", address))
        (home / "mlflow").mkdir()
        stack = Stack(home / "mlflow", {"RPS_MLFLOW_PORT": str(free_ports(1))})
        mlflow = held.enter_context(running(service_named("mlflow", stack), home / "mlflow"))
        docker_client = held.enter_context(contextlib.closing(client(address)))
        source = made_source(home / "source")
        building = made_building(docker_client, base_image(address), model().bundle, source, "rps-bench/service:v1.2.3")
        yield held.enter_context(team(home / "team", building, images, address, mlflow.address))


def release_section(team: Releasing, runs: int) -> list[str]:
    """Seconds of whole releases, by what is there before, and of their steps."""
    team.version(0.8)
    first = _released(team)
    warm, back = [], []
    for _ in range(runs):
        _better(team)
        warm.append(_released(team))
    for _ in range(runs):
        _better(team)
        _released(team)
        back.append(_released(team, *FIRST_MODEL))
    kinds = {
        "first, with nothing but the base": [first],
        "warm: a new commit and a better model": warm,
        "roll-back": back,
        "the same again: found": [_released(team, *FIRST_MODEL) for _ in range(runs)],
    }
    rows = [
        (f"`{step}`" if step != "whole" else step,
         *(f"{statistics.median(each[step] for each in some):.1f}" for some in kinds.values()))
        for step in first
    ]  # fmt: skip
    seconds = statistics.median(each["whole"] for each in warm)
    goal = f"goal ≤ {RELEASE_GOAL_SECONDS:.0f} s: {met(well=seconds <= RELEASE_GOAL_SECONDS)}"
    return [
        f"With a warm base and engine a release takes {seconds:.1f} s; {goal}.",
        f"Seconds of `python -m ci release` as a process, medians of {runs} (the first: once); GitHub is the double.",
        "",
        *table("lrrrr", ("step", *kinds), rows),
    ]


def start_section(team: Releasing) -> list[str]:
    """Seconds from `docker run` to the first good answer of /health, beside a container that only starts Python."""
    with contextlib.closing(client(team.docker_host, timeout_seconds=120)) as found:
        login = {"username": team.registry.username, "password": team.registry.password}
        name = f"{team.repository}:latest"
        found.images.pull(name, auth_config=login)
        healthy, floor = [], []
        for _ in range(STARTS):
            floor.append(seconds_of(lambda: _python(found, name)))
            healthy.append(_until_healthy(found, name))
    median, least = statistics.median(healthy), statistics.median(floor)
    spread = f"lowest {min(healthy):.2f}, highest {max(healthy):.2f}"
    goal = f"goal ≤ {START_GOAL_SECONDS} s: {met(well=median <= START_GOAL_SECONDS)}"
    return [
        f"{median:.2f} s from the start of a container to 200 from `/health` (median of {STARTS}; {spread});",
        f"{goal}. The floor, a container of the same image that runs `python3 -c pass` to its end:",
        f"{least:.2f} s; ratio {median / least:.1f}.",
    ]


def _better(team: Releasing) -> None:
    """A commit, and a model that is better than any before it."""
    team.commit(f"feat: change at {time.time_ns()}")
    production = int(team.client.get_registered_model(team.challenge).aliases[PRODUCTION])
    team.version(0.9, against=production)


def _released(team: Releasing, *arguments: str) -> dict[str, float]:
    began = time.monotonic()
    done = team.release(*arguments)
    whole = time.monotonic() - began
    if done.code:
        raise StackError(f"the release failed: {done.output}")
    return {step["name"]: step["seconds"] for step in team.record()["steps"]} | {"whole": whole}


def _python(engine: docker.DockerClient, name: str) -> None:
    engine.containers.run(name, ["-c", "pass"], entrypoint=["python3"], remove=True)


def _until_healthy(engine: docker.DockerClient, name: str) -> float:
    container = engine.containers.create(name, read_only=True, ports={"8000/tcp": ("127.0.0.1", 0)})
    try:
        began = time.monotonic()
        container.start()
        container.reload()
        (published,) = container.ports["8000/tcp"] or [{"HostPort": "0"}]
        address = f"http://127.0.0.1:{published['HostPort']}/health"
        if not wait_while(lambda: not answers(address), seconds=RELEASE_GOAL_SECONDS, pause=_POLL_SECONDS):
            raise StackError(f"{name} did not become healthy")
        return time.monotonic() - began
    finally:
        container.remove(force=True)


def report(runs: int) -> list[str]:
    with releasing() as team:
        return [*release_section(team, runs), "", "### Start", "", *start_section(team)]


if __name__ == "__main__":
    sys.exit(run(arguments(runs=(3, "how often each is measured")), report))
