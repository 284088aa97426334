"""How far predictions lie from the truth: a table of the losses that a challenge can name, and what follows from one.

All functions take NumPy arrays of one shape, in the target's unit, without NaN. ValueError is raised for empty ones.
The names are read where NumPy is not installed (by Airflow's scheduler, by the pipeline's exporter), so only what
computes imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from forecasting.challenge.scales import Factor

    FloatArray = NDArray[np.float64]


LossName = Literal["squared_error", "absolute_error", "qlike"]
"""The entries of ``LOSSES``, for a challenge's check."""


class Unmeasurable(ValueError):
    """The loss is not defined for these numbers; the message says which, and what was expected."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss, the error in which people read it, and the learner's own name for it."""

    name: LossName
    measure: str
    """The error's name among metrics: `rmse`."""
    label: str
    """The error's name for people: `RMSE`."""
    learner: Literal["squared_error", "absolute_error"]
    """scikit-learn's loss that a model of the target's change is fitted with."""
    per_row: Callable[[FloatArray, FloatArray], FloatArray]
    """(truth, prediction) to the loss of each."""
    factor: Factor
    """Of truths and predictions, all positive: by what the latter are multiplied so that their mean loss is least."""
    power: float = 1.0
    """error = mean loss ** power."""
    positive: bool = False
    """Whether truth and prediction must be above 0."""
    in_unit: bool = True
    """Whether the error has the target's unit; a loss of ratios has none."""

    def losses(self, truth: FloatArray, prediction: FloatArray) -> FloatArray:
        """The loss of each prediction: (n,). Raises Unmeasurable where it is not defined."""
        import numpy as np

        _require_alike(truth, prediction)
        undefined = np.count_nonzero(~self.defined(truth, prediction))
        if undefined:
            expected = f"{self.label}: expected positive truths and predictions"
            raise Unmeasurable(f"{expected}; {undefined} of {truth.size} pairs are not")
        return self.per_row(truth, prediction)

    def defined(self, truth: FloatArray, prediction: FloatArray) -> NDArray[np.bool_]:
        """Which pairs have a loss: (n,)."""
        import numpy as np

        if self.positive:
            return np.asarray((truth > 0.0) & (prediction > 0.0))
        return np.ones(truth.shape, dtype=np.bool_)

    def error(self, mean_loss: float) -> float:
        """The error behind a mean loss: of a squared loss its root."""
        return float(mean_loss**self.power)

    def mean_loss(self, error: float) -> float:
        """The mean loss behind an error."""
        return float(error ** (1.0 / self.power))

    def unit(self, target_unit: str) -> str:
        """The error's unit; empty when it has none."""
        return target_unit if self.in_unit else ""


def _squared(truth: FloatArray, prediction: FloatArray) -> FloatArray:
    squares: FloatArray = (prediction - truth) ** 2
    return squares


def _absolute(truth: FloatArray, prediction: FloatArray) -> FloatArray:
    return abs(prediction - truth)


def _squared_factor(truth: FloatArray, prediction: FloatArray) -> float:
    """Least squares through the origin."""
    unit = prediction.max()  # so that no square is too large a number
    return float((truth / unit) @ (prediction / unit) / ((prediction / unit) @ (prediction / unit)))


def _qlike_factor(truth: FloatArray, prediction: FloatArray) -> float:
    """Where the derivative of the mean loss by the factor is 0."""
    return float((truth / prediction).mean())


def _qlike(truth: FloatArray, prediction: FloatArray) -> FloatArray:
    """Patton (2011), "Volatility forecast comparison using imperfect volatility proxies", with b = -2."""
    import numpy as np

    ratio = truth / prediction
    losses: FloatArray = ratio - np.log(ratio) - 1.0
    return losses


LOSSES: Mapping[LossName, Loss] = {
    loss.name: loss
    for loss in (
        Loss(
            name="squared_error",
            measure="rmse",
            label="RMSE",
            learner="squared_error",
            per_row=_squared,
            factor=_squared_factor,
            power=0.5,
        ),
        Loss(
            name="absolute_error",
            measure="mae",
            label="MAE",
            learner="absolute_error",
            per_row=_absolute,
            factor=lambda _truth, _prediction: 1.0,  # a median is a median on any scale
        ),
        # QLIKE is half the gamma deviance (scikit-learn: `gamma`), which takes positive targets only. Models learn the
        # change of the target, which has both signs: so they are fitted to its mean, which minimises QLIKE too.
        Loss(
            name="qlike",
            measure="qlike",
            label="QLIKE",
            learner="squared_error",
            per_row=_qlike,
            factor=_qlike_factor,
            positive=True,
            in_unit=False,
        ),
    )
}


def r2(truth: FloatArray, prediction: FloatArray) -> float:
    """Coefficient of determination: 1 - SS_residual / SS_total around the mean of ``truth``.

    A constant truth leaves nothing to explain: 1.0 when it is met exactly, else 0.0, as scikit-learn has it.
    """
    import numpy as np

    _require_alike(truth, prediction)
    residual = float(np.sum((prediction - truth) ** 2))
    total = float(np.sum((truth - np.mean(truth)) ** 2))
    if total == 0.0:
        return 1.0 if residual == 0.0 else 0.0
    return 1.0 - residual / total


def skill(loss: float, baseline_loss: float) -> float | None:
    """1 - loss / baseline_loss: 1 is perfect, 0 is no better than the baseline, below 0 is worse.

    None against a baseline without any loss: no number says how much worse than perfect a model is.
    Source: Murphy (1988), "Skill scores based on the mean square error", eq. 4.
    """
    if baseline_loss == 0.0:
        return None
    return 1.0 - loss / baseline_loss


def _require_alike(truth: FloatArray, prediction: FloatArray) -> None:
    if truth.shape != prediction.shape:
        raise ValueError(f"expected one prediction per truth; found {prediction.shape} for {truth.shape}")
    if truth.size == 0:
        raise ValueError("there are no rows to measure")
