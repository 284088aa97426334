"""Counts of what is served, and what follows from them: drift of the inputs, and the live error against the folds'.

Counting is cheap and happens with each request; everything else is computed on demand, at most once a second.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from forecasting.drift.distances import population_stability_index, stability_limit
from forecasting.judging.losses import LOSSES
from service.model.served import Model
from service.watch.worker_counts import (
    ARRIVALS,
    LATENCY_BOUNDS,
    OTHER_STATUS,
    PREDICTED_BY,
    STATUSES,
    AllCounts,
    WorkerCounts,
)

FloatArray = npt.NDArray[np.float64]
PredictedBy = Literal["stream", "window", "open_inference", "mlflow"]

FEWEST_ROWS = 30
"""With fewer predictions or scores than this, a signal is not reported: it would be noise."""
KEPT_SECONDS = 1.0

_STATUS_PLACE = {status: place for place, status in enumerate(STATUSES)}
_SOURCE_PLACE = {name: place for place, name in enumerate(PREDICTED_BY)}
_ARRIVAL_PLACE = {name: place for place, name in enumerate(ARRIVALS)}


class Newest(NamedTuple):
    """The newest observation of a series that has its target, and the forecasts that were made for that time.

    forecasts: by horizon, NaN where none was made; scales: by horizon, how large the last errors were.
    """

    step: int
    truth: float
    forecasts: tuple[float, ...]
    scales: tuple[float, ...]


class Score(NamedTuple):
    """A forecast met by its truth, and the baseline's forecast of the same, in target units."""

    horizon_place: int
    truth: float
    forecast: float
    baseline: float
    width: float
    """Of the interval."""
    covered: bool


class Sensor(NamedTuple):
    """Of which series, which kind of detector looks at which variable."""

    unique_id: str
    detector: str
    variable: str


@dataclass(frozen=True)
class LiveHorizon:
    """What the last forecasts of one horizon, or of all, turned out to be; ``error`` in the measure of the loss.

    skill: 1 minus the ratio of the error to the baseline's; error_ratio and width_ratio: the error and the mean width
    of the intervals over the folds', None when that is unknown.
    """

    scores: int
    error: float
    skill: float | None
    coverage: float
    error_ratio: float | None
    width_ratio: float | None


class Stability(msgspec.Struct, frozen=True):
    """A feature's population stability index, and from where on it is drift."""

    feature: str
    index: float = msgspec.field(name="population_stability_index")
    limit: float


@dataclass(frozen=True)
class Signals:
    """What all workers together have seen lately. None where there is too little to say."""

    rows: int
    out_of_distribution_ratio: float | None
    population_stability: dict[str, Stability]
    """By feature, calendar left out; {} with too few rows."""
    live: LiveHorizon | None
    live_by_horizon: dict[int, LiveHorizon]


class Monitor:
    """What one worker counts, and what all of them have seen."""

    def __init__(self, model: Model, counts: AllCounts) -> None:
        self.model = model
        self.counts = counts
        self.routes: tuple[str, ...] = ()
        """The names of the routes that ``request`` counts, at most ``MOST_ROUTES``; the application sets them."""
        self.started = time.time()
        self.own: WorkerCounts = counts.own
        self.series = tuple(sorted(model.bundle.manifest.series)[: counts.layout.series])
        """Those whose values are published."""
        self._places = {unique_id: place for place, unique_id in enumerate(self.series)}
        self._requests = self.own.requests.data.cast("B").cast("d")
        self._latency = self.own.latency.data.cast("B").cast("d")
        self._latency_sum = self.own.latency_sum.data.cast("B").cast("d")
        self._row = int(self.own.predicted.sum())
        self._score = int(self.own.scored.sum())
        self.sensor_faults: Mapping[Sensor, bool] = {}
        """What `SensorWatch` has last found."""
        self._signals: Signals | None = None
        self._signals_at = -math.inf

    def request(self, route: int, status: int, seconds: float) -> None:
        """One request that was answered."""
        self._requests[route * (OTHER_STATUS + 1) + _STATUS_PLACE.get(status, OTHER_STATUS)] += 1.0
        self._latency[route * (len(LATENCY_BOUNDS) + 1) + bisect_left(LATENCY_BOUNDS, seconds)] += 1.0
        self._latency_sum[route] += seconds

    def row(self, source: PredictedBy, row: Sequence[float] | FloatArray, *, unusual: bool) -> None:
        """One row that was predicted: (len(model.columns),)."""
        rows = self.own.rows
        place = rows[self._row % len(rows)]
        place[:-1] = row
        place[-1] = unusual
        self._row += 1
        self.own.predicted[_SOURCE_PLACE[source]] += 1.0
        if unusual:
            self.own.unusual[0] += 1.0

    def rows(self, source: PredictedBy, matrix: FloatArray, unusual: npt.NDArray[np.bool_]) -> None:
        """Many rows: (n, len(model.columns)), and which of them are unusual: (n,)."""
        rows = self.own.rows
        kept = slice(max(len(matrix) - len(rows), 0), None)
        places = (self._row + np.arange(len(matrix))[kept]) % len(rows)
        rows[places, :-1] = matrix[kept]
        rows[places, -1] = unusual[kept]
        self._row += len(matrix)
        self.own.predicted[_SOURCE_PLACE[source]] += float(len(matrix))
        self.own.unusual[0] += float(np.count_nonzero(unusual))

    def arrived(self, arrival: str, count: int = 1) -> None:
        """Observations that came in; ``arrival`` is one of ``ARRIVALS``."""
        self.own.arrivals[_ARRIVAL_PLACE[arrival]] += float(count)

    def reached(self, unique_id: str, newest: Newest) -> None:
        """The newest truth of a series; kept of the bundle's series only."""
        place = self._places.get(unique_id)
        if place is not None:
            self.own.newest[place] = (
                newest.step,
                time.monotonic(),
                newest.truth,
                *newest.forecasts,
                *newest.scales,
            )

    def newest(self) -> dict[str, Newest]:
        """What any worker has last taken in of the bundle's series; of the same time, what was written last."""
        newest = np.stack([worker.newest for worker in self.counts])
        found = {}
        for place, unique_id in enumerate(self.series):
            step, written, truth, *by_horizon = max(newest[:, place].tolist())
            if written:
                horizons = len(self.model.horizons)
                forecasts, scales = tuple(by_horizon[:horizons]), tuple(by_horizon[horizons:])
                found[unique_id] = Newest(int(step), truth, forecasts, scales)
        return found

    def scored(self, scores: Iterable[Score]) -> None:
        """Forecasts that were met by their truth."""
        kept = self.own.scores
        for score in scores:
            kept[self._score % len(kept)] = score
            self._score += 1
            self.own.scored[score.horizon_place] += 1.0

    def signals(self) -> Signals:
        """What all workers have seen lately; computed again after a second."""
        if self._signals is None or time.monotonic() - self._signals_at > KEPT_SECONDS:
            self._signals = self._computed()
            self._signals_at = time.monotonic()
        return self._signals

    def _computed(self) -> Signals:
        workers = list(self.counts)
        rows = np.concatenate([worker.recent_rows for worker in workers])
        scores = np.concatenate([worker.recent_scores for worker in workers])
        enough = len(rows) >= FEWEST_ROWS
        by_horizon = {
            horizon: self._live(scores[scores[:, 0] == place], (horizon,))
            for place, horizon in enumerate(self.model.horizons)
        }
        return Signals(
            rows=len(rows),
            out_of_distribution_ratio=float(rows[:, -1].mean()) if enough else None,
            population_stability=self._stability(rows) if enough else {},
            live=self._live(scores, self.model.horizons),
            live_by_horizon={horizon: live for horizon, live in by_horizon.items() if live is not None},
        )

    def _stability(self, rows: FloatArray) -> dict[str, Stability]:
        """rows: (n, columns and one more)."""
        manifest = self.model.bundle.manifest
        found = {}
        for place in self.model.watched:
            column = self.model.columns[place]
            reference = manifest.references[column]
            limit = stability_limit(reference, len(rows), manifest.drift.max_population_stability_index)
            if limit is not None:
                found[column] = Stability(column, population_stability_index(reference, rows[:, place]), limit)
        return found

    def _live(self, scores: FloatArray, horizons: Sequence[int]) -> LiveHorizon | None:
        """scores: (n, len(SCORE)), of these horizons."""
        manifest = self.model.bundle.manifest
        loss = LOSSES[manifest.loss]
        _, truth, forecast, baseline, _, _ = scores.T
        scores = scores[loss.defined(truth, forecast) & loss.defined(truth, baseline)]
        if len(scores) < FEWEST_ROWS:
            return None
        _, truth, forecast, baseline, width, covered = scores.T
        error, against = (loss.error(float(loss.losses(truth, each).mean())) for each in (forecast, baseline))
        expected = [manifest.errors.get(horizon, {}) for horizon in horizons]
        losses = [loss.mean_loss(each["error"]) for each in expected if "error" in each]
        widths = [each["width"] for each in expected if "width" in each]
        usual_error = loss.error(sum(losses) / len(losses)) if len(losses) == len(horizons) else None
        usual_width = sum(widths) / len(widths) if len(widths) == len(horizons) else None
        return LiveHorizon(
            scores=len(scores),
            error=error,
            skill=1.0 - error / against if against > 0.0 else None,
            coverage=float(covered.mean()),
            error_ratio=error / usual_error if usual_error else None,
            width_ratio=float(width.mean()) / usual_width if usual_width else None,
        )
