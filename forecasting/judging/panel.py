"""The predictions of every model on the same folds, as arrays: what a comparison of models is computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

MIN_JUDGED = timedelta(days=7)
"""Fewer days of folds say more about those days than about the models."""

COLUMNS = (
    "unique_id", "ds", "horizon", "truth", "baseline", "candidate", "candidate_lower", "candidate_upper",
    "production", "production_lower", "production_upper", "compared",
)  # fmt: skip
"""The columns of `losses.parquet`, of which a panel is made; one more for each further opponent."""
OPPONENT = "opponent."
"""How the column of a further opponent begins; its kind follows."""
_VALUES = ("truth", "baseline", "candidate", "candidate_lower", "candidate_upper")
_PRODUCTION = ("production", "production_lower", "production_upper")
_LARGEST = 1e100
"""No quantity is larger, and the square of a larger one may be no number."""


class PanelError(Exception):
    """The predictions cannot be compared: the message says which column, and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One entry per series, origin and horizon that every model predicts; all (n,), values in the target's unit.

    origin: when the forecast was made, UTC, to the second. production is None when no model is in production, or when
    it could not be compared.
    """

    unique_id: npt.NDArray[np.str_]
    origin: npt.NDArray[np.datetime64]
    horizon: npt.NDArray[np.int64]
    truth: FloatArray
    baseline: FloatArray
    candidate: FloatArray
    candidate_lower: FloatArray
    candidate_upper: FloatArray
    production: FloatArray | None = None
    production_lower: FloatArray | None = None
    production_upper: FloatArray | None = None
    opponents: Mapping[str, FloatArray] = field(default_factory=dict)
    """By column, the baselines that are shown beside the one that decides."""


def read_panel(columns: Mapping[str, npt.NDArray[np.generic]]) -> Panel:
    """The compared rows of `losses.parquet`, checked: columns there, numbers finite, no row twice, and production
    predicted throughout or not at all.

    columns: one array of each of COLUMNS and of each further opponent, all of one length; others are not looked at.
    Values of rows that are not compared may be anything. Raises PanelError.
    """
    compared = _compared(columns)
    opponents = {name: _values(name, columns[name][compared]) for name in columns if name.startswith(OPPONENT)}
    values = {name: _values(name, columns[name][compared]) for name in (*_VALUES, *_PRODUCTION)}
    if all(np.isnan(values[name]).all() for name in _PRODUCTION):
        values = {name: values[name] for name in _VALUES}
    for name, found in (values | opponents).items():
        _require_finite(name, found)
    for model in ("candidate", "production") if "production" in values else ("candidate",):
        _require_order(model, values[f"{model}_lower"], values[f"{model}_upper"])
    panel = Panel(
        unique_id=_series(columns["unique_id"][compared]),
        origin=_origins(columns["ds"][compared]),
        horizon=_horizons(columns["horizon"][compared]),
        **values,
        opponents=opponents,
    )
    _require_one_row_each(panel)
    return panel


def codes(labels: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.int64]]:
    """The distinct labels in order, (k,), and for each entry which of them it is, (n,).

    What `numpy.unique` gives, but labels that stand in runs, as the series of a panel do, are sorted only once a run:
    seven million rows of text take a moment instead of a minute.
    """
    first = np.ones(len(labels), dtype=bool)
    first[1:] = labels[1:] != labels[:-1]
    starts = np.flatnonzero(first)
    distinct, code = np.unique(labels[starts], return_inverse=True)
    return distinct, np.repeat(code.astype(np.int64), np.diff(starts, append=len(labels)))


def _compared(columns: Mapping[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.bool_]:
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise PanelError(f"{', '.join(missing)}: expected such a column; found {', '.join(columns) or 'none'}")
    compared = columns["compared"]
    if compared.dtype != np.bool_:
        raise PanelError(f"compared: expected true or false in every row; found values of type {compared.dtype}")
    for name in (*COLUMNS, *(name for name in columns if name.startswith(OPPONENT))):
        if columns[name].shape != compared.shape or compared.ndim != 1:
            raise PanelError(f"{name}: expected one value per row; found {columns[name].shape} for {compared.shape}")
    if not compared.any():
        raise PanelError(f"compared: expected rows that every model predicts; found none among {len(compared)}")
    return compared.astype(np.bool_)


def _series(found: npt.NDArray[np.generic]) -> npt.NDArray[np.str_]:
    if found.dtype.kind == "O":
        others = sum(1 for label in found.tolist() if not isinstance(label, str))
        if others:
            raise PanelError(f"unique_id: expected a text in every row; found {others} others")
    elif found.dtype.kind != "U":
        raise PanelError(f"unique_id: expected text; found values of type {found.dtype}")
    return found.astype(np.str_)


def _origins(found: npt.NDArray[np.generic]) -> npt.NDArray[np.datetime64]:
    if found.dtype.kind != "M":
        raise PanelError(f"ds: expected points in time; found values of type {found.dtype}")
    origin: npt.NDArray[np.datetime64] = found.astype("datetime64[s]")
    unknown = int(np.isnat(origin).sum())
    if unknown:
        raise PanelError(f"ds: expected a point in time in every compared row; {unknown} have none")
    return origin


def _horizons(found: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    if found.dtype.kind not in "iu":
        raise PanelError(f"horizon: expected whole numbers of steps; found values of type {found.dtype}")
    horizon = found.astype(np.int64)
    if horizon.min() < 1:
        raise PanelError(f"horizon: expected 1 or more; found {horizon.min()}")
    return horizon


def _values(name: str, found: npt.NDArray[np.generic]) -> FloatArray:
    if found.dtype.kind not in "fiu":
        raise PanelError(f"{name}: expected numbers; found values of type {found.dtype}")
    return found.astype(np.float64)


def _require_finite(name: str, found: FloatArray) -> None:
    wrong = int((~(np.abs(found) <= _LARGEST)).sum())
    if wrong:
        raise PanelError(
            f"{name}: expected a number in every compared row; {wrong} of {len(found)} have none, or one beyond "
            f"{_LARGEST:g}"
        )


def _require_order(model: str, lower: FloatArray, upper: FloatArray) -> None:
    crossed = int((lower > upper).sum())
    if crossed:
        raise PanelError(f"{model}_lower: expected no more than {model}_upper; found more in {crossed} rows")


def _require_one_row_each(panel: Panel) -> None:
    """No series, origin and horizon twice."""
    _, of_series = codes(panel.unique_id)
    moments, of_moment = codes(panel.origin)
    _, of_horizon = codes(panel.horizon)
    order = np.lexsort((of_horizon, of_series * len(moments) + of_moment))
    forecast = (of_series * len(moments) + of_moment)[order]
    again = (np.diff(forecast) == 0) & (np.diff(of_horizon[order]) == 0)
    if again.any():
        row = order[1:][again][0]
        example = f"{panel.unique_id[row]} at {panel.origin[row]}Z, horizon {panel.horizon[row]}"
        expected = "unique_id, ds, horizon: expected each combination once"
        raise PanelError(f"{expected}; found {int(again.sum())} rows that repeat one, as {example}")
