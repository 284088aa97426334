"""What is kept of each feature, and how a shift shows against it."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from forecasting.drift.distances import (
    feature_reference,
    feature_references,
    out_of_distribution,
    population_stability_index,
    stability_limit,
)

RANDOM = np.random.default_rng(0)


def test_ten_bins_hold_equal_shares_and_missing_values_their_own() -> None:
    values = RANDOM.normal(0, 1, 10_000)
    values[:1000] = math.nan
    reference = feature_reference(values)
    assert len(reference.edges) == 9
    assert reference.missing == pytest.approx(0.1)
    assert reference.shares == pytest.approx([0.09] * 10, abs=1e-3)
    assert sum(reference.shares) + reference.missing == pytest.approx(1.0)
    assert (reference.low, reference.high) == (np.nanmin(values), np.nanmax(values))


def test_many_equal_values_share_one_bin() -> None:
    rain = np.where(np.arange(1000) % 10 == 0, np.arange(1000) / 100, 0.0)
    reference = feature_reference(rain)
    assert reference.edges[0] == 0.0
    assert reference.shares[0] == pytest.approx(0.901)
    constant = feature_reference(np.full(50, 3.0))
    assert (constant.edges, constant.shares) == ((), (1.0,))


def test_nothing_seen_is_all_missing() -> None:
    reference = feature_reference(np.full(10, math.nan))
    assert (reference.missing, reference.low, reference.high) == (1.0, None, None)
    assert out_of_distribution(reference, np.array([1.0, math.nan])).tolist() == [True, False]


def test_index_is_near_zero_for_the_same_and_large_for_a_shift() -> None:
    reference = feature_reference(RANDOM.normal(0, 1, 20_000))
    assert population_stability_index(reference, RANDOM.normal(0, 1, 20_000)) < 0.01
    assert population_stability_index(reference, RANDOM.normal(1, 1, 20_000)) > 0.25
    gone = np.where(RANDOM.random(20_000) < 0.3, math.nan, RANDOM.normal(0, 1, 20_000))
    assert population_stability_index(reference, gone) > 0.25


def test_the_usual_shift_is_the_farthest_window_of_training_itself() -> None:
    seasons = (
        np.where(np.arange(2000) % 9 == 0, math.nan, 0.0)
        + np.sin(np.arange(2000) * 2 * math.pi / 2000)
        + RANDOM.normal(0, 0.1, 2000)
    )
    noise = RANDOM.normal(0, 1, 2000)
    references = feature_references(("seasons", "noise"), np.column_stack([seasons, noise]), 200)
    for size in (12, 50, 200):
        starts = [*range(0, 2000 - size, max(size // 32, 1)), 2000 - size]
        windows = [seasons[start : start + size] for start in starts]
        expected = max(population_stability_index(references["seasons"], window) for window in windows)
        assert references["seasons"].usual_shift[size] == pytest.approx(expected)
    assert list(references["seasons"].usual_shift) == [12, 50, 200]
    assert 1.0 < references["seasons"].usual_shift[200] < references["seasons"].usual_shift[12]
    assert references["noise"].usual_shift[200] < 0.25
    whole = feature_references(("noise",), noise[:, np.newaxis], 5000)["noise"]
    assert whole.usual_shift[5000] == pytest.approx(0.0)


def test_the_limit_of_a_window_is_what_as_many_rows_of_training_reached() -> None:
    known = msgspec.structs.replace(feature_reference(RANDOM.normal(0, 1, 100)), usual_shift={12: 3.0, 50: 0.1})
    assert stability_limit(known, 11, 0.25) is None
    assert stability_limit(known, 12, 0.25) == pytest.approx(3.3)
    assert stability_limit(known, 49, 0.25) == pytest.approx(3.3)
    assert stability_limit(known, 5000, 0.25) == 0.25
    unknown = msgspec.structs.replace(known, usual_shift={})
    assert stability_limit(unknown, 1, 0.25) == 0.25


def test_index_is_the_sum_of_the_formula() -> None:
    reference = feature_reference(np.array([0.0] * 8 + [1.0] * 2))
    now = np.array([0.0] * 5 + [1.0] * 5)
    expected = (0.5 - 0.8) * math.log(0.5 / 0.8) + (0.5 - 0.2) * math.log(0.5 / 0.2)
    assert population_stability_index(reference, now) == pytest.approx(expected)


def test_only_what_training_never_saw_is_out_of_distribution() -> None:
    seen = RANDOM.normal(0, 1, 1000)
    references = feature_references(("full", "holed"), np.column_stack([seen, np.where(seen > 1, math.nan, seen)]))
    assert not out_of_distribution(references["full"], seen).any()
    odd = np.array([seen.max() + 0.01, seen.min() - 0.01, math.nan, 0.0])
    assert out_of_distribution(references["full"], odd).tolist() == [True, True, True, False]
    assert out_of_distribution(references["holed"], np.array([math.nan])).tolist() == [False]
