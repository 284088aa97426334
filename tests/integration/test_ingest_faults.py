"""Every fault of the source ends in its exit code and one clear message; raw data stays, and the next try succeeds."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from clients.store import open_store
from pipelines.carrier.answers import raw_keys
from pipelines.raw import answer_file, answer_files, raw_key, unpack
from scripts.services import free_ports
from tests.integration.ingesting import (
    FILES,
    accept,
    carried,
    change_challenge,
    collection,
    ingest,
    lay_out_workspace,
    observations,
    outputs,
    share_models_of_apis,
)
from tests.replay_fixture import Replay


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, store_env: dict[str, str], replay: Replay, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short history, so that a try takes two requests: one to the archive and one to the forecast."""
    monkeypatch.chdir(tmp_path)
    share_models_of_apis(monkeypatch)
    for name in ("RPS_RUN_ID", "RPS_AS_OF"):
        monkeypatch.delenv(name, raising=False)
    lay_out_workspace(tmp_path)
    change_challenge(tmp_path, "history_days = 365", "history_days = 60")
    return tmp_path


def stored() -> list[bytes]:
    store = open_store()
    return [unpack(store.get(key) or b"").body for key in raw_keys(store, "weather")]


@pytest.mark.parametrize(
    ("kind", "options", "code", "shown"),
    [
        ("rate_limit", {"retry_after": 0}, 75, "answered 429"),
        ("rate_limit", {"retry_after": 3600}, 75, "asks to wait 3600 s"),
        ("server_error", {}, 75, "answered 500 (Internal Server Error)"),
        ("slow", {"seconds": 1.5}, 75, "ReadTimeout"),
        ("cut_off", {}, 75, "RemoteProtocolError"),
        ("cut_off", {"how": "clean"}, 75, "no complete JSON"),
        ("empty", {"how": "body"}, 75, "no complete JSON"),
        ("empty", {}, 65, "gave no observations"),
        ("renamed_field", {}, 65, "expected hourly.temperature_2m; found temperature, dew_point_2m"),
        ("changed_units", {}, 65, "expected temperature_2m in °C; found °F"),
        ("unauthorized", {}, 64, "answered 401"),
    ],
)
def test_a_fault_ends_in_its_exit_code_with_one_message_and_the_next_try_succeeds(
    workspace: Path,
    replay: Replay,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    options: dict[str, object],
    code: int,
    shown: str,
) -> None:
    change_challenge(workspace, "timeout_seconds = 5.0", "timeout_seconds = 1.0")
    replay.fault(kind, **options)
    assert ingest() == code
    messages = capsys.readouterr().err.strip().splitlines()
    assert len(messages) == 1
    assert shown in messages[0]
    assert outputs() == []
    whole = kind in {"empty", "renamed_field", "changed_units"} or options.get("how") == "clean"
    kept = stored()
    assert bool(kept) == whole
    replay.clear_faults()
    assert ingest() == 0
    assert stored()[: len(kept)] == kept
    assert outputs() == ["collection.json", "history.parquet", "observations.parquet"]
    assert 4200 < len(observations()) <= 3 * 60 * 24
    assert observations()["temperature"].between(-30, 25).all()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("rate_limit", {"retry_after": 1}), ("server_error", {"status": 503}), ("cut_off", {})],
)
def test_a_fault_that_passes_is_waited_out(replay: Replay, kind: str, options: dict[str, object]) -> None:
    replay.fault(kind, times=1, **options)
    assert ingest() == 0
    assert len(stored()) == 2


def test_a_fault_on_a_later_page_keeps_the_earlier_ones(replay: Replay) -> None:
    replay.fault("server_error", after=1)
    assert ingest() == 75
    assert len(stored()) == 1
    assert outputs() == []
    replay.clear_faults()
    assert ingest() == 0
    assert collection().raw_folded == 1


def test_a_failed_ingest_leaves_no_earlier_runs_observations_behind(replay: Replay) -> None:
    assert ingest() == 0
    replay.fault("server_error")
    assert ingest() == 75
    assert carried("merge") == 64
    assert outputs() == []


@pytest.mark.parametrize("kind", ["repeated", "out_of_order"])
def test_repeated_and_out_of_order_hours_give_the_same_observations(replay: Replay, kind: str) -> None:
    assert ingest() == 0
    plain = observations()
    replay.fault(kind)
    assert ingest() == 0
    pd.testing.assert_frame_equal(observations(), plain)
    if kind == "repeated":
        assert (collection().repeats, collection().conflicting_repeats) == (2 * 3 * 24, 0)
    else:
        assert collection().out_of_order > 1000


def test_conflicting_repeats_are_counted_and_the_last_one_wins(replay: Replay) -> None:
    assert ingest() == 0
    plain = observations()
    replay.fault("repeated", after=1, times=1, hours=6, conflicting=True)
    assert ingest() == 0
    assert collection().conflicting_repeats == 3 * 6
    shifted = observations()["temperature"] - plain["temperature"] > 0.5
    assert shifted.sum() == 3 * 6
    assert observations().loc[shifted, "ds"].min() == pd.Timestamp("2013-12-30T18:00Z")


@pytest.mark.parametrize(
    ("kind", "options"),
    [("null_burst", {"hours": 48}), ("stuck", {"hours": 48}), ("changed_units", {"silent": True})],
)
def test_wrong_values_are_handed_to_the_gate_and_gone_from_the_next_run(
    replay: Replay, kind: str, options: dict[str, object]
) -> None:
    replay.fault(kind, **options)
    assert ingest() == 0
    spoiled = observations()
    replay.clear_faults()
    assert ingest() == 0
    healed = observations()
    assert not spoiled["temperature"].equals(healed["temperature"])
    assert healed["temperature"].between(-30, 25).all()
    assert collection().raw_folded == 2


def test_an_empty_answer_goes_on_with_the_known_history(replay: Replay) -> None:
    assert ingest() == 0
    accept()
    known = observations()
    replay.fault("empty")
    assert ingest() == 0
    assert collection().rows_received == 0
    pd.testing.assert_frame_equal(observations(), known)


def test_no_network_is_a_passing_fault(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = f"http://127.0.0.1:{free_ports(1)}"
    monkeypatch.setenv("OPEN_METEO_ARCHIVE_URL", nowhere)
    assert ingest() == 75
    assert f"{nowhere}/v1/archive" in capsys.readouterr().err
    assert outputs() == []


def test_a_wrong_address_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPEN_METEO_ARCHIVE_URL", "api.example.org")
    assert ingest() == 64
    assert "OPEN_METEO_ARCHIVE_URL" in capsys.readouterr().err


def test_a_query_that_the_api_refuses_is_reported_with_its_reason(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_challenge(workspace, 'name = "pressure_msl"', 'name = "pressure_of_time"')
    assert ingest() == 64
    assert "invalid String value pressure_of_time" in capsys.readouterr().err
    assert stored() == []


def test_a_clock_that_went_back_is_reported_before_anything_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert ingest() == 0
    store = open_store()
    later = datetime.now(UTC) + timedelta(minutes=6)
    body = store.get(raw_keys(store, "weather")[0]) or b""
    store.put(raw_key("weather", later), body)
    before = len(stored())
    assert ingest() == 75
    assert "the clock went back" in capsys.readouterr().err
    assert len(stored()) == before


def test_an_answer_that_is_dated_days_ahead_is_reported_and_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert ingest() == 0
    store = open_store()
    before = raw_keys(store, "weather")
    ahead = raw_key("weather", datetime.now(UTC) + timedelta(days=1, minutes=5))
    store.put(ahead, store.get(before[0]) or b"")
    store.put("raw/weather/2026/13/41/2026-13-41T00:00:00.000000Z.json.gz", b"of no day")
    capsys.readouterr()
    assert ingest() == 0
    assert (
        f"ignored 1 stored answers that are dated more than a day ahead, the first {ahead}" in capsys.readouterr().out
    )
    assert set(raw_keys(store, "weather")) == {*before, ahead, *collection().raw_keys}
    assert collection().raw_keys


def test_what_is_no_answer_is_not_stored_and_an_answer_that_was_left_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert ingest() == 0
    (left, *_), store = answer_files(FILES.raw), open_store()
    before = raw_keys(store, "weather")
    content = left.read_bytes()
    left.rename(answer_file(FILES.raw, datetime.now(UTC)))  # as a killed attempt leaves one that is not stored yet
    answer_file(FILES.raw, datetime.now(UTC)).write_bytes(b"rubbish")
    (FILES.raw / "2026-13-41T00:00:00.000000Z.json.gz").write_bytes(b"of no day")
    os.mkfifo(answer_file(FILES.raw, datetime.now(UTC)))
    assert ingest() == 0
    assert "is not stored: a raw object cannot be unpacked" in capsys.readouterr().out
    added = [key for key in raw_keys(store, "weather") if key not in before]
    assert len(added) == 1 + len(collection().raw_keys)
    assert unpack(store.get(added[0]) or b"").body == unpack(content).body


def test_a_clock_that_is_a_little_behind_still_collects_in_order() -> None:
    assert ingest() == 0
    store = open_store()
    ahead = datetime.now(UTC) + timedelta(minutes=3)
    store.put(raw_key("weather", ahead), store.get(raw_keys(store, "weather")[0]) or b"")
    assert ingest() == 0
    assert list(collection().raw_keys) == raw_keys(store, "weather")[-2:]


def test_without_the_store_nothing_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], replay: Replay
) -> None:
    replay.fault("server_error", times=1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)}")
    assert ingest() == 75
    assert "S3 at" in capsys.readouterr().err
    monkeypatch.delenv("RPS_STORE")
    assert ingest() == 64
    assert "RPS_STORE" in capsys.readouterr().err
