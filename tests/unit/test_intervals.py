"""Split-conformal offsets: the order statistics, and the coverage that they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from forecasting.models.intervals import (
    Offsets,
    calibrate,
    coverage,
    least_scale,
    next_scale,
    recent_scales,
    residuals_needed,
    weight,
)


def test_offsets_are_the_order_statistics_of_the_finite_sample_correction() -> None:
    residuals = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))  # n = 99: ranks 5 and 95
    assert calibrate(residuals, 0.9) == Offsets(lower=5.0, upper=95.0)


def test_nineteen_residuals_are_just_enough_for_ninety_percent() -> None:
    assert calibrate(np.arange(19.0), 0.9) == Offsets(lower=0.0, upper=18.0)
    with pytest.raises(ValueError, match=r"at least 19 for a level of 0\.9; found 18"):
        calibrate(np.arange(18.0), 0.9)


def test_coverage_is_kept_on_average_for_small_and_skewed_samples() -> None:
    random = np.random.default_rng(1)
    covered = []
    for _ in range(4000):
        residuals = random.exponential(1.0, 26)
        offsets = calibrate(residuals[:25], 0.9)
        covered.append(offsets.lower <= residuals[25] <= offsets.upper)
    # 25 residuals: the ranks 1 and 25 cover 24/26; plain quantiles would cover less than 0.9.
    assert 0.9 <= np.mean(covered) == pytest.approx(24 / 26, abs=0.02)


def test_a_skewed_error_gets_a_skewed_interval() -> None:
    offsets = calibrate(np.random.default_rng(2).exponential(1.0, 5000) - 1.0, 0.9)
    assert -offsets.lower == pytest.approx(1.0 + math.log(0.95), abs=0.05)
    assert offsets.upper == pytest.approx(-math.log(0.05) - 1.0, abs=0.2)


def test_residuals_that_are_not_finite_and_odd_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="expected finite numbers; found 1 others"):
        calibrate(np.array([*range(30), math.nan]), 0.9)
    with pytest.raises(ValueError, match="between 0 and 1; found 90"):
        calibrate(np.arange(30.0), 90)


def test_coverage_counts_known_truths_and_both_ends() -> None:
    truth = np.array([0.0, 1.0, 2.0, math.nan])
    assert coverage(truth, np.zeros(4), np.ones(4)) == pytest.approx(2 / 3)
    assert math.isnan(coverage(np.array([math.nan]), np.zeros(1), np.ones(1)))


@pytest.mark.parametrize("level", [0.6, 0.8, 0.9, 0.95, 0.99, 0.999])
def test_as_many_residuals_as_are_needed_are_enough_and_one_less_is_not(level: float) -> None:
    needed = residuals_needed(level)
    calibrate(np.arange(needed, dtype=float), level)
    with pytest.raises(ValueError, match="expected at least"):
        calibrate(np.arange(needed - 1, dtype=float), level)


def test_a_scale_is_the_exponential_mean_of_the_errors_that_were_known() -> None:
    """By hand, with a half-life of one: 8 → (8 + 4) / 2 = 6 → (6 + 2) / 2 = 4 → (4 + 0) / 2 = 2."""
    steps = np.array([10, 11, 13])
    scales, last = recent_scales(steps, np.array([4.0, -2.0, 0.0]), 2, 8.0, 1.0)
    # At 11 the target of 10 lies ahead; at 13 those of 10 and 11 are known, the second since then.
    assert scales.tolist() == [8.0, 8.0, 4.0]
    assert last == 2.0


def test_after_its_half_life_an_error_counts_half() -> None:
    scale = 1.0
    for _ in range(72):
        scale = next_scale(scale, 0.0, weight(72.0), 0.01)
    assert scale == pytest.approx(0.5)


def test_the_least_scale_is_a_part_of_the_usual_one_and_never_nothing() -> None:
    assert least_scale(4.0) == pytest.approx(0.2)
    assert least_scale(0.0) > 0.0
    scales, newest = recent_scales(np.arange(3), np.zeros(3), 1, 0.0, 72.0)
    assert newest == scales[0] > 0.0
    assert next_scale(0.2, 0.0, weight(1.0), 0.2) == 0.2


def test_an_error_counts_as_at_most_ten_times_the_scale() -> None:
    assert next_scale(1.0, -11.0, 0.5, 0.1) == next_scale(1.0, math.inf, 0.5, 0.1) == 5.5
    assert next_scale(1.0, math.nan, 0.5, 0.1) == 5.5


def test_scaled_intervals_hold_in_a_calm_and_in_a_storm_where_plain_ones_do_not() -> None:
    random = np.random.default_rng(3)
    stormy = np.arange(40_000) // 5000 % 2 == 1
    residuals = random.normal(0.0, np.where(stormy, 3.0, 0.5))
    scales, _ = recent_scales(np.arange(40_000), residuals, 1, 1.0, 72.0)
    fitted, tested = slice(0, 20_000), slice(20_000, None)

    def worst(unit: np.ndarray) -> float:
        offsets = calibrate(residuals[fitted] / unit[fitted], 0.9)
        covered = (offsets.lower * unit <= residuals) & (residuals <= offsets.upper * unit)
        return float(min(covered[tested][spell[tested]].mean() for spell in (stormy, ~stormy)))

    assert worst(np.ones(40_000)) < 0.82
    assert worst(scales) > 0.88
