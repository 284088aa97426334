"""The service without its HTTP: its own state, stream and monitor, an hour of observations at a time, and its alerts.

The expressions of `monitoring/alerts.py` are worked out here once an hour; `bench.loop_rules` checks that against
Prometheus. The numbers in them come from where they are defined.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from forecasting.features.spec import FeatureSpec
from forecasting.features.table import Table, grid_steps
from forecasting.models.bundle import Bundle
from monitoring.alerts import COVERAGE, FEWEST_ROWS, FEWEST_SCORES, SPIKE_HOURS, WIDTH, alerts
from service.model.served import Model
from service.service_settings import Settings
from service.state.series import SeriesState
from service.state.stream import count, follow, warm
from service.watch.monitor import Monitor
from service.watch.worker_counts import AllCounts, Layout

FloatArray = npt.NDArray[np.float64]

HOUR = timedelta(hours=1)
INPUTS, FEATURES, CONCEPT = "InputsOutOfDistribution", "FeatureDrift", "ConceptDrift"
DRIFT = (INPUTS, FEATURES, CONCEPT)
"""The alerts of drift, in the order of the tables."""
STARTING = frozenset(alert.name for alert in alerts() if alert.drift)
"""Those that start a retraining."""
COVERAGE_ALERT, WIDTH_ALERT = "IntervalCoverage", "IntervalWidth"
LIVE_WINDOW = Settings().live_window
WATCHED = (*DRIFT, COVERAGE_ALERT, WIDTH_ALERT)
LASTING_HOURS = {alert.name: alert.lasting / HOUR for alert in alerts() if alert.name in WATCHED}
"""How long an alert's expression must hold before it fires."""


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

    def __init__(self, bundle: Bundle, version: str, live_window: int = LIVE_WINDOW) -> None:
        """live_window: `RPS_LIVE_WINDOW`."""
        self.model = Model(bundle, version)
        layout = Layout(
            features=len(self.model.columns),
            horizons=len(self.model.horizons),
            drift_window=bundle.manifest.drift.window_rows,
            live_window=live_window,
        )
        self.monitor = Monitor(self.model, AllCounts(layout, None))
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
        return Monitor(self.model, self.monitor.counts)

    def _state(self, unique_id: str) -> SeriesState:
        return self._states.setdefault(unique_id, SeriesState(self.model, unique_id))


class Watch:
    """Prometheus, looking once an hour at one address, behind which services may follow one another."""

    def __init__(self) -> None:
        self._true_since: dict[str, int] = {}
        self._counts: list[tuple[float, float]] = []
        """Rows, and unusual rows, counted in each of the last hours, whatever the version."""
        self._version, self._served_since = "", 0
        self._totals = (0.0, 0.0)

    def look(self, hour: int, monitor: Monitor) -> frozenset[str]:
        """The alerts that fire. hour: counted from the start of the watch, one more each time."""
        if monitor.model.version != self._version:  # its alerts are others, and its counters begin at nothing
            self._version, self._served_since, self._totals = monitor.model.version, hour, (0.0, 0.0)
            self._true_since.clear()
        self._count(monitor)
        true = self._conditions(hour, monitor)
        self._true_since = {name: self._true_since.get(name, hour) for name in true}
        return frozenset(name for name, since in self._true_since.items() if hour - since >= LASTING_HOURS[name])

    def _count(self, monitor: Monitor) -> None:
        rows = float(sum(worker.predicted.sum() for worker in monitor.counts))
        unusual = float(sum(worker.unusual[0] for worker in monitor.counts))
        self._counts.append((rows - self._totals[0], unusual - self._totals[1]))
        self._totals = rows, unusual
        del self._counts[:-SPIKE_HOURS]

    def _conditions(self, hour: int, monitor: Monitor) -> frozenset[str]:
        """The alerts whose expression gives something."""
        limits, signals = monitor.model.bundle.manifest.drift, monitor.signals()
        rows, unusual = (sum(counted) for counted in zip(*self._counts, strict=True))
        enough_rows = rows >= FEWEST_ROWS and hour - self._served_since >= SPIKE_HOURS
        scores = sum(float(worker.scored.sum()) for worker in monitor.counts)
        live = signals.live if scores >= FEWEST_SCORES else None
        found = {
            INPUTS: enough_rows and unusual / rows > limits.max_out_of_distribution_ratio,
            FEATURES: any(each.index > each.limit for each in signals.population_stability.values()),
            CONCEPT: live is not None and (live.error_ratio or 0.0) > limits.max_live_error_ratio,
            COVERAGE_ALERT: live is not None and not COVERAGE[0] <= live.coverage <= COVERAGE[1],
            WIDTH_ALERT: live is not None and (live.width_ratio or 0.0) > WIDTH,
        }
        return frozenset(name for name, true in found.items() if true)
