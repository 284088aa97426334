"""Linear regression with a penalty on the squares of the weights."""

from __future__ import annotations

import pandas as pd

from forecasting.challenge.values import PositiveFloat
from pipelines.learners.learner import Fit, FloatArray
from pipelines.learners.linear import LinearLearner


class Ridge(LinearLearner, frozen=True, forbid_unknown_fields=True):
    """alpha: the weight of the penalty beside the sum of the squared errors, as in scikit-learn's `Ridge`."""

    alpha: PositiveFloat = 1.0

    def fit(self, features: pd.DataFrame, change: FloatArray, loss: str, seed: int) -> Fit:  # noqa: ARG002
        """As every learner. The squared error is minimised whatever the loss is, and nothing is drawn at random."""
        from sklearn import linear_model

        return self.fit_with(linear_model.Ridge(alpha=self.alpha), features, change)
