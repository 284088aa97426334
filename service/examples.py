"""Requests that work, made from the example that every bundle carries: for the service's description of itself."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from forecasting.ring_buffer import grid_step
from service.model import Model
from service.open_inference_types import INPUT

OBSERVATIONS = 2
UNIQUE_ID = "example"


def observations(model: Model) -> dict[str, Any]:
    """The body of POST /v1/observations."""
    window = model.bundle.manifest.example.observations
    latest = list(zip(window.ds, window.values, strict=True))[-OBSERVATIONS:]
    named = [{"ds": _written(ds), **dict(zip(model.spec.variables, values, strict=True))} for ds, values in latest]
    return {"observations": [{"unique_id": UNIQUE_ID, **each} for each in named]}


def window(model: Model) -> dict[str, Any]:
    """The body of POST /v1/forecast."""
    found = model.bundle.manifest.example.observations
    columns = zip(*found.values, strict=True)
    return {
        "ds": [_written(ds) for ds in found.ds],
        "values": {name: list(column) for name, column in zip(model.spec.variables, columns, strict=True)},
        "unique_id": UNIQUE_ID,
    }


def infer(model: Model) -> dict[str, Any]:
    """The body of POST /v2/models/{name}/infer."""
    row = features(model)
    return {"inputs": [{"name": INPUT, "shape": [1, len(row)], "datatype": "FP64", "data": row}]}


def invocation(model: Model) -> dict[str, Any]:
    """The body of POST /invocations, as JSON."""
    return {"dataframe_split": {"columns": list(model.columns), "data": [features(model)]}}


def invocation_csv(model: Model) -> str:
    """The body of POST /invocations, as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([model.columns, features(model)])
    return text.getvalue()


def features(model: Model) -> list[float | None]:
    """The input row of the bundle's example, None where a value is missing."""
    found = model.bundle.manifest.example.observations
    step = {grid_step(ds, model.spec): values for ds, values in zip(found.ds, found.values, strict=True)}
    reach = range(max(step) - model.spec.lookback, max(step) + 1)
    rows = [[math.nan if value is None else value for value in step[each]] if each in step else None for each in reach]
    missing = [math.nan] * len(model.spec.variables)
    columns = list(zip(*(missing if row is None else row for row in rows), strict=True))
    return [None if math.isnan(value) else float(value) for value in model.row_at(columns, max(step))]


def _written(ds: Any) -> str:  # noqa: ANN401
    return f"{ds:%Y-%m-%dT%H:%M:%SZ}"
