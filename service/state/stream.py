"""Observations as they come in: they enter the state, score the forecasts made for them, and lead to new forecasts.

Every observation that becomes the newest of its series leads to a forecast, whether or not a client asks for it: so the
live error is that of the model, not of its clients' habits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from forecasting.features.ring_buffer import Arrival, grid_step
from forecasting.models.manifest import SeriesWindow
from service.model.served import Model
from service.state.series import SeriesState
from service.watch.monitor import Monitor, Newest, Score

Row = tuple[int, Sequence[float]]
"""A step of the grid, and a value per variable, NaN when missing."""


@dataclass
class Followed:
    """What some observations of one series led to; counted once the state is stored."""

    arrivals: Counter[str] = field(default_factory=Counter)
    scores: list[Score] = field(default_factory=list)
    rows: list[tuple[float, ...]] = field(default_factory=list)
    unusual: list[bool] = field(default_factory=list)
    newest: Newest | None = None
    """None when the newest observation came without its target."""


def follow(model: Model, state: SeriesState, rows: Sequence[Row]) -> Followed:
    """Take observations into a state, in the order in which they came, and make the forecasts that follow.

    A newest observation that came without its target leads to its forecast when it is corrected.
    """
    followed = Followed()
    for step, values in rows:
        taken = state.take(step, values)
        followed.arrivals[taken.arrival.value] += 1
        followed.scores += taken.scores
        newest = taken.arrival is Arrival.NEWEST or (
            taken.arrival is Arrival.CORRECTED and step == state.buffer.newest_step and not state.has_forecast
        )
        if newest and not model.missing_steps(state.buffer.columns[0]):
            row = model.row_at(state.buffer.columns, step)
            scored = model.score(row)
            state.remember(scored.values, model.baseline_at(state.buffer.columns, row))
            followed.rows.append(row)
            followed.unusual.append(bool(scored.unusual))
    last, truth = state.buffer.newest_step, state.buffer.origin_value
    if last is not None and truth == truth:  # noqa: PLR0124 - only NaN differs from itself
        followed.newest = Newest(last, truth, state.values_made_for_newest, tuple(state.scales))
    return followed


def count(monitor: Monitor, followed: Followed) -> None:
    """Count what observations led to."""
    for arrival, times in followed.arrivals.items():
        monitor.arrived(arrival, times)
    monitor.scored(followed.scores)
    for row, unusual in zip(followed.rows, followed.unusual, strict=True):
        monitor.row("stream", row, unusual=unusual)


def warm(model: Model, state: SeriesState, window: SeriesWindow) -> None:
    """Fill the steps that a state does not have from the observations that travel in the bundle; nothing is counted."""
    for ds, values in zip(window.ds, window.values, strict=True):
        step = grid_step(ds, model.spec)
        held, newest = state.buffer.at(step), state.buffer.newest_step
        if newest is None or step > newest or (held and all(map(math.isnan, held))):
            state.take(step, [math.nan if value is None else value for value in values])
