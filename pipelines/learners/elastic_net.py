"""Linear regression with a penalty on the sizes and on the squares of the weights, which leaves features out."""

from __future__ import annotations

import pandas as pd

from forecasting.challenge.values import PositiveFloat, Share
from pipelines.learners.learner import Fit, FloatArray
from pipelines.learners.linear import LinearLearner

MAX_ITER = 10_000
"""Ten times scikit-learn's: lags and rolling statistics are nearly collinear, which slows coordinate descent."""


class ElasticNet(LinearLearner, frozen=True, forbid_unknown_fields=True):
    """alpha: the weight of the penalty beside half the mean squared error; l1_ratio: the share of the sizes in it.

    Both are scikit-learn's. Its default alpha of 1.0 would leave out nearly every standardised feature.
    """

    alpha: PositiveFloat = 0.01
    l1_ratio: Share = 0.5

    def fit(self, features: pd.DataFrame, change: FloatArray, loss: str, seed: int) -> Fit:  # noqa: ARG002
        """As every learner. The squared error is minimised whatever the loss is, and nothing is drawn at random."""
        from sklearn.linear_model import ElasticNet as Regressor

        # A year has many more rows than terms, so that each step on their products is a hundred times as fast.
        regressor = Regressor(alpha=self.alpha, l1_ratio=self.l1_ratio, precompute=True, max_iter=MAX_ITER)
        return self.fit_with(regressor, features, change)
