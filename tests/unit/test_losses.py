"""Measures against hand-computed values, scikit-learn's, and their own invariants."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from forecasting.judging.losses import losses, mae, r2, rmse, skill

TRUTH = np.array([1.0, 2.0, 3.0, 6.0])
PREDICTION = np.array([1.0, 4.0, 3.0, 2.0])
finite = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
pairs = st.integers(2, 30).flatmap(
    lambda size: st.tuples(arrays(np.float64, size, elements=finite), arrays(np.float64, size, elements=finite))
)


def test_errors_of_a_hand_computed_example():
    assert rmse(TRUTH, PREDICTION) == pytest.approx(np.sqrt((4 + 16) / 4))
    assert mae(TRUTH, PREDICTION) == pytest.approx(1.5)
    assert r2(TRUTH, PREDICTION) == pytest.approx(1 - 20 / 14)
    assert losses("squared_error", TRUTH, PREDICTION).tolist() == [0, 4, 0, 16]
    assert losses("absolute_error", TRUTH, PREDICTION).tolist() == [0, 2, 0, 4]


@given(pairs)
def test_errors_equal_the_training_librarys(pair):
    truth, prediction = pair
    assert rmse(truth, prediction) == pytest.approx(sklearn.metrics.root_mean_squared_error(truth, prediction))
    assert mae(truth, prediction) == pytest.approx(sklearn.metrics.mean_absolute_error(truth, prediction))
    if np.ptp(truth) > 0:
        assert r2(truth, prediction) == pytest.approx(sklearn.metrics.r2_score(truth, prediction), rel=1e-6)


@pytest.mark.parametrize(("prediction", "expected"), [([2.0, 2.0], 1.0), ([2.0, 3.0], 0.0)])
def test_constant_truth_leaves_nothing_to_explain(prediction, expected):
    assert r2(np.array([2.0, 2.0]), np.array(prediction)) == expected


@pytest.mark.parametrize(
    ("loss", "baseline", "expected"), [(1.0, 4.0, 0.75), (4.0, 4.0, 0.0), (6.0, 4.0, -0.5), (1.0, 0.0, None)]
)
def test_skill_is_the_share_of_the_baselines_loss_that_is_saved(loss, baseline, expected):
    assert skill(loss, baseline) == expected


def test_nothing_to_measure_is_an_error_and_not_a_nan():
    nothing = np.array([])
    for measure in (rmse, mae, r2):
        with pytest.raises(ValueError, match="no rows"):
            measure(nothing, nothing)


def test_predictions_for_other_rows_are_refused():
    with pytest.raises(ValueError, match="one prediction per truth"):
        rmse(TRUTH, PREDICTION[:, None])
