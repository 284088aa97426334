"""What the linear learners share: standardised features, products with the calendar, and the weights as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from forecasting.challenge.schema import Features
from forecasting.challenge.values import Cycle
from forecasting.models.portable import Linear, Portable
from pipelines.learners.learner import Fit, FloatArray, LearnerParameters


class LinearLearner(LearnerParameters, frozen=True):
    """What a linear model of standardised features, a missing one at its mean, can be given beside its own parameters.

    products: cycles of the challenge's calendar, whose sine and cosine are multiplied with every feature, so that a
    feature's weight can change over the cycle; sine times cosine is the cycle's second harmonic.
    """

    products: tuple[Cycle, ...] = ()

    def inconsistencies(self, features: Features, key: str) -> Iterator[tuple[str, str, str]]:
        for cycle in self.products:
            if cycle not in features.calendar:
                calendar = ", ".join(features.calendar) or "none"
                yield f"{key}.products", f"cycles of features.calendar ({calendar})", repr(cycle)

    def fit_with(self, regressor: Any, features: pd.DataFrame, change: FloatArray) -> Fit:  # noqa: ANN401
        """As every learner's ``fit``. regressor: scikit-learn's linear model, not fitted, which has no types."""
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import FunctionTransformer, StandardScaler

        first, second = _factors(list(features.columns), self.products)

        def with_products(standardised: FloatArray) -> FloatArray:
            return np.hstack([standardised, standardised[:, first] * standardised[:, second]])

        scaler = StandardScaler()
        estimator = Pipeline(
            [
                ("standardise", scaler),  # passes missing values on
                ("missing", SimpleImputer(strategy="constant", fill_value=0.0, keep_empty_features=True)),
                ("products", FunctionTransformer(with_products)),
                ("regressor", regressor),
            ]
        )
        with np.errstate(invalid="ignore"):  # the mean of a column without any value
            estimator.fit(features, change)
        width = len(features.columns)
        linear = _linear(scaler, regressor, [*range(width), *first], [-1] * width + second)
        return Fit(estimator, Portable(width, linear, None))


def _factors(columns: Sequence[str], cycles: Sequence[Cycle]) -> tuple[list[int], list[int]]:
    """The places of both factors of each product, each pair of columns once."""
    prefixes = tuple(f"{cycle}_{part}_h" for cycle in cycles for part in ("sin", "cos"))
    calendar = [place for place, column in enumerate(columns) if column.startswith(prefixes)] if prefixes else []
    pairs = [
        (place, factor)
        for factor in calendar
        for place in range(len(columns))
        if place not in calendar or place >= factor
    ]
    return [first for first, _ in pairs], [second for _, second in pairs]


def _linear(scaler: Any, regressor: Any, first: Sequence[int], second: Sequence[int]) -> Linear:  # noqa: ANN401
    """The fitted terms that have a weight. A column that has no value, or only one, is left as it is: scale 1."""
    weight: FloatArray = np.asarray(regressor.coef_, dtype=np.float64)
    kept = np.flatnonzero(weight)
    return Linear(
        center=tuple(np.nan_to_num(scaler.mean_, nan=0.0).tolist()),
        scale=tuple(np.nan_to_num(scaler.scale_, nan=1.0).tolist()),
        first=tuple(np.array(first)[kept].tolist()),
        second=tuple(np.array(second)[kept].tolist()),
        weight=tuple(weight[kept].tolist()),
        intercept=float(regressor.intercept_),
    )
