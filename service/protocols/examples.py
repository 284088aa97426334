"""Requests that work, made from the example that every bundle carries: for the OpenAPI document."""

from __future__ import annotations

import csv
import io
import math
from datetime import datetime
from typing import Any

from service.model.served import Model, example_row
from service.protocols.open_inference_types import INPUT

OBSERVATIONS = 2
UNIQUE_ID = "example"


def observations(model: Model) -> dict[str, Any]:
    """The body of POST /v1/observations."""
    found = model.bundle.manifest.example.observations
    latest = list(zip(found.ds, found.values, strict=True))[-OBSERVATIONS:]
    named = [(ds, dict(zip(model.spec.variables, values, strict=True))) for ds, values in latest]
    return {"observations": [{"unique_id": UNIQUE_ID, "ds": _written(ds), **values} for ds, values in named]}


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
    _, row = example_row(model)
    return [None if math.isnan(value) else value for value in row]


def _written(ds: datetime) -> str:
    return f"{ds:%Y-%m-%dT%H:%M:%SZ}"
