"""Linear regression with a penalty on the sizes and on the squares of the weights, which leaves features out."""

from __future__ import annotations

from typing import Any

from forecasting.challenge.schema import PositiveFloat, Share
from pipelines.learners.linear import LinearLearner

MAX_ITER = 10_000
"""Ten times scikit-learn's: lags and rolling statistics are nearly collinear, which slows coordinate descent."""


class ElasticNet(LinearLearner, frozen=True, forbid_unknown_fields=True):
    """alpha: the weight of the penalty beside half the mean squared error; l1_ratio: the share of the sizes in it.

    Both are scikit-learn's. Its default alpha of 1.0 would leave out nearly every standardised feature.
    """

    alpha: PositiveFloat = 0.01
    l1_ratio: Share = 0.5

    def regressor(self) -> Any:  # noqa: ANN401 - scikit-learn has no types
        from sklearn import linear_model

        return linear_model.ElasticNet(alpha=self.alpha, l1_ratio=self.l1_ratio, max_iter=MAX_ITER)
