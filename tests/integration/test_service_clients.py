"""Clients that exist work unchanged: tritonclient for the Open Inference Protocol, and MLflow's for its scoring."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tritonclient.http as triton
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from forecasting.features.table import table_features
from forecasting.models.bundle import Bundle, read_bundle
from tests.serving import SPEC, START, Running, recorded_table

MODEL = "weather"
ROWS = 6
TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def whole(bundle: Path) -> Bundle:
    return read_bundle(bundle)


@pytest.fixture(scope="module")
def matrix() -> np.ndarray:
    """Rows of features, all complete."""
    rows = table_features(SPEC, recorded_table(START, START.replace(month=2)))
    return np.ascontiguousarray(rows[~np.isnan(rows).any(axis=1)][:ROWS])


@pytest.fixture(scope="module")
def holes(matrix: np.ndarray) -> np.ndarray:
    """The same with values that are missing, though not the origin's."""
    made = matrix.copy()
    made[::2, [name for name in range(len(SPEC.columns)) if name != SPEC.origin_column][:3]] = np.nan
    return made


@pytest.fixture(scope="module")
def client(service: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{service.port}") as found:
        yield found


def expected(bundle: Bundle, matrix: np.ndarray) -> dict[str, np.ndarray]:
    """What the bundle itself says: forecasts and the ends of their intervals, (n, horizons)."""
    columns = {horizon: [SPEC.columns.index(name) for name in SPEC.columns_for(horizon)] for horizon in SPEC.horizons}
    forecast = np.stack([bundle.predict(horizon, matrix[:, columns[horizon]]) for horizon in SPEC.horizons], axis=1)
    offsets = [bundle.manifest.offsets[horizon] for horizon in SPEC.horizons]
    lower, upper = np.array([each.lower for each in offsets]), np.array([each.upper for each in offsets])
    return {"forecast": forecast, "lower": forecast + lower, "upper": forecast + upper}


def tensor(values: np.ndarray, *, binary: bool, name: str = "features") -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def assert_is(result: triton.InferResult, wanted: dict[str, np.ndarray], *names: str) -> None:
    for name in names or wanted:
        np.testing.assert_allclose(result.as_numpy(name), wanted[name], rtol=0, atol=TOLERANCE)


def test_tritonclient_finds_server_and_model(client: triton.InferenceServerClient, whole: Bundle) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, whole.manifest.mlflow_run)
    assert not client.is_model_ready("another")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(MODEL)
    assert metadata == client.get_model_metadata(MODEL, whole.manifest.mlflow_run)
    assert metadata["versions"] == [whole.manifest.mlflow_run]
    (features,) = metadata["inputs"]
    assert features["shape"] == [-1, len(SPEC.columns)]
    assert features["parameters"]["columns"].split(",") == list(SPEC.columns)
    assert [each["name"] for each in metadata["outputs"]] == ["forecast", "lower", "upper"]


@pytest.mark.parametrize("rows", [1, ROWS])
@pytest.mark.parametrize("asked", [None, True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_infers_in_binary_and_json(
    client: triton.InferenceServerClient, whole: Bundle, matrix: np.ndarray, rows: int, asked: bool | None, binary: bool
) -> None:
    outputs = None
    if asked is not None:
        outputs = [triton.InferRequestedOutput(name, binary_data=asked) for name in ("forecast", "lower", "upper")]
    result = client.infer(MODEL, [tensor(matrix[:rows], binary=binary)], outputs=outputs, request_id="7")
    assert_is(result, expected(whole, matrix[:rows]))
    assert result.get_response()["id"] == "7"
    assert result.get_response()["parameters"] == {"horizons": ",".join(map(str, SPEC.horizons))}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_sends_missing_values(
    client: triton.InferenceServerClient, whole: Bundle, holes: np.ndarray, dtype: type, binary: bool
) -> None:
    sent = holes.astype(dtype)
    result = client.infer(MODEL, [tensor(sent, binary=binary)])
    assert_is(result, expected(whole, sent.astype(np.float64)))


def test_tritonclient_sends_a_tensor_per_column(
    client: triton.InferenceServerClient, whole: Bundle, holes: np.ndarray
) -> None:
    order = np.random.default_rng(0).permutation(len(SPEC.columns))
    inputs = [
        tensor(np.ascontiguousarray(holes[:, [place]]), binary=bool(place % 2), name=SPEC.columns[place])
        for place in order
    ]
    assert_is(client.infer(MODEL, inputs), expected(whole, holes))


def test_tritonclient_asks_for_one_output(
    client: triton.InferenceServerClient, whole: Bundle, matrix: np.ndarray
) -> None:
    result = client.infer(MODEL, [tensor(matrix, binary=True)], outputs=[triton.InferRequestedOutput("upper")])
    assert_is(result, expected(whole, matrix), "upper")
    assert result.as_numpy("forecast") is None


@pytest.mark.parametrize("request_compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_compresses(
    client: triton.InferenceServerClient,
    whole: Bundle,
    matrix: np.ndarray,
    request_compression: str | None,
    response_compression: str | None,
    binary: bool,
) -> None:
    result = client.infer(
        MODEL,
        [tensor(matrix, binary=binary)],
        request_compression_algorithm=request_compression,
        response_compression_algorithm=response_compression,
    )
    assert_is(result, expected(whole, matrix))


def test_tritonclient_names_a_version(client: triton.InferenceServerClient, whole: Bundle, matrix: np.ndarray) -> None:
    result = client.infer(MODEL, [tensor(matrix, binary=True)], model_version=whole.manifest.mlflow_run)
    assert_is(result, expected(whole, matrix))


@pytest.mark.parametrize(
    ("ask", "shown"),
    [
        (lambda client, sent: client.infer("another", [sent]), "no model 'another' here; this server has weather"),
        (lambda client, sent: client.infer(MODEL, [sent], model_version="9"), "no model 'weather/9' here"),
        (lambda client, _: client.infer(MODEL, [tensor(np.zeros((1, 2)), binary=True)]), "/inputs/0/shape: expected"),
        (
            lambda client, sent: client.infer(MODEL, [sent], outputs=[triton.InferRequestedOutput("p99")]),
            "/outputs/0/name: expected one of forecast, lower, upper; found 'p99'",
        ),
        (lambda client, _: client.get_model_metadata("another"), "no model 'another' here"),
    ],
)
def test_tritonclient_raises_what_the_service_says(
    client: triton.InferenceServerClient, matrix: np.ndarray, ask: Callable[..., Any], shown: str
) -> None:
    with pytest.raises(InferenceServerException) as raised:
        ask(client, tensor(matrix, binary=True))
    assert shown in raised.value.message()
    assert raised.value.status() in {"404", "422"}


@pytest.fixture(scope="module")
def scoring(service: Running) -> ScoringServerClient:
    return ScoringServerClient("127.0.0.1", service.port)


def predicted(predictions: pd.DataFrame) -> dict[str, np.ndarray]:
    ends = {"forecast": "", "lower": "_lower", "upper": "_upper"}
    return {
        name: predictions[[f"h{horizon}{end}" for horizon in SPEC.horizons]].to_numpy(dtype=float)
        for name, end in ends.items()
    }


def assert_predicts(predictions: pd.DataFrame, wanted: dict[str, np.ndarray]) -> None:
    for name, found in predicted(predictions).items():
        np.testing.assert_allclose(found, wanted[name], rtol=0, atol=TOLERANCE)


def test_mlflows_client_finds_the_service(scoring: ScoringServerClient) -> None:
    scoring.wait_server_ready(timeout=5)
    scoring.ping()
    assert scoring.get_version() == "1"


@pytest.mark.parametrize("missing", [False, True])
def test_mlflows_client_scores_a_frame_in_any_order_of_columns(
    scoring: ScoringServerClient, whole: Bundle, matrix: np.ndarray, holes: np.ndarray, missing: bool
) -> None:
    sent = holes if missing else matrix
    frame = pd.DataFrame(sent, columns=list(SPEC.columns))
    shuffled = frame.sample(frac=1.0, axis=1, random_state=0)
    for each in (frame, shuffled):
        assert_predicts(scoring.invoke(each).get_predictions(), expected(whole, sent))


def test_mlflows_client_scores_arrays_and_lists(scoring: ScoringServerClient, whole: Bundle, holes: np.ndarray) -> None:
    for sent in (holes, holes.tolist()):
        assert_predicts(scoring.invoke(sent).get_predictions(), expected(whole, holes))


def test_mlflows_client_raises_what_the_service_says(scoring: ScoringServerClient, matrix: np.ndarray) -> None:
    frame = pd.DataFrame(matrix, columns=list(SPEC.columns)).drop(columns="humidity_lag_0")
    with pytest.raises(Exception, match="missing columns: humidity_lag_0"):
        scoring.invoke(frame)


FORMS: dict[str, Callable[[pd.DataFrame], str]] = {
    "dataframe_split": lambda frame: json.dumps({"dataframe_split": frame.to_dict(orient="split")}),
    "dataframe_records": lambda frame: json.dumps({"dataframe_records": frame.to_dict(orient="records")}),
    "inputs": lambda frame: json.dumps({"inputs": frame.to_numpy().tolist()}),
    "instances": lambda frame: json.dumps({"instances": frame.to_dict(orient="list")}),
    "instances of records": lambda frame: json.dumps({"instances": frame.to_dict(orient="records")}),
    "csv": lambda frame: frame.to_csv(index=False),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("null", ["NaN", "null"])
def test_every_form_of_mlflows_protocol_is_scored(
    service: Running, whole: Bundle, holes: np.ndarray, form: str, null: str
) -> None:
    body = FORMS[form](pd.DataFrame(holes, columns=list(SPEC.columns)))
    if form != "csv":
        assert "NaN" in body
        body = body.replace("NaN", null)
    kind = "text/csv" if form == "csv" else "application/json"
    answer = service.post("/invocations", content=body.encode(), headers={"content-type": kind})
    assert answer.status_code == 200, answer.text
    assert_predicts(pd.DataFrame(answer.json()["predictions"]), expected(whole, holes))


def test_a_row_without_its_origin_is_answered_with_null(service: Running, matrix: np.ndarray) -> None:
    row = matrix[:1].copy()
    row[0, SPEC.origin_column] = np.nan
    (found,) = service.post(
        "/invocations",
        content=json.dumps({"inputs": row.tolist()}).encode(),
        headers={"content-type": "application/json"},
    ).json()["predictions"]
    assert set(found.values()) == {None}


def test_predictions_of_clients_are_counted(
    service: Running, client: triton.InferenceServerClient, scoring: ScoringServerClient, matrix: np.ndarray
) -> None:
    names = [f'rps_predictions_total{{source="{source}"}}' for source in ("open_inference", "mlflow")]
    before = service.metrics()
    client.infer(MODEL, [tensor(matrix, binary=True)])
    scoring.invoke(matrix[:2])
    after = service.metrics()
    assert [after[name] - before[name] for name in names] == [ROWS, 2]
