"""The features of every row of an observation table, in a few passes over arrays that fit the processor's cache.

All series lie on one long grid, apart by more than any feature reaches, and a long gap is cut to that length; the grid
is worked through in pieces. So nothing crosses into a neighbour, and memory follows the rows, not the time spanned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from forecasting.challenge.values import Statistic
from forecasting.features.definitions import Cells, FeatureError, FloatArray, IntArray
from forecasting.features.rolling import Summaries, summaries
from forecasting.features.spec import FeatureSpec
from forecasting.judging.baselines import Fitted

CELLS_PER_PIECE = 8192
_TICKS_PER_MINUTE = {"s": 60, "ms": 60_000, "us": 60_000_000, "ns": 60_000_000_000}


@dataclass(frozen=True)
class Table:
    """Observations of several series, sorted by series and then by time.

    unique_ids: the series' names; codes: (n,), each row's place in them; ds: (n,) datetime64 of any unit, UTC;
    variables: (n,) each. A time may repeat within a series: the last row counts, for all of its repeats.
    """

    unique_ids: Sequence[str]
    codes: npt.NDArray[np.integer]
    ds: npt.NDArray[np.datetime64]
    variables: Mapping[str, FloatArray]


def table_features(spec: FeatureSpec, table: Table) -> FloatArray:
    """The features with each row as origin: (n, len(spec.columns)), column by column in memory.

    Raises FeatureError when a variable is missing, the rows are not in order, or a time is off the grid.
    """
    absent = [variable for variable in spec.variables if variable not in table.variables]
    if absent:
        raise FeatureError(f"variables: expected {', '.join(spec.variables)}; {', '.join(absent)} missing")
    steps = grid_steps(table, spec.step_minutes)
    places = _places(table.codes, steps, spec.lookback + 1)
    table = _on_scale(spec, table)
    columns = np.empty((len(spec.definitions), len(places)))
    for rows in _pieces(places):
        cells = TableCells(spec, table, steps, places, rows, reach=spec.lookback)
        for column, feature in zip(columns, spec.definitions, strict=True):
            column[rows] = feature.batch(cells)
    return columns.T


def table_baseline(spec: FeatureSpec, baseline: Fitted, table: Table) -> FloatArray:
    """The baseline's forecasts with each row as origin: (n, len(spec.horizons)); NaN without the target there.

    All in the target's unit. Raises FeatureError as ``table_features`` does.
    """
    steps = grid_steps(table, spec.step_minutes)
    reach = max(spec.lookback, baseline.lookback(spec.step_minutes))
    places = _places(table.codes, steps, reach + 1)
    forecasts = np.empty((len(places), len(spec.horizons)))
    scaled = _on_scale(spec, table)
    for rows in _pieces(places):
        cells, features = (TableCells(spec, each, steps, places, rows, reach=reach) for each in (table, scaled))
        forecasts[rows] = baseline.over_table(spec, _Origins(spec, cells, features))
    return forecasts


def table_targets(spec: FeatureSpec, table: Table) -> FloatArray:
    """The target at each row's origin plus each horizon, in its unit: (n, len(spec.horizons)); NaN if not known."""
    steps = grid_steps(table, spec.step_minutes)
    reach = max(spec.horizons)
    places = _places(table.codes, steps, reach + 1)
    values = table.variables[spec.target]
    targets = np.empty((len(spec.horizons), len(places)))
    for rows in _pieces(places):
        last = int(places[rows.stop - 1])
        ahead = slice(rows.start, int(np.searchsorted(places, last + reach, side="right")))
        origins = places[rows] - places[rows.start]
        grid = np.full(int(origins[-1]) + reach + 1, np.nan)
        grid[places[ahead] - places[rows.start]] = _finite(values[ahead])
        for column, horizon in zip(targets, spec.horizons, strict=True):
            column[rows] = grid[origins + horizon]
    return targets.T


def grid_steps(table: Table, step_minutes: int) -> IntArray:
    """Each row's time in whole steps since 1970-01-01T00:00Z: (n,). Raises FeatureError when one is not whole."""
    unit, count = np.datetime_data(table.ds.dtype)
    known = unit in _TICKS_PER_MINUTE and count == 1
    ticks = table.ds if known else table.ds.astype("datetime64[s]")
    ticks_per_step = step_minutes * _TICKS_PER_MINUTE[unit if known else "s"]
    steps, rest = np.divmod(ticks.astype(np.int64), ticks_per_step)
    off = np.flatnonzero(rest)
    if off.size:
        row = int(off[0])
        where = f"series {table.unique_ids[int(table.codes[row])]}, {table.ds[row]}"
        expected = f"times that are whole multiples of {step_minutes} minutes since 1970-01-01T00:00Z"
        raise FeatureError(f"{where}: expected {expected}; {off.size} of {len(steps)} rows are not")
    return steps


def _places(codes: npt.NDArray[np.integer], steps: IntArray, farthest: int) -> IntArray:
    """Each row's cell on one grid for all series: (n,), non-decreasing.

    Two rows of a series are as far apart as in time, but never more than ``farthest``; two series are that far apart.
    """
    if not len(steps):
        return steps
    apart = np.diff(steps)
    same_series = np.diff(codes) == 0
    out_of_order = np.flatnonzero((np.diff(codes) < 0) | (same_series & (apart < 0)))
    if out_of_order.size:
        row = int(out_of_order[0]) + 1
        raise FeatureError(f"row {row}: expected rows sorted by series and time; found it before row {row - 1}")
    np.minimum(apart, farthest, out=apart)
    apart[~same_series] = farthest
    return np.concatenate(([farthest], apart)).cumsum()


def _pieces(places: IntArray) -> Iterator[slice]:
    """Rows whose cells span about CELLS_PER_PIECE each; repeats of one time stay together."""
    start = 0
    while start < len(places):
        stop = int(np.searchsorted(places, places[start] + CELLS_PER_PIECE))
        yield slice(start, stop)
        start = stop


def _on_scale(spec: FeatureSpec, table: Table) -> Table:
    """The table as features read it."""
    scaled = spec.target_scale.scaled_values(table.variables[spec.target])
    return replace(table, variables={**table.variables, spec.target: scaled})


def _finite(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values), values, np.nan)


class TableCells(Cells):
    """A piece of the grid: the cells of some rows, and ``reach`` cells before them."""

    def __init__(
        self, spec: FeatureSpec, table: Table, steps: IntArray, places: IntArray, rows: slice, *, reach: int
    ) -> None:
        self._spec = spec
        self._table = table
        first = max(0, int(np.searchsorted(places, places[rows.start] - reach)))
        self._filled = slice(first, rows.stop)
        self._base = int(places[rows.start]) - reach
        self._filled_places = places[self._filled] - self._base
        self._count = int(places[rows.stop - 1]) - self._base + 1
        origins = places[rows] - self._base
        contiguous = bool((np.diff(origins) == 1).all())  # a gap and a repeat may cancel out in the span
        self._origins: slice | IntArray = slice(int(origins[0]), int(origins[-1]) + 1) if contiguous else origins
        self._steps = steps[rows]
        self._grids: dict[str, FloatArray] = {}
        self._summaries: dict[str, dict[int, Summaries]] = {}

    def at_origins(self, variable: str, age: int) -> FloatArray:
        return self._grid(variable)[self._ending(age)]

    def rolling_at_origins(self, variable: str, window: int, statistic: Statistic) -> FloatArray:
        if variable not in self._summaries:
            self._summaries[variable] = summaries(self._grid(variable), self._spec.windows[variable])
        return self._summaries[variable][window].statistic(statistic)[self._ending(window - 1)]

    def minutes_after_origins(self, horizon: int) -> IntArray:
        return (self._steps + horizon) * self._spec.step_minutes

    def _ending(self, age: int) -> slice | IntArray:
        if isinstance(self._origins, slice):
            return slice(self._origins.start - age, self._origins.stop - age)
        return self._origins - age

    def _grid(self, variable: str) -> FloatArray:
        if variable not in self._grids:
            grid = np.full(self._count, np.nan)
            grid[self._filled_places] = _finite(self._table.variables[variable][self._filled])
            self._grids[variable] = grid
        return self._grids[variable]


class _Origins:
    """A piece of a table, as a baseline reads it: observations in their own units, and features."""

    def __init__(self, spec: FeatureSpec, observed: TableCells, on_scale: TableCells) -> None:
        self._spec = spec
        self._on_scale = on_scale
        self.at_origins = observed.at_origins

    def feature_at_origins(self, name: str) -> FloatArray:
        """A feature of the specification, by its name: (rows,)."""
        return self._spec.definitions[self._spec.columns.index(name)].batch(self._on_scale)
