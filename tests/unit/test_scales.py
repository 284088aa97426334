"""Each scale against numbers computed by hand; its two forms alike; what learning on a scale owes the loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.challenge.scales import SCALES, ScaleName
from forecasting.judging.losses import LOSSES, LossName

NAN = float("nan")
ANY = st.one_of(st.just(NAN), st.floats(1e-6, 1e6), st.floats(-10.0, 10.0))


def test_every_entry_of_the_table_is_tested_here() -> None:
    assert tuple(SCALES) == ScaleName.__args__ == ("identity", "log")


@pytest.mark.parametrize(
    ("name", "scaled", "change", "after", "text"),
    [("identity", 8.0, 24.0, 16.0, "+8.00 W"), ("log", math.log(8.0), math.log(4.0), 8.0 * math.exp(8.0), "×2980.96")],
)
def test_a_scale_of_hand_computed_numbers(
    name: ScaleName, scaled: float, change: float, after: float, text: str
) -> None:
    scale = SCALES[name]
    assert scale.scaled(8.0) == scaled
    assert scale.unscaled(scaled) == pytest.approx(8.0, rel=1e-15)
    assert scale.change(8.0, 32.0) == pytest.approx(change, rel=1e-15)
    assert scale.changed(8.0, 8.0) == pytest.approx(after, rel=1e-15)
    assert scale.text(8.0, "W") == text


@given(st.sampled_from(ScaleName.__args__), st.lists(st.tuples(ANY, ANY), min_size=1, max_size=20))
def test_both_forms_give_the_same_numbers_to_the_bit(name: ScaleName, pairs: list[tuple[float, float]]) -> None:
    scale = SCALES[name]
    one, two = np.array(pairs).T
    same = np.testing.assert_array_equal
    same(scale.scaled_values(one), [scale.scaled(each) for each, _ in pairs])
    same(scale.last_scaled([each for each, _ in pairs], 3)[-3:], [scale.scaled(each) for each, _ in pairs[-3:]])
    same(scale.unscaled_values(one), [scale.unscaled(each) for each, _ in pairs])
    same(scale.changes(one, two), [scale.change(*pair) for pair in pairs])
    same(scale.changed_values(one, two), [scale.changed(*pair) for pair in pairs])


@pytest.mark.parametrize("value", [0.0, -1.0, NAN])
def test_a_value_without_a_logarithm_is_missing(value: float) -> None:
    log = SCALES["log"]
    assert log.positive
    assert math.isnan(log.scaled(value))
    assert math.isnan(log.change(value, 1.0))
    assert not SCALES["identity"].positive


def test_a_change_beyond_all_numbers_stays_one() -> None:
    assert math.isfinite(SCALES["log"].unscaled(1e300))
    assert SCALES["log"].unscaled(-1e300) > 0.0


@pytest.mark.parametrize(
    ("loss", "factor"),
    [("qlike", (1.0 / 1.0 + 6.0 / 2.0) / 2.0), ("squared_error", 13.0 / 5.0), ("absolute_error", 1.0)],
)
def test_the_factor_of_a_loss_of_a_hand_computed_example(loss: LossName, factor: float) -> None:
    """Truths of 1 and 6, forecasts of 1 and 2: y/ŷ is 1 and 3, Σyŷ is 13, Σŷ² is 5."""
    truth, forecast = np.array([1.0, 6.0]), np.array([1.0, 2.0])
    log, identity = SCALES["log"], SCALES["identity"]
    assert log.correction(LOSSES[loss].factor, truth, forecast) == pytest.approx(math.log(factor))
    assert identity.correction(LOSSES[loss].factor, truth, forecast) == 0.0


@pytest.mark.parametrize("name", ["qlike", "squared_error"])
def test_of_all_factors_the_correction_makes_the_loss_least(name: LossName) -> None:
    truth, forecast = np.exp(np.random.default_rng(1).normal(0.0, 0.8, (2, 500)))
    loss, log = LOSSES[name], SCALES["log"]
    best = log.correction(loss.factor, truth, forecast)
    errors = [loss.losses(truth, log.changed_values(forecast, best + off)).mean() for off in (-0.01, 0.0, 0.01)]
    assert errors[1] == min(errors)
