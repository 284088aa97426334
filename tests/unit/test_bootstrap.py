"""Confidence intervals from blocks of moments."""

from __future__ import annotations

import time

import numpy as np
import pytest

from forecasting.judging.bootstrap import block_length, ratio, relative_change


def losses(seed: int, columns: int = 1, moments: int = 672) -> np.ndarray:
    """(moments, columns): squared errors that stay large or small for some hours."""
    random = np.random.default_rng(seed)
    errors = np.array([np.convolve(random.normal(size=moments + 5), np.ones(6), "valid") for _ in range(columns)]).T
    return errors**2


def test_the_interval_holds_the_change_and_is_the_same_every_time() -> None:
    candidate, production = losses(0), losses(1)
    change = np.sqrt(candidate.sum() / production.sum()) - 1.0
    found = relative_change(candidate, production, block=24, power=0.5, confidence=0.95)
    assert found.low[0] < change < found.high[0]
    again = relative_change(candidate, production, block=24, power=0.5, confidence=0.95)
    assert (again.low[0], again.high[0]) == (found.low[0], found.high[0])
    other = relative_change(candidate, production, block=24, power=0.5, confidence=0.95, seed=1)
    assert other.low[0] != found.low[0]


def test_exchanging_the_models_turns_the_interval_around() -> None:
    candidate, production = losses(0), losses(1)
    one = relative_change(candidate, production, block=24, power=0.5, confidence=0.95)
    other = relative_change(production, candidate, block=24, power=0.5, confidence=0.95)
    assert other.low[0] == pytest.approx(1.0 / (1.0 + one.high[0]) - 1.0)
    assert other.high[0] == pytest.approx(1.0 / (1.0 + one.low[0]) - 1.0)


def test_the_unit_does_not_matter() -> None:
    candidate, production = losses(0), losses(1)
    one = relative_change(candidate, production, block=24, power=0.5, confidence=0.95)
    other = relative_change(candidate * 1e6, production * 1e6, block=24, power=0.5, confidence=0.95)
    assert (other.low[0], other.high[0]) == pytest.approx((one.low[0], one.high[0]))


def test_a_change_that_is_the_same_at_every_moment_is_sure() -> None:
    production = losses(1)
    found = relative_change(1.21 * production, production, block=24, power=0.5, confidence=0.95)
    assert (found.low[0], found.high[0]) == pytest.approx((0.1, 0.1))
    found = relative_change(1.21 * production, production, block=24, power=1.0, confidence=0.95)
    assert (found.low[0], found.high[0]) == pytest.approx((0.21, 0.21))


def test_columns_are_drawn_together_and_each_as_if_alone() -> None:
    candidate, production = losses(0, columns=3), losses(1, columns=3)
    together = relative_change(candidate, production, block=24, power=0.5, confidence=0.9)
    alone = relative_change(candidate[:, 1:2], production[:, 1:2], block=24, power=0.5, confidence=0.9)
    assert (together.low[1], together.high[1]) == pytest.approx((alone.low[0], alone.high[0]))


def test_single_moments_understate_how_unsure_a_dependent_series_is() -> None:
    candidate, production = losses(0), losses(1)
    single, day = (relative_change(candidate, production, block=block, power=0.5, confidence=0.95) for block in (1, 24))
    assert (day.high - day.low)[0] > 1.5 * (single.high - single.low)[0]


def test_the_interval_is_about_as_sure_as_it_says() -> None:
    candidate, production = losses(2, columns=1000), losses(3, columns=1000)
    found = relative_change(candidate, production, block=24, power=0.5, confidence=0.9)
    assert 0.84 < np.mean((found.low <= 0.0) & (found.high >= 0.0)) < 0.93


def test_the_first_and_last_moments_do_not_shift_the_interval() -> None:
    """They are in fewer blocks than the others; a candidate that errs only there would look better than it is."""
    production = np.ones((240, 1))
    candidate = np.ones((240, 1))
    candidate[:3] = candidate[-3:] = 10.0
    found = ratio(candidate, production, block=24, confidence=0.9)
    assert found.low[0] < 1.225 < found.high[0]
    assert np.sqrt(found.low[0] * found.high[0]) == pytest.approx(1.225, rel=0.05)


def test_nothing_to_divide_by_gives_no_interval() -> None:
    nothing, something = np.zeros((60, 1)), np.ones((60, 1))
    for numerator, denominator in ((nothing, nothing), (something, nothing), (nothing, something)):
        found = ratio(numerator, denominator, block=6, confidence=0.95)
        assert np.isnan(found.low[0])
        assert np.isnan(found.high[0])


def test_a_mostly_empty_column_does_not_break_its_neighbours() -> None:
    production = np.hstack([losses(1), np.zeros((672, 1))])
    production[0, 1] = 1.0
    found = relative_change(production, production, block=24, power=0.5, confidence=0.95)
    assert (found.low[0], found.high[0]) == pytest.approx((0.0, 0.0))
    assert np.isnan(found.low[1])


@pytest.mark.parametrize(
    ("moments", "per_day", "horizon", "expected"),
    [
        (672, 24, 6, 24),  # a day of hours
        (672, 1, 6, 9),  # daily data: the cube root
        (672, 1, 12, 12),  # a long horizon
        (60, 24, 6, 12),  # few origins: a fifth
        (3, 24, 6, 1),
    ],
)
def test_a_block_is_a_day_the_horizon_or_the_cube_root(moments, per_day, horizon, expected) -> None:
    assert block_length(moments, per_day, horizon) == expected


@pytest.mark.parametrize(("shape", "block"), [((60, 2), 6), ((60, 1), 0), ((60, 1), 61)])
def test_tables_that_do_not_fit_are_refused(shape: tuple[int, int], block: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        ratio(np.ones((60, 1)), np.ones(shape), block=block, confidence=0.95)


def test_four_weeks_take_a_fraction_of_a_second() -> None:
    candidate, production = losses(0, columns=7), losses(1, columns=7)
    started = time.perf_counter()
    relative_change(candidate, production, block=24, power=0.5, confidence=0.95)
    assert time.perf_counter() - started < 0.5
