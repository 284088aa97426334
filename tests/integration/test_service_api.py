"""What the service's own routes answer when all is well, over real HTTP: against the bundle's own forecasts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecasting.features.table import Table
from forecasting.models.bundle import Bundle, read_bundle
from forecasting.models.manifest import SeriesWindow
from tests import serving
from tests.serving import CHALLENGE, SPEC, Running, observations, recorded_table

ORIGIN = datetime(2013, 7, 1, 12, tzinfo=UTC)
LENGTH = SPEC.lookback + 1
TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def whole(bundle: Path) -> Bundle:
    return read_bundle(bundle)


@pytest.fixture(scope="module")
def table() -> Table:
    return recorded_table(ORIGIN - timedelta(hours=2 * LENGTH), ORIGIN + timedelta(hours=1))


@pytest.fixture
def records(table: Table, request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The hours up to the origin, as a series that no other test has."""
    name = re.sub(r"\W", "-", request.node.name.removeprefix("test_"))[:50]
    return [{**each, "unique_id": name} for each in observations(table, "JFK")][-LENGTH:]


def forecast_of(bundle: Bundle, records: list[dict[str, Any]]) -> list[tuple[float, float, float]]:
    """What the bundle itself says of the same observations."""
    ds = tuple(datetime.fromisoformat(each["ds"]) for each in records)
    values = tuple(tuple(each.get(name) for name in SPEC.variables) for each in records)
    return [(each.value, each.lower, each.upper) for each in bundle.forecast_window(SeriesWindow(ds=ds, values=values))]


def window_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "unique_id": records[0]["unique_id"],
        "ds": [each["ds"] for each in records],
        "values": {name: [each.get(name) for each in records] for name in SPEC.variables},
    }


def triples(answer: dict[str, Any]) -> list[tuple[float, float, float]]:
    return [(each["value"], each["lower"], each["upper"]) for each in answer["forecasts"]]


def forecast(service: Running, unique_id: str) -> dict[str, Any]:
    answer = service.get(f"/v1/forecasts/{unique_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_state_window_and_bundle_give_the_same_forecast(
    service: Running, whole: Bundle, records: list[dict[str, Any]]
) -> None:
    said = service.send(records)
    unique_id = records[0]["unique_id"]
    assert said == {
        "accepted": LENGTH, "newest": LENGTH, "late": 0, "repeated": 0, "corrected": 0, "too_old": 0,
        "new_series": [unique_id],
    }  # fmt: skip
    from_state = forecast(service, unique_id)
    from_window = service.post("/v1/forecast", json=window_of(records)).json()
    np.testing.assert_allclose(triples(from_window), forecast_of(whole, records), rtol=0, atol=TOLERANCE)
    ends = {"lower": None, "upper": None}  # which, of a known series, follow its last errors
    for answer in (from_state, from_window):
        answer["forecasts"] = [each | ends for each in answer["forecasts"]]
    assert from_state == from_window


def test_forecast_tells_times_units_interval_and_model(
    service: Running, whole: Bundle, records: list[dict[str, Any]]
) -> None:
    answer = service.post("/v1/forecast", json=window_of(records)).json()
    assert answer["origin"] == "2013-07-01T12:00:00Z"
    assert [each["horizon"] for each in answer["forecasts"]] == list(SPEC.horizons)
    expected = [f"2013-07-01T{12 + horizon}:00:00Z" for horizon in SPEC.horizons]
    assert [each["ds"] for each in answer["forecasts"]] == expected
    assert all(each["lower"] < each["value"] < each["upper"] for each in answer["forecasts"])
    assert (answer["unit"], answer["interval"]) == (CHALLENGE.target.unit, 0.9)
    assert answer["model"] == {"name": "weather", "version": whole.manifest.mlflow_run}
    assert answer["unusual"] == []


def test_unusual_inputs_are_flagged_with_what_training_saw(service: Running, records: list[dict[str, Any]]) -> None:
    before = service.metrics()["rps_out_of_distribution_total"]
    records[-1]["pressure"] = 871.0
    unusual = {
        each["feature"]: each for each in service.post("/v1/forecast", json=window_of(records)).json()["unusual"]
    }
    assert unusual["pressure_lag_0"]["value"] == 871.0
    assert 871.0 < unusual["pressure_lag_0"]["low"] < unusual["pressure_lag_0"]["high"]
    assert not any(name.startswith("temperature") for name in unusual)
    assert service.metrics()["rps_out_of_distribution_total"] == before + 1


def test_window_of_any_order_with_repeats_and_gaps_is_put_in_order(
    service: Running, records: list[dict[str, Any]]
) -> None:
    straight = service.post("/v1/forecast", json=window_of([*records[:5], *records[7:]])).json()
    wrong = {**records[20], "temperature": -30.0}
    mixed = [wrong, *reversed(records[7:]), *records[:5]]
    mixed.append(records[20])
    assert service.post("/v1/forecast", json=window_of(mixed)).json()["forecasts"] == straight["forecasts"]


def test_window_may_be_longer_than_needed_and_in_another_time_zone(
    service: Running, table: Table, records: list[dict[str, Any]]
) -> None:
    longer = [{**each, "unique_id": records[0]["unique_id"]} for each in observations(table, "JFK")]
    for each in longer:
        each["ds"] = (datetime.fromisoformat(each["ds"]) + timedelta(hours=2)).isoformat().replace("+00:00", "+02:00")
    expected = service.post("/v1/forecast", json=window_of(records)).json()
    assert service.post("/v1/forecast", json=window_of(longer)).json() == expected


def test_variables_that_are_left_out_are_missing(
    service: Running, whole: Bundle, records: list[dict[str, Any]]
) -> None:
    window = window_of(records)
    del window["values"]["wind_speed"]
    for each in records:
        each.pop("wind_speed", None)
    answer = service.post("/v1/forecast", json=window).json()
    np.testing.assert_allclose(triples(answer), forecast_of(whole, records), rtol=0, atol=TOLERANCE)


def test_late_repeated_corrected_and_old_observations_are_reported_and_counted(
    service: Running, whole: Bundle, records: list[dict[str, Any]]
) -> None:
    before = service.metrics()
    service.send([*records[:20], *records[21:]])
    old = {**records[0], "ds": "2013-01-01T00:00:00Z"}
    said = service.send([records[20], records[5], {**records[6], "temperature": 3.25}, old])
    assert {name: said[name] for name in ("accepted", "newest", "late", "repeated", "corrected", "too_old")} == {
        "accepted": 4, "newest": 0, "late": 1, "repeated": 1, "corrected": 1, "too_old": 1,
    }  # fmt: skip
    assert said["new_series"] == []
    records[6]["temperature"] = 3.25
    found = forecast(service, records[0]["unique_id"])
    expected = [value for value, _, _ in forecast_of(whole, records)]
    np.testing.assert_allclose([value for value, _, _ in triples(found)], expected, rtol=0, atol=TOLERANCE)
    after = service.metrics()
    counted = {
        arrival: after[name] - before[name]
        for arrival in ("newest", "late", "repeated", "corrected", "too_old", "rejected")
        for name in [f'rps_observations_total{{arrival="{arrival}"}}']
    }
    expected = {"newest": LENGTH - 1, "late": 1, "repeated": 1, "corrected": 1, "too_old": 1, "rejected": 0}
    assert counted == expected


def test_observations_in_any_order_lead_to_the_same_forecast(
    service: Running, whole: Bundle, records: list[dict[str, Any]]
) -> None:
    shuffled = [records[place] for place in np.random.default_rng(0).permutation(LENGTH)]
    said = service.send(shuffled)
    assert said["newest"] + said["late"] == LENGTH
    found = forecast(service, records[0]["unique_id"])
    np.testing.assert_allclose(triples(found), forecast_of(whole, records), rtol=0, atol=TOLERANCE)


def test_gap_that_features_cannot_bear_is_reported_with_its_spans_until_it_is_filled(
    service: Running, whole: Bundle, records: list[dict[str, Any]]
) -> None:
    unique_id = records[0]["unique_id"]
    service.send([*records[:-20], *records[-6:-3], records[-1]])
    answer = service.get(f"/v1/forecasts/{unique_id}")
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")
    assert problem["missing"] == [
        {"from": records[-20]["ds"], "to": records[-7]["ds"]},
        {"from": records[-3]["ds"], "to": records[-2]["ds"]},
    ]
    assert "POST the missing ones to /v1/observations" in problem["detail"]
    assert "temperature" in service.get(f"/v1/series/{unique_id}").json()["problem"]
    assert service.send(records[-20:-6] + records[-3:-1])["late"] == 16
    np.testing.assert_allclose(
        triples(forecast(service, unique_id)), forecast_of(whole, records), rtol=0, atol=TOLERANCE
    )


def test_gap_in_a_window_is_reported_the_same_way(service: Running, records: list[dict[str, Any]]) -> None:
    answer = service.post("/v1/forecast", json=window_of(records[:10] + records[-1:]))
    assert answer.status_code == 409
    assert answer.json()["missing"][0]["to"] == records[-2]["ds"]


def test_missing_value_at_the_origin_is_reported(service: Running, records: list[dict[str, Any]]) -> None:
    del records[-1]["temperature"]
    answer = service.post("/v1/forecast", json=window_of(records))
    assert answer.status_code == 409
    assert answer.json()["missing"] == [{"from": records[-1]["ds"], "to": records[-1]["ds"]}]


def test_series_of_the_bundle_are_warm(service: Running, whole: Bundle) -> None:
    found = service.get("/v1/series").json()
    assert found["count"] == len(found["unique_ids"])
    assert set(whole.observations) <= set(found["unique_ids"])
    for unique_id, window in whole.observations.items():
        expected = [(each.value, each.lower, each.upper) for each in whole.forecast_window(window)]
        np.testing.assert_allclose(triples(forecast(service, unique_id)), expected, rtol=0, atol=TOLERANCE)


def test_series_shows_its_observations_and_the_forecasts_made_for_them(
    service: Running, records: list[dict[str, Any]]
) -> None:
    service.send(records[:-1])
    made = forecast(service, records[0]["unique_id"])["forecasts"]
    service.send(records[-1:])
    shown = service.get(f"/v1/series/{records[0]['unique_id']}").json()
    assert shown["newest"] == records[-1]["ds"]
    assert [(each["ds"], each["value"]) for each in shown["observations"]] == [
        (each["ds"], each["temperature"]) for each in records if "temperature" in each
    ]
    assert shown["next"] == forecast(service, records[0]["unique_id"])["forecasts"]
    assert shown["problem"] is None
    later = [each for each in shown["made"] if each["ds"] > records[-1]["ds"]]
    assert later == []
    assert made[0]["ds"] == shown["next"][0]["ds"].replace("16:00", "15:00")


def test_unknown_series_is_reported(service: Running) -> None:
    for path in ("/v1/forecasts/nowhere", "/v1/series/nowhere"):
        answer = service.get(path)
        assert answer.status_code == 404
        assert "'nowhere'" in answer.json()["detail"]


def test_health_tells_what_is_served(service: Running, whole: Bundle) -> None:
    found = service.get("/health").json()
    manifest = whole.manifest
    assert found["status"] == "ok"
    assert (found["git_sha"], found["mlflow_run"]) == (manifest.git_sha, manifest.mlflow_run)
    assert found["model_version"] == manifest.mlflow_run
    assert found["uptime_seconds"] > 0
    assert found["state"] == "memory"


@pytest.mark.parametrize("path", ["/", "/schema", "/metrics", "/health", "/v1/series", "/v1/forecasts/EWR", "/ping"])
def test_head_is_get_without_the_body(service: Running, path: str) -> None:
    got, head = service.get(path), service.request("HEAD", path)
    assert (got.status_code, head.status_code, head.content) == (200, 200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize(
    ("path", "allowed"), [("/v1/forecast", "POST"), ("/health", "GET, HEAD"), ("/v1/forecasts/EWR", "GET, HEAD")]
)
@pytest.mark.parametrize("method", ["OPTIONS", "DELETE", "PUT", "PATCH", "TRACE"])
def test_other_methods_are_told_what_is_allowed(service: Running, path: str, allowed: str, method: str) -> None:
    answer = service.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.json()["status"] == 405


def test_request_id_is_given_back_or_made(service: Running) -> None:
    given = service.get("/v2/health/live", headers={"x-request-id": "abc-123.X:y"})
    assert given.headers["x-request-id"] == "abc-123.X:y"
    made = {service.get("/v2/health/live").headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    for bad in ("a b", "x" * 65, "é", '"><'):
        answer = service.get("/nowhere", headers={"x-request-id": bad.encode()})
        assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", answer.headers["x-request-id"])
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/", "/health", "/nowhere", "/v1/forecasts/EWR", "/v1/forecasts/nowhere"])
def test_every_answer_has_security_headers(service: Running, path: str) -> None:
    answer = service.get(path)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "server" not in answer.headers


def test_the_page_may_load_nothing_from_elsewhere(service: Running) -> None:
    policy = service.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy or "default-src 'self'" in policy


def test_no_other_origin_may_call_by_default(service: Running) -> None:
    answer = service.get("/health", headers={"origin": "https://elsewhere.example"})
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_batch_of_several_series_is_taken_in_at_once(service: Running, table: Table) -> None:
    named = {name: f"several-{name}" for name in table.unique_ids}
    mixed = [{**each, "unique_id": named[name]} for name in named for each in observations(table, name)]
    said = service.send(mixed)
    assert said["new_series"] == sorted(named.values())
    assert said["accepted"] == said["newest"] == len(mixed)


KEY = "a long key with ünusual letters"


@pytest.fixture(scope="module")
def keyed(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    environment = {"RPS_API_KEY": KEY, "RPS_CORS_ORIGINS": "https://one.example, https://two.example"}
    with serving.running(bundle, tmp_path_factory.mktemp("keyed") / "log", environment) as found:
        yield found


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": KEY[:-1]}, 401),
        ({"x-api-key": KEY, "authorization": "Bearer wrong"}, 401),
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"bearer  {KEY}"}, 200),
        ({"x-api-key": KEY}, 200),
    ],
)
def test_observations_want_the_key(
    keyed: Running, records: list[dict[str, Any]], headers: dict[str, str], status: int
) -> None:
    sent = {name: value.encode() for name, value in headers.items()}
    answer = keyed.post("/v1/observations", json={"observations": records[:1]}, headers=sent)
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert keyed.get(f"/v1/series/{records[0]['unique_id']}").status_code == 404
    assert KEY not in keyed.log.read_text()


def test_reads_and_forecasts_stay_open(keyed: Running, records: list[dict[str, Any]]) -> None:
    assert keyed.post("/v1/forecast", json=window_of(records)).status_code == 200
    for path in ("/", "/health", "/metrics", "/v1/series", "/v1/forecasts/EWR", "/schema", "/ping"):
        assert keyed.get(path).status_code == 200, path


def test_origins_that_are_named_may_call(keyed: Running) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    allowed = keyed.request("OPTIONS", "/v1/forecast", headers={"origin": "https://two.example", **asked})
    assert allowed.status_code in {200, 204}
    assert allowed.headers["access-control-allow-origin"] == "https://two.example"
    refused = keyed.request("OPTIONS", "/v1/forecast", headers={"origin": "https://three.example", **asked})
    assert refused.headers.get("access-control-allow-origin") != "https://three.example"
    for path in ("/health", "/v1/forecasts/EWR", "/nowhere"):
        answer = keyed.get(path, headers={"origin": "https://one.example"})
        assert answer.headers["access-control-allow-origin"] == "https://one.example", path
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        other = keyed.get(path, headers={"origin": "https://three.example"})
        assert "access-control-allow-origin" not in other.headers, path


def test_origins_that_are_named_may_read_the_answers_of_the_hot_routes(
    keyed: Running, records: list[dict[str, Any]]
) -> None:
    for path, body in (("/v1/forecast", window_of(records)), ("/v1/observations", {})):
        answer = keyed.post(path, json=body, headers={"origin": "https://one.example"})
        assert answer.headers["access-control-allow-origin"] == "https://one.example", path
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        other = keyed.post(path, json=body, headers={"origin": "https://three.example"})
        assert "access-control-allow-origin" not in other.headers, path


@pytest.mark.parametrize("asked", ["maybe", "", "1"])
def test_asking_for_features_is_true_or_false(service: Running, records: list[dict[str, Any]], asked: str) -> None:
    service.send(records)
    unique_id = records[0]["unique_id"]
    answers = [
        service.get(f"/v1/forecasts/{unique_id}?features={asked}"),
        service.post(f"/v1/forecast?features={asked}", json=window_of(records)),
    ]
    for answer in answers:
        assert answer.status_code == 422
        assert [field["pointer"] for field in answer.json()["errors"]] == ["features"]
    inputs = service.get(f"/v1/forecasts/{unique_id}?features=true").json()["features"]
    assert inputs == service.post("/v1/forecast?features=true", json=window_of(records)).json()["features"]
    assert list(inputs) == list(SPEC.columns)
