"""The model that is served: a bundle, and everything that can be computed from it before the first request."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from forecasting.drift.distances import out_of_distribution
from forecasting.features.definitions import Calendar, RollingStatistic
from forecasting.features.ring_buffer import moment_of
from forecasting.models.bundle import TOLERANCE, Bundle, filled_buffer
from forecasting.models.intervals import Scale, weight
from forecasting.models.manifest import MANIFEST, BundleError
from forecasting.models.portable import LinearParts, Trees
from forecasting.models.quick_scorer import QuickScorer, Unsuitable

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

CALENDARS_KEPT = 1024
_LOGGER = logging.getLogger("service.model")


class HorizonForecast(msgspec.Struct, frozen=True):
    """The target ``horizon`` steps after the origin, at ``ds``, with the ends of its interval; in target units."""

    horizon: int
    ds: datetime
    value: float
    lower: float
    upper: float


class UnusualInput(msgspec.Struct, frozen=True):
    """A feature that lies outside what training saw, between ``low`` and ``high``; no value is a missing one."""

    feature: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Prediction:
    """Rows that were predicted: forecast and the ends of its interval, each (n, horizons)."""

    forecast: FloatArray
    lower: FloatArray
    upper: FloatArray
    unusual: BoolArray
    """Which rows have a feature outside what training saw: (n,)."""


class Scored(NamedTuple):
    """One row that was predicted: a value per horizon, and which columns lie outside what training saw."""

    values: list[float]
    unusual: Sequence[int]


class Model:
    """One bundle, in one thread: a single row goes through arrays of the scorer that are made once.

    columns: of the input matrix, the shared features and then each horizon's calendar, as ``spec.columns``.
    """

    def __init__(self, bundle: Bundle, version: str) -> None:
        spec = bundle.spec
        self.bundle = bundle
        self.spec = spec
        self.name = bundle.manifest.challenge
        self.version = version
        self.columns = spec.columns
        self.horizons = spec.horizons
        self.reach = _reach(bundle)
        self.baseline = bundle.manifest.baseline
        self.target_lookback = max(spec.lookback, self.baseline.lookback(spec.step_minutes))
        shared, cycles = len(spec.past), len(spec.features.calendar) * 2
        self._inputs = np.array(
            [
                [*range(shared), *range(shared + index * cycles, shared + (index + 1) * cycles)]
                for index in range(len(self.horizons))
            ]
        )
        offsets = [bundle.manifest.offsets[horizon] for horizon in self.horizons]
        self.lower_offsets = np.array([offset.lower for offset in offsets])
        self.upper_offsets = np.array([offset.upper for offset in offsets])
        self._offsets = [(offset.lower, offset.upper) for offset in offsets]
        scaling = bundle.manifest.scaling
        self._scaled = [(offset.lower, offset.upper) for offset in map(scaling.offsets.__getitem__, self.horizons)]
        self.scale_weight = weight(scaling.half_life)
        # The calendar is known beforehand, so no sign of drift.
        self._watched = np.array([not isinstance(feature, Calendar) for feature in spec.definitions])
        self.watched = np.flatnonzero(self._watched)
        models = [bundle.models[horizon] for horizon in self.horizons]
        self._scorer = self._quick_scorer([each.trees for each in models])
        linear = [each.linear for each in models]
        self._linear = LinearParts(linear, self._inputs.tolist()) if any(linear) else None
        self._origin = spec.origin_column
        self.scale = spec.target_scale
        kept = lru_cache(CALENDARS_KEPT)
        self.origin: Callable[[int], datetime] = kept(lambda step: moment_of(step, spec))
        self._times: Callable[[int], list[datetime]] = kept(
            lambda step: [moment_of(step + horizon, spec) for horizon in spec.horizons]
        )
        self._calendar: Callable[[int], tuple[float, ...]] = kept(
            lambda step: tuple(value for horizon in spec.horizons for value in spec.calendar_values(step, horizon))
        )

    def predict(self, matrix: FloatArray) -> Prediction:
        """matrix: (n, len(columns)) float64, NaN when missing."""
        if len(matrix) == 1:
            values, places = self.score(matrix[0].tolist())
            forecast, unusual = np.array([values]), np.array([bool(places)])
        else:
            forecast, unusual = self._score_rows(matrix)
        lower, upper = (self.scale.changed_values(forecast, each) for each in (self.lower_offsets, self.upper_offsets))
        return Prediction(forecast, lower, upper, unusual)

    def score(self, row: Sequence[float]) -> Scored:
        """One forecast per horizon. row: (len(columns),), NaN when missing."""
        if self._scorer is None:
            matrix = np.array([row])
            return Scored(self._walked(matrix)[0].tolist(), np.flatnonzero(self._outside(matrix)[0]).tolist())
        change, places = self._scorer.score(row)
        if self._linear:
            change = change + self._linear.predict_row(row)
        origin, changed = self.scale.unscaled(row[self._origin]), self.scale.changed
        return Scored([changed(origin, each) for each in change.tolist()], places)

    def row_at(self, columns: Sequence[Sequence[float]], step: int) -> tuple[float, ...]:
        """The input row of a series' last steps, the newest of them ``step`` of the grid: (len(columns),).

        columns: by ``spec.variables``, the last ``lookback + 1`` values of each, oldest first.
        """
        return self.spec.read_origin(columns) + self._calendar(step)

    def baseline_at(self, columns: Sequence[Sequence[float]], row: Sequence[float]) -> list[float]:
        """The baseline's forecast of each horizon. row: ``row_at`` of these columns.

        columns: as for ``row_at``, the target with ``target_lookback + 1`` values.
        """
        return self.baseline.at_moment(self.spec, columns, row)

    def unusual_inputs(self, row: Sequence[float], places: Sequence[int]) -> tuple[UnusualInput, ...]:
        """The columns that ``score`` gave, as an answer shows them."""
        unusual = []
        for place in places:
            reference = self.bundle.manifest.references[self.columns[place]]
            value = None if math.isnan(row[place]) else row[place]
            unusual.append(UnusualInput(self.columns[place], value, reference.low, reference.high))
        return tuple(unusual)

    def first_scales(self, unique_id: str) -> list[Scale]:
        """The size of a series' errors, as far as training knows it: one per horizon."""
        scaling = self.bundle.manifest.scaling
        return [scaling.of(unique_id, horizon) for horizon in self.horizons]

    def offsets(self, scales: Sequence[float] | None = None) -> list[tuple[float, float]]:
        """By which change on the target's scale each horizon's value becomes the ends of its interval.

        scales: the size of the series' last errors, one per horizon; None when they are not known.
        """
        if scales is None:
            return self._offsets
        return [(scale * lower, scale * upper) for scale, (lower, upper) in zip(scales, self._scaled, strict=True)]

    def forecasts(
        self, step: int, values: Sequence[float], scales: Sequence[float] | None = None
    ) -> tuple[HorizonForecast, ...]:
        """Predicted values, of an origin at ``step`` of the grid, with times and intervals; scales: as ``offsets``."""
        changed = self.scale.changed
        return tuple(
            [
                HorizonForecast(horizon, ds, value, changed(value, lower), changed(value, upper))
                for horizon, ds, value, (lower, upper) in zip(
                    self.horizons, self._times(step), values, self.offsets(scales), strict=True
                )
            ]
        )

    def missing_steps(self, target: Sequence[float]) -> list[int]:
        """Ages, in steps before the origin, of the target's values that a forecast cannot do without; [] when it can.

        A forecast needs the target at its origin, and at least half of the values in the longest window of the target
        that a feature summarises: that is where these features stop being defined.
        """
        tail = target[-self.reach :]
        if (total := sum(tail)) == total:  # only NaN differs from itself
            return []
        missing = [age for age in range(self.reach) if math.isnan(tail[-1 - age])]
        return missing if 0 in missing or 2 * len(missing) > self.reach else []

    def _score_rows(self, matrix: FloatArray) -> tuple[FloatArray, BoolArray]:
        """Forecasts, (n, horizons), and which rows lie outside what training saw, (n,)."""
        if self._scorer is None:
            return self._walked(matrix), np.asarray(self._outside(matrix).any(axis=1))
        change, unusual = self._scorer.score_rows(matrix)
        if self._linear:
            change = change + self._linear.predict(matrix)
        origins = self.scale.unscaled_values(matrix[:, [self._origin]])
        return self.scale.changed_values(origins, change), unusual

    def _walked(self, matrix: FloatArray) -> FloatArray:
        """The forecasts of each row, each model by itself: (n, horizons). matrix: (n, len(columns))."""
        inputs = zip(self.horizons, self._inputs, strict=True)
        return np.stack([self.bundle.predict(horizon, matrix[:, columns]) for horizon, columns in inputs], axis=1)

    def _quick_scorer(self, trees: Sequence[Trees | None]) -> QuickScorer | None:
        """None when the trees are too large for it; they are then walked."""
        try:
            watched = zip(self.columns, self._watched, strict=True)
            limits = [self.bundle.manifest.references[column] if each else None for column, each in watched]
            return QuickScorer(trees, self._inputs.tolist(), limits)
        except Unsuitable as error:
            _LOGGER.info("the trees are walked one by one", extra={"reason": str(error)})
            return None

    def _outside(self, matrix: FloatArray) -> BoolArray:
        """Which values lie outside what training saw: (n, len(columns))."""
        references = (self.bundle.manifest.references[column] for column in self.columns)
        outside = np.stack([out_of_distribution(*pair) for pair in zip(references, matrix.T, strict=True)], axis=1)
        return np.asarray(outside & self._watched)


def example_row(model: Model) -> tuple[int, tuple[float, ...]]:
    """The worked example's origin, as a step of the grid, and its input row: (len(columns),).

    Raises BundleError when the example has no observation.
    """
    buffer = filled_buffer(model.spec, model.bundle.manifest.example.observations)
    if buffer.newest_step is None:
        raise BundleError(f"{MANIFEST}: example.observations: expected at least one; found none")
    return buffer.newest_step, model.row_at(buffer.columns, buffer.newest_step)


def check_example(model: Model) -> None:
    """Work the bundle's example as requests are answered: as a single row, and in a batch.

    Raises BundleError when a forecast is not the example's.
    """
    expected = model.bundle.manifest.example.forecasts
    step, row = example_row(model)
    alone = model.forecasts(step, model.score(row).values)
    if [(each.horizon, each.ds) for each in alone] != [(each.horizon, each.ds) for each in expected]:
        raise BundleError(f"{MANIFEST}: example.forecasts: expected {alone}; found {expected}")
    together = model.predict(np.array([row, row]))
    for way, found in (
        ("as a single row", [(each.value, each.lower, each.upper) for each in alone]),
        ("in a batch", np.stack([together.forecast[-1], together.lower[-1], together.upper[-1]], axis=1).tolist()),
    ):
        named = [(each.value, each.lower, each.upper) for each in expected]
        if not np.allclose(found, named, rtol=TOLERANCE, atol=0.0 if model.scale.positive else TOLERANCE):
            raise BundleError(f"{MANIFEST}: example.forecasts: expected {named}; {way} the models give {found}")


def _reach(bundle: Bundle) -> int:
    """The longest rolling window of the target; without any, all that a feature looks back on."""
    spec = bundle.spec
    statistics = (feature for feature in spec.past if isinstance(feature, RollingStatistic))
    windows = [each.window for each in statistics if each.variable == spec.target]
    return max(windows, default=spec.lookback + 1)
