"""The loop from end to end: the season changes under a served model, and nobody but the operator touches anything.

It runs what `make loop-demo` runs. What each part does when something goes wrong has tests of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import docker
import psutil
import pytest

from scripts.gate_demo import CHALLENGE
from scripts.services import ROOT
from tests.integration.prometheus_server import need_programs

pytestmark = pytest.mark.timeout(1500)  # the first test waits for the whole demo
ORDER = [
    "the season changes",
    "an alert is pending",
    "the alert fires",
    "the receiver has the alert",
    "GitHub has the event",
    "retrain.yml starts",
    "the candidate has passed the gate",
    "release.yml is dispatched",
    "the operator approves",
    "the image is pushed and verified",
    "the new model is served",
    "the alert is resolved",
]


@dataclass(frozen=True)
class Shown:
    """What the demo has left."""

    output: str
    timeline: dict
    chart: Path
    home: Path


@pytest.fixture(scope="module")
def shown(docker_host: str, base: str, kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The environments and tools of other tests are used again; all else is the demo's own."""
    need_programs()
    assert base
    home = tmp_path_factory.mktemp("loop")
    for name in ("envs", "tools"):
        (home / name).symlink_to(kept / name)
    done = subprocess.run(
        [sys.executable, "-m", "scripts.loop_demo", "--chart", str(home / "chart.svg")],
        cwd=ROOT, env={**os.environ, "RPS_HOME": str(home), "DOCKER_HOST": docker_host}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    timeline = json.loads((home / "loop-demo" / "timeline.json").read_bytes())
    return Shown(done.stdout, timeline, home / "chart.svg", home / "loop-demo")


def test_what_is_missing_is_reported_at_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.loop_demo"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "RPS_HOME": str(tmp_path), "PATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "prometheus is missing: apt-get install prometheus" in done.stderr


def test_drift_leads_to_a_better_model_in_this_order(shown: Shown) -> None:
    seconds = shown.timeline["seconds"]
    assert list(seconds) == ORDER
    assert sorted(seconds.values()) == list(seconds.values())
    served = seconds["the new model is served"] - seconds["the alert fires"]
    assert shown.timeline["alert_to_serving_seconds"] == pytest.approx(served, abs=0.2)


def test_the_live_error_goes_down(shown: Shown) -> None:
    assert shown.timeline["error_ratio_after"] < shown.timeline["error_ratio_before"]


def test_no_alert_of_drift_fires_in_the_season_that_the_model_knows(shown: Shown) -> None:
    quiet, _, _ = shown.output.partition("The clock goes on to")
    days = re.findall(r"alerts of drift: (.+)", quiet)
    assert len(days) >= 5
    assert {day.strip() for day in days} == {"none"}


def test_the_issue_tells_the_story(shown: Shown) -> None:
    _, _, issue = shown.output.partition("The issue on GitHub")
    for message in ("Model drift", "What drifted", "passed", "model version 2", "retrain__weather__"):
        assert message in issue


def test_the_chart_shows_both_models(shown: Shown) -> None:
    assert ElementTree.parse(shown.chart).getroot().tag.endswith("svg")
    text = shown.chart.read_text(encoding="utf-8")
    for message in ("model version 1", "model version 2", "the season changes", "the alert is resolved"):
        assert message in text


def test_nothing_is_left_running(shown: Shown, docker_client: docker.DockerClient) -> None:
    repositories = set(re.findall(rf"(\S+/ana/{CHALLENGE}):\S+ is served", shown.output))
    assert len(repositories) == 1
    found = docker_client.containers.list(all=True, ignore_removed=True)
    images = [str(each.attrs["Config"]["Image"]) for each in found]
    assert [image for image in images if image.startswith(*repositories)] == []
    commands = [each.info["cmdline"] or [] for each in psutil.process_iter(["cmdline"])]
    assert [command for command in commands if str(shown.home) in " ".join(command)] == []
