"""Gradient boosting of trees on histograms."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
import numpy as np
import pandas as pd
from msgspec import Meta

from forecasting.challenge.values import Positive, PositiveFloat
from forecasting.models.portable import Portable, Trees
from pipelines.learners.learner import Fit, FloatArray, LearnerParameters


class HistGradientBoosting(LearnerParameters, frozen=True, forbid_unknown_fields=True):
    """The parameters of scikit-learn's `HistGradientBoostingRegressor` that a challenge can set.

    All of ``max_iter`` is fitted: to stop early, scikit-learn would hold out rows at random, neighbours of those that
    it learns from.
    """

    max_iter: Positive = 100
    learning_rate: PositiveFloat = 0.1
    max_leaf_nodes: Annotated[int, Meta(ge=2)] = 31
    max_depth: Positive | None = None
    min_samples_leaf: Positive = 20
    l2_regularization: Annotated[float, Meta(ge=0.0)] = 0.0
    max_features: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    max_bins: Annotated[int, Meta(ge=2, le=255)] = 255

    def fit(self, features: pd.DataFrame, change: FloatArray, loss: str, seed: int) -> Fit:
        """As every learner. scikit-learn refuses a column without any value: it learns it as a constant, unsplit."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        estimator = HistGradientBoostingRegressor(
            loss=loss, random_state=seed, early_stopping=False, **msgspec.structs.asdict(self)
        )
        empty = features.columns[features.isna().all()]
        estimator.fit(features.assign(**dict.fromkeys(empty, 0.0)), change)
        return Fit(estimator, Portable(len(features.columns), None, _trees(estimator)))


def _trees(estimator: Any) -> Trees:  # noqa: ANN401 - scikit-learn has no types
    """The fitted trees, from scikit-learn's own nodes.

    scikit-learn offers no public way to them, and a converter would be one more package to agree on every release of
    it. Should a release change its nodes, the comparison in `Fit.predict` stops the training.
    """
    parts = [predictor.nodes for (predictor,) in estimator._predictors]
    sizes = np.array([len(nodes) for nodes in parts])
    roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.intp)
    nodes, before = np.concatenate(parts), np.repeat(roots, sizes)
    leaf = nodes["is_leaf"] == 1

    def children(side: str) -> tuple[int, ...]:
        return tuple(np.where(leaf, -1, nodes[side].astype(np.intp) + before).tolist())

    thresholds = np.where(leaf, 0.0, nodes["num_threshold"]).tolist()
    return Trees(
        roots=tuple(roots.tolist()),
        feature=tuple(np.where(leaf, -1, nodes["feature_idx"].astype(np.intp)).tolist()),
        threshold=tuple(None if each == math.inf else each for each in thresholds),
        left=children("left"),
        right=children("right"),
        missing_left=tuple((~leaf & (nodes["missing_go_to_left"] == 1)).tolist()),
        value=tuple(np.where(leaf, nodes["value"], 0.0).tolist()),
        base=float(np.ravel(estimator._baseline_prediction)[0]),
    )
