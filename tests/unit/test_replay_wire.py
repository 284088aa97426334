"""The replay answers in the form that Open-Meteo documents, from the recording, and never from after its clock."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest

from doubles.replay.recording import load
from doubles.replay.replay_server import NotLoopback, ReplayServer
from doubles.threaded_server import serving_in_thread

RECORDING = load()
EWR = {"latitude": "40.69", "longitude": "-74.17"}
ALL = {"latitude": "40.69,40.64,40.78", "longitude": "-74.17,-73.78,-73.87"}
VARIABLES = (
    "temperature_2m,dew_point_2m,relative_humidity_2m,wind_speed_10m,wind_direction_10m,precipitation,pressure_msl"
)


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    replay = ReplayServer("127.0.0.1", 0, RECORDING, datetime(2013, 7, 1, 12, 30, tzinfo=UTC), 0.0)
    with serving_in_thread(replay) as server:
        yield server


@pytest.fixture
def api(server: ReplayServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as client:
        yield client


def archive(api: httpx.Client, first: str, last: str, **query: str) -> httpx.Response:
    query = {"hourly": VARIABLES, **EWR, **query}
    return api.get("/v1/archive", params={**query, "start_date": first, "end_date": last})


def test_one_place_is_an_object_with_the_documented_fields(api: httpx.Client) -> None:
    # Names, order and kinds are those of Open-Meteo's own output test (OutputformatTests.swift) for one location.
    answer = archive(api, "2013-01-02", "2013-01-02", hourly="temperature_2m,wind_speed_10m")
    document = answer.json()
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert list(document) == [
        "latitude",
        "longitude",
        "generationtime_ms",
        "utc_offset_seconds",
        "timezone",
        "timezone_abbreviation",
        "elevation",
        "hourly_units",
        "hourly",
    ]
    assert document["utc_offset_seconds"] == 0
    assert (document["timezone"], document["timezone_abbreviation"]) == ("GMT", "GMT")
    assert document["hourly_units"] == {"time": "iso8601", "temperature_2m": "°C", "wind_speed_10m": "km/h"}
    assert list(document["hourly"]) == ["time", "temperature_2m", "wind_speed_10m"]
    assert document["hourly"]["time"] == [f"2013-01-02T{hour:02d}:00" for hour in range(24)]


def test_several_places_are_a_list_in_which_all_but_the_first_carry_their_number(api: httpx.Client) -> None:
    documents = archive(api, "2013-01-02", "2013-01-02", **ALL).json()
    assert [document.get("location_id") for document in documents] == [None, 1, 2]
    assert [document["latitude"] for document in documents] == [40.6925, 40.6398, 40.7772]


def test_values_are_converted_to_the_units_asked_for(api: httpx.Client) -> None:
    # EWR, 2013-01-01T06:00Z: 39.02 °F, 26.06 °F, 59.37 %, 10.35702 mph (9 knots) from 270°, no rain, 1012 hPa.
    def first_hour(**units: str) -> tuple[dict[str, float], dict[str, str]]:
        document = archive(api, "2013-01-01", "2013-01-01", **units).json()
        return {name: values[0] for name, values in document["hourly"].items()}, document["hourly_units"]

    values, shown = first_hour()
    assert values["time"] == "2013-01-01T06:00"
    assert values["temperature_2m"] == pytest.approx(3.9)
    assert values["dew_point_2m"] == pytest.approx(-3.3)
    assert (values["relative_humidity_2m"], values["wind_direction_10m"], values["pressure_msl"]) == (59.37, 270, 1012)
    assert values["wind_speed_10m"] == pytest.approx(16.668, abs=2e-4)
    assert shown["relative_humidity_2m"] == "%"
    assert shown["wind_direction_10m"] == "°"
    assert shown["precipitation"] == "mm"
    assert shown["pressure_msl"] == "hPa"
    for unit, label, expected in (
        ("ms", "m/s", 4.63),
        ("kn", "kn", 9.0),
        ("mph", "mp/h", 10.357),
        ("kmh", "km/h", 16.668),
    ):
        values, shown = first_hour(wind_speed_unit=unit)
        assert shown["wind_speed_10m"] == label
        assert values["wind_speed_10m"] == pytest.approx(expected, abs=2e-4)
    values, shown = first_hour(temperature_unit="fahrenheit", precipitation_unit="inch")
    assert (shown["temperature_2m"], shown["dew_point_2m"], shown["precipitation"]) == ("°F", "°F", "inch")
    assert (values["temperature_2m"], values["dew_point_2m"]) == (39.02, 26.06)


def test_precipitation_is_the_recorded_inches_in_millimetres(api: httpx.Client) -> None:
    asked = {"hourly": "precipitation"}
    inches = archive(api, "2013-06-07", "2013-06-08", precipitation_unit="inch", **asked).json()["hourly"][
        "precipitation"
    ]
    millimetres = archive(api, "2013-06-07", "2013-06-08", **asked).json()["hourly"]["precipitation"]
    assert max(inches) > 0
    assert millimetres == pytest.approx([value * 25.4 for value in inches], abs=1e-4)


def test_the_recordings_own_flaws_are_served(api: httpx.Client) -> None:
    document = archive(api, "2013-02-12", "2013-02-12", wind_speed_unit="mph").json()["hourly"]
    assert dict(zip(document["time"], document["wind_speed_10m"], strict=True))["2013-02-12T08:00"] > 1048
    times = archive(api, "2013-01-01", "2013-01-01").json()["hourly"]["time"]
    assert times[0] == "2013-01-01T06:00"
    pressures = archive(api, "2013-01-01", "2013-06-30").json()["hourly"]["pressure_msl"]
    assert None in pressures


def test_unixtime_tells_the_same_hours(api: httpx.Client) -> None:
    document = archive(api, "2013-01-02", "2013-01-02", timeformat="unixtime", timezone="UTC").json()
    assert document["hourly_units"]["time"] == "unixtime"
    assert document["timezone"] == "UTC"
    start = int(datetime(2013, 1, 2, tzinfo=UTC).timestamp())
    assert document["hourly"]["time"] == [start + 3600 * hour for hour in range(24)]


@pytest.mark.parametrize(
    ("query", "first", "last"),
    [
        ({"start_hour": "2013-06-30T21:00", "end_hour": "2013-07-01T03:00"}, "2013-06-30T21:00", "2013-07-01T03:00"),
        ({"start_date": "2013-06-28", "end_date": "2013-06-29"}, "2013-06-28T00:00", "2013-06-29T23:00"),
        ({}, "2013-07-01T00:00", "2013-07-01T12:00"),
        ({"past_days": "2"}, "2013-06-29T00:00", "2013-07-01T12:00"),
        ({"past_days": "1", "forecast_days": "0"}, "2013-06-30T00:00", "2013-06-30T23:00"),
        ({"past_hours": "5"}, "2013-07-01T07:00", "2013-07-01T12:00"),
        ({"past_hours": "5", "forecast_hours": "0"}, "2013-07-01T07:00", "2013-07-01T11:00"),
    ],
)
def test_forecast_covers_the_hours_asked_for_up_to_its_clock(
    api: httpx.Client, query: dict[str, str], first: str, last: str
) -> None:
    times = api.get("/v1/forecast", params={**EWR, "hourly": "temperature_2m", **query}).json()["hourly"]["time"]
    assert (times[0], times[-1]) == (first, last)


def test_moving_the_clock_moves_what_is_served(api: httpx.Client) -> None:
    def newest() -> str:
        return archive(api, "2013-06-30", "2013-07-01").json()["hourly"]["time"][-1]

    assert newest() == "2013-07-01T12:00"
    assert api.put("/replay/clock", json={"now": "2013-07-01T15:59:59Z"}).json()["now"] == "2013-07-01T15:59:59Z"
    assert newest() == "2013-07-01T15:00"
    api.put("/replay/clock", json={"now": "2013-07-01T03:00:00Z", "speed": 0})
    assert newest() == "2013-07-01T03:00"
    assert api.get("/replay/clock").json() == {"now": "2013-07-01T03:00:00Z", "speed": 0.0}


def test_the_clock_runs_at_its_speed_and_waits_at_the_end_of_the_recording(api: httpx.Client) -> None:
    # At 1e9 replayed seconds a second, any pause at all reaches the end.
    api.put("/replay/clock", json={"now": "2013-07-01T00:00:00Z", "speed": 1e9})
    for _ in range(1000):
        now = api.get("/replay/clock").json()["now"]
        if now == "2013-12-30T23:00:00Z":
            break
    assert now == "2013-12-30T23:00:00Z"
    api.put("/replay/clock", json={"now": "2014-02-01T00:00:00Z"})
    assert api.get("/replay/clock").json()["now"] == "2014-02-01T00:00:00Z"


@pytest.mark.parametrize(
    "wrong", [{"now": "yesterday"}, {"speed": -1}, {"speed": "fast"}, {"speed": None}, {}, {"then": 1}, []]
)
def test_a_wrong_clock_setting_is_refused_and_changes_nothing(api: httpx.Client, wrong: object) -> None:
    answer = api.put("/replay/clock", json=wrong)
    assert answer.status_code == 400
    assert answer.json()["error"] is True
    assert api.get("/replay/clock").json() == {"now": "2013-07-01T12:30:00Z", "speed": 0.0}


@pytest.mark.parametrize(
    ("path", "query", "reason"),
    [
        ("archive", {"latitude": "91"}, "Latitude must be in range of -90 to 90°. Given: 91.0."),
        ("archive", {"longitude": "-181"}, "Longitude must be in range"),
        ("archive", {"latitude": "1,2"}, "same number of elements"),
        ("archive", {"latitude": "north"}, "latitude"),
        ("archive", {"latitude": ""}, "latitude"),
        ("archive", {"hourly": "temperature_99m"}, "temperature_99m"),
        ("archive", {"temperature_unit": "kelvin"}, "kelvin"),
        ("archive", {"timezone": "Mars/Olympus"}, "Invalid timezone"),
        ("archive", {"end_date": "2013-01-01", "start_date": "2013-01-02"}, "End-date must be larger or equals"),
        ("archive", {"end_date": ""}, "start_date' and 'end_date' must be set"),
        ("archive", {"end_date": "2013-02-30"}, "Invalid date"),
        ("archive", {"end_date": "2013-07-02"}, "out of allowed range from 1940-01-01 to 2013-07-01"),
        ("forecast", {"start_date": "2013-03-01"}, "out of allowed range from 2013-03-31 to 2013-07-16"),
        ("forecast", {"past_days": "3"}, "'past_days' is mutually exclusive"),
    ],
)
def test_a_wrong_query_gets_the_documented_error(
    api: httpx.Client, path: str, query: dict[str, str], reason: str
) -> None:
    asked = {**EWR, "hourly": "temperature_2m", "start_date": "2013-06-01", "end_date": "2013-06-02", **query}
    answer = api.get(f"/v1/{path}", params={name: value for name, value in asked.items() if value})
    assert answer.status_code == 400
    assert set(answer.json()) == {"error", "reason"}
    assert answer.json()["error"] is True
    assert reason in answer.json()["reason"]


def test_answers_are_packed_only_for_clients_that_take_gzip(api: httpx.Client) -> None:
    packed = archive(api, "2013-06-01", "2013-06-30")
    api.headers["Accept-Encoding"] = "identity"
    plain = archive(api, "2013-06-01", "2013-06-30")
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.json()["hourly"] == plain.json()["hourly"]


def test_health_tells_the_clock_and_unknown_paths_are_not_found(api: httpx.Client) -> None:
    assert api.get("/health").json() == {
        "status": "ok",
        "now": "2013-07-01T12:30:00Z",
        "speed": 0.0,
        "recorded_until": "2013-12-30T23:00:00Z",
    }
    assert api.get("/v1/marine").status_code == 404
    assert api.put("/nowhere", json={}).status_code == 404
    assert api.delete("/nowhere").status_code == 404


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])
def test_only_loopback_addresses_are_served(host: str) -> None:
    with pytest.raises(NotLoopback, match="loopback"):
        ReplayServer(host, 0, RECORDING, None, 1.0)
