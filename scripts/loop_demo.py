"""`make loop-demo`: the season changes, and the system answers: alert, event, retraining, gate, release, less error.

Everything but GitHub is real: Airflow, MLflow, S3, a container engine and a registry, Prometheus and Alertmanager, the
receiver of alerts and the pipeline's metrics; act runs `model-gate.yml`, `release.yml` and `retrain.yml` as they are.
The demo moves the clock of the recorded weather. State and logs stay in `.rps/loop-demo/`; the chart goes to `docs/`.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from records.drift_kinds import EVENT_TYPE
from scripts.demo_frame import print_document, run_alone
from scripts.gate_demo import CHALLENGE, CHALLENGE_FILE, Proposal
from scripts.github_actions import run_on_dispatch, run_on_repository_dispatch
from scripts.github_team import ON_RELEASE, Team
from scripts.loop_chart import Episode, draw, live_errors
from scripts.processes import wait_while
from scripts.release_demo import Premises, Released, gated, made_premises, running_image, shipped
from scripts.services import ROOT, StackError, set_clock
from scripts.stack import replace
from scripts.watching import Watching, require_programs, watching

ON_DRIFT = "retrain.yml"
FIRST = Proposal(
    title="feat: predict the temperature",
    body="There are three months of history: three folds of four weeks.",
    changes={CHALLENGE_FILE: {"count = 12": "count = 3"}},
    expected="success",
)
WINTER_ENDS = datetime(2013, 3, 29, tzinfo=UTC)
"""When the first model is trained: on what the recording has of that winter."""
SUMMER = datetime(2013, 8, 1, tzinfo=UTC)
WATCHED = timedelta(days=6)
"""For how long each model is watched: the first one in its own season, the second after its release."""
QUICK, SLOW = 6.0 * 3600, 0.5 * 3600
"""Replayed seconds per second: while data stream in; and during work, which takes minutes whatever the season."""
LIVE_WINDOW = 3 * 24 * 3
"""Forecasts per horizon that the live error is taken over: three days of three stations."""
CHART = ROOT / "docs" / "loop-demo.svg"
LOOK_SECONDS = 0.25
ALERT_SECONDS, EVENT_SECONDS, RESOLVE_SECONDS = 120.0, 60.0, 120.0

CHANGED, PENDING, FIRING = "the season changes", "an alert is pending", "the alert fires"
RECEIVED, SENT = "the receiver has the alert", "GitHub has the event"
STARTED, JUDGED, OFFERED = "retrain.yml starts", "the candidate has passed the gate", "release.yml is dispatched"
APPROVED, PUSHED, SERVING = "the operator approves", "the image is pushed and verified", "the new model is served"
RESOLVED = "the alert is resolved"
SHOWN = (CHANGED, FIRING, SERVING, RESOLVED)


class Report(msgspec.Struct):
    """`timeline.json`, which `bench/loop.py` reads."""

    seconds: dict[str, float]
    """Of each event, since the season's change."""
    alert_to_serving_seconds: float
    error_ratio_before: float
    error_ratio_after: float


@dataclass
class Scene(Premises):
    """What the demo has running."""

    watch: Watching
    port: int
    episode: Episode = field(default_factory=Episode)
    served: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def service(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def now(self) -> datetime:
        """The data's time."""
        return datetime.fromisoformat(_get(f"{self.stack.replay}/replay/clock")["now"])

    def set_clock(self, speed: float, moment: datetime | None = None) -> None:
        """Move the data's clock, or only change its speed."""
        now = moment or self.now
        set_clock(self.stack.replay or "", speed=speed, now=now.isoformat())
        self.episode.clock_set(now, speed)

    def deploy(self, released: Released) -> None:
        """Serve a release in place of the one before, as `docker compose up` does."""
        self.served.close()
        name = self.image(released)
        environment = {"RPS_LIVE_WINDOW": str(LIVE_WINDOW)}
        self.served.enter_context(running_image(self.host, self.images, name, port=self.port, environment=environment))
        self.console.print(f"{name} is served: model version {released.model_version}", highlight=False)

    def until(self, done: Callable[[], bool], seconds: float, expected: str) -> None:
        """Look again and again, noting what happens; raises StackError when it does not come."""
        if not wait_while(lambda: not done(), seconds=seconds, pause=LOOK_SECONDS):
            raise StackError(f"expected, within {seconds:.0f} s: {expected}; its logs are in {self.watch.home}")


def demo(console: Console, home: Path, chart: Path = CHART) -> list[str]:
    """The whole loop; what is not as it must be. chart: where to write it. Raises RpsError."""
    require_programs()  # before the work of the first minutes, not after it
    with contextlib.ExitStack() as held:
        premises = held.enter_context(made_premises(console, home, WINTER_ENDS.isoformat()))
        port = premises.stack.port("RPS_SERVICE_PORT", 0)
        console.rule(f"The first model: {WINTER_ENDS:%d %B}, after a winter")
        gated(premises, FIRST)
        first = shipped(FIRST.title, premises.here.release(FIRST.title, premises.on_line))
        console.rule("Prometheus, Alertmanager, the receiver, the pipeline's metrics")
        watch = held.enter_context(_watched(home / "watching", premises, port))
        scene = Scene(**vars(premises), watch=watch, port=port)
        held.callback(scene.served.close)
        scene.deploy(first.released)
        _quiet_season(scene)
        ratio_before = _season_changes(scene)
        released = _answer(scene)
        scene.deploy(released)
        scene.episode.mark(SERVING, f"version {released.model_version} as {released.tag}")
        ratio_after = _afterwards(scene)
        draw(chart, scene.episode, live_errors(watch.prometheus, scene.episode), SHOWN, "°C")
        issue = _issue(scene)
    print_document(console, "The issue on GitHub", issue)
    report = _reported(scene.episode, ratio_before, ratio_after)
    (home / "timeline.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    _show_timeline(console, scene.episode, report)
    console.print(f"The chart is {chart}.", soft_wrap=True)
    return [] if ratio_after < ratio_before else ["the live error has not gone down."]


def _watched(home: Path, premises: Premises, port: int) -> contextlib.AbstractContextManager[Watching]:
    secret = {"RPS_ALERTS_SECRET": secrets.token_urlsafe(24)}
    environment = {**premises.stack.addresses, **premises.here.environment, **secret}
    return watching(home, service=f"127.0.0.1:{port}", environment=environment, pace=QUICK)


def _quiet_season(scene: Scene) -> None:
    """Traffic like the one that the model was trained on: no alert of drift."""
    scene.console.rule(f"{WINTER_ENDS:%d %B} to {WINTER_ENDS + WATCHED:%d %B}: the season that the model knows")
    scene.set_clock(QUICK, WINTER_ENDS)
    replace(scene.stack, [scene.stack.feed(CHALLENGE, scene.service)])
    _play(scene, WINTER_ENDS + WATCHED)
    if found := drifting(scene.watch.prometheus):
        raise StackError(f"expected no alert of drift in the season that the model knows; found {sorted(found)}")
    _show_signals(scene)


def _season_changes(scene: Scene) -> float:
    """The clock jumps; from the alert on it goes slowly. The error ratio at the time of the event."""
    scene.console.rule(f"The clock goes on to {SUMMER:%d %B}: a season that the model has never seen")
    scene.set_clock(QUICK, SUMMER)
    scene.episode.mark(CHANGED)
    scene.until(lambda: _alerted(scene), ALERT_SECONDS, "a firing alert of drift")
    scene.until(lambda: _sent(scene), EVENT_SECONDS, "a repository_dispatch at GitHub")
    scene.until(lambda: ratio(scene.service) is not None, ALERT_SECONDS, "enough forecasts met by their truth")
    scene.set_clock(SLOW)
    _show_signals(scene)
    return ratio(scene.service) or 0.0


def _answer(scene: Scene) -> Released:
    """What GitHub does with the event, and the operator with the offer."""
    sent = dispatches(scene.here, EVENT_TYPE)[0]
    scene.console.rule(f"GitHub runs {ON_DRIFT} for the event {sent['payload']['event']}")
    scene.episode.mark(STARTED)
    run = run_on_repository_dispatch(scene.here.runner, ON_DRIFT, sent["event_type"], sent["payload"])
    outcome = run.wait(lambda job, line: _hear(scene, job, line))
    offers = [each for each in dispatches(scene.here, "") if each["workflow"] == ON_RELEASE]
    if not offers:
        raise StackError(f"{ON_DRIFT} has offered no release: {dict(outcome.jobs)}; {outcome.artifacts.parent}")
    scene.episode.mark(OFFERED, f"version {offers[0]['payload']['model_version']}")
    scene.console.rule(f"The operator approves {ON_RELEASE}: {offers[0]['payload']}")
    scene.episode.mark(APPROVED)
    run = run_on_dispatch(scene.here.runner, ON_RELEASE, "master", offers[0]["payload"])
    done = shipped("the retrained model", run.wait(scene.on_line))
    scene.episode.mark(PUSHED, done.released.tag)
    return done.released


def _hear(scene: Scene, job: str, line: str) -> None:
    scene.on_line(job, line)
    if line.startswith("pass:"):
        scene.episode.mark(JUDGED, line.removeprefix("pass:").strip())


def _afterwards(scene: Scene) -> float:
    """The new model in its first days: the alert is resolved. Its error ratio at the end."""
    scene.console.rule(f"The next {WATCHED.days} days, with the new model")
    begin = scene.now
    scene.set_clock(QUICK)
    _play(scene, begin + WATCHED)
    scene.until(lambda: not drifting(scene.watch.prometheus), RESOLVE_SECONDS, "no alert of drift any more")
    scene.episode.mark(RESOLVED)
    _show_signals(scene)
    found = ratio(scene.service)
    if found is None:
        raise StackError("expected forecasts of the new model met by their truth; found none")
    return found


def _play(scene: Scene, end: datetime) -> None:
    """Let the data stream in until their clock is at ``end``, with a line for each day."""
    day = ""
    while (now := scene.now) < end:
        if f"{now:%d %B}" != day:
            day = f"{now:%d %B}"
            found = ratio(scene.service)
            error = "not known yet" if found is None else f"{found:.2f} times the folds'"
            alerts = ", ".join(sorted(drifting(scene.watch.prometheus))) or "none"
            scene.console.print(f"  {day}: live error {error}; alerts of drift: {alerts}", highlight=False)
        if scene.episode.of(SERVING) and not drifting(scene.watch.prometheus):
            scene.episode.mark(RESOLVED)
        time.sleep(LOOK_SECONDS)


def _alerted(scene: Scene) -> bool:
    """Whether an alert of drift fires; notes what Prometheus says of it."""
    for states, what in ((("pending", "firing"), PENDING), (("firing",), FIRING)):
        if found := drifting(scene.watch.prometheus, states):
            scene.episode.mark(what, ", ".join(sorted(found)))
    return scene.episode.of(FIRING) is not None


def _sent(scene: Scene) -> bool:
    """Whether GitHub has the event; notes when the receiver has the alert."""
    if _metrics(scene.watch.alerts).get('rps_alerts_received_total{source="alertmanager",status="firing"}', 0.0):
        scene.episode.mark(RECEIVED)
    for each in dispatches(scene.here, EVENT_TYPE):
        scene.episode.mark(SENT, each["payload"]["event"])
    return scene.episode.of(SENT) is not None


def _show_signals(scene: Scene) -> None:
    found = _metrics(scene.service)
    table = Table("signal", "value", "limit", box=None)
    for name, key, signal in (
        ("out of distribution, share of the window", "rps_out_of_distribution_ratio", "out_of_distribution_ratio"),
        ("live error over the folds'", 'rps_live_error_ratio{horizon="all"}', "live_error_ratio"),
    ):
        value = f"{found[key]:.2f}" if key in found else "not known yet"
        limit = found[f'rps_drift_threshold{{signal="{signal}"}}']
        table.add_row(name, value, f"{limit:g}")
    shifted = [
        name
        for name, value in found.items()
        if name.startswith("rps_population_stability_index{") and value > found[name.replace("_index{", "_limit{")]
    ]
    table.add_row("features beyond their limit", str(len(shifted)), "0")
    scene.console.print(table)


def _issue(scene: Scene) -> str:
    """The issue of the challenge, as people read it."""
    found = scene.here.issues("model-drift")
    if len(found) != 1:
        raise StackError(f"expected one issue of the challenge's drift; found {len(found)}")
    return f"**{found[0]['title']}** ({found[0]['state']})\n\n{found[0]['body']}"


def drifting(prometheus: str, states: tuple[str, ...] = ("firing",)) -> set[str]:
    """The names of the alerts of drift that are in one of these states."""
    found = _get(f"{prometheus}/api/v1/alerts")["data"]["alerts"]
    return {each["labels"]["alertname"] for each in found if "drift" in each["labels"] and each["state"] in states}


def dispatches(here: Team, event_type: str) -> list[dict[str, Any]]:
    """What GitHub was asked to run for an event; for a workflow, with no event."""
    found: list[dict[str, Any]] = _get(f"{here.runner.server_url}/_double/dispatches")["dispatches"]
    return [each for each in found if each["event_type"] == event_type]


def ratio(service: str) -> float | None:
    """Live error over the folds'; None when too few forecasts were met by their truth."""
    return _metrics(service).get('rps_live_error_ratio{horizon="all"}')


def _metrics(service: str) -> dict[str, float]:
    text = httpx.get(f"{service}/metrics", timeout=10.0).raise_for_status().text
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def _get(url: str) -> Any:  # noqa: ANN401 - any JSON
    try:
        return httpx.get(url, timeout=10.0).raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        raise StackError(f"{url} does not answer as expected: {error}") from error


def _reported(episode: Episode, before: float, after: float) -> Report:
    changed, firing, serving = (episode.of(what) for what in (CHANGED, FIRING, SERVING))
    if changed is None or firing is None or serving is None:
        raise StackError("the episode is not whole")
    seconds = {mark.what: round(mark.at - changed.at, 1) for mark in episode.marks}
    return Report(seconds, round(serving.at - firing.at, 1), round(before, 3), round(after, 3))


def _show_timeline(console: Console, episode: Episode, report: Report) -> None:
    table = Table("seconds", "time of the data", "what", "", title="From the season's change on")
    for mark in episode.marks:
        moment = f"{episode.data_time(mark.at):%d %b %H:%M}"
        table.add_row(f"{report.seconds[mark.what]:.1f}", moment, mark.what, mark.detail)
    console.print(table)
    console.print(
        f"From the alert to the new model: {report.alert_to_serving_seconds:.0f} s. The live error was "
        f"{report.error_ratio_before:.2f} times the folds'; it is {report.error_ratio_after:.2f} times.",
        highlight=False,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.loop_demo", description=__doc__)
    parser.add_argument("--chart", type=Path, default=CHART, help="where to write it (default: docs/loop-demo.svg)")
    return run_alone("loop-demo", partial(demo, chart=parser.parse_args().chart))


if __name__ == "__main__":
    sys.exit(main())
