"""The chart of the loop demo: live error over the whole episode, by the time of the data, and what happened when."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import httpx
import msgspec

from scripts.services import StackError

STEP_SECONDS = 1
QUERY = 'rps_live_error{horizon="all"} * on (instance) group_left (version) rps_model_info'
WIDTH_INCHES, HEIGHT_INCHES = 10.0, 4.2
COLOURS = ("#3b6ea5", "#2a8a57")
WRONG = "#c0392b"


class Phase(msgspec.Struct, frozen=True):
    """From ``began`` (Unix seconds) on, the data's time is ``moment`` and goes ``speed`` times as fast."""

    began: float
    moment: datetime
    speed: float


class Mark(msgspec.Struct, frozen=True):
    """Something that happened. at: Unix seconds."""

    at: float
    what: str
    detail: str = ""


@dataclass
class Episode:
    """What the demo notes down while it runs."""

    phases: list[Phase] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    def clock_set(self, moment: datetime, speed: float) -> None:
        self.phases.append(Phase(time.time(), moment, speed))

    def mark(self, what: str, detail: str = "", *, at: float | None = None) -> Mark:
        """Note it, by its first time; a second time changes nothing. at: Unix seconds, if not now."""
        found = self.of(what)
        if found is None:
            found = Mark(time.time() if at is None else at, what, detail)
            self.marks.append(found)
        return found

    def of(self, what: str) -> Mark | None:
        return next((mark for mark in self.marks if mark.what == what), None)

    def data_time(self, at: float) -> datetime:
        """The data's time at a moment (Unix seconds) of the episode."""
        phase = next((one for one in reversed(self.phases) if one.began <= at), self.phases[0])
        return phase.moment + timedelta(seconds=max(at - phase.began, 0.0) * phase.speed)


@dataclass(frozen=True)
class Line:
    """The live error while one version was served: (n,) each, in time."""

    version: str
    at: list[float]
    error: list[float]


def live_errors(prometheus: str, episode: Episode) -> list[Line]:
    """What Prometheus has kept of the live error, by version, the first one first. Raises StackError."""
    parameters: dict[str, str | float] = {
        "query": QUERY,
        "start": episode.phases[0].began,
        "end": time.time(),
        "step": STEP_SECONDS,
    }
    try:
        answer = httpx.get(f"{prometheus}/api/v1/query_range", params=parameters, timeout=30.0).raise_for_status()
        found = answer.json()["data"]["result"]
    except (httpx.HTTPError, KeyError, ValueError) as error:
        raise StackError(f"Prometheus at {prometheus} does not give the live error: {error}") from error
    lines = [
        Line(each["metric"]["version"], [float(at) for at, _ in each["values"]], [float(v) for _, v in each["values"]])
        for each in found
    ]
    return sorted(lines, key=lambda line: line.at[0])


def draw(path: Path, episode: Episode, lines: Sequence[Line], shown: Sequence[str], unit: str) -> None:
    """Write the chart as SVG: a panel for each season, a line for each version. shown: the marks to show."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import dates
    from matplotlib import pyplot as plt

    seasons = _seasons(episode.phases)
    settings = {"svg.hashsalt": "rps", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(settings):
        figure, panels = plt.subplots(
            1, len(seasons), sharey=True, squeeze=False, figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained"
        )
        for panel, (begin, end) in zip(panels[0], seasons, strict=True):
            for line, colour in zip(lines, COLOURS * len(lines), strict=False):
                points = [(episode.data_time(at), error) for at, error in zip(line.at, line.error, strict=True)
                          if begin <= at < end]  # fmt: skip
                if points:
                    panel.plot(*zip(*points, strict=True), color=colour, label=f"model version {line.version}")
            for place, mark in enumerate(
                mark for mark in episode.marks if mark.what in shown and begin <= mark.at < end
            ):
                moment = episode.data_time(mark.at)
                panel.axvline(moment, color=WRONG, linewidth=0.8, linestyle=":")
                panel.annotate(
                    mark.what, (moment, 0.97 - 0.07 * place), xycoords=("data", "axes fraction"),
                    xytext=(4, 0), textcoords="offset points", color=WRONG, fontsize=8, va="top",
                )  # fmt: skip
            panel.xaxis.set_major_formatter(dates.DateFormatter("%d %b"))  # type: ignore[no-untyped-call]
            panel.grid(axis="y", linewidth=0.4, alpha=0.5)
            panel.legend(loc="lower right", frameon=False)
        panels[0][0].set_ylim(bottom=0.0, top=1.3 * panels[0][0].get_ylim()[1])  # room for the marks
        panels[0][0].set_ylabel(f"live error, {unit}")
        figure.supxlabel("time of the data (2013)", fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _seasons(phases: Sequence[Phase]) -> list[tuple[float, float]]:
    """From when to when (Unix seconds) the data's time went on without a jump of a day or more."""
    begins = [phases[0].began]
    for before, phase in pairwise(phases):
        reached = before.moment + timedelta(seconds=(phase.began - before.began) * before.speed)
        if abs(phase.moment - reached) > timedelta(days=1):
            begins.append(phase.began)
    return list(zip(begins, [*begins[1:], datetime.now(UTC).timestamp()], strict=True))
