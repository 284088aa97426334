"""Every malformed body of every protocol is answered with a problem that says where and what."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from forecasting.models.bundle import Bundle, read_bundle
from service.service_settings import Settings
from tests.serving import SPEC, Running

OBSERVATIONS, FORECAST, INFER, INVOCATIONS = (
    "/v1/observations",
    "/v1/forecast",
    "/v2/models/weather/infer",
    "/invocations",
)
ROUTES = (OBSERVATIONS, FORECAST, INFER, INVOCATIONS)
MOST = Settings.max_body_bytes
DEEP = 100_000
WIDTH = len(SPEC.columns)
DS = "2013-07-01T12:00:00Z"
NEXT_YEAR = f"{datetime.now(UTC) + timedelta(days=366):%Y-%m-%dT%H:00:00Z}"
SOON = f"{datetime.now(UTC) + timedelta(hours=4):%Y-%m-%dT%H:00:00Z}"


@pytest.fixture(scope="module")
def whole(bundle: Path) -> Bundle:
    return read_bundle(bundle)


@pytest.fixture(autouse=True)
def healthy_afterwards(service: Running) -> Iterator[None]:
    yield
    assert service.get("/health").status_code == 200
    assert service.get("/v1/forecasts/EWR").status_code == 200
    assert "Traceback" not in service.log.read_text()


def refused(answer: httpx.Response, status: int | tuple[int, ...], *named: str) -> dict[str, Any]:
    """The problem document of an answer; ``named`` are pointers that it must tell."""
    expected = status if isinstance(status, tuple) else (status,)
    assert answer.status_code in expected, f"{answer.status_code}: {answer.text[:500]}"
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert 0 < len(problem["detail"]) < 3000
    assert problem["error"] == problem["message"] == problem["detail"]
    pointers = [field["pointer"] for field in problem.get("errors", [])]
    for pointer in named:
        assert pointer in pointers, problem
        assert pointer in problem["detail"], problem
    return problem


def sent(
    service: Running, path: str, body: Any, content_type: str = "application/json", **headers: str
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.post(path, content=content, headers={"content-type": content_type, **given})


def observation(**changes: Any) -> dict[str, Any]:
    made = {"unique_id": "bad-bodies", "ds": DS, "temperature": 20.0, **changes}
    return {"observations": [made]}


def without(name: str) -> dict[str, Any]:
    made = observation()
    del made["observations"][0][name]
    return made


def window(**changes: Any) -> dict[str, Any]:
    return {"ds": [DS], "values": {"temperature": [20.0]}, **changes}


def tensor(**changes: Any) -> dict[str, Any]:
    made = {"name": "features", "shape": [1, WIDTH], "datatype": "FP64", "data": [1.0] * WIDTH, **changes}
    return {"inputs": [made]}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b" \n", 400),
        (b"no json", 400),
        (b"{", 400),
        (b'{"observations": [{"unique_id": "a"', (400, 422)),
        (b'{"inputs": [1, 2', (400, 422)),
        (b"\xff\xfe\x00", 400),
        (b'{"note": "\xff"}', (400, 422)),
        (b'{"note": "\\ud800"}', (400, 422)),
        (b"\xef\xbb\xbf{}", 400),
        (b"null", 422),
        (b"3", 422),
        (b'"text"', 422),
        (b"[]", 422),
        (b"{}", 422),
        (b"NaN", (400, 422)),
        (b"{} {}", (400, 422)),
        (b"[" * DEEP, (400, 422)),
        (b'{"a":' * DEEP, (400, 422)),
        (b'{"inputs": ' + b"[" * DEEP + b"]" * DEEP + b"}", (400, 422)),
        (b'{"parameters": {"a": ' + b"[" * DEEP + b"]" * DEEP + b'}, "inputs": NaN}', (400, 422)),
        (b'{"observations": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}", (400, 422)),
        (b"9" * 100_000, (400, 422)),
        (b"\x00" * 1000, 400),
    ],
)
def test_what_is_no_document_is_refused(service: Running, path: str, body: bytes, status: Any) -> None:
    refused(sent(service, path, body), status)


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({"observations": []}, 422, "/observations"),
        ({"observations": {}}, 422, "/observations"),
        ({"observations": [3]}, 422, "/observations/0"),
        ({"observations": [[]]}, 422, "/observations/0"),
        ({**observation(), "note": 1}, 422, None),
        (observation(snow=1.0), 422, "/observations/0"),
        (without("unique_id"), 422, "/observations/0"),
        (without("ds"), 422, "/observations/0"),
        (observation(unique_id=""), 422, "/observations/0/unique_id"),
        (observation(unique_id=7), 422, "/observations/0/unique_id"),
        (observation(unique_id="../etc/passwd"), 422, "/observations/0/unique_id"),
        (observation(unique_id="a" * 64), 422, "/observations/0/unique_id"),
        (observation(unique_id="a\nb"), 422, "/observations/0/unique_id"),
        (observation(unique_id="a\n"), 422, "/observations/0/unique_id"),
        (observation(unique_id="é"), 422, "/observations/0/unique_id"),
        (observation(ds=1372680000), 422, "/observations/0/ds"),
        (observation(ds=""), 422, "/observations/0/ds"),
        (observation(ds="yesterday"), 422, "/observations/0/ds"),
        (observation(ds="2013-07-01T12:00:00"), 422, "/observations/0/ds"),
        (observation(ds="2013-07-01"), 422, "/observations/0/ds"),
        (observation(ds="2013-02-30T00:00:00Z"), 422, "/observations/0/ds"),
        (observation(ds="2013-07-01T12:30:00Z"), 422, "/observations/0/ds"),
        (observation(ds="2013-07-01T12:00:00.000001Z"), 422, "/observations/0/ds"),
        (observation(ds="0001-01-01T00:00:00Z"), 422, "/observations/0/ds"),
        (observation(ds="0001-01-01T00:00:00+23:59"), 422, "/observations/0/ds"),
        (observation(ds="9999-12-31T23:00:00Z"), 422, "/observations/0/ds"),
        (observation(ds="9999-12-31T23:00:00-23:59"), 422, "/observations/0/ds"),
        (observation(ds="1969-12-31T23:00:00Z"), 422, "/observations/0/ds"),
        (observation(ds=NEXT_YEAR), 422, "/observations/0/ds"),
        (observation(ds=SOON), 422, "/observations/0/ds"),
        (observation(temperature="20"), 422, "/observations/0/temperature"),
        (observation(temperature=True), 422, "/observations/0/temperature"),
        (observation(temperature=[20.0]), 422, "/observations/0/temperature"),
        (observation(temperature=293.15), 422, "/observations/0/temperature"),
        (observation(temperature=77.0), 422, "/observations/0/temperature"),
        (observation(pressure=101325.0), 422, "/observations/0/pressure"),
        (observation(pressure=29.92), 422, "/observations/0/pressure"),
        (observation(humidity=-0.1), 422, "/observations/0/humidity"),
        (observation(wind_direction=1e308), 422, "/observations/0/wind_direction"),
        (observation(temperature=10**400), 422, "/observations/0/temperature"),
    ],
)
def test_observations_that_do_not_fit_are_reported_by_field(
    service: Running, body: dict[str, Any], status: int, pointer: str | None
) -> None:
    before = service.metrics()['rps_observations_total{arrival="rejected"}']
    refused(sent(service, OBSERVATIONS, body), status, *([pointer] if pointer else []))
    assert service.get("/v1/series/bad-bodies").status_code == 404
    assert service.metrics()['rps_observations_total{arrival="rejected"}'] == before + 1


@pytest.mark.parametrize(("value", "found"), [(293.15, "293.15"), (77, "77")])
def test_a_wrong_unit_is_reported_with_range_and_unit(service: Running, value: float, found: str) -> None:
    detail = refused(sent(service, OBSERVATIONS, observation(temperature=value)), 422)["detail"]
    assert detail == (
        f"/observations/0/temperature: expected a value from -60 to 60 °C; found {found}; is the unit right?"
    )


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1_0", "0x1", "+1", "01", ".5"])
@pytest.mark.parametrize("path", [OBSERVATIONS, FORECAST])
def test_numbers_that_are_none_are_refused(service: Running, path: str, literal: str) -> None:
    made = observation() if path == OBSERVATIONS else window()
    refused(sent(service, path, json.dumps(made).replace("20.0", literal).encode()), (400, 422))


@pytest.mark.parametrize("literal", ["Infinity", "-Infinity", "1e999", "-1e999", "1_0", "+1", "9" * 5000])
@pytest.mark.parametrize("path", [INFER, INVOCATIONS])
@pytest.mark.parametrize("beside", ["1.0", "NaN"])
def test_numbers_that_are_none_are_refused_beside_missing_ones(
    service: Running, path: str, literal: str, beside: str
) -> None:
    data = f"[{literal}, {', '.join([beside] * (WIDTH - 1))}]"
    named = f'{{"inputs": [{{"name": "x", "shape": [1, {WIDTH}], "datatype": "FP64", "data": {data}}}]}}'
    body = named if path == INFER else f'{{"inputs": [{data}]}}'
    refused(sent(service, path, body.encode()), (400, 422))


def test_one_bad_observation_spoils_the_batch_and_all_bad_times_are_reported(service: Running) -> None:
    good = observation()["observations"][0]
    body = {"observations": [good, {**good, "ds": NEXT_YEAR}, good, {**good, "ds": "2013-07-01T12:01:00Z"}]}
    problem = refused(sent(service, OBSERVATIONS, body), 422, "/observations/1/ds")
    assert [field["pointer"] for field in problem["errors"]] == ["/observations/1/ds", "/observations/3/ds"]
    assert service.get("/v1/series/bad-bodies").status_code == 404


def test_few_of_many_wrong_fields_are_named(service: Running) -> None:
    wrong = observation(ds="2013-07-01T12:01:00Z")["observations"] * 5000
    assert len(refused(sent(service, OBSERVATIONS, {"observations": wrong}), 422)["errors"]) == 20


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (window(ds=[]), "/ds"),
        (window(ds=DS), "/ds"),
        (window(ds=[None]), "/ds/0"),
        (window(ds=["2013-07-01T12:00:00"]), "/ds/0"),
        (window(ds=["2013-07-01T12:30:00Z"]), "/ds/0"),
        (window(ds=["0001-01-01T00:00:00Z"]), "/ds/0"),
        (window(ds=[NEXT_YEAR]), "/ds/0"),
        (window(values={}), None),
        (window(values=[]), "/values"),
        (window(values={"snow": [1.0]}), "/values"),
        (window(values={"temperature": 3}), "/values/temperature"),
        (window(values={"temperature": []}), None),
        (window(values={"temperature": [20.0, 21.0]}), "/values/temperature"),
        (window(values={"temperature": ["20"]}), "/values/temperature/0"),
        (window(values={"temperature": [293.15]}), "/values/temperature/0"),
        (window(unique_id=3), "/unique_id"),
        (window(unique_id="/"), "/unique_id"),
        (window(note=3), None),
        ({"ds": [DS]}, None),
        ({"values": {}}, None),
        (
            {"ds": [DS, "2013-07-01T13:00:00Z", "2013-07-01T14:30:00Z"], "values": {"temperature": [1.0, 2.0, 3.0]}},
            "/ds/2",
        ),
        ({"ds": [DS, NEXT_YEAR], "values": {"temperature": [1.0, 2.0]}}, "/ds/1"),
        ({"ds": [DS, DS], "values": {"temperature": [1.0]}}, "/values/temperature"),
    ],
)
def test_windows_that_do_not_fit_are_reported_by_field(
    service: Running, body: dict[str, Any], pointer: str | None
) -> None:
    refused(sent(service, FORECAST, body), (409, 422), *([pointer] if pointer else []))


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({"inputs": []}, 422, "/inputs"),
        ({"inputs": [{}]}, 422, "/inputs/0/name"),
        (tensor(shape=[WIDTH + 1]), 422, "/inputs/0/shape"),
        (tensor(shape=[2, WIDTH]), 422, "/inputs/0/shape"),
        (tensor(shape=[-1, WIDTH]), 422, "/inputs/0/shape/0"),
        (tensor(shape=[10**6, WIDTH]), 413, "/inputs/0/shape"),
        (tensor(shape=[2**63, WIDTH]), 422, "/inputs/0/shape/0"),
        (tensor(datatype="BYTES"), 422, "/inputs/0/datatype"),
        (tensor(datatype="FP16"), 422, "/inputs/0/datatype"),
        (tensor(data=["x"] * WIDTH), 422, "/inputs/0/data/0"),
        (tensor(data=[True] * WIDTH), 422, "/inputs/0/data/0"),
        (tensor(data=[10**400] * WIDTH), 422, "/inputs/0/data/0"),
        (tensor(data=[[[1.0]]]), 422, "/inputs/0/data"),
        (tensor(datatype="FP32", data=[1e300] * WIDTH), 422, "/inputs/0/data/0"),
        ({**tensor(), "outputs": [{"name": "p99"}]}, 422, "/outputs/0/name"),
        ({**tensor(), "outputs": [{}]}, 422, "/outputs/0/name"),
        ({**tensor(), "parameters": {"binary_data_output": 1}}, 422, "/parameters/binary_data_output"),
        ({**tensor(), "id": 5}, 422, "/id"),
        (tensor(data=None, parameters={"binary_data_size": 8 * WIDTH}), 400, None),
    ],
)
def test_tensors_that_do_not_fit_are_reported_by_field(
    service: Running, body: dict[str, Any], status: int, pointer: str | None
) -> None:
    refused(sent(service, INFER, body), status, *([pointer] if pointer else []))


@pytest.mark.parametrize("length", ["-1", "x", "99999", "1", "9" * 5000, "1.5", ""])
def test_lengths_of_the_json_that_are_none_are_refused(service: Running, length: str) -> None:
    body = json.dumps(tensor()).encode() + b"12345678"
    refused(sent(service, INFER, body, inference_header_content_length=length), (400, 422))


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"dataframe_split": {"data": []}}, "/dataframe_split/data"),
        ({"dataframe_split": {"data": [[1.0]]}}, "/dataframe_split/data/0"),
        ({"dataframe_split": {"columns": ["a"], "data": [[1.0] * WIDTH]}}, "/dataframe_split/columns"),
        ({"dataframe_records": [{"a": 1}]}, "/dataframe_records/0"),
        ({"dataframe_records": []}, "/dataframe_records"),
        ({"inputs": [[1.0]]}, "/inputs/0"),
        ({"inputs": 3}, "/inputs"),
        ({"instances": {"a": [1]}}, "/instances"),
        ({"instances": [["x"] * WIDTH]}, "/instances/0/0"),
        ({"inputs": [[1.0] * WIDTH], "instances": [[1.0] * WIDTH]}, "/inputs"),
        ({"inputs": [[1.0] * WIDTH], "params": 3}, "/params"),
    ],
)
def test_tables_that_do_not_fit_are_reported_by_field(service: Running, body: dict[str, Any], pointer: str) -> None:
    problem = refused(sent(service, INVOCATIONS, body), 422)
    assert pointer in [field["pointer"] for field in problem["errors"]]


@pytest.mark.parametrize(
    "body", [b"", b"a,b\n1,2\n", b"\xff", b'"', ",".join(SPEC.columns).encode(), b"a" * 200_000, b",\n" * 1000]
)
def test_csv_that_does_not_fit_is_refused(service: Running, body: bytes) -> None:
    refused(sent(service, INVOCATIONS, body, "text/csv"), (400, 422))


@pytest.mark.parametrize("path", ROUTES)
def test_a_million_rows_are_refused(service: Running, path: str) -> None:
    body = {
        OBSERVATIONS: b'{"observations": ['
        + b",".join([b'{"unique_id":"m","ds":"2013-07-01T12:00:00Z"}'] * 10**5)
        + b"]}",
        FORECAST: b'{"ds": [' + b",".join([b'"2013-07-01T12:00:00Z"'] * 10**5) + b'], "values": {}}',
        INFER: json.dumps(tensor(shape=[10**6, WIDTH], data=[0] * 10**6)).encode(),
        INVOCATIONS: b'{"inputs": [' + b",".join([b"[]"] * 10**6) + b"]}",
    }[path]
    refused(sent(service, path, body), 413)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "multipart/form-data; boundary=x", "json", "a"]
)
def test_other_content_types_are_refused(service: Running, path: str, content_type: str) -> None:
    refused(sent(service, path, b"{}", content_type), 415)


@pytest.mark.parametrize("path", [OBSERVATIONS, FORECAST, INFER])
@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.x+json"]
)
def test_json_by_other_names_is_taken(service: Running, path: str, content_type: str) -> None:
    refused(sent(service, path, b"{}", content_type), 422)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("encoding", "pack", "status"),
    [
        pytest.param("br", lambda: b"{}", 415, id="br"),
        pytest.param("gzip, gzip", lambda: gzip.compress(gzip.compress(b"{}")), 415, id="twice"),
        pytest.param("gzip", lambda: b"{}", 400, id="plain"),
        pytest.param("gzip", lambda: b"", 400, id="empty"),
        pytest.param("gzip", lambda: gzip.compress(b"{}" * 1000)[:-9], 400, id="cut short"),
        pytest.param("gzip", lambda: gzip.compress(b"{}")[:10] + b"\x00" * 20, 400, id="zeros"),
        pytest.param("gzip", lambda: gzip.compress(b"{}") + gzip.compress(b" "), 400, id="two members"),
        pytest.param("deflate", lambda: gzip.compress(b"{}"), 400, id="gzip as deflate"),
        pytest.param("gzip", lambda: gzip.compress(b" " * (MOST + 1)), 413, id="gzip above the limit"),
        pytest.param("gzip", lambda: gzip.compress(b"0" * (200 << 20), 1), 413, id="gzip far above the limit"),
        pytest.param("deflate", lambda: zlib.compress(b" " * (MOST + 1)), 413, id="deflate above the limit"),
        pytest.param("gzip", lambda: gzip.compress(b"{"), 400, id="half a document"),
        pytest.param("gzip", lambda: gzip.compress(b"{}"), 422, id="gzip"),
        pytest.param("identity", lambda: b"{}", 422, id="identity"),
    ],
)
def test_content_encodings(service: Running, path: str, encoding: str, pack: Callable[[], bytes], status: int) -> None:
    memory = service.metrics()["process_resident_memory_bytes"]
    refused(sent(service, path, pack(), content_encoding=encoding), status)
    assert service.metrics()["process_resident_memory_bytes"] < memory + 8 * MOST


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("size", [MOST + 1, 3 * MOST])
def test_body_above_the_limit_is_refused_and_the_client_hears_why(service: Running, path: str, size: int) -> None:
    problem = refused(sent(service, path, b" " * size), 413)
    assert f"{MOST} bytes" in problem["detail"]


@pytest.mark.parametrize("path", ROUTES)
def test_body_without_a_length_above_the_limit_is_refused(service: Running, path: str) -> None:
    parts = (b" " * (1 << 20) for _ in range(20))
    answer = service.post(path, content=parts, headers={"content-type": "application/json"})
    refused(answer, 413)


@pytest.mark.parametrize("path", ["/v2/models/other/infer", "/v2/models/weather/versions/99/infer"])
def test_other_models_are_told_which_is_here(service: Running, path: str, whole: Bundle) -> None:
    detail = refused(sent(service, path, tensor()), 404)["detail"]
    assert re.search(rf"this server has weather, version {whole.manifest.mlflow_run}", detail)


@pytest.mark.parametrize(
    "path",
    ["/v1/forecasts/%00", "/v1/forecasts/..%2f..%2fetc%2fpasswd", "/v1/forecasts/%ff", "/v1/series/" + "a" * 5000,
     "/page/..%2fapplication.py", "/page/%2e%2e", "/v1/forecasts/", "/v1/forecasts/é"],
)  # fmt: skip
def test_odd_paths_are_not_found(service: Running, path: str) -> None:
    refused(service.get(path), 404)
