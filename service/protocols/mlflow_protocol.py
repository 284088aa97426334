"""The wire forms of MLflow's scoring protocol, POST /invocations: a table in, predictions as records out.

Source: mlflow/pyfunc/scoring_server (MLflow 3.17).
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any, Final

import msgspec
import numpy as np

from service.protocols.problems import Field, Problem, wrong_field
from service.protocols.wire_tables import FloatArray, check_rows, listed, numbers, read_json, shown

JSON: Final = "application/json"
CSV: Final = "text/csv"
FORMS: Final = ("dataframe_split", "dataframe_records", "inputs", "instances")
MISSING: Final = frozenset({"", "NA", "NaN", "nan"})
"""How a missing value is written in CSV."""


_NUMBER: Final = {"type": ["number", "null"]}
ANSWER_SCHEMA: Final[dict[str, Any]] = {
    "title": "Predictions",
    "description": "By row, each horizon's forecast, such as h4, and the ends of its interval, h4_lower and h4_upper.",
    "type": "object",
    "required": ["predictions"],
    "properties": {"predictions": {"type": "array", "items": {"type": "object", "additionalProperties": _NUMBER}}},
}


def request_schema(columns: Sequence[str]) -> dict[str, Any]:
    """The JSON forms of a request as JSON Schema, for the service's description of itself."""
    width, names = len(columns), list(columns)
    row = {"type": "array", "items": _NUMBER, "minItems": width, "maxItems": width}
    rows = {"type": "array", "minItems": 1, "items": row}
    named = {"type": "object", "required": names, "additionalProperties": False}
    record = {**named, "properties": dict.fromkeys(names, _NUMBER)}
    records = {"type": "array", "minItems": 1, "items": record}
    column = {"type": "array", "minItems": 1, "items": _NUMBER}
    by_column = {**named, "properties": dict.fromkeys(names, column)}
    order = {"type": ["array", "null"], "items": {"enum": names}, "uniqueItems": True}
    split = {
        "type": "object",
        "required": ["data"],
        "additionalProperties": False,
        "properties": {
            "data": rows,
            "columns": {**order, "minItems": width, "maxItems": width},
            "index": {"type": ["array", "null"]},
        },
    }
    table = {"anyOf": [rows, records, by_column]}
    forms = {"dataframe_split": split, "dataframe_records": records, "inputs": table, "instances": table}
    return {
        "title": "Invocation",
        "description": "A table in exactly one of four forms; null where a value is missing.",
        "oneOf": [
            {
                "type": "object",
                "required": [form],
                "properties": {form: schema, "params": {"type": ["object", "null"]}},
            }
            for form, schema in forms.items()
        ],
    }


class _Split(msgspec.Struct, forbid_unknown_fields=True):
    data: list[list[Any]]
    columns: list[Any] | None = None
    index: list[Any] | None = None


class _Body(msgspec.Struct):
    dataframe_split: _Split | msgspec.UnsetType = msgspec.UNSET
    dataframe_records: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET
    inputs: list[Any] | dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    instances: list[Any] | dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    params: dict[str, Any] | None = None


_BODY: Final = msgspec.json.Decoder(_Body)
_ENCODER: Final = msgspec.json.Encoder()


def decode(body: bytes, content_type: str, columns: Sequence[str], most_rows: int) -> FloatArray:
    """Read the body of POST /invocations as a matrix (n, number of columns), NaN where a value is missing.

    columns: the names of the matrix's columns, in order. most_rows: more are refused with 413.
    Raises Problem: 415 for another content type, 400 when the body cannot be read, 413, or 422 when it does not fit.
    """
    kind = _content_type(content_type)
    if kind == CSV:
        return _csv_table(body, columns, most_rows)
    document = read_json(_BODY, body)
    given = {f"/{form}": found for form in FORMS if (found := getattr(document, form)) is not msgspec.UNSET}
    if len(given) != 1:
        found = " and ".join(where[1:] for where in given) or "none of them"
        expected = f"expected exactly one of {', '.join(FORMS)}; found {found}"
        fields = [Field(where, "only one form is read") for where in given] or [Field("", expected)]
        raise Problem(422, expected, fields)
    ((where, table),) = given.items()
    if isinstance(table, _Split):
        return _split_table(table, columns, most_rows)
    if isinstance(table, dict):
        return _column_table(table, where, columns, most_rows)
    check_rows(len(table), most_rows, where)
    if type(table[0]) is dict:
        return _record_table(table, where, columns)
    return _row_table(table, where, len(columns))


def _content_type(content_type: str) -> str:
    kind, *parameters = (part.strip() for part in content_type.split(";"))
    if kind.lower() not in {JSON, CSV}:
        raise wrong_field("Content-Type", f"expected {JSON} or {CSV}; found {shown(content_type)}", 415)
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in {"utf-8", "utf8"}:
            raise wrong_field("Content-Type", f"expected charset=utf-8; found {shown(value)}", 415)
    return kind.lower()


def _check_names(names: Sequence[str], columns: Sequence[str], where: str) -> None:
    """Raises Problem 422 unless ``names`` are ``columns``, in any order."""
    if tuple(names) == tuple(columns):
        return
    known, found = set(columns), Counter(names)
    wrong = {
        "not among the model's columns": [name or "(no name)" for name in names if name not in known],
        "missing columns": [column for column in columns if column not in found],
        "columns that are there twice": [name for name, times in found.items() if times > 1],
    }
    if faults := [f"{what}: {listed(those)}" for what, those in wrong.items() if those]:
        raise wrong_field(where, "; ".join(faults))


def _in_order(matrix: FloatArray, names: Sequence[str], columns: Sequence[str]) -> FloatArray:
    """A matrix whose columns are called ``names``, a permutation of ``columns``, as one in the order of ``columns``."""
    if tuple(names) == tuple(columns):
        return matrix
    place = {name: position for position, name in enumerate(names)}
    return np.ascontiguousarray(matrix[:, [place[column] for column in columns]])


def _split_table(table: _Split, columns: Sequence[str], most_rows: int) -> FloatArray:
    check_rows(len(table.data), most_rows, "/dataframe_split/data")
    if table.index is not None and len(table.index) != len(table.data):
        detail = f"expected {len(table.data)} entries, one per row; found {len(table.index)}"
        raise wrong_field("/dataframe_split/index", detail)
    names: Sequence[str] = columns
    if table.columns is not None:
        for position, name in enumerate(table.columns):
            if type(name) is not str:
                detail = f"expected the name of a column; found {shown(name)}"
                raise wrong_field(f"/dataframe_split/columns/{position}", detail)
        names = table.columns
        _check_names(names, columns, "/dataframe_split/columns")
    return _in_order(_row_table(table.data, "/dataframe_split/data", len(columns)), names, columns)


def _row_table(rows: list[Any], where: str, width: int) -> FloatArray:
    for number, row in enumerate(rows):
        if type(row) is not list:
            raise wrong_field(f"{where}/{number}", f"expected a row, a list of {width} numbers; found {shown(row)}")
        if len(row) != width:
            raise wrong_field(f"{where}/{number}", f"expected {width} numbers, one per column; found {len(row)}")
    flat = list(chain.from_iterable(rows))
    return numbers(flat, lambda position: f"{where}/{position // width}/{position % width}").reshape(len(rows), width)


def _record_table(records: list[Any], where: str, columns: Sequence[str]) -> FloatArray:
    width = len(columns)
    for number, record in enumerate(records):
        if type(record) is not dict:
            raise wrong_field(f"{where}/{number}", f"expected a record; found {shown(record)}")
        _check_names(list(record), columns, f"{where}/{number}")
    flat = [record[column] for record in records for column in columns]
    return numbers(flat, lambda position: f"{where}/{position // width}/{_escaped(columns[position % width])}").reshape(
        len(records), width
    )


def _column_table(table: dict[str, Any], where: str, columns: Sequence[str], most_rows: int) -> FloatArray:
    _check_names(list(table), columns, where)
    rows: int | None = None
    for column, values in table.items():
        at = f"{where}/{_escaped(column)}"
        if type(values) is not list:
            raise wrong_field(at, f"expected a list of numbers; found {shown(values)}")
        rows = rows or check_rows(len(values), most_rows, at)
        if len(values) != rows:
            raise wrong_field(at, f"expected {rows} numbers, as the first column has; found {len(values)}")
    at_column = [partial("{}/{}/{}".format, where, _escaped(column)) for column in columns]
    return np.stack([numbers(table[column], at) for column, at in zip(columns, at_column, strict=True)], axis=1)


def _escaped(name: str) -> str:
    """A name as a token of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _csv_table(body: bytes, columns: Sequence[str], most_rows: int) -> FloatArray:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Problem(400, f"the body is not UTF-8: byte {error.start}") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] | None = None
    rows: list[list[float]] = []
    try:
        for record in reader:
            if not record:
                continue  # an empty line
            if names is None:
                names = record
                _check_names(names, columns, "header")
                continue
            check_rows(len(rows) + 1, most_rows, "rows")
            rows.append(_csv_row(record, names, reader.line_num))
    except csv.Error as error:
        raise Problem(400, f"the body is not CSV: line {reader.line_num}: {error}") from error
    if names is None:
        raise wrong_field("header", f"expected the names of the columns; found nothing; they are {listed(columns)}")
    check_rows(len(rows), most_rows, "rows")
    return _in_order(np.array(rows, dtype=np.float64), names, columns)


def _csv_row(record: list[str], names: list[str], line: int) -> list[float]:
    if len(record) != len(names):
        raise wrong_field(f"line {line}", f"expected {len(names)} fields, as the header has; found {len(record)}")
    row: list[float] = []
    for name, field in zip(names, record, strict=True):
        if field in MISSING:
            row.append(math.nan)
            continue
        try:
            value = float(field)
        except ValueError:
            value = math.inf
        if not math.isfinite(value) or "_" in field:
            where = f"line {line}, {name}"
            raise wrong_field(where, f"expected a finite number, or nothing when missing; found {shown(field)}")
        row.append(value)
    return row


def encode(horizons: Sequence[int], forecast: FloatArray, lower: FloatArray, upper: FloatArray) -> bytes:
    """The answer: by row, every horizon's forecast and the ends of its interval, in target units; NaN becomes null.

    forecast, lower, upper: (n, number of horizons).
    """
    names = [f"h{horizon}{end}" for horizon in horizons for end in ("", "_lower", "_upper")]
    rows = np.stack((forecast, lower, upper), axis=2).reshape(len(forecast), len(names)).tolist()
    return _ENCODER.encode({"predictions": [dict(zip(names, row, strict=True)) for row in rows]})
