"""Open-Meteo as a source: which pages it asks for, and what it makes of an answer."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

from clients.errors import ConfigurationError, DataRejected, PassingFault
from clients.live_api import Request
from forecasting.challenge.schema import Challenge, SourceVariable, load_challenge
from pipelines.sources import make_source
from pipelines.sources.open_meteo import OpenMeteo
from pipelines.sources.source import Answer

ROOT = Path(__file__).parents[2]
NOW = datetime(2013, 12, 30, 23, 30, tzinfo=UTC)


@pytest.fixture
def challenge() -> Challenge:
    return load_challenge(ROOT / "challenges/weather.toml")


def pages(challenge: Challenge, since: datetime, until: datetime = NOW) -> list[Request]:
    return list(make_source(challenge).requests(since, until, NOW))


def with_source(challenge: Challenge, **changes: Any) -> Challenge:
    return msgspec.structs.replace(challenge, source=msgspec.structs.replace(challenge.source, **changes))


def document(hours: int = 2, **hourly: Any) -> dict[str, Any]:
    units = {
        "time": "unixtime",
        "temperature_2m": "°C",
        "dew_point_2m": "°C",
        "relative_humidity_2m": "%",
        "wind_speed_10m": "m/s",
        "wind_direction_10m": "°",
        "precipitation": "mm",
        "pressure_msl": "hPa",
    }
    start = int(datetime(2013, 12, 30, tzinfo=UTC).timestamp())
    values: dict[str, Any] = {name: [float(hour) for hour in range(hours)] for name in units}
    values["time"] = [start + 3600 * hour for hour in range(hours)]
    return {"latitude": 40.69, "longitude": -74.17, "hourly_units": units, "hourly": {**values, **hourly}}


def answer(challenge: Challenge, body: object, url: str = "") -> Answer:
    asked = url or pages(challenge, NOW - timedelta(hours=3))[0].shown
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(collected_at=NOW, as_of=NOW, url=asked, status=200, headers={}, body=encoded)


def three(**hourly: Any) -> list[dict[str, Any]]:
    return [document(**hourly), {**document(), "location_id": 1}, {**document(), "location_id": 2}]


def test_recent_hours_come_from_the_forecast_api_in_one_request_for_all_series(challenge: Challenge) -> None:
    (request,) = pages(challenge, NOW - timedelta(hours=30))
    assert request.url == "https://api.open-meteo.com/v1/forecast"
    assert request.query["latitude"] == "40.6925,40.6398,40.7772"
    assert request.query["longitude"] == "-74.1687,-73.7789,-73.8726"
    assert request.query["start_hour"] == "2013-12-29T17:00"
    assert request.query["end_hour"] == "2013-12-30T23:00"
    assert request.query["wind_speed_unit"] == "ms"
    assert request.query["temperature_unit"] == "celsius"
    assert request.query["precipitation_unit"] == "mm"
    assert request.query["timezone"] == "GMT"


@pytest.mark.parametrize("since_hours", [1, 24, 120, 143, 144, 24 * 40, 24 * 365])
@pytest.mark.parametrize("until_hours", [0, 1, 100, 150])
def test_the_pages_cover_every_hour_asked_for_exactly_once(
    challenge: Challenge, since_hours: int, until_hours: int
) -> None:
    if until_hours > since_hours:
        return
    since, until = NOW - timedelta(hours=since_hours), NOW - timedelta(hours=until_hours)
    covered: list[datetime] = []
    for request in pages(with_source(challenge, page_days=30), since, until):
        query = request.query
        if "start_date" in query:
            first = datetime.fromisoformat(query["start_date"]).replace(tzinfo=UTC)
            last = datetime.fromisoformat(query["end_date"]).replace(hour=23, tzinfo=UTC)
            assert last - first < timedelta(days=30)
        else:
            first = datetime.fromisoformat(query["start_hour"]).replace(tzinfo=UTC)
            last = datetime.fromisoformat(query["end_hour"]).replace(tzinfo=UTC)
        covered += [first + timedelta(hours=step) for step in range(int((last - first) / timedelta(hours=1)) + 1)]
    assert len(covered) == len(set(covered))
    wanted = since.replace(minute=0) + timedelta(hours=1)
    while wanted <= until:
        assert wanted in covered
        wanted += timedelta(hours=1)


def test_the_addresses_come_from_the_environment(challenge: Challenge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPEN_METEO_URL", "http://127.0.0.1:1/")
    monkeypatch.setenv("OPEN_METEO_ARCHIVE_URL", "http://127.0.0.1:2")
    assert [request.url for request in pages(challenge, NOW - timedelta(days=9))] == [
        "http://127.0.0.1:2/v1/archive",
        "http://127.0.0.1:1/v1/forecast",
    ]


def test_an_answer_becomes_long_rows_in_its_own_order(challenge: Challenge) -> None:
    rows = make_source(challenge).parse(answer(challenge, three(temperature_2m=[-3.5, None])))
    assert list(rows.columns) == ["unique_id", "ds", *challenge.columns]
    assert list(rows["unique_id"]) == ["EWR", "EWR", "JFK", "JFK", "LGA", "LGA"]
    assert rows["ds"].iloc[1] == pd.Timestamp("2013-12-30T01:00Z")
    assert str(rows["ds"].dtype) == "datetime64[us, UTC]"
    assert rows["temperature"].iloc[0] == -3.5
    assert math.isnan(rows["temperature"].iloc[1])
    assert list(rows["wind_speed"].iloc[2:4]) == [0.0, 1.0]


def test_an_empty_answer_becomes_no_rows(challenge: Challenge) -> None:
    empty = document(0)
    rows = make_source(challenge).parse(answer(challenge, [empty, {**empty, "location_id": 1}, empty]))
    assert len(rows) == 0
    assert list(rows.columns) == ["unique_id", "ds", *challenge.columns]


def test_places_are_distinguished_by_the_coordinates_asked_for(challenge: Challenge) -> None:
    url = "http://h/v1/archive?latitude=40.6398,1.5&longitude=-73.7789,2.5"
    rows = make_source(challenge).parse(answer(challenge, [document(), {**document(), "location_id": 1}], url))
    assert set(rows["unique_id"]) == {"JFK"}
    one = answer(challenge, document(), "http://h/v1/archive?latitude=40.6925&longitude=-74.1687")
    assert set(make_source(challenge).parse(one)["unique_id"]) == {"EWR"}


def without(name: str) -> list[dict[str, Any]]:
    documents = three()
    del documents[1]["hourly"][name]
    return documents


def in_unit(name: str, unit: str) -> list[dict[str, Any]]:
    documents = three()
    documents[2]["hourly_units"][name] = unit
    return documents


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (without("dew_point_2m"), r"JFK: expected hourly\.dew_point_2m; found temperature_2m"),
        (in_unit("wind_speed_10m", "km/h"), r"LGA: expected wind_speed_10m in m/s; found km/h"),
        (in_unit("time", "iso8601"), r"expected hourly\.time as unixtime"),
        (three(temperature_2m=[1.0]), r"as many values of temperature_2m as hours, 2; found 1"),
        (three(temperature_2m=["warm", "cold"]), r"has not the documented form.*temperature_2m|documented form"),
        ([document()], r"expected 3 places in that order; found 1"),
        ([document(), {**document(), "location_id": 2}, document()], r"expected 3 places in that order"),
        ({}, r"documented form"),
        ({"error": True, "reason": "x"}, r"documented form"),
        (b"7", r"documented form"),
    ],
)
def test_an_answer_of_another_form_is_rejected_with_what_was_expected(
    challenge: Challenge, body: object, message: str
) -> None:
    with pytest.raises(DataRejected, match=message):
        make_source(challenge).parse(answer(challenge, body))


@pytest.mark.parametrize("body", [b"", b"  ", b'[{"hourly": {"time": [1, 2', b"<html>", b'[{"hourly": {"\xff'])
def test_a_text_that_breaks_off_may_pass(challenge: Challenge, body: bytes) -> None:
    with pytest.raises(PassingFault, match="Run the stage again"):
        make_source(challenge).parse(answer(challenge, body))


def test_a_series_without_coordinates_is_a_configuration_error(challenge: Challenge) -> None:
    first, *others = challenge.source.series
    for query in ({}, {"latitude": 95.0, "longitude": 1.0}, {"latitude": "north", "longitude": 1.0}):
        series = (msgspec.structs.replace(first, query=query), *others)
        with pytest.raises(ConfigurationError, match=r"EWR: query\.latitude: expected degrees from -90 to 90"):
            make_source(with_source(challenge, series=series))
    twice = (first, msgspec.structs.replace(others[0], query=first.query))
    with pytest.raises(ConfigurationError, match="expected a place of its own; found that of EWR"):
        make_source(with_source(challenge, series=twice))


def test_two_units_for_one_kind_of_value_are_a_configuration_error(challenge: Challenge) -> None:
    variables = {**challenge.source.variables, "dew_point": SourceVariable("dew_point_2m", "°F")}
    with pytest.raises(ConfigurationError, match="expected one temperature_unit for all variables"):
        OpenMeteo(with_source(challenge, variables=variables))


@pytest.mark.parametrize("time", [1388361601, 1388361600.5, -3600, 10**17, 10**300])
def test_an_impossible_time_is_refused_before_it_gets_into_the_history(challenge: Challenge, time: float) -> None:
    with pytest.raises(DataRejected, match="EWR: expected times every 3600 s"):
        make_source(challenge).parse(answer(challenge, three(time=[1388361600, time])))


@pytest.mark.parametrize("step_minutes", [15, 1440])
def test_a_grid_that_hourly_answers_do_not_fit_is_reported_before_anything_is_asked(
    challenge: Challenge, step_minutes: int
) -> None:
    target = msgspec.structs.replace(challenge.target, step_minutes=step_minutes)
    with pytest.raises(ConfigurationError, match=rf"target\.step_minutes: expected 60, .*; found {step_minutes}"):
        make_source(msgspec.structs.replace(challenge, target=target))
