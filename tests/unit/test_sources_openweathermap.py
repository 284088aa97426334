"""OpenWeatherMap as a source, against a double that gives its documented example answers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pandas as pd
import pytest

from clients.errors import ConfigurationError, DataRejected, PassingFault
from clients.live_api import Limits, fetch
from doubles.openweathermap_answers import CURRENT, FORECAST, INVALID_KEY, LATITUDE, LONGITUDE, encoded
from doubles.scripted_http import Scripted, scripted
from forecasting.challenge.schema import Challenge, Series, SourceVariable, load_challenge
from pipelines.sources import make_source
from pipelines.sources.source import Answer

ROOT = Path(__file__).parents[2]
NOW = datetime(2022, 8, 30, 14, 45, tzinfo=UTC)
KEY = "0123456789abcdef"
VARIABLES = {
    "temperature": SourceVariable("main.temp", "°C"),
    "humidity": SourceVariable("main.humidity", "%"),
    "wind_speed": SourceVariable("wind.speed", "m/s"),
    "wind_direction": SourceVariable("wind.deg", "°"),
    "precipitation": SourceVariable("rain.1h", "mm"),
    "pressure": SourceVariable("main.pressure", "hPa"),
}


@pytest.fixture
def challenge(monkeypatch: pytest.MonkeyPatch) -> Challenge:
    monkeypatch.setenv("OPENWEATHERMAP_API_KEY", KEY)
    weather = load_challenge(ROOT / "challenges/weather.toml")
    zocca = Series("ZOCCA", {"latitude": LATITUDE, "longitude": LONGITUDE})
    return with_source(weather, kind="openweathermap", variables=VARIABLES, series=(zocca,))


def with_source(challenge: Challenge, **changes: Any) -> Challenge:
    return msgspec.structs.replace(challenge, source=msgspec.structs.replace(challenge.source, **changes))


def collected(challenge: Challenge) -> list[Answer]:
    """Every page that the source asks for, fetched from wherever OPENWEATHERMAP_URL points."""
    answers = []
    with httpx.Client() as client:
        for request in make_source(challenge).requests(NOW, NOW, NOW):
            response = fetch(client, request, Limits(5.0, 1))
            answers.append(Answer(collected_at=NOW, as_of=NOW, **msgspec.structs.asdict(response)))
    return answers


def current(challenge: Challenge, **changes: Any) -> pd.DataFrame:
    url = f"http://h/data/2.5/weather?lat={LATITUDE}&lon={LONGITUDE}"
    body = encoded({**CURRENT, **changes})
    answer = Answer(collected_at=NOW, as_of=NOW, url=url, status=200, headers={}, body=body)
    return make_source(challenge).parse(answer)


def test_the_current_weather_is_the_observation_of_its_hour_and_the_forecast_is_only_kept(
    challenge: Challenge, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_path = {
        "/data/2.5/weather": [Scripted(body=encoded(CURRENT))],
        "/data/2.5/forecast": [Scripted(body=encoded(FORECAST))],
    }
    with scripted(by_path=by_path) as server:
        monkeypatch.setenv("OPENWEATHERMAP_URL", server.url)
        now, forecast = collected(challenge)
    assert server.asked[0] == f"/data/2.5/weather?lat=44.34&lon=10.99&units=metric&appid={KEY}"
    assert server.asked[1] == f"/data/2.5/forecast?lat=44.34&lon=10.99&units=metric&appid={KEY}"
    rows = make_source(challenge).parse(now)
    assert rows.to_dict("records") == [
        {
            "unique_id": "ZOCCA",
            "ds": pd.Timestamp("2022-08-30T14:00Z"),
            "temperature": 25.33,
            "humidity": 64.0,
            "wind_speed": 0.62,
            "wind_direction": 349.0,
            "precipitation": 3.16,
            "pressure": 1015.0,
        }
    ]
    assert str(rows["ds"].dtype) == "datetime64[us, UTC]"
    nothing = make_source(challenge).parse(forecast)
    assert len(nothing) == 0
    assert dict(nothing.dtypes) == dict(rows.dtypes)
    assert forecast.body == encoded(FORECAST)
    assert KEY not in now.url + forecast.url


def test_no_rain_is_zero_and_a_missing_measurement_is_rejected(challenge: Challenge) -> None:
    assert current(challenge, rain=None)["precipitation"].iloc[0] == 0.0
    with pytest.raises(DataRejected, match=r"expected a number in main\.temp; found None"):
        current(challenge, main={"humidity": 3})
    with pytest.raises(DataRejected, match="expected dt"):
        current(challenge, dt="now")


def test_a_gust_that_was_not_measured_is_missing(challenge: Challenge) -> None:
    gusts = with_source(challenge, variables={**VARIABLES, "gust": SourceVariable("wind.gust", "m/s")})
    assert current(gusts)["gust"].iloc[0] == 1.18
    assert current(gusts, wind={"speed": 0.1, "deg": 10})["gust"].isna().all()


def test_a_wrong_key_is_reported_without_showing_it(challenge: Challenge, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(Scripted(401, encoded(INVALID_KEY))) as server:
        monkeypatch.setenv("OPENWEATHERMAP_URL", server.url)
        with pytest.raises(ConfigurationError, match=r"Invalid API key.*OPENWEATHERMAP_API_KEY") as shown:
            collected(challenge)
    assert KEY not in str(shown.value)


def test_a_missing_key_is_reported_by_name_before_anything_is_asked(
    challenge: Challenge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENWEATHERMAP_API_KEY")
    with pytest.raises(ConfigurationError, match="OPENWEATHERMAP_API_KEY"):
        next(make_source(challenge).requests(NOW, NOW, NOW))


def test_reading_an_answer_needs_no_key(challenge: Challenge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENWEATHERMAP_API_KEY")
    assert len(current(challenge)) == 1


def test_a_source_names_the_variables_that_ingest_is_given(challenge: Challenge) -> None:
    assert make_source(challenge).environment == ("OPENWEATHERMAP_URL", "OPENWEATHERMAP_API_KEY")


@pytest.mark.parametrize("wrong", [SourceVariable("main.temp", "°F"), SourceVariable("main.warmth", "°C")])
def test_a_variable_that_the_api_does_not_give_is_a_configuration_error(
    challenge: Challenge, wrong: SourceVariable
) -> None:
    with pytest.raises(ConfigurationError, match=r"source\.variables\.temperature: expected one of main\.temp \(°C\)"):
        make_source(with_source(challenge, variables={**VARIABLES, "temperature": wrong}))


def test_a_text_that_breaks_off_may_pass_and_another_form_may_not(challenge: Challenge) -> None:
    source = make_source(challenge)
    url = f"http://h/data/2.5/weather?lat={LATITUDE}&lon={LONGITUDE}"
    for body, error in ((b'{"main": {"te', PassingFault), (b"[]", DataRejected)):
        with pytest.raises(error):
            source.parse(Answer(collected_at=NOW, as_of=NOW, url=url, status=200, headers={}, body=body))
