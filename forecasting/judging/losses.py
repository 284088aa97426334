"""How far predictions lie from the truth: point errors, and the loss that a challenge names.

All functions take NumPy arrays of one shape, in the target's unit, without NaN; ValueError is raised for empty ones.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Loss = Literal["squared_error", "absolute_error"]


def rmse(truth: FloatArray, prediction: FloatArray) -> float:
    """Root of the mean squared error, in the target's unit."""
    return float(np.sqrt(np.mean(_errors(truth, prediction) ** 2)))


def mae(truth: FloatArray, prediction: FloatArray) -> float:
    """Mean absolute error, in the target's unit."""
    return float(np.mean(np.abs(_errors(truth, prediction))))


def r2(truth: FloatArray, prediction: FloatArray) -> float:
    """Coefficient of determination: 1 - SS_residual / SS_total around the mean of ``truth``.

    A constant truth leaves nothing to explain: 1.0 when it is met exactly, else 0.0, as scikit-learn has it.
    """
    residual = float(np.sum(_errors(truth, prediction) ** 2))
    total = float(np.sum((truth - np.mean(truth)) ** 2))
    if total == 0.0:
        return 1.0 if residual == 0.0 else 0.0
    return 1.0 - residual / total


def losses(kind: Loss, truth: FloatArray, prediction: FloatArray) -> FloatArray:
    """The loss of each prediction, in the target's unit (absolute) or its square (squared)."""
    errors = _errors(truth, prediction)
    return errors**2 if kind == "squared_error" else np.abs(errors)


def skill(loss: float, baseline_loss: float) -> float | None:
    """1 - loss / baseline_loss: 1 is perfect, 0 is no better than the baseline, below 0 is worse.

    None against a baseline without any loss: no number says how much worse than perfect a model is.
    Source: Murphy (1988), "Skill scores based on the mean square error", eq. 4.
    """
    if baseline_loss == 0.0:
        return None
    return 1.0 - loss / baseline_loss


def _errors(truth: FloatArray, prediction: FloatArray) -> FloatArray:
    if truth.shape != prediction.shape:
        raise ValueError(f"expected one prediction per truth; found {prediction.shape} for {truth.shape}")
    if truth.size == 0:
        raise ValueError("there are no rows to measure")
    return prediction - truth
