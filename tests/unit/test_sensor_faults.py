"""Each detector against a number from a book or by hand, a fault that it is to find, and clean values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from forecasting.challenge.detectors import Detector, Neighbours, Physics, Runs
from forecasting.drift.sensor_faults import (
    DETECTORS,
    BoolArray,
    FloatArray,
    SensorGrid,
    UsualDifference,
    cusum,
    explain,
    faults,
    relative_humidity,
    usual_differences,
)

HOURS = 24 * 60
SERIES = ("A", "B", "C")
PHYSICS = Physics(temperature="t", dew_point="d", humidity="h")
NEIGHBOURS = Neighbours(variable="t")
RUNS = Runs(variable="w")
USUAL = {"t": {name: UsualDifference((0.0,) * 24, 1.0) for name in SERIES}}


def grid(hours: int = HOURS, seed: int = 3) -> SensorGrid:
    """Three series of one weather, each with noise of its own."""
    random = np.random.default_rng(seed)
    clock = np.arange(hours) % 24
    temperature = 10.0 + 5.0 * np.sin(clock / 24 * 2 * np.pi) + random.normal(0.0, 0.8, (3, hours))
    dew_point = temperature - random.uniform(2.0, 9.0, (3, hours))
    values = {
        "t": temperature,
        "d": dew_point,
        "h": np.round(relative_humidity(temperature, dew_point)),
        "w": np.round(random.uniform(0.0, 12.0, (3, hours))),
    }
    return SensorGrid(SERIES, clock, values)


def changed(clean: SensorGrid, **values: FloatArray) -> SensorGrid:
    return replace(clean, values={**clean.values, **values})


def one_grid(**values: list[float]) -> SensorGrid:
    """One series, from its values."""
    rows = {name: np.array([each]) for name, each in values.items()}
    return SensorGrid(("A",), np.zeros(len(next(iter(values.values()))), dtype=np.int64), rows)


def found(detector: Detector, at: SensorGrid, usual: Mapping[str, Mapping[str, UsualDifference]] = USUAL) -> BoolArray:
    return faults(detector, at, usual)


def test_relative_humidity_is_what_magnus_gives_by_hand() -> None:
    # exp(17.62 · 10 / 253.12 - 17.62 · 20 / 263.12) = exp(0.69611 - 1.33931) = 0.52561
    assert relative_humidity(np.array([20.0]), np.array([10.0])) == pytest.approx(52.561, abs=0.002)
    assert relative_humidity(np.array([-5.0]), np.array([-5.0])) == pytest.approx(100.0)


def test_the_cusum_is_that_of_the_textbook() -> None:
    """Montgomery, "Introduction to Statistical Quality Control", table 9.2: mean 10, sigma 1, k = 0.5."""
    values = """9.45 7.99 9.29 11.66 12.16 10.18 8.04 11.46 9.20 10.34 9.03 11.47 10.51 9.40 10.08
        9.37 10.62 10.31 8.52 10.84 10.90 9.33 12.29 11.50 10.60 11.08 10.38 11.62 11.31 10.52"""
    upper = """0 0 0 1.16 2.82 2.50 0.04 1.00 0 0 0 0.97 0.98 0 0
        0 0.12 0 0 0.34 0.74 0 1.79 2.79 2.89 3.47 3.35 4.47 5.28 5.30"""
    lower = """0.05 1.56 1.77 0 0 0 1.46 0 0.30 0 0.47 0 0 0.10 0
        0.13 0 0 0.98 0 0 0.17 0 0 0 0 0 0 0 0"""
    scores = np.array([[float(value) for value in values.split()]]) - 10.0
    larger = [max(map(float, pair)) for pair in zip(upper.split(), lower.split(), strict=True)]
    assert cusum(scores, 0.5, steps=30)[0] == pytest.approx(larger, abs=1e-9)


def test_a_sum_forgets_what_is_older_than_its_steps() -> None:
    scores = np.array([[3.0, 3.0, 3.0, 3.0, 0.0, np.nan]])
    assert cusum(scores, 1.0, steps=2)[0].tolist() == [2.0, 4.0, 4.0, 4.0, 1.0, 0.0]


def test_what_is_usual_is_the_mean_by_hour_and_the_deviation_around_it() -> None:
    hours = np.array([0, 1, 0, 1])
    values = {"t": np.array([[2.0, 5.0, 4.0, 7.0], [1.0, 1.0, 1.0, 1.0], [1.0, np.nan, 1.0, 1.0]])}
    usual = usual_differences(SensorGrid(SERIES, hours, values), "t")
    # A differs from the others by 1, 4, 3, 6: by 2 at hour 0, by 5 at hour 1, and by 1 around that
    assert usual["A"].by_hour[:3] == (2.0, 5.0, None)
    assert usual["A"].deviation == pytest.approx(1.0)


def test_a_series_that_cannot_be_compared_has_nothing_usual_and_is_never_named() -> None:
    alone = one_grid(t=[1.0, 2.0, 3.0] * 30)
    assert usual_differences(alone, "t") == {}
    assert not found(NEIGHBOURS, alone, {}).any()
    assert not found(NEIGHBOURS, changed(grid(), t=grid().values["t"] * 9.0), {}).any()


@pytest.mark.parametrize("detector", [PHYSICS, NEIGHBOURS, RUNS], ids=list(DETECTORS))
def test_clean_values_are_left_in_peace(detector: Detector) -> None:
    clean = grid()
    assert not found(detector, clean, {"t": usual_differences(clean, "t")}).any()


@pytest.mark.parametrize("degrees", [1.0, 2.0, 5.0])
def test_physics_finds_an_offset_of_temperature_at_the_fourth_hour(degrees: float) -> None:
    clean = grid()
    temperature = clean.values["t"].copy()
    temperature[1, 500:] += degrees
    first = np.argwhere(found(PHYSICS, changed(clean, t=temperature)))[0]
    assert first[0] == 1
    assert 503 <= first[1] <= 510
    assert found(PHYSICS, changed(clean, t=temperature))[[0, 2]].sum() == 0


def test_physics_needs_four_of_six_hours_more_than_three_points_off() -> None:
    true = float(relative_humidity(np.array(20.0), np.array(10.0)))
    off = [0.0, 3.1, -3.1, 0.0, 3.1, 2.9, 3.1, 0.0, 0.0, np.nan]
    humidity = [true + each for each in off]
    at = one_grid(t=[20.0] * len(off), d=[10.0] * len(off), h=humidity)
    assert np.flatnonzero(found(PHYSICS, at)).tolist() == [6]


def test_neighbours_name_the_series_that_moved_and_not_those_it_is_compared_with() -> None:
    clean = grid()
    usual = {"t": usual_differences(clean, "t")}
    temperature = clean.values["t"].copy()
    temperature[2, 500:] -= 5.0
    named = found(NEIGHBOURS, changed(clean, t=temperature), usual)
    assert not named[:2].any()
    assert 530 <= np.flatnonzero(named[2])[0] <= 560
    assert named[2, 560:].all()


def test_of_two_series_both_are_named() -> None:
    two = grid()
    values = {"t": two.values["t"][:2].copy()}
    pair = SensorGrid(SERIES[:2], two.hours, values)
    usual = {"t": usual_differences(pair, "t")}
    values["t"][0, 500:] += 5.0
    assert found(NEIGHBOURS, pair, usual)[:, 600].tolist() == [True, True]


def test_runs_find_a_stuck_gauge_at_the_twelfth_equal_value_and_a_missing_one_ends_the_run() -> None:
    stuck = one_grid(w=[3.0] * 11 + [4.0] * 13 + [np.nan] + [4.0] * 11)
    assert np.flatnonzero(found(RUNS, stuck)).tolist() == [22, 23]


def test_a_calm_counts_as_a_run() -> None:
    assert np.flatnonzero(found(RUNS, one_grid(w=[0.0] * 12))).tolist() == [11]


@pytest.mark.parametrize("detector", [PHYSICS, NEIGHBOURS, RUNS], ids=list(DETECTORS))
def test_a_window_says_what_the_table_says_of_its_last_step(detector: Detector) -> None:
    random = np.random.default_rng(8)
    whole = grid(hours=400)
    values = {name: each.copy() for name, each in whole.values.items()}
    values["t"][0, 100:170] += 4.0
    values["t"][1, 180:240] += 6.0
    values["w"][2, 300:330] = 2.0
    for each in values.values():
        each[random.random(each.shape) < 0.01] = np.nan
    usual = {"t": usual_differences(whole, "t")}
    table = found(detector, replace(whole, values=values), usual)
    assert 0 < table.sum() < table.size
    for last in range(detector.steps - 1, 400):
        window = slice(last - detector.steps + 1, last + 1)
        part = {name: each[:, window] for name, each in values.items()}
        moment = found(detector, SensorGrid(SERIES, whole.hours[window], part), usual)
        assert moment[:, -1].tolist() == table[:, last].tolist()


@pytest.mark.parametrize("detector", [PHYSICS, NEIGHBOURS, RUNS], ids=list(DETECTORS))
def test_a_finding_names_the_variable_that_it_blames(detector: Detector) -> None:
    assert detector.kind in DETECTORS
    assert explain(detector).startswith(f"{detector.variable} ")
