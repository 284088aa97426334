"""Each fault of the replay does what it is named after, for as many answers as asked, and is gone when cleared."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from doubles.replay.carry import carry
from doubles.replay.recording import load
from doubles.replay.replay_server import ReplayServer
from doubles.threaded_server import serving_in_thread

ROOT = Path(__file__).parents[2]
RECORDING = load()
QUERY = {
    "latitude": "40.69,40.64",
    "longitude": "-74.17,-73.78",
    "hourly": "temperature_2m,dew_point_2m,relative_humidity_2m",
    "start_date": "2013-07-01",
    "end_date": "2013-07-04",
}


@pytest.fixture
def api() -> Iterator[httpx.Client]:
    with (
        serving_in_thread(ReplayServer("127.0.0.1", 0, RECORDING, None, 0.0)) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        yield client


def fault(api: httpx.Client, kind: str, **options: object) -> None:
    api.put("/replay/faults", json={"kind": kind, **options}).raise_for_status()


def ask(api: httpx.Client) -> httpx.Response:
    return api.get("/v1/archive", params=QUERY)


def test_a_fault_lasts_for_as_many_answers_as_asked_after_those_it_lets_by(api: httpx.Client) -> None:
    fault(api, "server_error", times=2, after=1)
    assert [ask(api).status_code for _ in range(4)] == [200, 500, 500, 200]
    assert api.get("/replay/faults").json() == {"faults": []}


def test_a_fault_lasts_until_it_is_cleared(api: httpx.Client) -> None:
    fault(api, "server_error", status=503)
    assert [ask(api).status_code for _ in range(5)] == [503] * 5
    listed = api.get("/replay/faults").json()["faults"]
    assert listed == [{"kind": "server_error", "times": None, "after": 0, "status": 503}]
    api.delete("/replay/faults")
    assert ask(api).status_code == 200


def test_rate_limit_tells_when_to_come_back(api: httpx.Client) -> None:
    fault(api, "rate_limit", times=1, retry_after=7)
    answer = ask(api)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["error"] is True


def test_unauthorized_is_401(api: httpx.Client) -> None:
    fault(api, "unauthorized", times=1)
    assert ask(api).status_code == 401


def test_slow_answers_come_after_the_clients_patience(api: httpx.Client) -> None:
    fault(api, "slow", times=1, seconds=1.0)
    with pytest.raises(httpx.ReadTimeout):
        api.get("/v1/archive", params=QUERY, timeout=0.1)


def test_a_transfer_can_be_cut_off(api: httpx.Client) -> None:
    fault(api, "cut_off", times=1)
    with pytest.raises(httpx.RemoteProtocolError):
        ask(api)


def test_an_answer_can_be_cut_off_within_a_whole_transfer(api: httpx.Client) -> None:
    whole = ask(api).content
    fault(api, "cut_off", times=1, how="clean")
    half = ask(api)
    assert half.status_code == 200
    assert 0 < len(half.content) < len(whole)
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        half.json()


def test_null_burst_takes_the_newest_values(api: httpx.Client) -> None:
    fault(api, "null_burst", times=1, hours=30)
    for place in ask(api).json():
        for name in ("temperature_2m", "dew_point_2m", "relative_humidity_2m"):
            values = place["hourly"][name]
            assert values[-30:] == [None] * 30
            assert None not in values[:-30]


def test_renamed_field_is_renamed_in_values_and_units(api: httpx.Client) -> None:
    fault(api, "renamed_field", times=1)
    for place in ask(api).json():
        assert "temperature_2m" not in place["hourly"]
        assert list(place["hourly"]) == list(place["hourly_units"])
        assert place["hourly_units"]["temperature"] == "°C"


@pytest.mark.parametrize(("silent", "label"), [(False, "°F"), (True, "°C")])
def test_changed_units_change_the_values_and_may_not_say_so(api: httpx.Client, silent: bool, label: str) -> None:
    celsius = ask(api).json()[0]["hourly"]["temperature_2m"]
    fault(api, "changed_units", times=1, silent=silent)
    changed = ask(api).json()[0]
    assert changed["hourly_units"]["temperature_2m"] == label
    assert changed["hourly"]["temperature_2m"] == pytest.approx([value * 9 / 5 + 32 for value in celsius], abs=1e-3)


def test_a_stuck_sensor_repeats_one_value(api: httpx.Client) -> None:
    true = ask(api).json()[0]["hourly"]
    fault(api, "stuck", times=1, hours=40)
    stuck = ask(api).json()[0]["hourly"]
    assert set(stuck["temperature_2m"][-40:]) == {true["temperature_2m"][-40]}
    assert stuck["temperature_2m"][:-40] == true["temperature_2m"][:-40]
    assert stuck["dew_point_2m"] == true["dew_point_2m"]


def test_repeated_hours_are_there_twice(api: httpx.Client) -> None:
    true = ask(api).json()[0]["hourly"]
    fault(api, "repeated", times=1, hours=6)
    repeated = ask(api).json()[0]["hourly"]
    assert repeated["time"] == true["time"] + true["time"][-6:]
    assert repeated["temperature_2m"] == true["temperature_2m"] + true["temperature_2m"][-6:]
    fault(api, "repeated", times=1, hours=6, conflicting=True)
    conflicting = ask(api).json()[0]["hourly"]["temperature_2m"]
    assert conflicting[-6:] == [value + 1 for value in true["temperature_2m"][-6:]]


def test_out_of_order_hours_keep_their_values(api: httpx.Client) -> None:
    true = ask(api).json()[0]["hourly"]
    fault(api, "out_of_order", times=1)
    shuffled = ask(api).json()[0]["hourly"]
    assert shuffled["time"] != true["time"]

    def by_time(hourly: dict[str, list[float]]) -> dict[float, float]:
        return dict(zip(hourly["time"], hourly["temperature_2m"], strict=True))

    assert by_time(shuffled) == by_time(true)


def test_an_empty_answer_has_no_hours_or_no_body(api: httpx.Client) -> None:
    fault(api, "empty", times=1)
    assert ask(api).json()[0]["hourly"]["time"] == []
    fault(api, "empty", times=1, how="body")
    assert ask(api).content == b""


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "earthquake"},
        {},
        [],
        {"kind": "slow", "seconds": "long"},
        {"kind": "slow", "minutes": 1},
        {"kind": "cut_off", "how": "nicely"},
        {"kind": "slow", "times": 0},
        {"kind": "slow", "after": -1},
    ],
)
def test_a_wrong_fault_is_refused_with_what_was_expected(api: httpx.Client, wrong: object) -> None:
    answer = api.put("/replay/faults", json=wrong)
    assert answer.status_code == 400
    assert "expected" in answer.json()["reason"]
    assert api.get("/replay/faults").json() == {"faults": []}


def test_the_process_serves_until_it_is_told_to_end() -> None:
    command = [sys.executable, "-m", "doubles.replay", "--port", "0", "--as-of", "2013-05-01T00:00:00Z", "--speed", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().split(" on ")[1].split(",")[0]
        assert httpx.get(f"{url}/health").json()["now"] == "2013-05-01T00:00:00Z"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize("wrong", [["--host", "0.0.0.0"], ["--as-of", "soon"], ["--speed", "-1"]])
def test_wrong_use_is_64_with_what_was_expected(wrong: list[str]) -> None:
    command = [sys.executable, "-m", "doubles.replay", "--port", "0", *wrong]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 64
    assert "expected" in done.stderr


def test_a_command_is_run_on_the_recorded_data_and_gives_its_exit_code() -> None:
    asks = (
        "import json, os, sys, urllib.request;"
        "print(json.load(urllib.request.urlopen(os.environ['RPS_CLOCK_URL']))['now'],"
        " os.environ['OPEN_METEO_URL'] == os.environ['OPEN_METEO_ARCHIVE_URL']); sys.exit(7)"
    )
    replay = [sys.executable, "-m", "doubles.replay", "--as-of", "2013-05-01T00:00:00Z", "--speed", "0", "--"]
    done = subprocess.run(
        [*replay, sys.executable, "-c", asks], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (7, "2013-05-01T00:00:00Z True\n"), done.stderr
    absent = subprocess.run(
        [*replay, "no-such-program"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert absent.returncode == 64
    assert "no-such-program: no such command" in absent.stderr


def test_carrying_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    original = tmp_path / "weather.csv"
    original.write_text(
        "origin,year,temp,dewp,humid,wind_dir,wind_speed,precip,pressure,time_hour\n"
        "JFK,2013,30.02,NA,50,NA,10.357019999999999,0.01,NA,2013-01-01T07:00:00Z\n"
        "EWR,2013,39.02,26.06,59.37,270,1048.36058,0,1012,2013-01-01T06:00:00Z\n"
    )
    assert carry(original, tmp_path / "one.csv.gz") == 2
    carry(original, tmp_path / "two.csv.gz")
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "two.csv.gz").read_bytes()
    stations = {station.name: station for station in load(tmp_path / "one.csv.gz").stations if station.times}
    assert stations["JFK"].values == ((30.02, None, 50.0, None, 10.35702, 0.01, None),)
    assert stations["EWR"].values == ((39.02, 26.06, 59.37, 270.0, 1048.36058, 0.0, 1012.0),)
