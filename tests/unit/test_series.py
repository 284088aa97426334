"""One series' state: what an observation does to it, which forecasts it is the truth for, and its form as bytes."""

from __future__ import annotations

import asyncio
import math
import struct
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.features.ring_buffer import Arrival
from forecasting.models.bundle import Bundle, read_bundle
from forecasting.models.intervals import Scale
from service.model.served import Model
from service.state.series import SeriesState
from service.state.stores import MemoryStore

START = 380_000
MOST_EXAMPLES = 60


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return Model(read_bundle(bundle), "1")


def row(model: Model, target: float, rest: float = 1.0) -> list[float]:
    return [target] + [rest] * (len(model.spec.variables) - 1)


def state_with_forecasts(model: Model) -> SeriesState:
    """A state at START that forecasts 11, 12 and 13 °C for 4, 5 and 6 hours on; the baseline 10.5, 9 and 8 °C."""
    state = SeriesState(model, "")
    state.take(START, row(model, 10.0))
    state.remember([11.0, 12.0, 13.0], [10.5, 9.0, 8.0])
    return state


def test_an_observation_says_what_it_did(model: Model) -> None:
    state = SeriesState(model, "")
    lookback, target_lookback = model.spec.lookback, model.target_lookback
    assert state.take(START, row(model, 1.0)).arrival is Arrival.NEWEST
    assert state.take(START - 2, row(model, 2.0)).arrival is Arrival.LATE
    assert state.take(START - 2, row(model, 2.0)).arrival is Arrival.REPEATED
    assert state.take(START - 2, row(model, 3.0)).arrival is Arrival.CORRECTED
    assert state.take(START - lookback, row(model, 4.0)).arrival is Arrival.LATE
    assert state.take(START - lookback - 1, row(model, 5.0)).arrival is Arrival.LATE
    assert state.take(START - target_lookback, row(model, 6.0)).arrival is Arrival.LATE
    assert state.take(START - target_lookback - 1, row(model, 7.0)).arrival is Arrival.TOO_OLD
    assert state.buffer.newest_step == START
    assert [state.buffer.columns[0][place] for place in (-1, -3, -1 - lookback, 0)] == [1.0, 3.0, 4.0, 6.0]
    assert [len(column) for column in state.buffer.columns[1:]] == [lookback + 1] * (len(model.spec.variables) - 1)


def test_the_truth_meets_the_forecast_made_for_it_once(model: Model) -> None:
    state = state_with_forecasts(model)
    taken = state.take(START + 4, row(model, 11.5))
    (score,) = taken.scores
    assert score.horizon_place == 0
    assert (score.truth, score.forecast, score.baseline) == (11.5, 11.0, 10.5)
    lower, upper = model.offsets(state_with_forecasts(model).scales)[0]
    assert score.covered == (lower <= 0.5 <= upper)
    assert state.take(START + 4, row(model, 11.5)).scores == ()
    (late,) = state.take(START + 6, row(model, 500.0)).scores
    assert (late.horizon_place, late.truth, late.forecast, late.covered) == (2, 500.0, 13.0, False)


def test_a_truth_at_the_end_of_the_interval_is_covered(model: Model) -> None:
    _, upper = model.offsets(state_with_forecasts(model).scales)[0]
    for offset, covered in ((0.0, True), (1e-6, False)):
        state = state_with_forecasts(model)
        (score,) = state.take(START + 4, row(model, 11.0 + upper + offset)).scores
        assert score.covered is covered


def test_the_interval_follows_the_size_of_the_last_errors(model: Model) -> None:
    """A half-life of 72 steps: each error counts 1 - 2 ** (-1/72) of the scale."""
    state = state_with_forecasts(model)
    usual, share = list(state.scales), 1.0 - 0.5 ** (1.0 / 72.0)
    state.take(START + 4, row(model, 11.0 - 3.0 * usual[0]))
    first = usual[0] + share * 2.0 * usual[0]
    assert list(state.scales) == pytest.approx([first, usual[1], usual[2]])
    state.remember([20.0, 20.0, 20.0], [0.0, 0.0, 0.0])
    made = state.made_for(START + 8)[0]
    offsets = model.bundle.manifest.scaling.offsets[4]
    assert made is not None
    assert (made.lower, made.upper) == pytest.approx((20.0 + first * offsets.lower, 20.0 + first * offsets.upper))
    decoded = SeriesState.decode(model, "", state.encode())
    assert decoded.scales == state.scales
    state.take(START + 4, row(model, 11.0))  # a correction is not scored again
    assert state.scales[0] == pytest.approx(first)


def test_a_wild_value_counts_as_ten_times_the_scale_and_a_calm_leaves_an_interval(model: Model) -> None:
    state, share = state_with_forecasts(model), 1.0 - 0.5 ** (1.0 / 72.0)
    usual = state.scales[0]
    state.take(START + 4, row(model, 1e308))
    assert state.scales[0] == pytest.approx(usual * (1.0 + share * 9.0))
    for step in range(START + 5, START + 2000):
        state.remember([10.0, 10.0, 10.0], [0.0, 0.0, 0.0])
        state.take(step, row(model, 10.0))
    assert state.scales[0] == pytest.approx(usual / 20.0)


@pytest.mark.parametrize("values", [(1e308, -1e308), (-1e308, 1e308)])
def test_no_observation_leaves_a_scale_that_is_no_number(model: Model, values: tuple[float, float]) -> None:
    state = SeriesState(model, "")
    for step, value in enumerate((10.0, *values, 10.0, 10.0) * 5):
        state.take(START + step, row(model, value))
        state.remember([value * 1.5, -value, 10.0], [0.0, 0.0, 0.0])
    assert all(math.isfinite(scale) for scale in state.scales)


def test_a_series_begins_with_the_scale_that_training_knows_of_it(model: Model) -> None:
    scaling = model.bundle.manifest.scaling
    known = msgspec.structs.replace(scaling, series={"EWR": {4: Scale(usual=3.0, newest=2.5), 5: Scale(3.0, 0.0)}})
    manifest = msgspec.structs.replace(model.bundle.manifest, scaling=known)
    other = Model(Bundle(manifest, model.bundle.observations, model.bundle.models), "1")
    assert list(SeriesState(other, "EWR").scales) == pytest.approx([2.5, 0.15, scaling.usual[6]])
    assert list(SeriesState(other, "new").scales) == [scaling.usual[horizon] for horizon in (4, 5, 6)]
    store = MemoryStore(other)
    found = asyncio.run(store.change("EWR", lambda state: list(state.scales)))
    assert found == pytest.approx([2.5, 0.15, scaling.usual[6]])


def test_a_late_truth_is_scored_and_a_gap_keeps_what_it_jumps_over(model: Model) -> None:
    state = state_with_forecasts(model)
    assert state.take(START + 20, row(model, 7.0)).scores == ()
    lower, upper = model.offsets(state_with_forecasts(model).scales)[1]
    assert state.made_for(START + 5)[1] == (12.0, 12.0 + lower, 12.0 + upper, 9.0)
    (score,) = state.take(START + 5, row(model, 12.5)).scores
    assert (score.horizon_place, score.truth, score.forecast, score.baseline) == (1, 12.5, 12.0, 9.0)


def test_a_truth_that_comes_after_its_origin_is_forgotten_is_scored_against_the_baseline_too(model: Model) -> None:
    state = state_with_forecasts(model)
    newest = START + model.spec.lookback + 2
    state.take(newest, row(model, 7.0))
    (score,) = state.take(START + 4, row(model, 11.5)).scores
    assert (score.forecast, score.baseline) == (11.0, 10.5)


def test_a_correction_is_not_scored_again_even_by_way_of_a_missing_value(model: Model) -> None:
    state = state_with_forecasts(model)
    assert len(state.take(START + 4, row(model, 11.5)).scores) == 1
    assert state.take(START + 4, row(model, 14.0)).scores == ()
    assert state.take(START + 4, row(model, math.nan)).arrival is Arrival.CORRECTED
    assert state.take(START + 4, row(model, 11.5)).scores == ()


def test_an_observation_without_the_target_is_scored_when_its_target_comes(model: Model) -> None:
    state = state_with_forecasts(model)
    assert state.take(START + 4, row(model, math.nan)).scores == ()
    taken = state.take(START + 4, row(model, 11.5))
    assert taken.arrival is Arrival.CORRECTED
    assert len(taken.scores) == 1


def test_a_jump_beyond_everything_forgets_everything(model: Model) -> None:
    state = state_with_forecasts(model)
    state.take(START + 4, row(model, 1.0))
    far = START + 10_000
    assert state.take(far, row(model, 2.0)).scores == ()
    assert np.isnan(state.buffer.columns[0][:-1]).all()
    assert np.isnan(state.made).all()
    assert bytes(state.met) == bytes(model.spec.lookback) + b"\x01"
    assert state.take(START, row(model, 2.0)).arrival is Arrival.TOO_OLD


def test_the_first_forecast_for_a_step_stays(model: Model) -> None:
    state = SeriesState(model, "")
    for step in range(3):
        state.take(START + step, row(model, 10.0))
        assert not state.has_forecast
        state.remember([20.0 + step, 30.0 + step, 40.0 + step], [0.0, 0.0, 0.0])
        assert state.has_forecast
    found = [one and one[0] for one in state.made_for(START + 6)]
    assert found == [22.0, 31.0, 40.0]
    assert state.made_for(START + 100) == [None] * 3
    assert state.made_for(START - 1000) == [None] * 3


def test_a_state_comes_back_to_the_bit(model: Model) -> None:
    state = state_with_forecasts(model)
    odd = struct.unpack("<d", b"\x01\x00\x00\x00\x00\x00\xf8\x7f")[0]
    state.take(START + 4, row(model, -0.0, odd))
    encoded = state.encode()
    found = SeriesState.decode(model, "", encoded)
    assert found.encode() == encoded
    assert found.buffer.newest_step == START + 4
    assert found.take(START + 4, row(model, 3.0)).scores == ()
    assert len(found.take(START + 5, row(model, 3.0)).scores) == 1
    empty = SeriesState.decode(model, "", SeriesState(model, "").encode())
    assert empty.buffer.newest_step is None


def test_other_bytes_are_refused(model: Model) -> None:
    encoded = state_with_forecasts(model).encode()
    for damaged in (b"", encoded[:-1], encoded + b"\0"):
        with pytest.raises(ValueError, match=f"expected {len(encoded)} bytes of a series' state; found {len(damaged)}"):
            SeriesState.decode(model, "", damaged)
    for place in (0, 8, 100, len(encoded) - 60, len(encoded) - 1):
        damaged = bytearray(encoded)
        damaged[place] ^= 1
        with pytest.raises(ValueError, match="checksum"):
            SeriesState.decode(model, "", bytes(damaged))


@settings(max_examples=MOST_EXAMPLES, deadline=None)
@given(
    steps=st.lists(st.integers(0, 120), unique=True, min_size=1, max_size=60),
    order=st.randoms(use_true_random=False),
    missing=st.sets(st.integers(0, 120)),
)
def test_the_same_observations_in_any_order_give_the_same_state(model, steps, order, missing) -> None:
    rows = {step: row(model, math.nan if step in missing else float(step), float(step) / 2) for step in steps}
    shuffled = list(rows)
    order.shuffle(shuffled)
    in_order, in_any = SeriesState(model, ""), SeriesState(model, "")
    for step in sorted(rows):
        in_order.take(START + step, rows[step])
    for step in shuffled:
        in_any.take(START + step, rows[step])
    assert in_any.encode() == in_order.encode()
