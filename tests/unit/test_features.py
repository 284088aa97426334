"""The table form of the features and the form of one moment, against each other and against a slow, plain reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.challenge.schema import Differences, Features, Lags, Rolling, Vectors
from forecasting.features import table as table_features_module
from forecasting.features.definitions import FeatureError
from forecasting.features.ring_buffer import Arrival, RingBuffer
from forecasting.features.spec import FeatureSpec
from forecasting.features.table import Table, table_features, table_targets

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = 376_944  # 2013-01-01T00:00Z in hours
SPEC = FeatureSpec(
    target="temperature",
    step_minutes=60,
    horizons=(2, 4),
    features=Features(
        lags=(Lags("temperature", (1, 5)), Lags("pressure", (0, 3))),
        rolling=(
            Rolling("temperature", (2, 3, 7), ("mean", "std", "min", "max")),
            Rolling("pressure", (4, 6), ("std", "mean")),
            Rolling("temperature", (3, 5), ("mean", "min"), relative=True),
            Rolling("pressure", (4,), ("max",), relative=True),
        ),
        differences=(Differences("temperature", (1, 6)), Differences("pressure", (2,))),
        vectors=(Vectors(speed="temperature", direction="pressure", steps=(0, 5)),),  # any two variables show it
        calendar=("hour_of_day", "day_of_week", "day_of_year"),
    ),
)
LOG = msgspec.structs.replace(SPEC, scale="log")

Observation = tuple[int, Sequence[float]]  # hour since 1970, a value per SPEC.variables
Series = list[Observation]


def moment(hour: int) -> datetime:
    return EPOCH + timedelta(hours=hour)


def table_of(all_series: Sequence[Series], unit: str = "us", spec: FeatureSpec = SPEC) -> Table:
    hours = np.array([hour for series in all_series for hour, _ in series], dtype=np.int64)
    rows = np.array([values for series in all_series for _, values in series], dtype=float)
    rows = rows.reshape(len(hours), len(spec.variables))
    return Table(
        unique_ids=[f"series{number}" for number in range(len(all_series))],
        codes=np.repeat(np.arange(len(all_series)), [len(series) for series in all_series]),
        ds=(hours * 3600).astype("datetime64[s]").astype(f"datetime64[{unit}]"),
        variables={name: rows[:, place] for place, name in enumerate(spec.variables)},
    )


def streamed(series: Series, spec: FeatureSpec = SPEC) -> np.ndarray:
    """The features of a series whose observations come one after the other: a row each."""
    buffer = RingBuffer(spec)
    rows = []
    for hour, values in series:
        buffer.update(moment(hour), values)
        rows.append(np.concatenate([buffer.vector(), *(buffer.calendar(horizon) for horizon in spec.horizons)]))
    return np.array(rows).reshape(len(series), len(spec.columns))


def reference(series: Series, name: str, hour: int) -> float:
    """One feature at one hour, from its name, by the letter of its definition."""
    held = {at: values for at, values in series if at <= hour}

    def value(variable: str, age: int) -> float:
        found = held.get(hour - age, (math.nan,) * len(SPEC.variables))[SPEC.variables.index(variable)]
        return found if math.isfinite(found) else math.nan

    parts = name.split("_")
    if name.startswith(("hour_of", "day_of")):
        predicted = moment(hour + int(parts[-1][1:]))
        phase = {
            "hour": (predicted.hour * 60 + predicted.minute) / 1440,
            "week": predicted.weekday() / 7,
            "year": (predicted.timetuple().tm_yday - 1) / 365.25,
        }[parts[2] if parts[0] == "day" else "hour"]
        return (math.sin if "sin" in parts else math.cos)(2 * math.pi * phase)
    if name.endswith("_relative"):
        return reference(series, name.removesuffix("_relative"), hour) - value(parts[0], 0)
    variable, kind, last = parts[0], parts[1], int(parts[-1])
    if kind in {"u", "v"}:
        speed, degrees = value(variable, last), value("pressure", last)
        return 0.0 if speed == 0 else -speed * (math.sin if kind == "u" else math.cos)(math.radians(degrees))
    if kind == "lag":
        return value(variable, last)
    if kind == "difference":
        return value(variable, 0) - value(variable, last)
    seen = [each for each in (value(variable, age) for age in range(last)) if not math.isnan(each)]
    if len(seen) < last / 2:
        return math.nan
    mean = math.fsum(seen) / len(seen)
    deviation = math.sqrt(math.fsum((each - mean) ** 2 for each in seen) / len(seen))
    return {"mean": mean, "std": deviation, "min": min(seen), "max": max(seen)}[parts[2]]


values = st.one_of(
    st.floats(-1e4, 1e4, allow_nan=False).map(lambda value: round(value, 3)),  # as instruments tell it
    st.sampled_from([math.nan, 0.0, 21.5, math.inf]),
)


@st.composite
def a_series(draw: st.DrawFn) -> Series:
    """Hours ascending, with gaps (some longer than any feature reaches) and repeats."""
    hour = START + draw(st.integers(-5000, 5000))
    series = []
    for _ in range(draw(st.integers(0, 25))):
        series.append((hour, tuple(draw(values) for _ in SPEC.variables)))
        hour += draw(st.sampled_from([0, 1, 1, 1, 1, 1, 2, 3, 9, 40]))
    return series


@pytest.mark.parametrize("spec", [SPEC, LOG], ids=lambda each: each.scale)
@given(all_series=st.lists(a_series(), min_size=1, max_size=4), cells_per_piece=st.sampled_from([1, 7, 8192]))
@settings(max_examples=150, deadline=None)
def test_both_forms_give_the_same_numbers(spec: FeatureSpec, all_series: list[Series], cells_per_piece: int) -> None:
    size, table_features_module.CELLS_PER_PIECE = table_features_module.CELLS_PER_PIECE, cells_per_piece
    try:
        batch = table_features(spec, table_of(all_series))
    finally:
        table_features_module.CELLS_PER_PIECE = size
    first = 0
    for series in all_series:
        last_of_hour = [row for row, (hour, _) in enumerate(series) if hour not in {at for at, _ in series[row + 1 :]}]
        streaming = streamed(series, spec)
        np.testing.assert_array_equal(batch[first : first + len(series)][last_of_hour], streaming[last_of_hour])
        first += len(series)


@given(st.lists(a_series(), min_size=1, max_size=2))
@settings(max_examples=60, deadline=None)
def test_features_are_what_their_names_say(all_series: list[Series]) -> None:
    batch = iter(table_features(SPEC, table_of(all_series)))
    for series in all_series:
        for hour, _ in series:
            expected = [reference(series, name, hour) for name in SPEC.columns]
            np.testing.assert_allclose(next(batch), expected, rtol=1e-9, atol=1e-9)


@given(a_series(), st.randoms(use_true_random=False), st.data())
@settings(max_examples=100, deadline=None)
def test_order_of_arrival_does_not_matter_within_the_buffer(series: Series, random, data: st.DataObject) -> None:
    unique = list(dict(series).items())
    newest = max((hour for hour, _ in unique), default=0)
    within = [(hour, row) for hour, row in unique if newest - hour <= SPEC.lookback]
    shuffled = random.sample(within, len(within))
    shuffled += [data.draw(st.sampled_from(within))] if within else []
    in_order, out_of_order = RingBuffer(SPEC), RingBuffer(SPEC)
    for buffer, arrivals in ((in_order, sorted(within)), (out_of_order, shuffled)):
        for hour, row in arrivals:
            buffer.update(moment(hour), row)
    np.testing.assert_array_equal(in_order.vector(), out_of_order.vector())
    # What follows is the same as well: the sums that later windows are built from were mended too.
    for later in range(1, 2 * SPEC.lookback):
        for buffer in (in_order, out_of_order):
            buffer.update(moment(newest + later), (1.0 * later, -2.0 * later))
        np.testing.assert_array_equal(in_order.vector(), out_of_order.vector())


@given(a_series(), st.integers(0, 24))
@settings(max_examples=60, deadline=None)
def test_the_future_changes_no_feature(series: Series, cut: int) -> None:
    unique = list(dict(series).items())
    cut = min(cut, len(unique))
    changed = unique[:cut] + [(hour, (-777.0, 555.0)) for hour, _ in unique[cut:]]
    before = table_features(SPEC, table_of([unique, [(START, (1.0, 2.0))]]))
    after = table_features(SPEC, table_of([changed, [(START, (9.0, 9.0))]]))
    np.testing.assert_array_equal(before[:cut], after[:cut])


def test_a_repeat_does_not_hide_a_gap() -> None:
    series = [(START, (1.0, 0.0)), (START, (2.0, 0.0)), (START + 2, (3.0, 0.0))]
    features = table_features(SPEC, table_of([series]))
    np.testing.assert_array_equal(features[:, SPEC.columns.index("temperature_lag_0")], [2.0, 2.0, 3.0])
    np.testing.assert_array_equal(features[:, SPEC.columns.index("temperature_lag_1")], [math.nan] * 3)


def hourly(count: int, seed: int = 0, start: int = START) -> Series:
    random = np.random.default_rng(seed)
    return [(start + hour, tuple(row)) for hour, row in enumerate(random.normal(10, 5, (count, 2)).tolist())]


def test_a_series_does_not_see_its_neighbour() -> None:
    alone = table_features(SPEC, table_of([hourly(30, seed=2)]))
    after_another = table_features(SPEC, table_of([hourly(30, seed=1), hourly(30, seed=2)]))
    np.testing.assert_array_equal(after_another[30:], alone)
    targets = table_targets(SPEC, table_of([hourly(30, seed=1), hourly(30, seed=2)]))
    assert np.isnan(targets[28:30]).all()


@given(st.lists(a_series(), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_targets_are_the_last_value_of_that_hour(all_series: list[Series]) -> None:
    targets = iter(table_targets(SPEC, table_of(all_series)))
    for series in all_series:
        held = {hour: row[0] for hour, row in series}
        for hour, _ in series:
            later = [held.get(hour + horizon, math.nan) for horizon in SPEC.horizons]
            np.testing.assert_array_equal(next(targets), [each if math.isfinite(each) else math.nan for each in later])


def test_statistics_need_half_of_the_window() -> None:
    column = SPEC.columns.index("temperature_rolling_mean_7")
    series = [(START + hour, (float(hour), 0.0)) for hour in range(4)]
    means = table_features(SPEC, table_of([series]))[:, column]
    np.testing.assert_array_equal(means, [math.nan, math.nan, math.nan, 1.5])


def test_deviation_is_stable_far_from_zero_and_zero_for_equal_values() -> None:
    column = SPEC.columns.index("temperature_rolling_std_7")
    far = [(START + hour, (101_325.1 + hour % 2, 0.0)) for hour in range(20)]
    assert table_features(SPEC, table_of([far]))[-1, column] == pytest.approx(math.sqrt(12 / 49), rel=1e-10)
    equal = [(START + hour, (0.1 + 0.2, 0.0)) for hour in range(20)]
    assert table_features(SPEC, table_of([equal]))[-1, column] == 0.0


def test_a_relative_statistic_is_given_from_the_value_at_the_origin() -> None:
    features = Features(rolling=(Rolling("temperature", (3,), ("mean", "min", "max"), relative=True),))
    spec = FeatureSpec("temperature", 60, (2,), features)
    assert spec.columns == (
        "temperature_lag_0",
        *(f"temperature_rolling_{each}_3_relative" for each in ("mean", "min", "max")),
    )
    series = [(START + hour, (value,)) for hour, value in enumerate([1.0, 2.0, 6.0, math.nan])]
    rows = streamed(series, spec)
    np.testing.assert_array_equal(rows, table_features(spec, table_of([series], spec=spec)))
    np.testing.assert_array_equal(rows[2:, 1:], [(-3.0, -5.0, 0.0), (math.nan, math.nan, math.nan)])


def test_features_of_the_target_are_on_its_scale_and_the_targets_are_not() -> None:
    series = [(START + age, (2.0 ** (age + 1), 5.0)) for age in range(7)]
    row = dict(zip(LOG.columns, table_features(LOG, table_of([series]))[-1].tolist(), strict=True))
    two = math.log(2.0)
    assert row["temperature_lag_0"] == pytest.approx(7 * two)
    assert row["temperature_difference_6"] == pytest.approx(6 * two)
    assert row["temperature_rolling_mean_3"] == pytest.approx(6 * two)
    assert row["temperature_rolling_mean_3_relative"] == pytest.approx(-two)
    assert row["pressure_lag_0"] == 5.0
    assert table_targets(LOG, table_of([series]))[0].tolist() == [8.0, 32.0]


def test_a_wind_is_split_into_what_blows_to_the_east_and_to_the_north() -> None:
    half = 10 / math.sqrt(2)
    winds = {
        "from the west": ((10.0, 270.0), (10.0, 0.0)),
        "from the north": ((10.0, 360.0), (0.0, -10.0)),
        "from the north, as zero": ((10.0, 0.0), (0.0, -10.0)),
        "from the south-east": ((10.0, 135.0), (-half, half)),
        "calm": ((0.0, 90.0), (0.0, 0.0)),
        "calm without a direction": ((0.0, math.nan), (0.0, 0.0)),
        "without a direction": ((10.0, math.nan), (math.nan, math.nan)),
        "without a speed": ((math.nan, 90.0), (math.nan, math.nan)),
    }
    spec = FeatureSpec("speed", 60, (2,), Features(vectors=(Vectors("speed", "direction", (0, 2)),)))
    assert spec.columns == ("speed_lag_0", "speed_u_0", "speed_v_0", "speed_u_2", "speed_v_2")
    series = [(START + hour, wind) for hour, (wind, _) in enumerate(winds.values())]
    rows, expected = streamed(series, spec), [components for _, components in winds.values()]
    np.testing.assert_array_equal(rows, table_features(spec, table_of([series], spec=spec)))
    np.testing.assert_allclose(rows[:, 1:3], expected, atol=1e-14)
    np.testing.assert_allclose(rows[2:, 3:], expected[:-2], atol=1e-14)


def test_memory_follows_the_rows_and_not_the_time_between_them() -> None:
    century = 24 * 365 * 100
    series = [(START + number * century // 50, (float(number), 0.0)) for number in range(50)]
    features = table_features(SPEC, table_of([series]))
    assert table_features_module._places(np.zeros(50), np.array([hour for hour, _ in series]), 10)[-1] == 500
    np.testing.assert_array_equal(features, streamed(series))


def test_an_observation_says_what_it_did() -> None:
    buffer = RingBuffer(SPEC)
    assert buffer.newest is None
    assert buffer.update(moment(START + 10), (1.0, 2.0)) is Arrival.NEWEST
    assert buffer.update(moment(START + 8), (3.0, None)) is Arrival.LATE
    assert buffer.update(moment(START + 8), (3.0, math.inf)) is Arrival.REPEATED
    assert buffer.update(moment(START + 8), (3.0, 1.0)) is Arrival.CORRECTED
    assert buffer.update(moment(START + 10), (4.0, 2.0)) is Arrival.CORRECTED
    before = buffer.vector()
    assert buffer.update(moment(START + 9 - SPEC.lookback), (9.0, 9.0)) is Arrival.TOO_OLD
    np.testing.assert_array_equal(buffer.vector(), before)
    assert before[SPEC.origin_column] == 4.0
    assert buffer.newest == moment(START + 10)


def test_a_model_gets_the_shared_columns_and_its_own_calendar() -> None:
    buffer = RingBuffer(SPEC)
    buffer.update(moment(START), (1.0, 2.0))
    assert SPEC.columns_for(4)[-6:] == tuple(
        f"{cycle}_{part}_h4" for cycle in ("hour_of_day", "day_of_week", "day_of_year") for part in ("sin", "cos")
    )
    assert SPEC.columns_for(4)[:-6] == SPEC.shared_columns
    assert buffer.features(4).shape == (1, len(SPEC.columns_for(4)))
    row = table_features(SPEC, table_of([[(START, (1.0, 2.0))]]))[0]
    picked = row[[SPEC.columns.index(name) for name in SPEC.columns_for(4)]]
    np.testing.assert_array_equal(buffer.features(4)[0], picked)
    with pytest.raises(FeatureError, match=r"horizon: expected one of \[2, 4\]; found 3"):
        SPEC.columns_for(3)


def test_the_targets_value_at_the_origin_is_always_a_feature() -> None:
    assert SPEC.shared_columns[SPEC.origin_column] == "temperature_lag_0"
    assert SPEC.variables[0] == "temperature"


def test_a_specification_travels_as_json() -> None:
    again = msgspec.json.decode(msgspec.json.encode(SPEC), type=FeatureSpec)
    assert again == SPEC
    assert again.columns == SPEC.columns


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns", "h", "m"])
def test_any_unit_of_time_will_do(unit: str) -> None:
    series = hourly(20)
    np.testing.assert_array_equal(table_features(SPEC, table_of([series], unit)), streamed(series))


def test_a_time_between_two_steps_is_refused() -> None:
    table = table_of([hourly(3), hourly(3)])
    table.ds[4] += np.timedelta64(90, "s")
    with pytest.raises(
        FeatureError, match=r"series series1, 2013-01-01T01:01:30.*multiples of 60 minutes.*1 of 6 rows"
    ):
        table_features(SPEC, table)
    with pytest.raises(FeatureError, match="multiple of 60 minutes"):
        RingBuffer(SPEC).update(moment(START) + timedelta(minutes=1), (1.0, 2.0))


def test_rows_out_of_order_are_refused() -> None:
    series = hourly(3)
    with pytest.raises(FeatureError, match="row 2: expected rows sorted by series and time"):
        table_features(SPEC, table_of([[series[0], series[2], series[1]]]))


def test_a_missing_variable_a_naive_time_and_a_short_row_are_refused() -> None:
    table = table_of([hourly(3)])
    del table.variables["pressure"]
    with pytest.raises(FeatureError, match="pressure missing"):
        table_features(SPEC, table)
    with pytest.raises(FeatureError, match="offset from UTC; found 2013-01-01T00:00:00"):
        RingBuffer(SPEC).update(moment(START).replace(tzinfo=None), (1.0, 2.0))
    with pytest.raises(FeatureError, match=r"2 values \(temperature, pressure\); found 1"):
        RingBuffer(SPEC).update(moment(START), (1.0,))
