from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache

import msgspec
import numpy as np
import pandas as pd
import pytest

from doubles.replay.recording import COLUMNS, RECORDING
from forecasting.drift.sensor_faults import DETECTORS, relative_humidity
from pipelines.data_rules import judge
from pipelines.validate import as_markdown
from records.quality import QualityReport, Violation
from tests.runs import AS_OF, made_up_weather, weather

CHALLENGE = weather()
NOVEMBER = datetime(2013, 11, 20, 12, tzinfo=UTC)
GOOD = made_up_weather(hours=24 * 100)
Damage = Callable[[pd.DataFrame], pd.DataFrame]


def judged(table: pd.DataFrame, **received: int) -> QualityReport:
    return judge(table, CHALLENGE, AS_OF, **received)


def rules(report: QualityReport, severity: str = "error") -> set[tuple[str, str, str]]:
    return {(found.rule, found.series, found.column) for found in report.violations if found.severity == severity}


def only(report: QualityReport, rule: str) -> Violation:
    (found,) = [violation for violation in report.violations if violation.rule == rule]
    return found


def in_hours(table: pd.DataFrame, series: str, newest: int, oldest: int) -> pd.Series:
    """Rows of a series that are ``newest`` (inclusive) to ``oldest`` (exclusive) hours before the last one."""
    age = (table["ds"].max() - table["ds"]) / pd.Timedelta(hours=1)
    return (table["unique_id"] == series) & (age >= newest) & (age < oldest)


def changed(column: str, value: object, series: str, newest: int, oldest: int) -> Damage:
    def damage(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[in_hours(table, series, newest, oldest), column] = value
        return table

    return damage


def without(series: str, newest: int, oldest: int) -> Damage:
    return lambda table: table[~in_hours(table, series, newest, oldest)]


def in_fahrenheit(newest: int, oldest: int) -> Damage:
    def damage(table: pd.DataFrame) -> pd.DataFrame:
        hours = in_hours(table, "JFK", newest, oldest)
        table.loc[hours, "temperature"] = table.loc[hours, "temperature"] * 1.8 + 32
        return table

    return damage


def appended(**values: object) -> Damage:
    return lambda table: pd.concat([table, table.tail(1).assign(**values)], ignore_index=True)


@cache
def recorded_year() -> pd.DataFrame:
    """The real observations of 2013 in the challenge's units."""
    read = pd.read_csv(RECORDING)
    station, time, *fields = read.columns
    read = read.rename(columns=dict(zip(fields, COLUMNS, strict=True)))
    return pd.DataFrame(
        {
            "unique_id": read[station],
            "ds": pd.to_datetime(read[time], utc=True),
            "temperature": (read["temperature_f"] - 32) / 1.8,
            "dew_point": (read["dew_point_f"] - 32) / 1.8,
            "humidity": read["humidity_percent"],
            "wind_speed": read["wind_speed_mph"] * 0.44704,
            "wind_direction": read["wind_direction_degrees"].astype("float64"),
            "precipitation": read["precipitation_inches"] * 25.4,
            "pressure": read["pressure_hpa"],
        }
    )


def test_good_observations_pass_without_a_word() -> None:
    report = judged(GOOD)
    assert report.passed
    assert report.violations == ()
    assert report.series == {"EWR": 2400, "JFK": 2400, "LGA": 2400}


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda table: table.drop(columns="humidity"), ("columns", "", "humidity")),
        (lambda table: table.assign(humidty=1.0), ("columns", "", "humidty")),
        (lambda table: table.assign(humidity="wet"), ("types", "", "humidity")),
        (lambda table: table.assign(humidity=1), ("types", "", "humidity")),
        (lambda table: table.assign(ds=table["ds"].dt.tz_localize(None)), ("types", "", "ds")),
        (lambda table: table.assign(ds=table["ds"].dt.tz_convert("America/New_York")), ("types", "", "ds")),
        (lambda table: table.assign(unique_id=7), ("types", "", "unique_id")),
        (lambda table: table[table["unique_id"] != "LGA"], ("missing_series", "LGA", "")),
        (lambda table: table.head(0), ("missing_series", "LGA", "")),
        (appended(unique_id="BOS"), ("unknown_series", "BOS", "")),
        (appended(), ("duplicates", "LGA", "")),
        (appended(ds=pd.Timestamp(AS_OF) - timedelta(minutes=50)), ("off_grid", "LGA", "")),
        (appended(ds=pd.Timestamp(AS_OF) + timedelta(minutes=30)), ("future", "LGA", "")),
        (changed("temperature", np.nan, "JFK", 1000, 1025), ("nulls", "JFK", "temperature")),
        (changed("temperature", np.nan, "JFK", 0, 2), ("recent_nulls", "JFK", "temperature")),
        (changed("pressure", 5.0, "JFK", 1000, 1003), ("range", "JFK", "pressure")),
        (changed("pressure", 5.0, "JFK", 0, 2), ("recent_range", "JFK", "pressure")),
        (changed("pressure", np.inf, "JFK", 1000, 1001), ("infinite", "JFK", "pressure")),
        (without("EWR", 500, 513), ("gap", "EWR", "")),
        (without("EWR", 0, 14), ("gap", "EWR", "")),
        (without("EWR", 0, 6), ("stale", "EWR", "")),
        (changed("temperature", 3.0, "EWR", 700, 725), ("stuck", "EWR", "temperature")),
        (without("EWR", 2000, 3000), ("too_few_rows", "EWR", "")),
        (in_fahrenheit(0, 5), ("unit_change", "JFK", "temperature")),
    ],
)  # fmt: skip
def test_a_broken_rule_is_an_error_of_that_series_and_column(damage: Damage, expected: tuple[str, str, str]) -> None:
    report = judged(damage(GOOD.copy()))
    assert not report.passed
    assert expected in rules(report)


@pytest.mark.parametrize(
    "damage",
    [
        changed("temperature", np.nan, "JFK", 1000, 1024),
        changed("temperature", np.nan, "JFK", 5, 6),
        changed("pressure", 5.0, "JFK", 1000, 1002),
        changed("pressure", 5.0, "JFK", 5, 6),
        changed("pressure", np.nan, "JFK", 0, 500),
        without("EWR", 500, 512),
        without("EWR", 0, 5),
        changed("temperature", 3.0, "EWR", 700, 724),
        changed("temperature", 45.0, "JFK", 30, 31),
        lambda table: table.assign(ds=table["ds"].astype("datetime64[us, UTC]")),
        lambda table: table.sample(frac=1.0, random_state=1),
    ],
)
def test_what_is_within_the_tolerance_passes(damage: Damage) -> None:
    assert rules(judged(damage(GOOD.copy()))) == set()


def test_a_single_wrong_value_is_a_warning_that_says_where_it_is() -> None:
    report = judged(changed("wind_speed", 463.0, "EWR", 1000, 1001)(GOOD.copy()))
    assert report.passed
    found = only(report, "range")
    assert (found.severity, found.series, found.column, found.count) == ("warning", "EWR", "wind_speed", 1)
    assert found.first == found.last == pd.Timestamp(AS_OF).floor("h") - timedelta(hours=1000)
    assert "0 … 110" in found.message


def test_a_burst_in_the_newest_hours_cannot_hide_in_a_long_history() -> None:
    table = changed("humidity", np.nan, "EWR", 0, 10)(GOOD.copy())
    errors = rules(judged(table))
    assert errors == {("recent_nulls", "EWR", "humidity")}  # 10 of 2400 would pass


def test_the_report_says_from_when_to_when_the_data_are() -> None:
    report = judged(GOOD.sample(frac=1.0, random_state=1))
    newest = pd.Timestamp(AS_OF).floor("h")
    assert (report.first, report.last) == (newest - timedelta(hours=24 * 100 - 1), newest)
    timeless = judged(GOOD.assign(ds="yesterday"))
    assert (timeless.first, timeless.last) == (None, None)
    assert judged(GOOD.iloc[:0]).first is None


def test_every_violation_is_reported_not_only_the_first() -> None:
    table = GOOD.copy()
    for damage in (
        without("EWR", 500, 520),
        changed("temperature", np.nan, "JFK", 0, 20),
        changed("pressure", 5.0, "LGA", 0, 20),
        appended(),
        lambda table: table.drop(columns="humidity"),
    ):
        table = damage(table)
    assert {rule for rule, _, _ in rules(judged(table, rows_received=100, conflicting_repeats=9))} >= {
        "gap", "recent_nulls", "recent_range", "duplicates", "columns", "conflicting_repeats",
    }  # fmt: skip


def test_a_sensor_that_reads_the_same_between_missing_readings_is_stuck() -> None:
    table = changed("temperature", 3.0, "EWR", 700, 730)(GOOD.copy())
    table = changed("temperature", np.nan, "EWR", 715, 717)(table)
    assert only(judged(table), "stuck").found == 30


@pytest.mark.parametrize(("conflicting", "passed"), [(0, True), (1, True), (2, False)])
def test_a_source_that_contradicts_itself_too_often_is_rejected(conflicting: int, *, passed: bool) -> None:
    assert judged(GOOD, rows_received=100, conflicting_repeats=conflicting).passed is passed


def test_a_change_of_unit_in_hours_that_were_accepted_before_is_a_warning() -> None:
    report = judged(in_fahrenheit(600, 700)(GOOD.copy()))
    assert only(report, "unit_change").severity == "warning"


def test_the_recorded_year_passes_whenever_it_is_judged() -> None:
    year = recorded_year()
    for as_of in pd.date_range("2013-04-03T05:00Z", "2013-12-30T23:00Z", freq="19D"):
        report = judge(year[year["ds"] <= as_of], CHALLENGE, as_of.to_pydatetime())
        assert report.errors == (), as_of


@pytest.mark.parametrize("day", range(20, 365, 49))
@pytest.mark.parametrize("hours", [3, 30])
def test_a_silent_change_to_fahrenheit_is_seen_on_any_day_of_the_recorded_year(day: int, hours: int) -> None:
    as_of = pd.Timestamp("2013-01-01T12:00Z") + timedelta(days=day)
    table = recorded_year()
    table = table[table["ds"] <= as_of].copy()
    newest = table["ds"] > as_of - timedelta(hours=hours)
    table.loc[newest, "temperature"] = table.loc[newest, "temperature"] * 1.8 + 32
    errors = judge(table, CHALLENGE, as_of.to_pydatetime()).errors
    assert {violation.rule for violation in errors} & {"unit_change", "recent_range"}


def test_the_report_for_people_cannot_be_broken_by_what_the_source_sends() -> None:
    text = as_markdown(judged(appended(unique_id="a|b<img src=x>`\n\n# no")(GOOD.copy())))
    (row,) = [line for line in text.splitlines() if "unknown_series" in line]
    assert "# no" not in text.splitlines()
    assert "<img" not in row
    assert row.replace("\\|", "").count("|") == 8
    assert "**rejected**" in text


def test_the_same_data_as_of_the_same_moment_gives_the_same_report() -> None:
    table = changed("temperature", np.nan, "JFK", 0, 20)(GOOD.copy())
    assert judged(table) == judged(table.sample(frac=1.0, random_state=3))


@pytest.mark.parametrize(("column", "series"), [("unique_id", ""), ("ds", "EWR")])
def test_a_row_without_series_or_time_is_an_error_and_can_be_reported(column: str, series: str) -> None:
    table = GOOD.copy()
    table.loc[5, [column, "temperature"]] = None
    report = judged(table)
    assert rules(report) == {("incomplete_key", series, "")}
    assert "no series or no time" in as_markdown(report)
    assert msgspec.json.decode(msgspec.json.encode(report), type=QualityReport) == report


def test_a_time_that_nanoseconds_cannot_hold_is_reported_and_not_a_crash() -> None:
    table = GOOD.assign(ds=GOOD["ds"].astype("datetime64[s, UTC]"))
    table.loc[5, "ds"] = pd.Timestamp("3000-01-01", tz="UTC").as_unit("s")
    assert rules(judged(table)) == {("types", "", "ds")}


def with_fault(degrees: float, *, matching: bool, hours: int = 72) -> pd.DataFrame:
    """The recorded year up to November, the temperature of JFK off in its last hours."""
    table = recorded_year()
    table = table[table["ds"] <= NOVEMBER].copy()
    now = in_hours(table, "JFK", 0, hours)
    table.loc[now, "temperature"] += degrees
    if matching:
        table.loc[now, "humidity"] = relative_humidity(
            table.loc[now, "temperature"].to_numpy(), table.loc[now, "dew_point"].to_numpy()
        )
    return table


def found_by_detectors(table: pd.DataFrame) -> list[Violation]:
    report = judge(table, CHALLENGE, NOVEMBER)
    return [one for one in report.violations if one.rule in DETECTORS]


def test_the_recorded_year_shows_no_faulty_sensor_in_november() -> None:
    assert found_by_detectors(with_fault(0.0, matching=False)) == []


def test_a_temperature_that_humidity_contradicts_is_a_warning_with_series_column_first_and_last() -> None:
    (found,) = found_by_detectors(with_fault(1.0, matching=False, hours=12))
    assert (found.rule, found.series, found.column, found.severity) == ("physics", "JFK", "humidity", "warning")
    assert found.first is not None
    assert NOVEMBER - timedelta(hours=8) <= found.first <= NOVEMBER - timedelta(hours=6)
    assert found.last == NOVEMBER
    assert "3 points off what temperature and dew_point give" in found.message


def test_a_series_that_leaves_its_neighbours_is_a_warning_although_its_humidity_matches() -> None:
    (found,) = found_by_detectors(with_fault(5.0, matching=True))
    assert (found.rule, found.series, found.column, found.severity) == ("neighbours", "JFK", "temperature", "warning")


def test_a_stuck_wind_gauge_is_a_warning() -> None:
    report = judged(changed("wind_speed", 3.0, "LGA", 40, 54)(GOOD.copy()))
    found = only(report, "runs")
    assert (found.series, found.column, found.severity, found.count) == ("LGA", "wind_speed", "warning", 3)
    assert report.passed


def test_a_fault_before_the_recent_window_is_past() -> None:
    hours = CHALLENGE.quality.recent_hours
    report = judged(changed("wind_speed", 3.0, "LGA", hours + 10, hours + 40)(GOOD.copy()))
    assert not rules(report, "warning")


def test_a_value_out_of_range_or_infinite_is_left_to_the_rules_for_it() -> None:
    damaged = changed("humidity", 120.0, "JFK", 0, 3)(changed("humidity", np.inf, "JFK", 3, 6)(GOOD.copy()))
    assert not {rule for rule, *_ in rules(judged(damaged), "warning")} & DETECTORS.keys()
