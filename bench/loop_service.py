"""The service without its HTTP: its own state, stream and monitor, an hour of observations at a time, and its alerts.

The expressions of `monitoring/alerts.py` are worked out here once an hour; `bench.loop_rules` checks that against
Prometheus. How long a condition must hold comes from the alerts themselves.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from forecasting.bundle import Bundle
from forecasting.features import FeatureSpec
from forecasting.table_features import Table, grid_steps
from monitoring.alerts import Alert, alerts, recordings
from service.board import Boards, Layout
from service.model import Model
from service.monitor import Monitor, Signals
from service.series import SeriesState
from service.settings import Settings
from service.stream import count, follow, warm

FloatArray = npt.NDArray[np.float64]

HOUR = timedelta(hours=1)
DRIFT = ("InputsOutOfDistribution", "FeatureDrift", "ConceptDrift")
"""The alerts that start a retraining, in the order of the tables."""
COVERAGE = "IntervalCoverage"
WATCHED = (*DRIFT, COVERAGE)


class Observation(NamedTuple):
    """What one station reported of one hour; a value per ``spec.variables``, NaN when missing."""

    unique_id: str
    step: int
    values: tuple[float, ...]


Hours = Mapping[int, list[Observation]]
"""By step of the grid."""


class Made(NamedTuple):
    """A forecast that the service made, in target units."""

    unique_id: str
    step: int
    """Of its origin."""
    horizon: int
    value: float


def hours_of(table: Table, spec: FeatureSpec) -> Hours:
    """A table's observations by the hour, as a feed sends them: one without any value is not sent."""
    found: dict[int, list[Observation]] = defaultdict(list)
    steps = grid_steps(table, spec.step_minutes).tolist()
    values = np.stack([table.variables[name] for name in spec.variables], axis=1)
    for code, step, row in zip(table.codes.tolist(), steps, values.tolist(), strict=True):
        if not all(value != value for value in row):  # noqa: PLR0124  # only NaN differs from itself
            found[step].append(Observation(table.unique_ids[code], step, tuple(row)))
    return found


def step_of(moment: datetime) -> int:
    return int(moment.timestamp()) // 3600


def moment_at(step: int) -> datetime:
    return datetime.fromtimestamp(step * 3600, UTC)


class Service:
    """A service as it starts with a bundle: windows empty, each series' last hours known from the bundle."""

    def __init__(self, bundle: Bundle, version: str) -> None:
        self.model = Model(bundle, version)
        layout = Layout(
            features=len(self.model.columns),
            horizons=len(self.model.horizons),
            drift_window=bundle.manifest.drift.window_rows,
            live_window=Settings().live_window,
        )
        self.monitor = Monitor(self.model, Boards(layout, None))
        self._states: dict[str, SeriesState] = {}
        for unique_id, window in bundle.observations.items():
            warm(self.model, self._state(unique_id), window)

    def take(self, observations: list[Observation]) -> Iterator[Made]:
        """Take in an hour; the forecasts that were made from it."""
        for unique_id, step, values in observations:
            state = self._state(unique_id)
            followed = follow(self.model, state, [(step, values)])
            count(self.monitor, followed)
            if followed.rows:
                for place, horizon in enumerate(self.model.horizons):
                    made = state.made_for(step + horizon)[place]
                    if made is not None:
                        yield Made(unique_id, step, horizon, made[0])

    def fresh_monitor(self) -> Monitor:
        """The same counts, whose signals are worked out anew: a replay does not wait out the second they are kept."""
        return Monitor(self.model, self.monitor.boards)

    def _state(self, unique_id: str) -> SeriesState:
        return self._states.setdefault(unique_id, SeriesState(self.model))


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What of the alerts a replay needs, in hours; by default what is shipped."""

    lasting: Mapping[str, float] = field(default_factory=lambda: {alert.name: _hours(alert) for alert in watched()})
    spike_hours: int = field(default_factory=lambda: _spike_hours())
    starting: frozenset[str] = frozenset(DRIFT)
    """Which alerts start a retraining."""


def watched() -> tuple[Alert, ...]:
    """The alerts that the replay works out."""
    return tuple(alert for alert in alerts() if alert.name in WATCHED)


class Watch:
    """Prometheus, looking once an hour at one address, behind which services may follow one another."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._since: dict[tuple[str, str], int] = {}
        self._counts: list[tuple[float, float]] = []
        """Rows, and unusual rows, counted in each hour, whatever the service."""
        self._last: tuple[str, float, float] = ("", 0.0, 0.0)

    def look(self, hour: int, version: str, monitor: Monitor) -> frozenset[str]:
        """The alerts that fire. hour: counted from the start of the watch, one more each time."""
        self._count(version, monitor)
        true = conditions(monitor.model, monitor.signals(), self._ratio())
        for name in WATCHED:
            if name in true:
                self._since.setdefault((name, version), hour)
            else:
                self._since.pop((name, version), None)
        lasting = self._rules.lasting
        return frozenset(name for name in true if hour - self._since[name, version] >= lasting[name])

    def _count(self, version: str, monitor: Monitor) -> None:
        rows = float(sum(board.predicted.sum() for board in monitor.boards))
        unusual = float(sum(board.unusual[0] for board in monitor.boards))
        before = self._last if self._last[0] == version else ("", 0.0, 0.0)
        self._counts.append((rows - before[1], unusual - before[2]))
        self._last = (version, rows, unusual)
        del self._counts[: -self._rules.spike_hours]

    def _ratio(self) -> float | None:
        rows = sum(each for each, _ in self._counts)
        return sum(each for _, each in self._counts) / rows if rows else None


def conditions(model: Model, signals: Signals, spike: float | None) -> frozenset[str]:
    """The alerts whose expression gives something. spike: `rps:out_of_distribution:ratio`."""
    limits = model.bundle.manifest.drift
    ratio = signals.live.error_ratio if signals.live else None
    found = {
        "InputsOutOfDistribution": spike is not None and spike > limits.max_out_of_distribution_ratio,
        "FeatureDrift": any(each.index > each.limit for each in signals.population_stability.values()),
        "ConceptDrift": ratio is not None and ratio > limits.max_live_error_ratio,
        COVERAGE: signals.live is not None and not 0.85 <= signals.live.coverage <= 0.95,
    }
    return frozenset(name for name, true in found.items() if true)


def _hours(alert: Alert) -> float:
    return alert.lasting / HOUR


def _spike_hours() -> int:
    """The range of the recording `rps:out_of_distribution:ratio`."""
    recording = next(each for each in recordings() if each.name == "rps:out_of_distribution:ratio")
    ranges = set(re.findall(r"\[(\d+)s\]", recording.expression))
    if len(ranges) != 1:
        raise ValueError(f"{recording.name}: expected one range in seconds; found {recording.expression}")
    return int(ranges.pop()) // 3600
