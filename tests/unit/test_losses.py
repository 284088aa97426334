"""Every loss against numbers computed by hand, scikit-learn's, and its own invariants."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from forecasting.judging.losses import LOSSES, LossName, Unmeasurable, r2, skill

TRUTH = np.array([1.0, 2.0, 3.0, 6.0])
PREDICTION = np.array([1.0, 4.0, 3.0, 2.0])


def pairs(finite: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    values = finite.map(lambda value: round(value, 3))
    return st.integers(2, 30).flatmap(
        lambda size: st.tuples(arrays(np.float64, size, elements=values), arrays(np.float64, size, elements=values))
    )


def error(name: LossName, truth: np.ndarray, prediction: np.ndarray) -> float:
    return LOSSES[name].error(float(np.mean(LOSSES[name].losses(truth, prediction))))


def test_the_schema_names_every_loss_of_the_table() -> None:
    assert set(get_args(LossName)) == set(LOSSES)
    assert all(name == loss.name for name, loss in LOSSES.items())


@pytest.mark.parametrize(
    ("name", "losses", "expected", "label"),
    [
        ("squared_error", [0.0, 4.0, 0.0, 16.0], 5.0**0.5, "RMSE"),
        ("absolute_error", [0.0, 2.0, 0.0, 4.0], 1.5, "MAE"),
        # 2/4 - ln(2/4) - 1 = 0.5 + 0.693147 - 1; 6/2 - ln(6/2) - 1 = 3 - 1.098612 - 1
        ("qlike", [0.0, 0.193147, 0.0, 0.901388], (0.193147 + 0.901388) / 4, "QLIKE"),
    ],
)
def test_losses_of_a_hand_computed_example(name: LossName, losses: list[float], expected: float, label: str) -> None:
    assert LOSSES[name].losses(TRUTH, PREDICTION) == pytest.approx(losses, abs=1e-6)
    assert error(name, TRUTH, PREDICTION) == pytest.approx(expected, abs=1e-6)
    assert (LOSSES[name].label, LOSSES[name].measure) == (label, label.lower())


def test_r2_of_a_hand_computed_example() -> None:
    assert r2(TRUTH, PREDICTION) == pytest.approx(1 - 20 / 14)


@given(pairs(st.floats(-1e6, 1e6)))
def test_errors_equal_the_training_librarys(pair) -> None:
    truth, prediction = pair
    assert error("squared_error", *pair) == pytest.approx(sklearn.metrics.root_mean_squared_error(truth, prediction))
    assert error("absolute_error", *pair) == pytest.approx(sklearn.metrics.mean_absolute_error(truth, prediction))
    if np.ptp(truth) > 0:
        assert r2(truth, prediction) == pytest.approx(sklearn.metrics.r2_score(truth, prediction), rel=1e-6)


@given(pairs(st.floats(0.001, 1e3)))
def test_qlike_is_half_the_gamma_deviance(pair) -> None:
    assert error("qlike", *pair) == pytest.approx(sklearn.metrics.mean_gamma_deviance(*pair) / 2, abs=1e-9)


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_qlike_needs_positive_numbers(bad: float) -> None:
    expected = "QLIKE: expected positive truths and predictions; 1 of 2 pairs are not"
    for pair in (([bad, 1.0], [1.0, 1.0]), ([1.0, 1.0], [1.0, bad])):
        with pytest.raises(Unmeasurable, match=expected):
            LOSSES["qlike"].losses(*map(np.array, pair))
        assert LOSSES["qlike"].defined(*map(np.array, pair)).sum() == 1


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
def test_an_error_leads_back_to_its_mean_loss(loss) -> None:
    assert loss.mean_loss(loss.error(2.25)) == pytest.approx(2.25)
    assert loss.unit("°C") == ("" if loss.name == "qlike" else "°C")


@pytest.mark.parametrize(("prediction", "expected"), [([2.0, 2.0], 1.0), ([2.0, 3.0], 0.0)])
def test_constant_truth_leaves_nothing_to_explain(prediction, expected) -> None:
    assert r2(np.array([2.0, 2.0]), np.array(prediction)) == expected


@pytest.mark.parametrize(
    ("loss", "baseline", "expected"), [(1.0, 4.0, 0.75), (4.0, 4.0, 0.0), (6.0, 4.0, -0.5), (1.0, 0.0, None)]
)
def test_skill_is_the_share_of_the_baselines_loss_that_is_saved(loss, baseline, expected) -> None:
    assert skill(loss, baseline) == expected


def test_nothing_to_measure_is_an_error_and_not_a_nan() -> None:
    nothing = np.array([])
    for measure in (r2, *(loss.losses for loss in LOSSES.values())):
        with pytest.raises(ValueError, match="no rows"):
            measure(nothing, nothing)


def test_predictions_for_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="one prediction per truth"):
        LOSSES["squared_error"].losses(TRUTH, PREDICTION[:, None])
