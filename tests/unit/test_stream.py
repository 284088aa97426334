"""Observations into a state: which of them make forecasts, what they led to, and what a bundle's window fills."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from forecasting.features.ring_buffer import grid_step, moment_of
from forecasting.features.table import table_baseline
from forecasting.models.bundle import read_bundle, recent_windows
from forecasting.models.intervals import recent_scales
from forecasting.models.manifest import SeriesWindow
from service.model.served import Model
from service.state.series import SeriesState
from service.state.stream import count, follow, warm
from service.watch.monitor import Monitor
from service.watch.worker_counts import ARRIVALS, AllCounts, Layout
from tests.serving import END, recorded_table

START = 380_000


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return Model(read_bundle(bundle), "1")


def row(model: Model, target: float) -> list[float]:
    return [target] + [1.0] * (len(model.spec.variables) - 1)


def hours(model: Model, number: int, first: int = START) -> list[tuple[int, list[float]]]:
    return [(step, row(model, 10.0 + math.sin(step / 4))) for step in range(first, first + number)]


def test_a_forecast_is_made_from_each_newest_observation_once_there_are_enough(model: Model) -> None:
    state = SeriesState(model, "")
    followed = follow(model, state, hours(model, 30))
    assert followed.arrivals == {"newest": 30}
    enough = 30 - model.reach // 2 + 1
    assert len(followed.rows) == enough
    assert len(followed.unusual) == enough
    # each forecast whose hour has come was scored: the first origin is hour 30 - enough
    assert len(followed.scores) == sum(30 - (30 - enough) - horizon for horizon in model.horizons)


def test_what_is_remembered_is_what_the_bundle_forecasts(model: Model) -> None:
    state = SeriesState(model, "")
    follow(model, state, hours(model, 60))
    for forecast in model.bundle.forecast(state.buffer):
        step = grid_step(forecast.ds, model.spec)
        made = state.made_for(step)[model.horizons.index(forecast.horizon)]
        assert made is not None
        assert made.value == pytest.approx(forecast.value, abs=1e-12)


def test_the_scales_are_those_that_training_computes_from_the_same_errors(model: Model) -> None:
    state = SeriesState(model, "")
    followed = follow(model, state, hours(model, 400))
    scaling = model.bundle.manifest.scaling
    for place, horizon in enumerate(model.horizons):
        errors = np.array([one.truth - one.forecast for one in followed.scores if one.horizon_place == place])
        steps = START + 400 - horizon - len(errors) + np.arange(len(errors))
        _, last = recent_scales(steps, errors, horizon, scaling.usual[horizon], scaling.half_life)
        assert state.scales[place] == pytest.approx(last)
        assert last != pytest.approx(scaling.usual[horizon])


def test_the_baseline_is_remembered_as_the_table_has_it_also_after_a_cold_start(model: Model) -> None:
    """The last days of the recorded year, after a start with what a bundle that was made before them carries."""
    table = recorded_table(last=END - timedelta(days=4))
    windows = recent_windows(model.spec, table, model.target_lookback)
    whole = recorded_table()
    expected = table_baseline(model.spec, model.bundle.manifest.baseline, whole)
    own = np.flatnonzero(
        (whole.codes == 0) & (whole.ds >= np.datetime64((END - timedelta(days=4)).replace(tzinfo=None)))
    )
    state = SeriesState(model, "")
    warm(model, state, windows[whole.unique_ids[0]])
    compared = 0
    for place in own.tolist():
        step = grid_step(
            datetime.fromtimestamp(int(whole.ds[place].astype("datetime64[s]").astype(int)), UTC), model.spec
        )
        follow(model, state, [(step, [float(whole.variables[name][place]) for name in model.spec.variables])])
        if state.has_forecast:
            made = [state.made_for(step + horizon)[index] for index, horizon in enumerate(model.horizons)]
            assert [one and one.baseline for one in made] == expected[place].tolist()
            compared += 1
    assert compared > 40


def test_late_and_repeated_observations_make_no_forecast(model: Model) -> None:
    state = SeriesState(model, "")
    follow(model, state, hours(model, 60))
    step = START + 59
    followed = follow(model, state, [(step - 3, row(model, 3.0)), (step, row(model, 10.0 + math.sin(step / 4)))])
    assert followed.arrivals == {"corrected": 1, "repeated": 1}
    assert not followed.rows


def test_an_observation_without_its_target_makes_its_forecast_when_corrected_and_only_then(model: Model) -> None:
    state = SeriesState(model, "")
    follow(model, state, hours(model, 60))
    step = START + 60
    assert not follow(model, state, [(step, row(model, math.nan))]).rows
    assert len(follow(model, state, [(step, row(model, 12.0))]).rows) == 1
    first = state.made_for(step + 4)[0]
    assert not follow(model, state, [(step, row(model, 13.0))]).rows
    assert state.made_for(step + 4)[0] == first


def test_a_gap_that_features_cannot_bear_makes_no_forecast(model: Model) -> None:
    state = SeriesState(model, "")
    follow(model, state, hours(model, 60))
    beyond = START + 59 + model.reach // 2 + 2
    assert not follow(model, state, [(beyond, row(model, 12.0))]).rows


def test_what_observations_led_to_is_counted(model: Model) -> None:
    layout = Layout(len(model.columns), len(model.horizons), 100, 100)
    monitor = Monitor(model, AllCounts(layout, None))
    state = SeriesState(model, "")
    followed = follow(model, state, [*hours(model, 60), *hours(model, 2, START + 57)])
    count(monitor, followed)
    own = monitor.own
    assert dict(zip(ARRIVALS, own.arrivals.tolist(), strict=True)) == {
        "newest": 60,
        "late": 0,
        "repeated": 2,
        "corrected": 0,
        "too_old": 0,
        "rejected": 0,
    }
    assert own.predicted.tolist() == [len(followed.rows), 0, 0, 0]
    assert own.scored.sum() == len(followed.scores)
    assert np.array_equal(own.recent_rows[:, :-1], np.array(followed.rows), equal_nan=True)


def test_the_newest_truth_comes_with_the_forecasts_that_were_made_for_it(model: Model) -> None:
    state = SeriesState(model, "")
    assert follow(model, state, hours(model, 1)).newest == (
        START,
        10.0 + math.sin(START / 4),
        approx_nan(3),
        tuple(scale.newest for scale in model.first_scales("")),
    )
    followed = follow(model, state, hours(model, 59, START + 1))
    step = START + 59
    made = tuple(made[0] for made in state.made_for(step) if made is not None)
    assert len(made) == len(model.horizons)
    assert followed.newest == (step, row(model, 10.0 + math.sin(step / 4))[0], made, tuple(state.scales))
    late = follow(model, state, [(step - 1, row(model, 5.0))])
    assert late.newest == followed.newest
    corrected = follow(model, state, [(step, row(model, 6.0))])
    assert corrected.newest == (step, 6.0, made, tuple(state.scales))
    assert follow(model, state, [(step + 1, row(model, math.nan))]).newest is None


def approx_nan(number: int) -> object:
    return pytest.approx((math.nan,) * number, nan_ok=True)


def window(model: Model, first: int, number: int) -> SeriesWindow:
    steps = range(first, first + number)
    ds = tuple(moment_of(step, model.spec) for step in steps)
    return SeriesWindow(ds, tuple(tuple(row(model, float(step - START))) for step in steps))


def test_a_bundles_window_fills_what_is_missing_and_leaves_what_came(model: Model) -> None:
    state = SeriesState(model, "")
    state.take(START + 5, row(model, 100.0))
    state.take(START + 8, row(model, math.nan))
    warm(model, state, window(model, START, 10))
    found = [state.buffer.columns[0][place] for place in range(-10, 0)]
    assert [value for value in found if not math.isnan(value)] == [0, 1, 2, 3, 4, 100, 6, 7, 9]
    assert math.isnan(found[8])  # its target is missing, but it came: the rest of it stays
    before = state.encode()
    warm(model, state, window(model, START, 10))
    assert state.encode() == before


def test_a_bundles_window_older_than_the_state_is_left_out(model: Model) -> None:
    state = SeriesState(model, "")
    follow(model, state, hours(model, 60))
    before = state.encode()
    warm(model, state, window(model, START + 59 - model.target_lookback - 50, 50))
    assert state.encode() == before


def test_a_bundles_window_is_no_newest_observation_that_makes_forecasts(model: Model) -> None:
    state = SeriesState(model, "")
    warm(model, state, window(model, START, 60))
    assert state.buffer.newest == moment_of(START, model.spec) + timedelta(hours=59)
    assert np.isnan(state.made).all()
