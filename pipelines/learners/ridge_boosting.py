"""Ridge, and then boosting on what ridge leaves: trees cannot extrapolate, and a line cannot bend."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from forecasting.challenge.schema import Features
from pipelines.learners.hist_gradient_boosting import HistGradientBoosting
from pipelines.learners.learner import Fit, FloatArray, LearnerParameters, sum_of
from pipelines.learners.ridge import Ridge


class RidgeBoosting(LearnerParameters, frozen=True, forbid_unknown_fields=True):
    """Each of the two has a table of its parameters."""

    ridge: Ridge = Ridge()
    hist_gradient_boosting: HistGradientBoosting = HistGradientBoosting()

    def inconsistencies(self, features: Features, key: str) -> Iterator[tuple[str, str, str]]:
        yield from self.ridge.inconsistencies(features, f"{key}.ridge")

    def fit(self, features: pd.DataFrame, change: FloatArray, loss: str, seed: int) -> Fit:
        line = self.ridge.fit(features, change, loss, seed)
        residuals = change - line.estimator.predict(features)
        trees = self.hist_gradient_boosting.fit(features, residuals, loss, seed)
        return sum_of({"ridge": line, "hist_gradient_boosting": trees}, 1.0)
