"""The history is a fold over collections: neither their order nor their repeats matter, and the last one wins."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.challenge.schema import Challenge, load_challenge
from pipelines.history import History, empty_history, fold, read_answer
from pipelines.raw import collected_at_of, pack, raw_key, unpack
from pipelines.sources import make_source
from pipelines.sources.source import Answer

START = datetime(2013, 12, 1, tzinfo=UTC)
CHALLENGE = load_challenge(Path(__file__).parents[2] / "challenges/weather.toml")

# A collection: (series, hour, temperature) rows as they came, hours of a short window so that they often meet.
ROWS = st.lists(
    st.tuples(st.sampled_from(["EWR", "JFK"]), st.integers(0, 5), st.one_of(st.none(), st.integers(-20, 30))),
    max_size=8,
)
COLLECTIONS = st.lists(ROWS, min_size=1, max_size=6)


def table(rows: list[tuple[str, int, int | None]], collected: int) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "unique_id": pd.Series([series for series, _, _ in rows], dtype="object"),
            "ds": pd.to_datetime([START + timedelta(hours=hour) for _, hour, _ in rows], utc=True).as_unit("us"),
            "collected_at": pd.Timestamp(START + timedelta(days=1, seconds=collected)).as_unit("us"),
            "temperature": np.array([value for _, _, value in rows], dtype="float64"),
        }
    )
    missing = {column: np.nan for column in CHALLENGE.columns if column != "temperature"}
    return frame.assign(**missing)


def expected(collections: list[list[tuple[str, int, int | None]]]) -> dict[tuple[str, int], int | None]:
    """The definition, in one line of plain Python: later rows of later collections overwrite."""
    return {(series, hour): value for rows in collections for series, hour, value in rows}


def found(rows: pd.DataFrame) -> dict[tuple[str, int], int | None]:
    hours = (rows["ds"] - START) // pd.Timedelta(hours=1)
    values = [None if np.isnan(value) else int(value) for value in rows["temperature"]]
    return dict(zip(zip(rows["unique_id"], hours, strict=True), values, strict=True))


@settings(deadline=None, max_examples=60)
@given(collections=COLLECTIONS, data=st.data())
def test_order_and_repeats_of_collections_do_not_matter(
    collections: list[list[tuple[str, int, int | None]]], data: st.DataObject
) -> None:
    tables = [table(rows, number) for number, rows in enumerate(collections)]
    straight = fold([empty_history(CHALLENGE).rows, *tables])
    assert found(straight) == expected(collections)
    repeated = data.draw(st.lists(st.sampled_from(range(len(tables))), max_size=6))
    order = data.draw(st.permutations([*range(len(tables)), *repeated]))
    other = fold([empty_history(CHALLENGE).rows, *(tables[number] for number in order)])
    pd.testing.assert_frame_equal(other, straight)


@settings(deadline=None, max_examples=60)
@given(collections=COLLECTIONS, data=st.data())
def test_merging_histories_in_any_order_is_folding_their_collections(
    collections: list[list[tuple[str, int, int | None]]], data: st.DataObject
) -> None:
    tables = [table(rows, number) for number, rows in enumerate(collections)]
    parts = [
        History(fold([empty_history(CHALLENGE).rows, tables[number]]), frozenset({str(number)}), START)
        for number in range(len(tables))
    ]
    merged = History(empty_history(CHALLENGE).rows)
    for number in data.draw(st.permutations([*range(len(parts)), 0])):
        merged = merged.merged(parts[number]) if data.draw(st.booleans()) else parts[number].merged(merged)
    assert found(merged.rows) == expected(collections)
    assert merged.raw_keys == {str(number) for number in range(len(parts))}
    assert merged.covered_from == START


def test_the_window_ends_at_the_moment_and_excludes_its_start() -> None:
    rows = [("EWR", hour, hour) for hour in (0, 1, 24, 25, 26)]
    history = History(fold([table(rows, 0)]))
    window = history.window(START + timedelta(hours=25, minutes=30), 1)
    assert list(window["temperature"]) == [24, 25]
    assert "collected_at" not in window
    assert list(history.window(START + timedelta(hours=25), 1)["temperature"]) == [24, 25]


def test_the_watermark_is_the_newest_hour_that_every_series_reaches() -> None:
    rows = [(series, hour, 1) for series in CHALLENGE.series_ids for hour in range(4)]
    history = History(fold([table([*rows, ("EWR", 5, 1)], 0)]))
    assert history.watermark(CHALLENGE, START + timedelta(hours=9)) == START + timedelta(hours=3)
    assert history.watermark(CHALLENGE, START + timedelta(hours=2)) == START + timedelta(hours=2)
    lacking = History(fold([table([("EWR", 1, 1)], 0)]))
    assert lacking.watermark(CHALLENGE, START + timedelta(hours=9)) is None


def test_hours_after_the_moment_of_the_question_are_no_observations() -> None:
    url = "http://h/v1/forecast?latitude=40.6925&longitude=-74.1687"
    names = [variable.name for variable in CHALLENGE.source.variables.values()]
    units = {variable.name: variable.unit for variable in CHALLENGE.source.variables.values()}
    hours = [int((START + timedelta(hours=hour)).timestamp()) for hour in range(6)]
    hourly = {"time": hours, **{name: [1.0] * 6 for name in names}}
    body = msgspec.json.encode({"hourly": hourly, "hourly_units": {"time": "unixtime", **units}})
    as_of = START + timedelta(hours=2, minutes=59)
    answer = Answer(collected_at=START, as_of=as_of, url=url, status=200, headers={}, body=body)
    rows = read_answer(make_source(CHALLENGE), answer)
    assert list(rows["ds"]) == [pd.Timestamp(START + timedelta(hours=hour)) for hour in range(3)]
    assert set(rows["collected_at"]) == {pd.Timestamp(START)}


@settings(deadline=None, max_examples=60)
@given(body=st.binary(max_size=200), microseconds=st.integers(0, 10**15))
def test_a_raw_answer_comes_back_byte_for_byte(body: bytes, microseconds: int) -> None:
    moment = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    answer = Answer(
        collected_at=moment, as_of=moment, url="http://h/?a=°", status=200, headers={"etag": "1"}, body=body
    )
    assert unpack(pack(answer)) == answer
    assert collected_at_of(raw_key("weather", moment)) == moment


@settings(deadline=None, max_examples=60)
@given(
    moments=st.lists(st.integers(0, 10**15), min_size=2, max_size=8).map(
        lambda steps: [datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=step) for step in steps]
    )
)
def test_raw_keys_sort_as_their_moments(moments: list[datetime]) -> None:
    assert sorted(raw_key("weather", moment) for moment in moments) == [
        raw_key("weather", moment) for moment in sorted(moments)
    ]


@pytest.mark.parametrize("damaged", [b"", b"rubbish", gzip.compress(b"{}", mtime=0), gzip.compress(b"\xff", mtime=0)])
def test_a_damaged_raw_object_is_recognised(damaged: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack(damaged)


def test_a_raw_object_cut_anywhere_is_recognised_as_damaged() -> None:
    packed = pack(Answer(collected_at=START, as_of=START, url="http://h/", status=200, headers={}, body=b"{}" * 50))
    for length in range(len(packed)):
        with pytest.raises(ValueError, match="cannot be unpacked"):
            unpack(packed[:length])


def test_an_empty_history_has_the_columns_of_its_challenge() -> None:
    def columns(challenge: Challenge) -> list[str]:
        return list(empty_history(challenge).rows.columns)

    assert columns(CHALLENGE) == ["unique_id", "ds", "collected_at", *CHALLENGE.columns]
