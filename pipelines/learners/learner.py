"""What every learner offers, and what all learners share: one fit in two forms, their parity, and sums of fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecasting.challenge.schema import Features, converted
from forecasting.models.portable import Portable, PortableError, weighted_sum

FloatArray = NDArray[np.float64]
Parameters = Mapping[str, Any]

PARITY = 1e-9
"""How far the portable form's prediction may lie from scikit-learn's, on the target's scale."""


class Estimator(Protocol):
    """A fitted model of scikit-learn."""

    def predict(self, features: pd.DataFrame, /) -> FloatArray: ...


@dataclass(frozen=True)
class Fit:
    """One fitted model in two forms: scikit-learn's, for users of MLflow, and the one that is served."""

    estimator: Estimator
    portable: Portable

    def predict(self, features: pd.DataFrame) -> FloatArray:
        """What both forms predict: (n,). features: (n, columns), NaN where unknown.

        Raises PortableError when that is not finite, and RuntimeError when the two differ by more than 1e-9.
        """
        expected = self.estimator.predict(features)
        if not np.isfinite(expected).all():
            raise PortableError("predictions: expected finite numbers; found others")
        found = self.portable.predict(features.to_numpy(dtype=np.float64))
        worst = float(np.max(np.abs(found - expected), initial=0.0))
        if not worst <= PARITY:
            message = f"the portable form and scikit-learn differ by {worst:g} on {len(features)} rows"
            raise RuntimeError(f"{message}; at most {PARITY:g} is allowed")
        return found


class Learner(Protocol):
    """What every learner of the table offers."""

    def inconsistencies(self, features: Features, key: str) -> Iterator[tuple[str, str, str]]:
        """Parameters, under ``key``, that do not fit the challenge's features: (key, expected, found)."""

    def fit(self, features: pd.DataFrame, change: FloatArray, loss: str, seed: int) -> Fit:
        """Fit the change of the target from origin to horizon.

        features: (n, columns), NaN where unknown; change: (n,), on the target's scale, all known; loss: what the
        learner calls it, `squared_error` or `absolute_error`. Raises PortableError when it learns numbers that are not
        finite.
        """


class LearnerParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A learner's parameters, which are its fields; their types are the check."""

    @classmethod
    def read(cls, parameters: Parameters, where: str, key: str) -> Self:
        """The learner with the parameters under ``key`` of the file ``where``. Raises ChallengeError."""
        return converted(parameters, cls, where, key)

    def inconsistencies(self, features: Features, key: str) -> Iterator[tuple[str, str, str]]:  # noqa: ARG002
        """As of every learner; most parameters fit any features."""
        yield from ()


def sum_of(fits: Mapping[str, Fit], weight: float) -> Fit:
    """The sum of fitted models, by name, each times ``weight``: one model, in both forms."""
    estimators = {name: fit.estimator for name, fit in fits.items()}
    portables = [fit.portable for fit in fits.values()]
    return Fit(_summed(estimators, weight), weighted_sum(portables, [weight] * len(fits)))


def _summed(estimators: Mapping[str, Estimator], weight: float) -> Estimator:
    """Made of scikit-learn's classes and a nested function, so that it loads from MLflow without our code."""
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    models = list(estimators.values())

    def predictions(features: pd.DataFrame) -> FloatArray:
        return np.column_stack([model.predict(features) for model in models])

    total = LinearRegression()
    total.coef_, total.intercept_ = np.full(len(models), weight), 0.0
    summed: Estimator = Pipeline([("predictions", FunctionTransformer(predictions)), ("sum", total)])
    return summed
