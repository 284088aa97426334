"""`ingest` on a real S3 and the replay over HTTP: what it asks for, stores and hands on."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import pandas as pd
import pytest

from clients.errors import ConfigurationError
from clients.store import open_store
from forecasting.challenge.schema import load_challenge
from pipelines.carrier.answers import raw_keys, store_raw
from pipelines.carrier.snapshot import snapshot_key
from pipelines.history import fingerprint
from pipelines.raw import pack, raw_key, unpack
from pipelines.sources.source import Answer
from tests.integration.ingesting import (
    FILES,
    accept,
    change_challenge,
    collection,
    ingest,
    lay_out_workspace,
    observations,
    share_models_of_apis,
)
from tests.replay_fixture import END, Replay


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, store_env: dict[str, str], replay: Replay, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    share_models_of_apis(monkeypatch)
    for name in ("RPS_RUN_ID", "RPS_AS_OF"):
        monkeypatch.delenv(name, raising=False)
    lay_out_workspace(tmp_path)
    return tmp_path


def raws() -> list[Answer]:
    store = open_store()
    return [unpack(store.get(key) or b"") for key in raw_keys(store, "weather")]


def hour(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_the_first_ingest_brings_the_whole_history() -> None:
    assert ingest() == 0
    table = observations()
    assert list(table.columns)[:2] == ["unique_id", "ds"]
    assert str(table["ds"].dtype) == "datetime64[us, UTC]"
    assert set(table.dtypes.iloc[2:].astype(str)) == {"float64"}
    assert not table.duplicated(["unique_id", "ds"]).any()
    assert table[["unique_id", "ds"]].equals(table[["unique_id", "ds"]].sort_values(["unique_id", "ds"]))
    assert table["ds"].max() == pd.Timestamp(END)
    assert len(table) == collection().rows == collection().rows_new == collection().rows_received == 26115
    assert collection().rows_by_series == {"EWR": 8703, "JFK": 8706, "LGA": 8706}
    assert (collection().repeats, collection().conflicting_repeats, collection().out_of_order) == (0, 0, 0)
    first = table.loc[(table["unique_id"] == "EWR") & (table["ds"] == "2013-01-01T06:00Z")].iloc[0]
    assert first["temperature"] == pytest.approx(3.9)
    assert first["wind_speed"] == pytest.approx(4.63, abs=1e-4)
    assert table["pressure"].isna().sum() == 2729


def test_a_long_history_is_asked_for_in_pages_without_overlap_and_recent_hours_as_forecast() -> None:
    assert ingest() == 0
    asked = [(urlsplit(answer.url).path, answer.query) for answer in raws()]
    assert [path for path, _ in asked] == ["/v1/archive"] * 4 + ["/v1/forecast"]
    dates = [(query["start_date"], query["end_date"]) for path, query in asked if path == "/v1/archive"]
    assert dates[0][0] == "2012-12-30"
    assert dates[-1][1] == "2013-12-24"
    for (_, end), (start, _) in itertools.pairwise(dates):
        assert hour(start) - hour(end) == timedelta(days=1)
    assert all(hour(end) - hour(start) <= timedelta(days=91) for start, end in dates)
    assert (asked[-1][1]["start_hour"], asked[-1][1]["end_hour"]) == ("2013-12-25T00:00", "2013-12-30T23:00")


def test_the_raw_answer_is_stored_as_it_came_under_its_collection_time(replay: Replay) -> None:
    change_challenge(Path(), "history_days = 365", "history_days = 60")
    before = datetime.now(UTC)
    assert ingest() == 0
    after = datetime.now(UTC)
    store = open_store()
    key = raw_keys(store, "weather")[-1]
    envelope = json.loads(gzip.decompress(store.get(key) or b""))
    collected_at = hour(envelope["collected_at"])
    assert before <= collected_at <= after
    assert key == f"raw/weather/{collected_at:%Y/%m/%d/%Y-%m-%dT%H:%M:%S.%f}Z.json.gz"
    assert envelope["status"] == 200
    assert hour(envelope["as_of"]) == hour(END)
    again = httpx.get(envelope["url"]).json()
    stored = json.loads(envelope["body"])
    assert [place["hourly"] for place in stored] == [place["hourly"] for place in again]
    assert collection().raw_keys == tuple(raw_keys(store, "weather"))


def test_only_what_is_new_or_may_be_revised_is_asked_for_once_the_data_was_accepted(replay: Replay) -> None:
    replay.move_clock("2013-12-20T12:00:00Z")
    assert ingest() == 0
    accept()
    asked_before = len(raws())
    replay.move_clock("2013-12-20T18:30:00Z")
    assert ingest() == 0
    new = raws()[asked_before:]
    assert [answer.query["start_hour"] for answer in new] == ["2013-12-19T12:00"]
    assert collection().requested_since == hour("2013-12-19T12:00:00Z")
    assert collection().rows_new == 6 * 3
    assert observations()["ds"].max() == pd.Timestamp("2013-12-20T18:00Z")


def test_data_that_was_not_accepted_is_asked_for_again_and_the_later_collection_wins(replay: Replay) -> None:
    replay.move_clock("2013-12-20T12:00:00Z")
    assert ingest() == 0
    accept()
    replay.move_clock("2013-12-22T12:00:00Z")
    replay.fault("null_burst", times=1, hours=36)
    assert ingest() == 0
    assert observations()["temperature"].isna().sum() > 36
    # The gate rejects that, so nobody accepts it; the next run must not inherit it.
    replay.move_clock("2013-12-22T18:00:00Z")
    assert ingest() == 0
    assert collection().requested_since == hour("2013-12-19T12:00:00Z")
    assert collection().raw_folded == 1
    healed = observations()
    assert healed["temperature"].isna().sum() <= 1
    assert healed["ds"].max() == pd.Timestamp("2013-12-22T18:00Z")


def test_the_history_is_the_same_whether_it_grew_or_came_at_once(workspace: Path, replay: Replay) -> None:
    change_challenge(workspace, "history_days = 365", "history_days = 60")
    for now in ("2013-12-01T00:00:00Z", "2013-12-01T06:00:00Z", "2013-12-05T00:00:00Z", END):
        replay.move_clock(now)
        assert ingest() == 0
        accept()
    grown = observations()
    store = open_store()
    for key in store.keys(""):
        store.client.delete_object(Bucket=store.bucket, Key=f"{store.prefix}{key}")
    assert ingest() == 0
    pd.testing.assert_frame_equal(grown, observations())


def test_running_the_same_run_again_gives_the_same_observations(
    replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RPS_RUN_ID", "manual__1")
    replay.move_clock("2013-12-20T12:00:00Z")
    assert ingest() == 0
    first = FILES.observations.read_bytes()
    replay.move_clock("2013-12-25T12:00:00Z")
    assert ingest() == 0
    assert FILES.observations.read_bytes() == first


def test_a_run_as_of_an_earlier_moment_sees_what_was_known_then(
    replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ingest() == 0
    accept()
    monkeypatch.setenv("RPS_AS_OF", "2013-12-10T00:30:00Z")
    assert ingest() == 0
    assert observations()["ds"].max() == pd.Timestamp("2013-12-10T00:00Z")
    accept()
    monkeypatch.delenv("RPS_AS_OF")
    assert ingest() == 0
    assert collection().requested_since == hour("2013-12-29T23:00:00Z")
    assert len(observations()) == 26115


def test_answers_that_a_later_run_collected_are_left_to_it(
    workspace: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_challenge(workspace, "history_days = 365", "history_days = 60")
    assert ingest() == 0
    monkeypatch.setenv("RPS_AS_OF", "2013-12-10T00:30:00Z")
    assert ingest() == 0
    assert collection().raw_folded == 0
    monkeypatch.delenv("RPS_AS_OF")
    assert ingest() == 0
    assert collection().raw_folded == 3


def test_a_longer_history_is_asked_for_when_the_window_reaches_further_back(replay: Replay) -> None:
    # The fingerprint is the same, only the moment is earlier, so the accepted history starts too late.
    change_challenge(Path(), "history_days = 365", "history_days = 60")
    assert ingest() == 0
    accept()
    replay.move_clock("2013-11-20T00:00:00Z")
    assert ingest() == 0
    assert collection().requested_since == hour("2013-09-21T00:00:00Z")
    assert observations()["ds"].min() == pd.Timestamp("2013-09-21T01:00Z")


def test_a_run_accepted_late_does_not_undo_another(
    workspace: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_challenge(workspace, "history_days = 365", "history_days = 60")
    replay.move_clock("2013-12-20T06:00:00Z")
    assert ingest() == 0
    late, other = Path.cwd(), workspace / "other"
    shutil.copytree(workspace / "challenges", other / "challenges")
    monkeypatch.chdir(other)
    # As of an earlier moment, so that this one does not know the late run's answers, nor that one these.
    replay.move_clock("2013-12-20T03:00:00Z")
    assert ingest() == 0
    accept()
    monkeypatch.chdir(late)
    accept()
    replay.move_clock("2013-12-21T06:00:00Z")
    assert ingest() == 0
    assert collection().raw_folded == 0
    assert collection().requested_since == hour("2013-12-19T06:00:00Z")


def test_two_runs_accepted_at_once_lose_nothing(workspace: Path, replay: Replay) -> None:
    change_challenge(workspace, "history_days = 365", "history_days = 60")
    replay.move_clock("2013-12-20T00:00:00Z")
    assert ingest() == 0
    accept()
    store, key = open_store(), snapshot_key(load_challenge(workspace / "challenges/weather.toml"))
    before = store.get(key) or b""
    replay.move_clock("2013-12-20T06:00:00Z")
    assert ingest() == 0
    accept()
    # The other run read the snapshot before this one's was written, and writes its own last.
    store.put(key, before)
    replay.move_clock("2013-12-20T12:00:00Z")
    assert ingest() == 0
    assert collection().raw_folded == 1
    accept()
    assert ingest() == 0
    assert collection().raw_folded == 0
    expected = 3 * 60 * 24
    assert expected * 0.99 < len(observations()) <= expected


def test_accepting_a_run_twice_changes_nothing(workspace: Path) -> None:
    change_challenge(workspace, "history_days = 365", "history_days = 60")
    assert ingest() == 0
    accept()
    key = snapshot_key(load_challenge(workspace / "challenges/weather.toml"))
    once = open_store().get(key)
    accept()
    assert open_store().get(key) == once


def test_another_runs_leftovers_are_not_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    change_challenge(Path(), "history_days = 365", "history_days = 60")
    assert ingest() == 0
    identity = json.loads(FILES.run.read_text())
    FILES.run.write_text(json.dumps({**identity, "run_id": "another"}))
    with pytest.raises(ConfigurationError, match="run the stage 'merge' again"):
        accept()


def test_a_damaged_snapshot_is_reported_and_folded_again(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_challenge(workspace, "history_days = 365", "history_days = 60")
    assert ingest() == 0
    accept()
    whole = observations()
    store, key = open_store(), snapshot_key(load_challenge(workspace / "challenges/weather.toml"))
    for damaged in (b"", b"rubbish", (store.get(key) or b"")[:-100]):
        store.put(key, damaged)
        assert ingest() == 0
        assert "is damaged and ignored" in capsys.readouterr().out
        pd.testing.assert_frame_equal(observations(), whole)


def test_changed_rules_have_a_history_of_their_own_from_the_same_raw_answers(workspace: Path, replay: Replay) -> None:
    change_challenge(workspace, "history_days = 365", "history_days = 60")
    assert ingest() == 0
    accept()
    change_challenge(workspace, "min_rows = 2016", "min_rows = 2017")
    replay.fault("empty")
    assert ingest() == 0
    assert collection().raw_folded > 0
    assert collection().rows > 4000


def test_the_fingerprint_follows_source_and_rules_and_nothing_else(workspace: Path) -> None:
    path = workspace / "challenges/weather.toml"
    before = fingerprint(load_challenge(path))
    change_challenge(workspace, "learning_rate = 0.05", "learning_rate = 0.06")
    assert fingerprint(load_challenge(path)) == before
    change_challenge(workspace, "max_gap_hours = 12", "max_gap_hours = 13")
    assert fingerprint(load_challenge(path)) != before


def test_a_stored_answer_that_cannot_be_read_is_reported_and_does_not_stop_the_rest(workspace: Path) -> None:
    change_challenge(workspace, "history_days = 365", "history_days = 60")
    store = open_store()
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    renamed = Answer(
        collected_at=moment,
        as_of=hour("2013-12-01T00:00:00Z"),
        url="http://127.0.0.1/v1/archive?latitude=40.6925&longitude=-74.1687",
        status=200,
        headers={},
        body=b'{"hourly": {"time": [1], "temperature": [2]}, "hourly_units": {"time": "unixtime"}}',
    )
    for number, body in enumerate((b"rubbish", pack(renamed), pack(msgspec.structs.replace(renamed, body=b"{")))):
        store.put(raw_key("weather", moment + timedelta(microseconds=number)), body)
    store.put("raw/weather/README", b"no answer at all")
    assert ingest() == 0
    assert len(collection().raw_unreadable) == 3
    accept()
    assert ingest() == 0
    assert collection().raw_unreadable == ()


def test_two_answers_of_one_microsecond_both_stay() -> None:
    answer = Answer(
        collected_at=datetime(2026, 1, 1, tzinfo=UTC),
        as_of=datetime(2026, 1, 1, tzinfo=UTC),
        url="http://127.0.0.1/",
        status=200,
        headers={},
        body=b"\xff not UTF-8",
    )
    store = open_store()
    keys = [store_raw(store, "weather", answer)[0] for _ in range(3)]
    assert keys == raw_keys(store, "weather")
    assert len(set(keys)) == 3
    assert unpack(store.get(keys[-1]) or b"").body == b"\xff not UTF-8"
