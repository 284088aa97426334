"""The learner: one scikit-learn model per horizon, on the change of the target, and the same model as plain trees."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pandas as pd
import treelite
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.utils._param_validation import InvalidParameterError

from clients.errors import ConfigurationError
from forecasting.challenge.schema import Challenge
from forecasting.judging.losses import LOSSES

FloatArray = NDArray[np.float64]

SET_ELSEWHERE = frozenset({"self", "loss", "quantile", "random_state", "warm_start", "verbose", "scoring"})
"""Set by target.loss and learner.seed, or meaningless here."""
PARITY = 1e-9
"""How far the trees' prediction may lie from the training library's, in the target's unit."""


def new_model(challenge: Challenge, challenge_path: Path) -> HistGradientBoostingRegressor:
    """An unfitted model with the challenge's loss, seed and parameters; by default it fits all of `max_iter`.

    Raises ConfigurationError with file and key of a parameter that the learner does not have.
    """
    given = challenge.learner.parameters
    known = sorted(set(inspect.signature(HistGradientBoostingRegressor.__init__).parameters) - SET_ELSEWHERE)
    for name in sorted(set(given) - set(known)):
        expected = f"a parameter of {challenge.learner.kind} ({', '.join(known)})"
        raise ConfigurationError(f"{challenge_path}: learner.parameters.{name}: expected {expected}; found {name!r}")
    parameters = {"early_stopping": False, **given}
    loss = LOSSES[challenge.target.loss].learner
    return HistGradientBoostingRegressor(loss=loss, random_state=challenge.learner.seed, **parameters)


def fit_change(
    model: HistGradientBoostingRegressor, features: pd.DataFrame, change: FloatArray, challenge_path: Path
) -> HistGradientBoostingRegressor:
    """Fit the model to the change of the target from origin to horizon.

    features: (n, columns), NaN where unknown; change: (n,), in the target's unit, all known.
    scikit-learn refuses a column without any value, so it is fitted as a constant, on which no tree splits.
    Raises ConfigurationError with the file when a parameter's value is refused.
    """
    empty = features.columns[features.isna().all()]
    try:
        return model.fit(features.assign(**dict.fromkeys(empty, 0.0)), change)
    except InvalidParameterError as error:
        raise ConfigurationError(f"{challenge_path}: learner.parameters: {error}") from None


def as_trees(model: HistGradientBoostingRegressor, features: pd.DataFrame) -> treelite.Model:
    """The fitted model in the tree runtime's form; raises RuntimeError when it predicts otherwise on ``features``."""
    trees = treelite.sklearn.import_model(model)
    ours = treelite.gtil.predict(trees, features.to_numpy(dtype=np.float64), nthread=1)[:, 0, 0]
    worst = float(np.max(np.abs(ours - model.predict(features))))
    if not worst <= PARITY:
        raise RuntimeError(f"treelite and scikit-learn differ by {worst:g} on {len(features)} rows; at most {PARITY:g}")
    return trees
