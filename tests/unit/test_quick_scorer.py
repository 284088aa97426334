"""Scoring by bit masks against treelite's own walk through the trees, on rows chosen to be awkward."""

from __future__ import annotations

import math

import numpy as np
import pytest
import treelite
from sklearn.ensemble import HistGradientBoostingRegressor

from forecasting.drift.distances import feature_reference, out_of_distribution
from forecasting.models.quick_scorer import MOST_LEAVES, QuickScorer, Unsuitable
from forecasting.models.trees import TreeEnsemble

WIDTH = 6
NOT_WATCHED = [None] * WIDTH


def fitted(columns: list[int], *, seed: int, trees: int = 30, leaves: int = 31) -> TreeEnsemble:
    """An ensemble over some columns of a shared row; two of its features were missing now and then."""
    random = np.random.default_rng(seed)
    inputs = np.round(random.normal(0.0, 2.0, (2000, len(columns))), 1)
    inputs[random.random(inputs.shape) < 0.1] = np.nan
    target = np.nansum(np.sin(inputs) * np.arange(1, len(columns) + 1), axis=1) + random.normal(0, 0.1, len(inputs))
    model = HistGradientBoostingRegressor(max_iter=trees, max_leaf_nodes=leaves, random_state=seed)
    return TreeEnsemble(treelite.sklearn.import_model(model.fit(inputs, target)).serialize_bytes())


INPUTS = [[0, 1, 2, 3], [0, 1, 2, 4], [5, 2]]
ENSEMBLES = [
    fitted(INPUTS[0], seed=1),
    fitted(INPUTS[1], seed=2, trees=7),
    fitted(INPUTS[2], seed=3, trees=1, leaves=2),
]


def walked(rows: np.ndarray) -> np.ndarray:
    pairs = zip(ENSEMBLES, INPUTS, strict=True)
    return np.stack([each.predict(np.ascontiguousarray(rows[:, columns])) for each, columns in pairs], axis=1)


def test_it_gives_what_walking_the_trees_gives() -> None:
    random = np.random.default_rng(0)
    rows = np.round(random.normal(0.0, 3.0, (500, WIDTH)), 1)
    rows[random.random(rows.shape) < 0.2] = np.nan
    rows[0], rows[1], rows[2] = math.nan, 1e300, -1e300
    scorer = QuickScorer(ENSEMBLES, INPUTS, NOT_WATCHED)
    np.testing.assert_allclose([scorer.score(row.tolist())[0] for row in rows], walked(rows), rtol=0, atol=1e-12)


def test_a_value_that_is_a_threshold_goes_where_the_trees_send_it() -> None:
    scorer = QuickScorer(ENSEMBLES, INPUTS, NOT_WATCHED)
    tests = [
        (columns[feature], threshold)
        for ensemble, columns in zip(ENSEMBLES, INPUTS, strict=True)
        for tree in ensemble.trees()
        for feature, threshold in zip(tree.split_index, tree.threshold, strict=True)
        if feature >= 0 and math.isfinite(threshold)
    ]
    assert len(tests) > 500
    rows = np.zeros((len(tests), WIDTH))
    for row, (column, threshold) in zip(rows, tests, strict=True):
        row[column] = threshold
    np.testing.assert_allclose([scorer.score(row.tolist())[0] for row in rows], walked(rows), rtol=0, atol=1e-12)
    below = np.nextafter(rows, -np.inf)
    np.testing.assert_allclose([scorer.score(row.tolist())[0] for row in below], walked(below), rtol=0, atol=1e-12)


def test_trees_with_more_leaves_than_bits_are_unsuitable() -> None:
    large = fitted([0, 1, 2, 3], seed=4, leaves=MOST_LEAVES + 1)
    with pytest.raises(Unsuitable, match=f"a tree of {MOST_LEAVES + 1} leaves"):
        QuickScorer([large], [[0, 1, 2, 3]], NOT_WATCHED)
    full = fitted([0, 1, 2, 3], seed=4, leaves=MOST_LEAVES)
    rows = np.random.default_rng(1).normal(0.0, 2.0, (50, WIDTH))
    expected = full.predict(np.ascontiguousarray(rows[:, :4]))
    scorer = QuickScorer([full], [[0, 1, 2, 3]], NOT_WATCHED)
    np.testing.assert_allclose([scorer.score(row.tolist())[0][0] for row in rows], expected, rtol=0, atol=1e-12)


def test_it_tells_the_columns_outside_what_training_saw() -> None:
    random = np.random.default_rng(2)
    seen = np.round(random.normal(0.0, 2.0, (300, WIDTH)), 1)
    seen[:30, 1] = np.nan  # may be missing
    seen[:, 4] = np.nan  # was never there
    references = [feature_reference(column) for column in seen.T]
    scorer = QuickScorer(ENSEMBLES, INPUTS, [*references[:5], None])
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
