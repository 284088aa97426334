"""What MLflow's client sends is read as its own server reads it, and what is malformed is reported by field."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from mlflow.deployments import PredictionsResponse
from mlflow.pyfunc import scoring_server
from mlflow.utils.proto_json_utils import dump_input_data

from service.protocols import mlflow_protocol
from service.protocols.problems import Problem

COLUMNS = ("temperature_lag_0", "humidity/~percent", "hour_of_day_sin_h4")
A, B, C = COLUMNS
MOST_ROWS = 50
JSON = scoring_server.CONTENT_TYPE_JSON
CSV = scoring_server.CONTENT_TYPE_CSV

FRAME = pd.DataFrame([[1.5, -2.0, 3.0], [4.0, 1e-300, 1.7976931348623157e308]], columns=list(COLUMNS))
TABLE = FRAME.to_numpy()
SHUFFLED = FRAME[[C, A, B]]
RECORDS = FRAME.to_dict(orient="records")


def decode(body: str | bytes, content_type: str = JSON) -> np.ndarray:
    body = body.encode() if isinstance(body, str) else body
    return mlflow_protocol.decode(body, content_type, COLUMNS, MOST_ROWS)


def problem(document: Any, content_type: str = JSON) -> Problem:
    body = document if isinstance(document, (bytes, str)) else json.dumps(document)
    with pytest.raises(Problem) as raised:
        decode(body, content_type)
    return raised.value


def as_mlflow_reads(body: str) -> np.ndarray:
    """What MLflow's own scoring server hands to a model, as a matrix in the order of the columns."""
    data, _ = scoring_server._split_data_and_params(body)
    read = scoring_server.infer_and_parse_data(data)
    if isinstance(read, dict):
        read = pd.DataFrame(read)
    if isinstance(read, pd.DataFrame):
        read = (read[list(COLUMNS)] if set(read.columns) == set(COLUMNS) else read).to_numpy()
    return np.asarray(read, dtype=np.float64)


@pytest.mark.parametrize(
    "body",
    [
        dump_input_data(FRAME),
        dump_input_data(SHUFFLED),
        dump_input_data(FRAME, params={"threshold": 0.5}),
        dump_input_data(FRAME[:1].astype(np.float32)),
        dump_input_data(FRAME.set_index(pd.date_range("2026-01-01", periods=2))),
        dump_input_data(TABLE),
        dump_input_data(TABLE, inputs_key="instances"),
        dump_input_data(TABLE.tolist()),
        dump_input_data(RECORDS, inputs_key="instances"),
        dump_input_data(RECORDS, inputs_key="dataframe_records"),
        json.dumps({"dataframe_records": SHUFFLED.to_dict(orient="records")}),
        json.dumps({"dataframe_split": {"data": TABLE.tolist()}}),
        json.dumps({"inputs": SHUFFLED.to_dict(orient="list")}),
        json.dumps({"instances": FRAME.to_dict(orient="list")}),
        json.dumps({"inputs": [[1, None, 3]]}),
        dump_input_data(FRAME.replace(-2.0, np.nan)),
        dump_input_data(FRAME.replace(-2.0, np.nan), inputs_key="dataframe_records"),
        json.dumps({"dataframe_records": [{A: 1, B: None, C: 3}]}),
        json.dumps({"inputs": TABLE.tolist(), "client_request_id": "x"}),
    ],
)
def test_what_mlflows_client_makes_is_read_as_its_server_reads_it(body: str) -> None:
    matrix = decode(body)
    assert matrix.dtype == np.float64
    assert matrix.flags.c_contiguous
    np.testing.assert_array_equal(matrix, as_mlflow_reads(body))


def test_signature_name_is_passed_over() -> None:
    body = json.dumps({"signature_name": "serving_default", "instances": TABLE.tolist()})
    np.testing.assert_array_equal(decode(body), TABLE)


@pytest.mark.parametrize(
    "body",
    [
        FRAME.to_csv(index=False),
        SHUFFLED.to_csv(index=False),
        SHUFFLED.to_csv(index=False, lineterminator="\r\n", quoting=1),
        f"{A},{B},{C}\n1,,3\n,NaN,\n\nNA, 2 ,nan",
    ],
)
def test_csv_is_read_as_mlflows_server_reads_it(body: str) -> None:
    expected = scoring_server.parse_csv_input(StringIO(body))[list(COLUMNS)].to_numpy(dtype=np.float64)
    np.testing.assert_array_equal(decode(body, CSV), expected)
    np.testing.assert_array_equal(decode(b"\xef\xbb\xbf" + body.encode(), "Text/CSV; header=present"), expected)


@pytest.mark.parametrize("parameters", ["", ";charset=utf-8", '; Charset="UTF-8"', "; charset=utf8; q=1", ";"])
def test_the_content_type_may_have_parameters(parameters: str) -> None:
    np.testing.assert_array_equal(decode(dump_input_data(FRAME), f"application/json{parameters}"), TABLE)


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/xml", "application/vnd.apache.parquet", "json", "text/csv; charset=latin-1"],
)
def test_another_content_type_or_character_set_is_refused(content_type: str) -> None:
    shown = problem({"inputs": TABLE.tolist()}, content_type)
    assert (shown.status, shown.errors[0].pointer) == (415, "Content-Type")


ROW = [1, 2, 3]


def split(**changes: Any) -> dict[str, Any]:
    return {"dataframe_split": {"columns": list(COLUMNS), "data": [ROW], **changes}}


@pytest.mark.parametrize(
    ("document", "status", "pointer"),
    [
        ([ROW], 422, ""),
        ("3", 422, ""),
        ({}, 422, ""),
        ({"columns": list(COLUMNS), "data": [ROW]}, 422, ""),
        ({"inputs": [ROW], "params": [1]}, 422, "/params"),
        ({"inputs": ROW}, 422, "/inputs/0"),
        ({"inputs": 3}, 422, "/inputs"),
        ({"inputs": []}, 422, "/inputs"),
        ({"inputs": {}}, 422, "/inputs"),
        ({"inputs": [ROW, [1, 2]]}, 422, "/inputs/1"),
        ({"inputs": [[1, 2, "3"]]}, 422, "/inputs/0/2"),
        ({"inputs": [ROW, [1, True, 3]]}, 422, "/inputs/1/1"),
        ({"inputs": [[1, [2], 3]]}, 422, "/inputs/0/1"),
        ({"inputs": [ROW, [1, -(10**400), 3]]}, 422, "/inputs/1/1"),
        ({"inputs": [ROW] * (MOST_ROWS + 1)}, 413, "/inputs"),
        ({"inputs": {A: [1], B: [2]}}, 422, "/inputs"),
        ({"inputs": {A: [1], B: [2], C: 3}}, 422, f"/inputs/{C}"),
        ({"inputs": {A: [1], B: [2, 3], C: [3]}}, 422, "/inputs/humidity~1~0percent"),
        ({"inputs": {A: [1], B: ["2"], C: [3]}}, 422, "/inputs/humidity~1~0percent/0"),
        ({"inputs": {A: [], B: [], C: []}}, 422, f"/inputs/{A}"),
        ({"inputs": dict.fromkeys(COLUMNS, [1] * (MOST_ROWS + 1))}, 413, f"/inputs/{A}"),
        ({"instances": [ROW, {A: 1, B: 2, C: 3}]}, 422, "/instances/1"),
        ({"instances": [{A: 1, B: 2, C: 3}, ROW]}, 422, "/instances/1"),
        ({"instances": "abc"}, 422, "/instances"),
        ({"dataframe_records": {A: [1]}}, 422, "/dataframe_records"),
        ({"dataframe_records": [ROW]}, 422, "/dataframe_records/0"),
        ({"dataframe_records": []}, 422, "/dataframe_records"),
        ({"dataframe_records": [{A: 1, B: 2, C: 3}, {A: 1, C: 3}]}, 422, "/dataframe_records/1"),
        ({"dataframe_records": [{A: 1, B: "x", C: 3}]}, 422, "/dataframe_records/0/humidity~1~0percent"),
        ({"dataframe_records": [{A: 1, B: 2, C: 3}] * (MOST_ROWS + 1)}, 413, "/dataframe_records"),
        (split(data=[]), 422, "/dataframe_split/data"),
        (split(data=[ROW, 3]), 422, "/dataframe_split/data/1"),
        (split(data=[ROW, [1, 2]]), 422, "/dataframe_split/data/1"),
        (split(data=[ROW, [1, None, "x"]]), 422, "/dataframe_split/data/1/2"),
        (split(data=[ROW] * (MOST_ROWS + 1)), 413, "/dataframe_split/data"),
        (split(index=[0, 1]), 422, "/dataframe_split/index"),
        (split(index=3), 422, "/dataframe_split/index"),
        (split(columns=[A, B, 3]), 422, "/dataframe_split/columns/2"),
        (split(columns=A), 422, "/dataframe_split/columns"),
        (split(names=[]), 422, "/dataframe_split"),
        ({"dataframe_split": {"columns": list(COLUMNS)}}, 422, "/dataframe_split/data"),
        ({"dataframe_split": [ROW]}, 422, "/dataframe_split"),
        (b"", 400, None),
        (b'{"inputs": [[1, 2, 3]', 400, None),
        (b'{"inputs": [[1, NaN, -Infinity]]}', 400, None),
        (b'{"inputs": [[1, NaN, "x"]]}', 422, "/inputs/0/2"),
        (b'{"inputs": [[1, Infinity, 3]]}', 400, None),
        (b'{"inputs": [[1, 2, 3]], "note": "\xff"}', 400, None),
        (b'{"inputs": ' + b"[" * 100_000, 400, None),
        (b'{"inputs": [[1, 1e999, 3]]}', 422, "/inputs/0/1"),
    ],
)
def test_a_body_that_does_not_fit_is_reported_by_field(document: Any, status: int, pointer: str | None) -> None:
    shown = problem(document)
    assert (shown.status, [field.pointer for field in shown.errors]) == (status, [] if pointer is None else [pointer])


def test_two_forms_at_once_are_reported_both() -> None:
    shown = problem({"inputs": [ROW], "instances": [ROW]})
    assert (shown.status, [field.pointer for field in shown.errors]) == (422, ["/inputs", "/instances"])


@pytest.mark.parametrize(
    ("names", "detail"),
    [
        ([A, C], "missing columns: humidity/~percent"),
        ([C], f"missing columns: {A}, humidity/~percent"),
        ([*COLUMNS, "snow", "hail"], "not among the model's columns: snow, hail"),
        ([A, B, "snow"], f"not among the model's columns: snow; missing columns: {C}"),
        ([A, A, B, C], f"columns that are there twice: {A}"),
    ],
)
def test_columns_that_are_missing_or_too_many_are_named(names: list[str], detail: str) -> None:
    row = list(range(len(names)))
    assert problem(split(columns=names, data=[row])).detail == f"/dataframe_split/columns: {detail}"
    assert problem(",".join(names) + "\n" + ",".join(map(str, row)), CSV).detail == f"header: {detail}"
    if len(set(names)) == len(names):
        record = dict(zip(names, row, strict=True))
        assert problem({"dataframe_records": [record]}).detail == f"/dataframe_records/0: {detail}"
        columns = {name: [value] for name, value in record.items()}
        assert problem({"inputs": columns}).detail == f"/inputs: {detail}"


HEADER = ",".join(COLUMNS) + "\n"


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ("", 422, "header: "),
        (HEADER, 422, "rows: expected at least one row"),
        (HEADER + "1,2,3\n" * (MOST_ROWS + 1), 413, "rows: expected at most 50"),
        (HEADER + "1,2,3\n1,2\n", 422, "line 3: expected 3 fields"),
        (HEADER + "1,2,3,4\n", 422, "line 2: expected 3 fields"),
        (HEADER + "1,2,3\n1,inf,3\n", 422, "line 3, humidity/~percent: expected a finite number"),
        (HEADER + "1,1e999,3\n", 422, "line 2, humidity/~percent: expected a finite number"),
        (HEADER + "1,warm,3\n", 422, "line 2, humidity/~percent: expected a finite number, or nothing when missing"),
        (HEADER + "1,1_000,3\n", 422, "line 2, humidity/~percent: expected a finite number"),
        (HEADER + "1,true,3\n", 422, "line 2, humidity/~percent: expected a finite number"),
        (HEADER + '1,"2,3\n', 400, "the body is not CSV: line 2"),
        (HEADER + "1," + "2" * 200_000 + ",3", 400, "the body is not CSV: line 2"),
        (HEADER.encode() + b"1,\xff,3", 400, "the body is not UTF-8: byte 57"),
        (FRAME.to_csv(), 422, "header: not among the model's columns: (no name)"),
    ],
)
def test_csv_that_does_not_fit_is_reported_by_line_and_column(body: str | bytes, status: int, detail: str) -> None:
    shown = problem(body, CSV)
    assert shown.status == status
    assert shown.detail.startswith(detail)


def test_mlflows_client_reads_the_answer() -> None:
    forecast = np.array([[1.0, 2.0], [3.0, np.nan]])
    answer = mlflow_protocol.encode((4, 6), forecast, forecast - 0.5, forecast + 0.25)
    frame = PredictionsResponse.from_json(answer.decode()).get_predictions()
    assert list(frame.columns) == ["h4", "h4_lower", "h4_upper", "h6", "h6_lower", "h6_upper"]
    expected = [[1.0, 0.5, 1.25, 2.0, 1.5, 2.25], [3.0, 2.5, 3.25, np.nan, np.nan, np.nan]]
    np.testing.assert_array_equal(frame.to_numpy(dtype=float), expected)
    assert msgspec.json.decode(answer)["predictions"][1]["h6"] is None


NUMBERS = st.floats(allow_nan=True, allow_infinity=False)
TABLES = arrays.arrays(np.float64, st.tuples(st.integers(1, 5), st.just(3)), elements=NUMBERS)


@settings(deadline=None)
@given(TABLES, st.permutations(COLUMNS), st.sampled_from(["split", "records", "columns", "rows", "csv"]))
def test_any_table_arrives_as_it_was_sent(sent: np.ndarray, order: list[str], form: str) -> None:
    frame = pd.DataFrame(sent, columns=list(COLUMNS))[order]
    if form == "csv":
        np.testing.assert_array_equal(decode(frame.to_csv(index=False), CSV), sent)
        return
    frame = frame.astype(object).where(frame.notna(), None)
    documents = {
        "split": {"dataframe_split": frame.to_dict(orient="split")},
        "records": {"dataframe_records": frame.to_dict(orient="records")},
        "columns": {"inputs": frame.to_dict(orient="list")},
        "rows": {"instances": frame[list(COLUMNS)].to_numpy().tolist()},
    }
    np.testing.assert_array_equal(decode(json.dumps(documents[form])), sent)


def decodes_or_tells(body: bytes, content_type: str) -> None:
    matrix, shown = None, None
    try:
        matrix = decode(body, content_type)
    except Problem as raised:
        shown = raised
    if shown is not None:
        assert shown.status in {400, 413, 415, 422}
        assert shown.detail
        assert msgspec.json.decode(shown.document("r"))["status"] == shown.status
    if matrix is not None:
        assert matrix.shape[1] == len(COLUMNS)
        assert 1 <= len(matrix) <= MOST_ROWS
        assert not np.isinf(matrix).any()


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([JSON, CSV]) | st.text(max_size=20))
def test_any_bytes_decode_or_are_reported(body: bytes, content_type: str) -> None:
    decodes_or_tells(body, content_type)


FIELDS = st.sampled_from(["", "1", "-2.5", "nan", "inf", "1e400", '"', "\n", "\r", ",", "\0", "x", "٣", "1_0"])


@settings(deadline=None)
@given(st.lists(FIELDS, max_size=12))
def test_any_csv_decodes_or_is_reported(fields: list[str]) -> None:
    decodes_or_tells((HEADER + ",".join(fields)).encode(), CSV)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
ODD_ROWS = st.lists(st.lists(SCALARS, min_size=2, max_size=4) | ANYTHING, max_size=3)
ODD_RECORD = st.fixed_dictionaries({A: SCALARS, B: SCALARS}, optional={C: SCALARS, "snow": SCALARS})
ODD_TABLES = (
    ODD_ROWS
    | st.lists(ODD_RECORD, max_size=3)
    | st.fixed_dictionaries({name: st.lists(SCALARS, max_size=2) | ANYTHING for name in COLUMNS})
    | st.fixed_dictionaries({}, optional={"columns": st.permutations(COLUMNS), "data": ODD_ROWS, "index": ANYTHING})
    | ANYTHING
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(mlflow_protocol.FORMS), ODD_TABLES, max_size=2),
    st.none() | st.fixed_dictionaries({"params": ANYTHING}),
)
def test_any_odd_body_decodes_or_is_reported(document: dict[str, Any], more: dict[str, Any] | None) -> None:
    decodes_or_tells(json.dumps(document | (more or {})).encode(), JSON)
