"""Faulty sensors, found in the state of the series when the metrics are read: taking an observation costs nothing more.

The last steps of every series are in the store, which workers and replicas share, so each of them finds the same. What
is found concerns the newest steps alone: a fault that begins and ends between two reads, within one upload of a
backlog, is left to the data gate.
"""

from __future__ import annotations

import asyncio
import math
import time

import numpy as np

from forecasting.drift.sensor_faults import FloatArray, SensorGrid, faults
from service.model.served import Model
from service.state.series import SeriesState
from service.state.stores import SeriesStore, StateUnreadable, StoreUnavailable
from service.watch.monitor import KEPT_SECONDS, Monitor, Sensor


class SensorWatch:
    """The detectors that the bundle names, over the bundle's series."""

    def __init__(self, model: Model, store: SeriesStore, monitor: Monitor) -> None:
        manifest = model.bundle.manifest
        self._model = model
        self._store = store
        self._monitor = monitor
        self._series = manifest.series
        self._detectors = manifest.detectors
        self._steps = max((detector.steps for detector in self._detectors), default=0)
        self._looked_at = -math.inf

    async def look(self) -> None:
        """Tell the monitor what the detectors find now; again after a second. Nothing, while the store is away."""
        if not self._detectors or time.monotonic() - self._looked_at < KEPT_SECONDS:
            return
        self._looked_at = time.monotonic()
        try:
            states = await asyncio.gather(*map(self._read, self._series))
        except StoreUnavailable:
            self._monitor.sensor_faults = {}
            return
        self._monitor.sensor_faults = self._found(states)

    async def _read(self, unique_id: str) -> SeriesState | None:
        try:
            return await self._store.read(unique_id)
        except StateUnreadable:  # of this series alone; a request that changes it gets the error
            return None

    def _found(self, states: list[SeriesState | None]) -> dict[Sensor, bool]:
        steps = [state.buffer.newest_step for state in states if state and state.buffer.newest_step is not None]
        if not steps:
            return {}
        grid = self._grid(states, max(steps))
        usual = self._model.bundle.manifest.usual_differences
        return {
            Sensor(unique_id, detector.kind, detector.variable): bool(found[-1])
            for detector in self._detectors
            for unique_id, found in zip(grid.unique_ids, faults(detector, grid, usual), strict=True)
        }

    def _grid(self, states: list[SeriesState | None], newest: int) -> SensorGrid:
        """The last steps of all series, up to the newest of any; a series that is behind lacks the last of them."""
        spec = self._model.spec
        values = {}
        for variable in dict.fromkeys(name for detector in self._detectors for name in detector.reads.values()):
            place = spec.variables.index(variable)
            values[variable] = np.stack([_last(state, place, newest, self._steps) for state in states])
        minutes = np.arange(newest - self._steps + 1, newest + 1) * spec.step_minutes
        return SensorGrid(self._series, minutes // 60 % 24, values)


def _last(state: SeriesState | None, place: int, newest: int, steps: int) -> FloatArray:
    """One variable of a series, by its place, in so many steps up to ``newest``: (steps,), NaN where there is none."""
    found = np.full(steps, np.nan)
    if state is not None and state.buffer.newest_step is not None:
        behind = newest - state.buffer.newest_step
        kept = state.buffer.columns[place][max(behind - steps, -len(state.buffer.columns[place])) :]
        if behind < steps:
            found[steps - behind - len(kept) : steps - behind] = kept
    return found
