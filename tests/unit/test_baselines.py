"""Each baseline against numbers computed by hand and by others; both forms alike; nothing after the origin is read."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from forecasting.challenge.schema import Features, Lags, Rolling
from forecasting.features.ring_buffer import RingBuffer
from forecasting.features.spec import FeatureSpec
from forecasting.features.table import Table, table_baseline, table_features, table_targets
from forecasting.judging.baselines import (
    FEWEST_PAIRS,
    Baseline,
    Climatology,
    Fitted,
    FittedLinear,
    Last,
    Line,
    Linear,
    Persistence,
)
from tests.serving import SPEC as WEATHER
from tests.serving import recorded_table

NAN = float("nan")
START = np.datetime64("2013-03-01T00", "h")
SPEC = FeatureSpec(
    target="level",
    step_minutes=360,
    horizons=(1, 3, 5),
    features=Features(
        lags=(Lags("level", (0, 1)), Lags("other", (0,))),
        rolling=(Rolling("level", (4,), ("mean",)),),
        calendar=("hour_of_day",),
    ),
)
"""Four steps a day."""
LOG = msgspec.structs.replace(SPEC, scale="log")
LINE = FittedLinear(
    ("level_lag_1", "level_rolling_mean_4"),
    {1: Line(1.0, (0.5, 0.25)), 3: Line(2.0, (0.0, 1.0)), 5: Line(0.0, (1.0, 0.0))},
)
ALL: list[Fitted] = [Persistence(), Climatology(3), Climatology(5), Last("other"), LINE]


def table_of(level: list[float], other: list[float] | None = None, steps: list[int] | None = None) -> Table:
    """One series, on every step or on these ones."""
    at = np.arange(len(level)) if steps is None else np.array(steps)
    variables = {"level": np.array(level), "other": np.array(other if other else [0.0] * len(level))}
    return Table(("A",), np.zeros(len(level), dtype=int), START + 6 * at.astype("timedelta64[h]"), variables)


def by_moment(baseline: Fitted, spec: FeatureSpec, table: Table) -> np.ndarray:
    """The forecasts as the service makes them: each observation of one series in turn."""
    buffer = RingBuffer(spec, baseline.lookback(spec.step_minutes))
    forecasts = []
    values = np.stack([table.variables[name] for name in spec.variables], axis=1)
    for ds, row in zip(table.ds.astype("datetime64[s]").astype(int).tolist(), values, strict=True):
        buffer.update(datetime.fromtimestamp(ds, UTC), row.tolist())
        calendars = [buffer.calendar(horizon).tolist() for horizon in spec.horizons]
        inputs = [*buffer.vector().tolist(), *(value for calendar in calendars for value in calendar)]
        forecasts.append(baseline.at_moment(spec, buffer.columns, inputs))
    return np.array(forecasts)


def test_every_kind_of_the_table_is_tested_here() -> None:
    tested = {each.kind for each in (Persistence(), Climatology(), Last("other"), LINE)}
    assert {kind.__struct_config__.tag for kind in Baseline.__args__} == tested
    assert {kind.__struct_config__.tag for kind in Fitted.__args__} == tested


@pytest.mark.parametrize(
    ("baseline", "title"),
    [
        (Persistence(), "persistence"),
        (Climatology(), "climatology (28 days)"),
        (Last("other"), "last other"),
        (Linear(("a", "b")), "linear (a, b)"),
        (LINE, "linear (level_lag_1, level_rolling_mean_4)"),
    ],
)
def test_a_baseline_has_a_title_for_people(baseline: Baseline | Fitted, title: str) -> None:
    assert baseline.title == title


def test_persistence_is_the_value_at_the_origin() -> None:
    forecasts = table_baseline(SPEC, Persistence(), table_of([3.0, NAN, 5.0]))
    np.testing.assert_array_equal(forecasts, [[3.0] * 3, [NAN] * 3, [5.0] * 3])


def test_climatology_of_a_hand_computed_example() -> None:
    """Four days of 0, 1, 4, 2 on top of a day's own level of 0, 10, 30, 60, and the origin at the end."""
    level = [day + each for day in (0.0, 10.0, 30.0, 60.0) for each in (0.0, 1.0, 4.0, 2.0)]
    (forecast,) = table_baseline(SPEC, Climatology(3), table_of(level))[-1:]
    # One step on is the first of a day: 10 - 2, 30 - 12 and 60 - 32 from the three days before.
    assert forecast[0] == 62.0 + (8.0 + 18.0 + 28.0) / 3
    # Three steps on is the third of a day: 14 - 2, 34 - 12, 64 - 32.
    assert forecast[1] == 62.0 + (12.0 + 22.0 + 32.0) / 3
    # Five steps reach beyond a day, so that only two days have both values: too few.
    assert forecast[2] == 62.0


def test_climatology_on_the_log_scale_of_a_hand_computed_example() -> None:
    """Three days of 1, 2, 4, 8, each ten times the day before, and a fourth that has only begun."""
    level = [day * each for day in (1.0, 10.0, 100.0) for each in (1.0, 2.0, 4.0, 8.0)]
    (forecast,) = table_baseline(LOG, Climatology(3), table_of([*level, 1000.0]))[-1:]
    assert forecast[0] == pytest.approx(1000.0 * 2.0)  # each day doubled from its first step to its second
    assert forecast[1] == pytest.approx(1000.0 * 8.0)
    assert forecast[2] == 1000.0  # of five steps on, two days have both values: too few


def test_linear_on_the_log_scale_of_a_hand_computed_example() -> None:
    forecasts = table_baseline(LOG, LINE, table_of([2.0, 4.0, 8.0, 16.0]))
    # The logarithms of the last four are log 2 times 1, 2, 3 and 4; their mean is 2.5 of it.
    expected = [math.exp(1.0) * 2 ** (0.5 * 3 + 0.25 * 2.5), math.exp(2.0) * 2**2.5, 8.0]
    assert forecasts[-1] == pytest.approx(expected)


def test_linear_adds_its_correction() -> None:
    features, targets = {"a": np.array([0.0, 0.0])}, {1: np.log([1.0, 3.0])}
    fitted = Linear(("a",)).fitted(features, targets, lambda truth, forecast: float((truth - forecast).max()))
    assert math.exp(fitted.lines[1].intercept) == pytest.approx(3.0)  # √3 from the fit, and √3 to its largest residual


def test_climatology_takes_the_days_of_which_both_values_are_known() -> None:
    level = [day + each for day in (0.0, 10.0, 30.0, 60.0, 100.0) for each in (0.0, 1.0, 4.0, 2.0)]
    level[7] = NAN  # the same time of day as the origin, three days before it
    (forecast,) = table_baseline(SPEC, Climatology(4), table_of(level))[-1:]
    assert forecast[0] == 102.0 + ((10.0 - 2.0) + (60.0 - 32.0) + (100.0 - 62.0)) / 3
    level[11] = NAN
    (forecast,) = table_baseline(SPEC, Climatology(4), table_of(level))[-1:]
    assert forecast[0] == 102.0


def test_climatology_on_the_recorded_year_is_that_of_three_lines_of_pandas() -> None:
    table = recorded_table()
    forecasts = table_baseline(WEATHER, Climatology(), table)
    times = pd.DatetimeIndex(table.ds)
    for code in range(len(table.unique_ids)):
        own = table.codes == code
        level = pd.Series(table.variables["temperature"][own], times[own]).asfreq("h")
        for place, horizon in enumerate(WEATHER.horizons):
            pairs = pd.concat([level.shift(24 * d - horizon) - level.shift(24 * d) for d in range(1, 29)], axis=1)
            change = pairs.mean(axis=1).where(pairs.count(axis=1) >= FEWEST_PAIRS, 0.0)
            expected = (level + change).reindex(times[own])
            np.testing.assert_allclose(forecasts[own, place], expected, rtol=0, atol=1e-9)


def test_the_recorded_years_errors_are_those_that_are_known() -> None:
    """Issue 13: 2013 from 27 March to 30 December; 3.28 and 2.08 °C five hours ahead, 2.071 °C over all horizons."""
    table = recorded_table()
    scored = (table.ds >= np.datetime64("2013-03-27")) & (table.ds < np.datetime64("2013-12-31"))
    truth = table_targets(WEATHER, table)[scored]
    squared = {
        baseline: (truth - table_baseline(WEATHER, baseline, table)[scored]) ** 2
        for baseline in (Persistence(), Climatology())
    }
    assert np.sqrt(np.nanmean(squared[Persistence()][:, 1])) == pytest.approx(3.284, abs=1e-3)
    assert np.sqrt(np.nanmean(squared[Climatology()][:, 1])) == pytest.approx(2.075, abs=1e-3)
    assert np.sqrt(np.nanmean(squared[Climatology()])) == pytest.approx(2.071, abs=1e-3)


def test_last_is_another_variable_at_the_origin_and_the_target_where_that_is_missing() -> None:
    forecasts = table_baseline(SPEC, Last("other"), table_of([1.0, 2.0, NAN], [7.0, NAN, 9.0]))
    np.testing.assert_array_equal(forecasts, [[7.0] * 3, [2.0] * 3, [NAN] * 3])


def test_linear_of_a_hand_computed_example() -> None:
    forecasts = table_baseline(SPEC, LINE, table_of([2.0, 4.0, 6.0, 8.0]))
    assert forecasts[-1].tolist() == [1.0 + 0.5 * 6.0 + 0.25 * 5.0, 2.0 + 5.0, 6.0]
    assert forecasts[0].tolist() == [2.0] * 3  # without the step before, the value at the origin


def test_linear_fits_as_the_training_library_does_on_the_rows_that_are_known() -> None:
    random = np.random.default_rng(0)
    features = {"a": random.normal(size=60), "b": random.normal(5.0, 2.0, size=60)}
    targets = {horizon: random.normal(size=60) + horizon * features["a"] for horizon in (1, 3)}
    features["b"][5] = NAN
    targets[3][9] = NAN
    fitted = Linear(("a", "b")).fitted(features, targets, lambda _truth, _forecast: 0.0)
    for horizon, target in targets.items():
        inputs = np.stack([features["a"], features["b"]], axis=1)
        known = ~np.isnan(inputs).any(axis=1) & ~np.isnan(target)
        theirs = LinearRegression().fit(inputs[known], target[known])
        assert fitted.lines[horizon].intercept == pytest.approx(theirs.intercept_)
        assert fitted.lines[horizon].weights == pytest.approx(theirs.coef_)


def test_linear_without_a_known_row_says_so() -> None:
    with pytest.raises(
        ValueError, match=r"linear \(a\): expected rows of which a and the target 2 steps ahead are known"
    ):
        Linear(("a",)).fitted({"a": np.array([NAN, 1.0])}, {2: np.array([1.0, NAN])}, lambda _truth, _forecast: 0.0)


values = st.one_of(st.just(NAN), st.floats(-50.0, 50.0))
series = st.integers(1, 60).flatmap(
    lambda size: st.tuples(
        st.lists(values, min_size=size, max_size=size),
        st.lists(values, min_size=size, max_size=size),
        st.lists(st.integers(0, 90), min_size=size, max_size=size, unique=True).map(sorted),
    )
)


@pytest.mark.parametrize("spec", [SPEC, LOG], ids=lambda each: each.scale)
@pytest.mark.parametrize("baseline", ALL, ids=lambda each: each.title)
@given(drawn=series)
@settings(max_examples=40, deadline=None)
def test_both_forms_give_the_same_numbers_to_the_bit(baseline: Fitted, spec: FeatureSpec, drawn) -> None:
    table = table_of(*drawn)
    np.testing.assert_array_equal(by_moment(baseline, spec, table), table_baseline(spec, baseline, table))


@pytest.mark.parametrize("baseline", ALL, ids=lambda each: each.title)
@given(drawn=series, later=st.lists(values, min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_nothing_after_the_origin_is_read(baseline: Fitted, drawn, later: list[float]) -> None:
    level, other, steps = drawn
    more = [steps[-1] + 1 + place for place in range(len(later))]
    before = table_baseline(SPEC, baseline, table_of(level, other, steps))
    after = table_baseline(SPEC, baseline, table_of([*level, *later], [*other, *later], [*steps, *more]))
    np.testing.assert_array_equal(after[: len(level)], before)


@pytest.mark.parametrize("baseline", ALL, ids=lambda each: each.title)
@given(drawn=series)
@settings(max_examples=40, deadline=None)
def test_nothing_before_the_lookback_is_read(baseline: Fitted, drawn) -> None:
    level, other, steps = drawn
    kept = [step >= steps[-1] - max(baseline.lookback(SPEC.step_minutes), SPEC.lookback) for step in steps]
    cut = table_of(*([value for value, each in zip(column, kept, strict=True) if each] for column in drawn))
    expected = table_baseline(SPEC, baseline, table_of(level, other, steps))[-1]
    np.testing.assert_array_equal(table_baseline(SPEC, baseline, cut)[-1], expected)


def test_series_do_not_mix() -> None:
    one, two = table_of([float(n * n) for n in range(30)]), table_of([-float(n) for n in range(30)])
    both = Table(
        ("A", "B"),
        np.repeat([0, 1], 30),
        np.concatenate([one.ds, two.ds]),
        {name: np.concatenate([one.variables[name], two.variables[name]]) for name in one.variables},
    )
    for baseline in ALL:
        apart = np.concatenate([table_baseline(SPEC, baseline, each) for each in (one, two)])
        np.testing.assert_array_equal(table_baseline(SPEC, baseline, both), apart)


@pytest.mark.parametrize("baseline", ALL, ids=lambda each: each.title)
def test_a_fitted_baseline_travels_as_json(baseline: Fitted) -> None:
    assert msgspec.json.decode(msgspec.json.encode(baseline), type=Fitted) == baseline


def test_linear_may_read_any_feature_of_the_row() -> None:
    name = SPEC.columns[-1]
    line = FittedLinear((name,), dict.fromkeys(SPEC.horizons, Line(0.0, (1.0,))))
    table = table_of([1.0, 2.0, 3.0])
    expected = table_features(SPEC, table)[:, -1]
    np.testing.assert_array_equal(table_baseline(SPEC, line, table)[:, 0], expected)
    np.testing.assert_array_equal(by_moment(line, SPEC, table)[:, 0], expected)
