"""Linear regression with a penalty on the squares of the weights."""

from __future__ import annotations

from typing import Any

from forecasting.challenge.schema import PositiveFloat
from pipelines.learners.linear import LinearLearner


class Ridge(LinearLearner, frozen=True, forbid_unknown_fields=True):
    """alpha: the weight of the penalty beside the sum of the squared errors, as in scikit-learn's `Ridge`."""

    alpha: PositiveFloat = 1.0

    def regressor(self) -> Any:  # noqa: ANN401 - scikit-learn has no types
        from sklearn import linear_model

        return linear_model.Ridge(alpha=self.alpha)
