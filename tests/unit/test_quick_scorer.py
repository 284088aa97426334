"""Scoring by bit masks, one row or many, against walking the trees, on rows chosen to be awkward."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from forecasting.drift.distances import feature_reference, out_of_distribution
from forecasting.models import quick_scorer
from forecasting.models.portable import Trees
from forecasting.models.quick_scorer import MOST_LEAVES, QuickScorer, Unsuitable
from pipelines.learners.hist_gradient_boosting import HistGradientBoosting

WIDTH = 6
NOT_WATCHED = [None] * WIDTH


def fitted(columns: list[int], *, seed: int, trees: int = 30, leaves: int = 31) -> Trees:
    """Trees over some columns of a shared row; each of their features was missing now and then."""
    random = np.random.default_rng(seed)
    inputs = np.round(random.normal(0.0, 2.0, (2000, len(columns))), 1)
    inputs[random.random(inputs.shape) < 0.1] = np.nan
    change = np.nansum(np.sin(inputs) * np.arange(1, len(columns) + 1), axis=1) + random.normal(0, 0.1, len(inputs))
    learner = HistGradientBoosting(max_iter=trees, max_leaf_nodes=leaves)
    return learner.fit(pd.DataFrame(inputs), change, "squared_error", seed).portable.trees


INPUTS = [[0, 1, 2, 3], [0, 1, 2, 4], [5, 2], [3]]
MODELS = [
    fitted(INPUTS[0], seed=1),
    fitted(INPUTS[1], seed=2, trees=7),
    fitted(INPUTS[2], seed=3, trees=1, leaves=2),
    None,
]


def walked(rows: np.ndarray) -> np.ndarray:
    pairs = zip(MODELS, INPUTS, strict=True)
    return np.stack(
        [each.predict(rows[:, columns]) if each else np.zeros(len(rows)) for each, columns in pairs], axis=1
    )


def require_as_walked(scorer: QuickScorer, rows: np.ndarray) -> None:
    """Both forms, one row and many."""
    np.testing.assert_allclose([scorer.score(row.tolist())[0] for row in rows], walked(rows), rtol=0, atol=1e-12)
    np.testing.assert_allclose(scorer.score_rows(rows)[0], walked(rows), rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk_bytes", [1, quick_scorer.CHUNK_BYTES])
def test_it_gives_what_walking_the_trees_gives(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    random = np.random.default_rng(0)
    rows = np.round(random.normal(0.0, 3.0, (500, WIDTH)), 1)
    rows[random.random(rows.shape) < 0.2] = np.nan
    rows[0], rows[1], rows[2], rows[3] = math.nan, 1e300, -1e300, math.inf
    monkeypatch.setattr(quick_scorer, "CHUNK_BYTES", chunk_bytes)
    scorer = QuickScorer(MODELS, INPUTS, NOT_WATCHED)
    require_as_walked(scorer, rows)
    found, outside = scorer.score_rows(rows[:0])
    assert (found.shape, outside.shape) == ((0, 4), (0,))


def test_a_value_that_is_a_threshold_goes_where_the_trees_send_it() -> None:
    tests = [
        (columns[feature], threshold)
        for trees, columns in zip(MODELS, INPUTS, strict=True)
        if trees
        for feature, threshold in zip(trees.feature, trees.threshold, strict=True)
        if feature >= 0 and threshold is not None
    ]
    assert len(tests) > 500
    rows = np.zeros((len(tests), WIDTH))
    for row, (column, threshold) in zip(rows, tests, strict=True):
        row[column] = threshold
    scorer = QuickScorer(MODELS, INPUTS, NOT_WATCHED)
    require_as_walked(scorer, rows)
    require_as_walked(scorer, np.nextafter(rows, -np.inf))


def test_a_test_that_only_a_missing_value_fails_is_scored() -> None:
    trees = Trees((0,), (0, -1, -1), (None, 0.0, 0.0), (1, -1, -1), (2, -1, -1), (False,) * 3, (0.0, 5.0, 7.0), 1.0)
    scorer = QuickScorer([trees], [[2]], NOT_WATCHED)
    rows = np.zeros((3, WIDTH))
    rows[:, 2] = 1e308, math.inf, math.nan
    assert scorer.score_rows(rows)[0].ravel().tolist() == [6.0, 6.0, 8.0]
    assert [scorer.score(row.tolist())[0].tolist() for row in rows] == [[6.0], [6.0], [8.0]]


def test_trees_with_more_leaves_than_bits_are_unsuitable() -> None:
    large = fitted([0, 1, 2, 3], seed=4, leaves=MOST_LEAVES + 1)
    with pytest.raises(Unsuitable, match=f"more than {MOST_LEAVES} leaves"):
        QuickScorer([large], [[0, 1, 2, 3]], NOT_WATCHED)
    full = fitted([0, 1, 2, 3], seed=4, leaves=MOST_LEAVES)
    rows = np.random.default_rng(1).normal(0.0, 2.0, (50, WIDTH))
    scorer = QuickScorer([full], [[0, 1, 2, 3]], NOT_WATCHED)
    np.testing.assert_allclose(scorer.score_rows(rows)[0][:, 0], full.predict(rows[:, :4]), rtol=0, atol=1e-12)


def test_a_tree_that_is_a_chain_of_thousands_is_unsuitable() -> None:
    depth = 5000  # each test's right child is a leaf, its left one the next test
    inner, leaves = list(range(depth)), list(range(depth, 2 * depth + 1))
    chain = Trees(
        roots=(0,),
        feature=(0,) * depth + (-1,) * len(leaves),
        threshold=(0.0,) * (2 * depth + 1),
        left=(*inner[1:], leaves[-1], *(-1 for _ in leaves)),
        right=(*leaves[:-1], *(-1 for _ in leaves)),
        missing_left=(False,) * (2 * depth + 1),
        value=(0.0,) * (2 * depth + 1),
        base=0.0,
    )
    with pytest.raises(Unsuitable, match="leaves"):
        QuickScorer([chain], [[0]], NOT_WATCHED)


def test_too_many_thresholds_are_unsuitable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_scorer, "MOST_BYTES", 1 << 10)
    with pytest.raises(Unsuitable, match="would take more than 1024 bytes"):
        QuickScorer(MODELS, INPUTS, NOT_WATCHED)


def test_without_trees_it_tells_the_columns_all_the_same() -> None:
    reference = feature_reference(np.array([1.0, 2.0]))
    scorer = QuickScorer([None, None], [[0], [1]], [None, reference])
    assert scorer.score([0.0, 3.0])[0].tolist() == [0.0, 0.0]
    assert list(scorer.score([0.0, 3.0])[1]) == [1]
    found, outside = scorer.score_rows(np.array([[0.0, 3.0], [9.0, 1.5]]))
    assert (found.tolist(), outside.tolist()) == ([[0.0, 0.0]] * 2, [True, False])


def test_it_tells_the_columns_outside_what_training_saw() -> None:
    random = np.random.default_rng(2)
    seen = np.round(random.normal(0.0, 2.0, (300, WIDTH)), 1)
    seen[:30, 1] = np.nan  # may be missing
    seen[:, 4] = np.nan  # was never there
    references = [feature_reference(column) for column in seen.T]
    scorer = QuickScorer(MODELS, INPUTS, [*references[:5], None])
    rows = np.round(random.normal(0.0, 4.0, (400, WIDTH)), 1)
    rows[random.random(rows.shape) < 0.1] = np.nan
    edges = [(reference.low, reference.high) for reference in references if reference.low is not None]
    for row, (low, high) in zip(rows, edges, strict=False):
        row[:4] = low, high, math.nextafter(low, -math.inf), math.nextafter(high, math.inf)
    expected = np.stack(
        [out_of_distribution(reference, column) for reference, column in zip(references, rows.T, strict=True)], axis=1
    )
    expected[:, 5] = False  # not watched
    assert expected.any(axis=0).tolist() == [True] * 5 + [False]
    shown = [list(scorer.score(row.tolist())[1]) for row in rows]
    assert shown == [np.flatnonzero(flags).tolist() for flags in expected]
    assert scorer.score_rows(rows)[1].tolist() == expected.any(axis=1).tolist()
