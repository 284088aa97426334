"""tritonclient's requests arrive as the numbers sent, it reads the answers; what is malformed is reported by field."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.utils import np_to_triton_dtype

from service.protocols import open_inference, open_inference_types
from service.protocols.problems import Problem

COLUMNS = ("temperature_lag_0", "humidity_lag_0", "hour_of_day_sin_h4")
HORIZONS = (4, 5, 6)
MOST_ROWS = 50
DTYPES = [np.float64, np.float32, np.float16, np.int8, np.int16, np.int32, np.int64]
DTYPES += [np.uint8, np.uint16, np.uint32, np.uint64, np.bool_]
Triton = triton.InferenceServerClient


def decode(body: bytes, header_length: int | str | None = None) -> open_inference.InferRequest:
    length = None if header_length is None else str(header_length)
    return open_inference.decode(body, length, COLUMNS, MOST_ROWS)


def tensor(name: str, values: np.ndarray, *, binary: bool) -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def table(**changes: Any) -> dict[str, Any]:
    """The plain request, with members of its only tensor changed; None leaves one out."""
    made = {"name": "features", "shape": [1, 3], "datatype": "FP64", "data": [1.5, None, 3], **changes}
    return {"inputs": [{key: value for key, value in made.items() if value is not None}]}


def per_column(*names: str, **changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": name, "shape": [2], "datatype": "FP64", "data": [1, 2], **changes} for name in names]}


def problem(document: Any, header_length: int | str | None = None, tail: bytes = b"") -> Problem:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    if header_length is None and tail:
        header_length = len(body)
    with pytest.raises(Problem) as raised:
        decode(body + tail, header_length)
    return raised.value


def values_of(dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """Values that include the ends of the type's range."""
    size = int(np.prod(shape))
    if dtype is np.bool_:
        made = np.arange(size) % 2 == 0
    elif np.issubdtype(dtype, np.integer):
        ends = [np.iinfo(dtype).min, np.iinfo(dtype).max]
        made = np.array([ends[i] if i < 2 else i for i in range(size)], dtype=dtype)
    else:
        ends = [np.finfo(dtype).min, np.finfo(dtype).max]
        made = np.array([ends[i] if i < 2 else i / 3 - 1 for i in range(size)], dtype=dtype)
    return made.astype(dtype).reshape(shape)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_table_from_tritonclient_arrives_in_every_datatype(dtype: type, binary: bool) -> None:
    sent = values_of(dtype, (4, 3))
    body, length = Triton.generate_request_body([tensor("any name", sent, binary=binary)], request_id="a1")
    if dtype is np.float16 and not binary:
        with pytest.raises(Problem, match="/inputs/0/datatype: FP16 is for binary data only"):
            decode(body, length)
        return
    request = decode(body, length)
    assert request.id == "a1"
    assert request.matrix.dtype == np.float64
    assert request.matrix.flags.c_contiguous
    assert request.matrix.flags.writeable
    np.testing.assert_array_equal(request.matrix, sent.astype(np.float64))


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_a_tensor_per_column_arrives_in_the_models_order_whatever_its_own(shape: tuple[int, ...]) -> None:
    sent = {
        COLUMNS[2]: values_of(np.float64, shape),
        COLUMNS[0]: values_of(np.int16, shape),
        COLUMNS[1]: values_of(np.float32, shape),
    }
    tensors = [tensor(name, values, binary=name != COLUMNS[0]) for name, values in sent.items()]
    body, length = Triton.generate_request_body(tensors)
    matrix = decode(body, length).matrix
    assert matrix.flags.c_contiguous
    np.testing.assert_array_equal(matrix, np.stack([sent[name].ravel().astype(float) for name in COLUMNS], axis=1))


def test_a_flat_tensor_as_wide_as_the_table_is_one_row() -> None:
    body, length = Triton.generate_request_body([tensor("features", np.arange(3.0), binary=True)])
    np.testing.assert_array_equal(decode(body, length).matrix, [[0.0, 1.0, 2.0]])
    np.testing.assert_array_equal(decode(json.dumps(table(shape=[3])).encode()).matrix, [[1.5, np.nan, 3.0]])


def test_a_table_may_be_called_like_a_column_and_a_lone_column_is_no_table() -> None:
    np.testing.assert_array_equal(decode(json.dumps(table(name=COLUMNS[0])).encode()).matrix, [[1.5, np.nan, 3.0]])
    shown = problem(table(name=COLUMNS[0], shape=[3]))
    assert (shown.status, shown.detail) == (422, f"/inputs: missing columns: {COLUMNS[1]}, {COLUMNS[2]}")


def test_a_model_of_one_column_takes_it_as_table_or_as_column() -> None:
    for shape in ([2, 1], [2]):
        body = json.dumps({"inputs": [{"name": "only", "shape": shape, "datatype": "FP64", "data": [7, 8]}]}).encode()
        np.testing.assert_array_equal(open_inference.decode(body, None, ("only",), 9).matrix, [[7.0], [8.0]])


@pytest.mark.parametrize("datatype", ["FP64", "FP32", "INT8", "BOOL"])
@pytest.mark.parametrize("data", [[1, 0, None, None, 1, 0], [[1, 0, None], [None, 1, 0]]])
def test_json_data_is_flat_or_nested_and_null_is_missing(datatype: str, data: list[Any]) -> None:
    request = decode(json.dumps(table(shape=[2, 3], datatype=datatype, data=data)).encode())
    np.testing.assert_array_equal(request.matrix, [[1, 0, np.nan], [np.nan, 1, 0]])


def test_nan_in_binary_data_is_missing() -> None:
    sent = np.array([[1.0, np.nan, 3.0]], dtype=np.float32)
    body, length = Triton.generate_request_body([tensor("features", sent, binary=True)])
    np.testing.assert_array_equal(decode(body, length).matrix, sent.astype(float))


def test_fp32_in_json_means_the_same_number_as_in_binary() -> None:
    matrix = decode(json.dumps(table(datatype="FP32", data=[0.1, 1e-60, 3])).encode()).matrix
    np.testing.assert_array_equal(matrix, [[float(np.float32(0.1)), 0.0, 3.0]])


def test_members_that_the_protocol_does_not_know_and_nulls_are_passed_over() -> None:
    document = table(data=[1, 2, 3]) | {"model_name": "weather", "id": None, "outputs": None, "parameters": None}
    document["inputs"][0] |= {"note": {"deep": [1]}, "parameters": {"content_type": "np"}}
    np.testing.assert_array_equal(decode(json.dumps(document).encode()).matrix, [[1.0, 2.0, 3.0]])


@pytest.mark.parametrize(
    ("outputs", "parameters", "expected"),
    [
        (None, None, [("forecast", False), ("lower", False), ("upper", False)]),
        ([], {"binary_data_output": False}, [("forecast", False), ("lower", False), ("upper", False)]),
        (None, {"binary_data_output": True}, [("forecast", True), ("lower", True), ("upper", True)]),
        ([{"name": "upper"}, {"name": "forecast"}], None, [("upper", False), ("forecast", False)]),
        ([{"name": "lower", "parameters": {"binary_data": True}}], None, [("lower", True)]),
        (
            [{"name": "lower", "parameters": {"binary_data": False}}, {"name": "upper"}],
            {"binary_data_output": True},
            [("lower", False), ("upper", True)],
        ),
    ],
)
@pytest.mark.parametrize("datatype", ["FP64", "FP32"])
def test_outputs_are_those_asked_for_in_their_order(
    outputs: Any, parameters: Any, expected: list[tuple[str, bool]], datatype: str
) -> None:
    document = table(datatype=datatype) | {"outputs": outputs, "parameters": parameters}
    request = decode(json.dumps(document).encode())
    assert list(request.outputs.items()) == expected


ANSWER = {
    "forecast": np.array([[1.25, -2.0, np.nan], [4.0, 5.0, 1e-300]]),
    "lower": np.array([[0.1, -3.0, np.nan], [3.0, 4.0, 0.0]]),
    "upper": np.asfortranarray([[2.1, -1.0, np.nan], [5.0, 6.0, 1.7e308]]),
}


@pytest.mark.parametrize(
    "asked",
    [
        None,
        [("forecast", True), ("lower", True), ("upper", True)],
        [("forecast", False), ("lower", False), ("upper", False)],
        [("upper", True), ("lower", False), ("forecast", True)],
        [("lower", False)],
        [("upper", True)],
    ],
)
def test_tritonclient_reads_the_answer(asked: list[tuple[str, bool]] | None) -> None:
    outputs = asked and [triton.InferRequestedOutput(name, binary_data=binary) for name, binary in asked]
    body, length = Triton.generate_request_body(
        [tensor("features", np.ones((2, 3)), binary=False)], outputs=outputs, request_id="7"
    )
    answer, header = open_inference.encode(decode(body, length), "weather", "3", HORIZONS, **ANSWER)
    assert (header is None) == (asked is not None and not any(binary for _, binary in asked))
    result = Triton.parse_response_body(answer, header_length=header)
    names = [name for name, _ in asked] if asked else list(open_inference_types.OUTPUTS)
    response = result.get_response()
    assert [response["id"], response["model_name"], response["model_version"]] == ["7", "weather", "3"]
    assert response["parameters"] == {"horizons": "4,5,6"}
    assert [output["name"] for output in response["outputs"]] == names
    for name in names:
        assert result.get_output(name)["datatype"] == "FP64"
        np.testing.assert_array_equal(result.as_numpy(name), ANSWER[name])


def test_an_answer_in_json_is_json_with_null_for_nan_and_no_id_that_was_not_sent() -> None:
    answer, header = open_inference.encode(decode(json.dumps(table()).encode()), "weather", "3", HORIZONS, **ANSWER)
    document = msgspec.json.decode(answer)
    assert header is None
    assert document["outputs"][0] == {
        "name": "forecast",
        "datatype": "FP64",
        "shape": [2, 3],
        "data": [1.25, -2.0, None, 4.0, 5.0, 1e-300],
    }
    assert "id" not in document


@pytest.mark.parametrize(
    ("document", "status", "pointer"),
    [
        ({}, 422, "/inputs"),
        ([], 422, ""),
        ({"inputs": []}, 422, "/inputs"),
        ({"inputs": {}}, 422, "/inputs"),
        ({"inputs": [3]}, 422, "/inputs/0"),
        (table() | {"id": 7}, 422, "/id"),
        (table() | {"parameters": []}, 422, "/parameters"),
        (table() | {"parameters": {"binary_data_output": 1}}, 422, "/parameters/binary_data_output"),
        (table(name=7), 422, "/inputs/0/name"),
        ({"inputs": [{"shape": [1, 3], "datatype": "FP64", "data": [1, 2, 3]}]}, 422, "/inputs/0/name"),
        (table(datatype=None), 422, "/inputs/0/datatype"),
        (table(datatype="FLOAT"), 422, "/inputs/0/datatype"),
        (table(datatype="BYTES", data=["a", "b", "c"]), 422, "/inputs/0/datatype"),
        (table(datatype="FP16"), 422, "/inputs/0/datatype"),
        (table(shape=None), 422, "/inputs/0/shape"),
        (table(shape="1,3"), 422, "/inputs/0/shape"),
        (table(shape=[]), 422, "/inputs/0/shape"),
        (table(shape=[1, 1, 3]), 422, "/inputs/0/shape"),
        (table(shape=[1, 4]), 422, "/inputs/0/shape"),
        (table(shape=[2, 3]), 422, "/inputs/0/shape"),
        (table(shape=[0, 3], data=[]), 422, "/inputs/0/shape"),
        (table(shape=[-1, 3]), 422, "/inputs/0/shape/0"),
        (table(shape=[-1, -3]), 422, "/inputs/0/shape/0"),
        (table(shape=[1, 10**30]), 422, "/inputs/0/shape/1"),
        (table(shape=[True, 3]), 422, "/inputs/0/shape/0"),
        (table(shape=[1.5, 3]), 422, "/inputs/0/shape/0"),
        (table(shape=[MOST_ROWS + 1, 3]), 413, "/inputs/0/shape"),
        (table(shape=[2**62, 3]), 413, "/inputs/0/shape"),
        (table(data=None), 422, "/inputs/0/data"),
        (table(data=7), 422, "/inputs/0/data"),
        (table(data=[]), 422, "/inputs/0/shape"),
        (table(data=[1, 2, 3, 4]), 422, "/inputs/0/shape"),
        (table(data=[1, 2, "3"]), 422, "/inputs/0/data/2"),
        (table(data=[1, True, 3]), 422, "/inputs/0/data/1"),
        (table(data=[1, {}, 3]), 422, "/inputs/0/data/1"),
        (table(data=[1, 10**400, 3]), 422, "/inputs/0/data/1"),
        (table(data=[1, 2, [3]]), 422, "/inputs/0/data/2"),
        (table(data=[[1], [2], [3]]), 422, "/inputs/0/data"),
        (table(data=[[1, 2, "3"]]), 422, "/inputs/0/data/0/2"),
        (table(data=[[[1, 2, 3]]]), 422, "/inputs/0/data"),
        (table(datatype="FP32", data=[1, 1e39, 3]), 422, "/inputs/0/data/1"),
        (table(datatype="INT8", data=[1, 2, 128]), 422, "/inputs/0/data/2"),
        (table(datatype="INT8", data=[1, -129, 3]), 422, "/inputs/0/data/1"),
        (table(datatype="INT64", data=[[1, 2.5, 3]]), 422, "/inputs/0/data/0/1"),
        (table(datatype="UINT64", data=[-1, 2, 3]), 422, "/inputs/0/data/0"),
        (table(datatype="INT32", data=[True, 2, 3]), 422, "/inputs/0/data/0"),
        (table(datatype="BOOL", data=[True, False, 2]), 422, "/inputs/0/data/2"),
        (table(parameters={"shared_memory_region": "r"}, data=None), 422, "/inputs/0/parameters/shared_memory_region"),
        (per_column(COLUMNS[0], COLUMNS[1]), 422, "/inputs"),
        (per_column(*COLUMNS, COLUMNS[1]), 422, "/inputs/3/name"),
        (per_column(*COLUMNS, shape=[2, 2]), 422, "/inputs/0/shape"),
        (per_column(*COLUMNS, shape=[MOST_ROWS + 1]), 413, "/inputs/0/shape"),
        (per_column(*COLUMNS, shape=[0], data=[]), 422, "/inputs/0/shape"),
        (per_column(*COLUMNS, data=[1, "x"]), 422, "/inputs/0/data/1"),
        (per_column(*COLUMNS, data=[[1], [2]]), 422, "/inputs/0/data"),
        (
            {"inputs": per_column(*COLUMNS[:2])["inputs"] + per_column(COLUMNS[2], shape=[1], data=[1])["inputs"]},
            422,
            "/inputs/2/shape",
        ),
        (table() | {"outputs": {}}, 422, "/outputs"),
        (table() | {"outputs": [{"name": "median"}]}, 422, "/outputs/0/name"),
        (table() | {"outputs": [{"name": "lower"}, {"name": "lower"}]}, 422, "/outputs/1/name"),
        (
            table() | {"outputs": [{"name": "lower", "parameters": {"binary_data": "yes"}}]},
            422,
            "/outputs/0/parameters/binary_data",
        ),
        (
            table() | {"outputs": [{"name": "lower", "parameters": {"classification": 3}}]},
            422,
            "/outputs/0/parameters/classification",
        ),
    ],
)
def test_a_request_that_does_not_fit_is_reported_by_field(document: Any, status: int, pointer: str) -> None:
    shown = problem(document)
    assert (shown.status, [field.pointer for field in shown.errors]) == (status, [pointer])
    assert pointer in shown.detail


def test_every_column_that_is_not_the_models_is_named() -> None:
    shown = problem(per_column("snow", *COLUMNS, "hail"))
    assert shown.detail == "/inputs: not among the model's columns: snow, hail"
    assert [field.pointer for field in shown.errors] == ["/inputs/0/name", "/inputs/4/name"]


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        (b"", 400, None),
        (b"{", 400, None),
        (b'{"inputs": [] "id"', 400, None),
        (b"\xff\xfe", 400, None),
        (b'{"inputs": [], "note": "\xff"}', 400, None),
        (b'{"id": "\\ud800"}', 400, None),
        (json.dumps(table(data=[1, float("nan"), float("inf")])).encode(), 400, None),
        (json.dumps(table(data=[1, float("nan"), 2])).encode()[:-1], 400, None),
        (json.dumps(table(data=[1, float("nan"), 2])).encode().replace(b"2", b"1e999"), 400, None),
        (json.dumps(table(data=[1, float("nan"), 2])).encode().replace(b"2", b"9" * 5000), 400, None),
        (json.dumps(table(data=[1, float("nan"), 2], datatype="\ud800")).encode(), 400, None),
        (json.dumps(table(shape=[float("nan"), 3])).encode(), 422, "/inputs/0/shape/0"),
        (b'{"note": NaN, "inputs": ' + b"[" * 100_000, 400, None),
        (json.dumps(table(data=[1, float("inf"), 2])).encode(), 400, None),
        (b"[" * 100_000, 422, ""),
        (b'{"inputs": ' + b"[" * 100_000, 422, "/inputs/0"),
        (b'{"parameters": {"a": ' + b"[" * 100_000, 400, None),
        (json.dumps(table(data=[1, 2, 3])).encode().replace(b"2", b"1e999"), 422, "/inputs/0/data/1"),
        (json.dumps(table(data=[[1, 2, 3]])).encode().replace(b"2", b"-1e999"), 422, "/inputs/0/data/0/1"),
        (json.dumps(table(data=[1, 2, 3])).encode().replace(b"2", b"9" * 5000), 422, "/inputs/0/data/1"),
        (json.dumps(table(shape=[1, 2])).encode().replace(b"1, 2", b"1, " + b"9" * 4300), 422, "/inputs/0/shape/1"),
    ],
)
def test_a_body_that_is_not_json_numbers_is_reported(body: bytes, status: int, pointer: str | None) -> None:
    shown = problem(body)
    assert shown.status == status
    assert [field.pointer for field in shown.errors] == ([] if pointer is None else [pointer])


@pytest.mark.parametrize("data", [[1.5, float("nan"), 3], [[1.5, float("nan"), 3]]])
def test_a_bare_nan_is_missing_as_null_is(data: list[Any]) -> None:
    sent = table(name="NaN", data=data) | {"id": "NaN é"}
    request = decode(json.dumps(sent).encode())
    np.testing.assert_array_equal(request.matrix, [[1.5, np.nan, 3.0]])
    assert request.id == "NaN é"


def binary_table(size: Any, **changes: Any) -> dict[str, Any]:
    return table(data=None, parameters={"binary_data_size": size}, **changes)


ROW = np.array([1.0, 2.0, 3.0]).tobytes()
SIZE = "/inputs/0/parameters/binary_data_size"


@pytest.mark.parametrize(
    ("document", "tail", "status", "pointer"),
    [
        (binary_table(24), ROW[:-1], 400, SIZE),
        (binary_table(24), ROW + b"\0", 400, open_inference.HEADER_LENGTH),
        (binary_table(16), ROW, 400, open_inference.HEADER_LENGTH),
        (binary_table(16), ROW[:16], 422, SIZE),
        (binary_table(24, shape=[2, 3]), ROW, 422, SIZE),
        (binary_table(24, datatype="FP32"), ROW, 422, SIZE),
        (binary_table(-24), ROW, 422, SIZE),
        (binary_table("24"), ROW, 422, SIZE),
        (binary_table(24.0), ROW, 422, SIZE),
        (binary_table(True), ROW, 422, SIZE),
        (binary_table(10**30), ROW, 400, SIZE),
        (binary_table(24, shape=[2**60, 3]), ROW, 413, "/inputs/0/shape"),
        (binary_table(24, datatype="BYTES"), ROW, 422, "/inputs/0/datatype"),
        (binary_table(3, datatype="BOOL"), b"\0\1\2", 422, "/inputs/0"),
        (binary_table(24), np.array([1, np.inf, 2]).tobytes(), 422, "/inputs/0"),
        (binary_table(6, datatype="FP16"), np.array([1, 2, -np.inf], dtype=np.float16).tobytes(), 422, "/inputs/0"),
        (table(parameters={"binary_data_size": 24}), ROW, 422, "/inputs/0/data"),
        (table(), ROW, 400, open_inference.HEADER_LENGTH),
    ],
)
def test_binary_data_that_does_not_fit_is_reported(document: Any, tail: bytes, status: int, pointer: str) -> None:
    shown = problem(document, tail=tail)
    assert (shown.status, [field.pointer for field in shown.errors]) == (status, [pointer])


def test_an_infinite_binary_number_is_reported_by_row_and_column() -> None:
    sent = np.zeros((3, 3))
    sent[2, 1] = np.inf
    body, length = Triton.generate_request_body([tensor("features", sent, binary=True)])
    assert "row 2, column 1" in problem(body, length).detail


@pytest.mark.parametrize("length", ["", "x", "-1", "+5", "1.5", " 3", "1_0", "٣", "9" * 30, "5000"])
def test_a_header_length_that_cannot_be_is_reported(length: str) -> None:
    shown = problem(binary_table(24), header_length=length, tail=ROW)
    assert (shown.status, [field.pointer for field in shown.errors]) == (400, [open_inference.HEADER_LENGTH])


def test_binary_data_needs_its_header() -> None:
    shown = problem(json.dumps(binary_table(24)).encode())
    assert (shown.status, open_inference.HEADER_LENGTH in shown.detail) == (400, True)


def test_what_tritonclient_sends_in_types_without_a_number_is_refused() -> None:
    for sent in (np.array([[b"a", b"b", b"c"]], dtype=object), np.ones((1, 3), dtype=ml_dtypes.bfloat16)):
        shown = problem(*Triton.generate_request_body([tensor("features", sent, binary=True)]))
        assert (shown.status, shown.errors[0].pointer) == (422, "/inputs/0/datatype")


def test_metadata_names_tensors_columns_and_horizons() -> None:
    document = msgspec.to_builtins(open_inference_types.model_metadata("weather", "3", COLUMNS, HORIZONS))
    assert document["name"] == "weather"
    assert document["versions"] == ("3",)
    assert document["platform"]
    assert document["inputs"] == (
        {"name": "features", "datatype": "FP64", "shape": (-1, 3), "parameters": {"columns": ",".join(COLUMNS)}},
    )
    assert [output["name"] for output in document["outputs"]] == ["forecast", "lower", "upper"]
    assert {output["shape"] for output in document["outputs"]} == {(-1, 3)}
    assert document["outputs"][0]["parameters"] == {"horizons": "4,5,6"}


NUMBERS = st.floats(allow_nan=True, allow_infinity=False)
TABLES = arrays.arrays(np.float64, st.tuples(st.integers(1, 5), st.just(3)), elements=NUMBERS)


@settings(deadline=None)
@given(TABLES, st.sampled_from(["binary", "flat", "nested", "columns", "binary columns"]))
def test_any_table_arrives_as_it_was_sent(sent: np.ndarray, form: str) -> None:
    if form in {"flat", "nested"}:
        rows = [[None if np.isnan(value) else float(value) for value in row] for row in sent]
        data = rows if form == "nested" else [value for row in rows for value in row]
        request = decode(json.dumps(table(shape=list(sent.shape), data=data)).encode())
    elif form == "binary":
        request = decode(*Triton.generate_request_body([tensor("features", sent, binary=True)]))
    else:
        sent = np.nan_to_num(sent)
        columns = [tensor(COLUMNS[i], sent[:, i].copy(), binary=form != "columns") for i in (2, 0, 1)]
        request = decode(*Triton.generate_request_body(columns))
    np.testing.assert_array_equal(request.matrix, sent)


def decodes_or_tells(body: bytes, header_length: str | None) -> None:
    matrix, shown = None, None
    try:
        matrix = open_inference.decode(body, header_length, COLUMNS, MOST_ROWS).matrix
    except Problem as raised:
        shown = raised
    if shown is not None:
        assert shown.status in {400, 413, 422}
        assert shown.detail
        assert msgspec.json.decode(shown.document("r"))["status"] == shown.status
    if matrix is not None:
        assert matrix.shape[1] == len(COLUMNS)
        assert 1 <= len(matrix) <= MOST_ROWS
        assert not np.isinf(matrix).any()


@settings(deadline=None)
@given(st.binary(max_size=200), st.none() | st.integers(-1, 250).map(str) | st.text(max_size=8))
def test_any_bytes_decode_or_are_reported(body: bytes, header_length: str | None) -> None:
    decodes_or_tells(body, header_length)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
ODD_TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["features", *COLUMNS]) | ANYTHING,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | st.just([1, 3]) | ANYTHING,
        "datatype": st.sampled_from(["FP64", "FP32", "FP16", "INT8", "UINT64", "BOOL", "BYTES"]) | ANYTHING,
        "data": st.lists(SCALARS, min_size=3, max_size=3) | ANYTHING,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 30)}) | ANYTHING,
    },
)
ODD_REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(ODD_TENSORS, max_size=4) | ANYTHING},
    optional={
        "id": ANYTHING,
        "parameters": ANYTHING,
        "outputs": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["forecast", "lower"]) | ANYTHING}, optional={"parameters": ANYTHING}
            )
        )
        | ANYTHING,
    },
)


@settings(max_examples=300, deadline=None)
@given(ODD_REQUESTS, st.none() | st.binary(max_size=30))
@example({"inputs": [{"name": "features", "shape": [10**4000, 10**4000], "datatype": "FP64", "data": []}]}, None)
def test_any_odd_request_decodes_or_is_reported(document: dict[str, Any], tail: bytes | None) -> None:
    body = json.dumps(document).encode()
    decodes_or_tells(body + (tail or b""), None if tail is None else str(len(body)))


@settings(deadline=None)
@given(st.data())
def test_any_damaged_request_decodes_or_is_reported(data: st.DataObject) -> None:
    body, length = Triton.generate_request_body([tensor("features", np.ones((2, 3)), binary=data.draw(st.booleans()))])
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    decodes_or_tells(bytes(damaged[:cut]), length and str(length))
    decodes_or_tells(bytes(damaged), length and str(length))
