"""The test of equal accuracy, against published implementations and against what it must do by its own terms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dieboldmariano import NegativeVarianceException, dm_test
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.tsa.stattools import diebold_mariano_test

from forecasting.judging.equal_accuracy import TooLittleEvidence, diebold_mariano, holm, student_t_survival


def dependent_errors(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Errors of two forecasts, (T,) each, that overlap as those of a horizon do; and that horizon."""
    random = np.random.default_rng(seed)
    periods, horizon = int(random.integers(30, 400)), int(random.integers(1, 13))
    window = np.ones(horizon)
    first = np.convolve(random.normal(size=periods + horizon - 1), window, "valid")
    second = random.uniform(0.8, 1.2) * np.convolve(random.normal(size=periods + horizon - 1), window, "valid")
    return first, second, horizon


@pytest.mark.parametrize("seed", range(60))
def test_statistic_and_p_value_are_those_of_a_published_implementation(seed: int) -> None:
    candidate, production, horizon = dependent_errors(seed)
    zero = [0.0] * len(candidate)
    found = diebold_mariano(candidate**2 - production**2, horizon)
    statistic, candidate_loses_less = dm_test(zero, candidate.tolist(), production.tolist(), h=horizon, one_sided=True)
    assert found.statistic == pytest.approx(statistic, abs=1e-8)
    assert found.p_value == pytest.approx(1.0 - candidate_loses_less, abs=1e-8)


@pytest.mark.parametrize("seed", range(20))
def test_one_step_ahead_all_kernels_agree_with_statsmodels(seed: int) -> None:
    candidate, production, _ = dependent_errors(seed)
    published = diebold_mariano_test(
        np.zeros(len(candidate)), candidate, production, lags=0, harvey_adj=True, horizon=1
    )
    found = diebold_mariano(candidate**2 - production**2, 1)
    assert found.statistic == pytest.approx(published.statistic, abs=1e-8)
    assert 2.0 * min(found.p_value, 1.0 - found.p_value) == pytest.approx(published.pvalue, abs=1e-8)


def test_a_variance_that_is_not_positive_is_taken_with_bartletts_weights_as_statsmodels_takes_them() -> None:
    random = np.random.default_rng(0)
    swinging = np.tile([1.0, -1.0], 100) + random.normal(scale=0.1, size=200) + 0.05
    published = diebold_mariano_test(
        np.zeros(200), swinging, np.zeros(200), criterion=lambda _, error: error, lags=1, harvey_adj=True, horizon=2
    )
    with pytest.raises(NegativeVarianceException):
        dm_test([0.0] * 200, swinging.tolist(), [0.0] * 200, loss=lambda _, error: error, h=2)
    found = diebold_mariano(swinging, 2)
    assert found.statistic == pytest.approx(published.statistic, abs=1e-8)


def test_the_published_example_is_reproduced() -> None:
    """The five periods of the package's own page are too few for us; six copies of them are not."""
    truth, first, second = [10, 20, 30, 40, 50] * 6, [11, 21, 29, 42, 53] * 6, [13, 26, 24, 40, 59] * 6
    statistic, p_value = dm_test(truth, second, first, one_sided=True)
    difference = (np.array(second) - truth) ** 2 - (np.array(first) - truth) ** 2
    found = diebold_mariano(difference.astype(float), 1)
    assert (found.statistic, found.p_value) == pytest.approx((statistic, 1.0 - p_value), abs=1e-8)
    assert found.p_value < 0.001


@pytest.mark.parametrize("degrees_of_freedom", [1, 2, 5, 29, 100, 671, 2000])
def test_student_t_is_that_of_scipy(degrees_of_freedom: int) -> None:
    for statistic in [*np.linspace(-40.0, 40.0, 161), -1e-9, 1e-9, 1e-4, 300.0]:
        expected = stats.t.sf(statistic, degrees_of_freedom)
        assert student_t_survival(float(statistic), degrees_of_freedom) == pytest.approx(expected, abs=1e-12)


def test_student_t_keeps_its_precision_far_out() -> None:
    assert student_t_survival(12.0, 671) == pytest.approx(stats.t.sf(12.0, 671), rel=1e-9)
    assert student_t_survival(math.inf, 5) == 0.0
    assert student_t_survival(-math.inf, 5) == 1.0


def test_exchanging_the_models_turns_the_statistic_and_the_p_value_around() -> None:
    candidate, production, horizon = dependent_errors(3)
    one = diebold_mariano(candidate**2 - production**2, horizon)
    other = diebold_mariano(production**2 - candidate**2, horizon)
    assert other.statistic == -one.statistic
    assert other.p_value == pytest.approx(1.0 - one.p_value, abs=1e-12)


def test_the_unit_of_the_loss_does_not_matter() -> None:
    candidate, production, horizon = dependent_errors(4)
    difference = candidate**2 - production**2
    assert diebold_mariano(difference * 1e-12, horizon).p_value == pytest.approx(
        diebold_mariano(difference, horizon).p_value, rel=1e-9
    )


def test_equal_models_give_no_evidence() -> None:
    found = diebold_mariano(np.zeros(100), 6)
    assert found == (0.0, 1.0)


@pytest.mark.parametrize(("difference", "p_value"), [(0.1, 0.0), (-0.1, 1.0)])
def test_a_difference_that_never_varies_is_settled_by_its_sign(difference: float, p_value: float) -> None:
    found = diebold_mariano(np.full(1000, difference), 6)
    assert found.p_value == p_value
    assert found.statistic == math.copysign(math.inf, difference)


@pytest.mark.parametrize(("periods", "horizon"), [(29, 1), (0, 1), (40, 21)])
def test_too_few_moments_are_no_evidence(periods: int, horizon: int) -> None:
    with pytest.raises(TooLittleEvidence, match=f"found {periods}"):
        diebold_mariano(np.ones(periods), horizon)


@pytest.mark.parametrize(
    ("difference", "horizon", "steps", "named"),
    [
        (np.full(40, np.nan), 1, None, "finite"),
        (np.ones(40), 0, None, "horizon"),
        (np.ones(40), 1, np.zeros(40, dtype=np.int64), "ascending"),
        (np.ones(40), 1, np.arange(39), "ascending"),
    ],
)
def test_what_is_no_series_of_differences_is_refused(difference, horizon, steps, named) -> None:
    with pytest.raises(ValueError, match=named):
        diebold_mariano(difference, horizon, steps=steps)


def test_without_gaps_the_steps_change_nothing() -> None:
    candidate, production, horizon = dependent_errors(5)
    difference = candidate**2 - production**2
    assert diebold_mariano(difference, horizon, steps=np.arange(len(difference)) + 17) == diebold_mariano(
        difference, horizon
    )


def test_over_a_gap_time_counts_and_not_the_place_in_the_table() -> None:
    """The variance by its definition: every pair of moments that is less than the horizon apart in time."""
    candidate, production, _ = dependent_errors(6)
    horizon, random = 6, np.random.default_rng(6)
    steps = np.sort(random.choice(2 * len(candidate), size=len(candidate), replace=False))
    difference = candidate**2 - production**2
    deviations, periods = difference - difference.mean(), len(difference)
    near = np.abs(steps[:, None] - steps[None, :]) < horizon
    variance = float(np.sum(np.outer(deviations, deviations) * near)) / periods**2
    assert variance > 0.0
    correction = (periods + 1 - 2 * horizon + horizon * (horizon - 1) / periods) / periods
    expected = difference.mean() * math.sqrt(correction / variance)
    assert diebold_mariano(difference, horizon, steps=steps).statistic == pytest.approx(expected, rel=1e-9)


def test_dependent_differences_of_equal_models_are_called_significant_about_as_often_as_promised() -> None:
    random = np.random.default_rng(1)
    window, alarms, trials = np.ones(6) / 6.0, 0, 1000
    for _ in range(trials):
        difference = np.convolve(random.normal(size=677), window, "valid")
        alarms += diebold_mariano(difference, 6).p_value < 0.05
    assert 0.03 < alarms / trials < 0.08


def test_holm_gives_his_corrected_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12))
def test_holm_never_makes_more_of_a_p_value_and_keeps_their_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(before <= after <= 1.0 for before, after in zip(p_values, corrected, strict=True))
    assert max(corrected) <= len(p_values) * max(p_values)
    by_size = [corrected[index] for index in np.argsort(p_values, kind="stable")]
    assert by_size == sorted(by_size)
