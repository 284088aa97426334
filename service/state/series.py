"""The state of one series: its last observations, the forecasts made for it, and how large their last errors were."""

from __future__ import annotations

import math
import struct
import zlib
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from forecasting.features.ring_buffer import Arrival, RingBuffer
from forecasting.models.intervals import least_scale, next_scale
from service.model.served import Model
from service.watch.monitor import Score

NUMBERS = 4
"""Kept of each forecast: its value, the ends of its interval, and the baseline's forecast of the same."""
_HEADER = struct.Struct("<q?7x")
_CHECKSUM = struct.Struct("<I")
_NAN = array("d", [math.nan]).tobytes()


class Taken(NamedTuple):
    """What an observation did: to the state, and which earlier forecasts it was the truth for."""

    arrival: Arrival
    scores: tuple[Score, ...]


class Made(NamedTuple):
    """A forecast that was made, the ends of its interval, and the baseline's forecast of the same."""

    value: float
    lower: float
    upper: float
    baseline: float


class SeriesState:
    """The last steps of a series, and every forecast for them and for the steps to come.

    made: for each step from the oldest that a feature reads to the farthest horizon, for each horizon, ``NUMBERS``
    values of the forecast first made for that step; NaN where none was.
    met: for each step that a feature reads, 1 once its truth has come, so that a correction is not scored again.
    scales: by horizon, the exponential mean of the size of the errors, on the target's scale.
    """

    __slots__ = ("_least_scales", "buffer", "made", "met", "model", "scales")

    def __init__(self, model: Model, unique_id: str) -> None:
        """unique_id: of the series, which begins with the scales that training knows of it."""
        self.model = model
        self.buffer = RingBuffer(model.spec, model.target_lookback)
        self.made = array("d", [math.nan]) * (_steps(model) * len(model.horizons) * NUMBERS)
        self.met = bytearray(model.spec.lookback + 1)
        scales = model.first_scales(unique_id)
        self._least_scales = [least_scale(scale.usual) for scale in scales]
        self.scales = array("d", map(max, (scale.newest for scale in scales), self._least_scales))

    def take(self, step: int, row: Sequence[float]) -> Taken:
        """Take in one observation. row: by ``spec.variables``, NaN when missing; step: of the grid."""
        before = self.buffer.newest_step
        arrival = self.buffer.put(step, row)
        if arrival is Arrival.NEWEST:
            self._advance(_steps(self.model) if before is None else step - before)
        truth = row[0]
        if truth != truth or arrival is Arrival.TOO_OLD:  # noqa: PLR0124  # only NaN differs from itself
            return Taken(arrival, ())
        back = -1 if arrival is Arrival.NEWEST or before is None else step - before - 1
        if -back > len(self.met) or self.met[back]:
            return Taken(arrival, ())
        self.met[back] = 1
        scores = self._scores(step, truth)
        for score in scores:
            place, error = score.horizon_place, self.model.scale.change(score.forecast, truth)
            least = self._least_scales[place]
            self.scales[place] = next_scale(self.scales[place], error, self.model.scale_weight, least)
        return Taken(arrival, scores)

    def remember(self, values: Sequence[float], baseline: Sequence[float]) -> None:
        """Keep the forecasts made from the newest observation for when their truth comes.

        values: the model's, baseline: the baseline's, one per horizon each.
        """
        model = self.model
        width = len(model.horizons) * NUMBERS
        offsets = model.offsets(self.scales)
        for place, (horizon, value, (lower, upper)) in enumerate(zip(model.horizons, values, offsets, strict=True)):
            start = (model.spec.lookback + horizon) * width + place * NUMBERS
            self.made[start] = value
            self.made[start + 1] = model.scale.changed(value, lower)
            self.made[start + 2] = model.scale.changed(value, upper)
            self.made[start + 3] = baseline[place]

    @property
    def has_forecast(self) -> bool:
        """Whether a forecast was made from the newest observation."""
        start = (self.model.spec.lookback + self.model.horizons[0]) * len(self.model.horizons) * NUMBERS
        return not math.isnan(self.made[start])

    def made_for(self, step: int) -> list[Made | None]:
        """The forecasts made for a step, one per horizon; None where none was, or is no longer known."""
        newest, length = self.buffer.newest_step, self.model.spec.lookback + 1
        horizons = len(self.model.horizons)
        if newest is None or not 0 <= step - newest + length - 1 < _steps(self.model):
            return [None] * horizons
        start = (step - newest + length - 1) * horizons * NUMBERS
        found: list[Made | None] = []
        for at in range(start, start + horizons * NUMBERS, NUMBERS):
            made = Made(*self.made[at : at + NUMBERS])
            found.append(None if math.isnan(made.value) else made)
        return found

    @property
    def values_made_for_newest(self) -> tuple[float, ...]:
        """The forecasts made for the newest step, without their intervals: one per horizon, NaN where none was."""
        width = len(self.model.horizons) * NUMBERS
        start = self.model.spec.lookback * width
        return tuple(self.made[start : start + width : NUMBERS])

    def encode(self) -> bytes:
        """The state as bytes, for a store outside the process."""
        newest = self.buffer.newest_step
        parts = [_HEADER.pack(newest or 0, newest is not None), *(column.tobytes() for column in self.buffer.columns)]
        content = b"".join([*parts, self.made.tobytes(), self.scales.tobytes(), self.met])
        return content + _CHECKSUM.pack(zlib.crc32(content))

    @classmethod
    def decode(cls, model: Model, unique_id: str, encoded: bytes) -> SeriesState:
        """Read what ``encode`` gave, of a model with the same layout. Raises ValueError when it is something else."""
        state = cls(model, unique_id)
        columns = (*state.buffer.columns, state.made, state.scales)
        expected = _HEADER.size + 8 * sum(map(len, columns)) + len(state.met) + _CHECKSUM.size
        if len(encoded) != expected:
            raise ValueError(f"expected {expected} bytes of a series' state; found {len(encoded)}")
        content = encoded[: -_CHECKSUM.size]
        if _CHECKSUM.pack(zlib.crc32(content)) != encoded[-_CHECKSUM.size :]:
            raise ValueError("expected a series' state with its checksum; found other bytes")
        newest, known = _HEADER.unpack_from(content)
        state.buffer.newest_step = newest if known else None
        start = _HEADER.size
        for column in columns:
            stop = start + 8 * len(column)
            column[:] = array("d", content[start:stop])
            start = stop
        state.met[:] = content[start:]
        return state

    def _advance(self, steps: int) -> None:
        width = len(self.model.horizons) * NUMBERS
        gone = min(steps * width, len(self.made))
        del self.made[:gone]
        self.made.frombytes(_NAN * gone)
        gone = min(steps, len(self.met))
        del self.met[:gone]
        self.met.extend(bytes(gone))

    def _scores(self, step: int, truth: float) -> tuple[Score, ...]:
        return tuple(
            Score(place, truth, made.value, made.baseline, made.upper - made.lower, made.lower <= truth <= made.upper)
            for place, made in enumerate(self.made_for(step))
            if made is not None
        )


def _steps(model: Model) -> int:
    return model.spec.lookback + 1 + max(model.horizons)
