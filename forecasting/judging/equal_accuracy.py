"""Do two models predict equally well? The test of Diebold and Mariano, and what it needs of Student's t."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MIN_PERIODS = 30
"""With fewer moments a variance that allows for dependence in time is hardly more than a guess."""
_FRACTION_TERMS = 10_000
_FRACTION_PRECISION = 1e-16


class TooLittleEvidence(Exception):
    """There are too few moments to test anything; the message says how many."""


class DMTest(NamedTuple):
    """``statistic`` above 0 means that the candidate loses more; ``p_value`` is one-sided."""

    statistic: float
    p_value: float


def diebold_mariano(loss_difference: FloatArray, horizon: int, *, steps: IntArray | None = None) -> DMTest:
    """One-sided test that the mean of ``loss_difference`` is positive, i.e. that the candidate loses more.

    loss_difference: (T,), candidate minus production, one value per moment, oldest first, in units of the loss.
    horizon: forecast horizon in steps; the HAC variance uses lags 0 … horizon - 1, for forecasts that are further apart
    share no unknown. steps: (T,), when each moment was, in steps, ascending; without it there is no gap between them.
    All lags weigh the same, and a pair of moments counts by its distance in time: over a gap, next in line is not next
    in time. Where the sum is not positive, Bartlett's weights 1 - lag / horizon are used, with which it cannot be
    negative. A difference that never varies settles the matter by its sign: p is 0 above zero, else 1.
    Raises TooLittleEvidence when T < 30 or T < 2 horizon, ValueError for values that are not finite or steps that do
    not ascend.
    Source: Diebold & Mariano (1995), section 1.1; correction for small samples, and Student's t with T - 1 degrees of
    freedom, of Harvey, Leybourne & Newbold (1997), eq. 9; Bartlett's weights as in Newey & West (1987), which Diebold &
    Mariano name for this case; gaps as in Datta & Du (2012), "amplitude modulated".
    """
    periods = len(loss_difference)
    if periods < MIN_PERIODS:
        raise TooLittleEvidence(f"expected at least {MIN_PERIODS} moments to compare two models; found {periods}")
    if not np.isfinite(loss_difference).all():
        raise ValueError("loss_difference: expected finite numbers")
    if horizon < 1:
        raise ValueError(f"horizon: expected 1 or more; found {horizon}")
    if periods < 2 * horizon:
        raise TooLittleEvidence(f"expected at least twice the horizon, {2 * horizon} moments; found {periods}")
    when = np.arange(periods, dtype=np.int64) if steps is None else steps
    if when.shape != loss_difference.shape or (np.diff(when) <= 0).any():
        raise ValueError("steps: expected one for each difference, ascending")
    mean = float(np.mean(loss_difference))
    deviations = loss_difference - mean
    # A constant leaves rounding errors of the mean, which are no variance.
    if np.max(np.abs(deviations)) <= 1e-14 * np.max(np.abs(loss_difference), initial=0.0):
        statistic = math.copysign(math.inf, mean) if mean else 0.0
        return DMTest(statistic, 1.0 if mean <= 0.0 else 0.0)
    correction = (periods + 1 - 2 * horizon + horizon * (horizon - 1) / periods) / periods
    statistic = mean * math.sqrt(correction / _variance_of_mean(deviations, when, horizon))
    return DMTest(statistic, student_t_survival(statistic, periods - 1))


def student_t_survival(statistic: float, degrees_of_freedom: int) -> float:
    """The probability that Student's t exceeds ``statistic``; exact to about 1e-12.

    Source: DLMF (https://dlmf.nist.gov) 8.17: P(T > t) = I_x(n/2, 1/2) / 2 with x = n / (n + t²), for t > 0.
    """
    if math.isnan(statistic):
        raise ValueError("statistic: expected a number")
    if math.isinf(statistic):
        return 0.0 if statistic > 0 else 1.0
    squared = statistic * statistic
    total = degrees_of_freedom + squared
    tail = 0.5 * _incomplete_beta(degrees_of_freedom / total, squared / total, degrees_of_freedom / 2, 0.5)
    return tail if statistic > 0 else 1.0 - tail


def holm(p_values: list[float]) -> list[float]:
    """p-values of several tests, in the same order, corrected so that one of them all errs with the named probability.

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def _variance_of_mean(deviations: FloatArray, when: IntArray, horizon: int) -> float:
    """Positive, for deviations that are not all zero."""
    lag = np.arange(horizon)
    sums = np.where(lag == 0, 1.0, 2.0) * [_lagged_sum(deviations, when, int(k)) for k in lag]
    equal, bartlett = float(np.sum(sums)), float(np.sum(sums * (1.0 - lag / horizon)))
    # What is left after rounding when Bartlett's sum is zero is the variance of independent moments.
    total = next((found for found in (equal, bartlett) if found > 0.0), float(sums[0]))
    return total / len(deviations) ** 2


def _lagged_sum(deviations: FloatArray, when: IntArray, lag: int) -> float:
    """Sum of the products of all pairs that are ``lag`` steps apart."""
    if when[-1] - when[0] == len(when) - 1:
        return float(deviations[lag:] @ deviations[: len(deviations) - lag])
    later = np.minimum(np.searchsorted(when, when + lag), len(when) - 1)
    return float(np.sum(deviations * deviations[later] * (when[later] == when + lag)))


def _incomplete_beta(x: float, rest: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b); rest is 1 - x, given apart since it may be tiny.

    Source: DLMF 8.17.22 (continued fraction), 8.17.4 (symmetry).
    """
    if x <= 0.0 or rest <= 0.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _incomplete_beta(rest, x, b, a)
    log_front = a * math.log(x) + b * math.log(rest) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log_front) / (a * _beta_fraction(x, a, b))


def _beta_fraction(x: float, a: float, b: float) -> float:
    """1 + d1/(1 + d2/(1 + …)), by Lentz's method as modified by Thompson & Barnett (1986)."""
    tiny = 1e-300
    value, upper, lower = 1.0, 1.0, 0.0
    for term in range(1, _FRACTION_TERMS):
        m = term // 2
        if term % 2:
            step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        lower = 1.0 / (1.0 + step * lower or tiny)
        upper = 1.0 + step / upper or tiny
        value *= upper * lower
        if abs(upper * lower - 1.0) < _FRACTION_PRECISION:
            break
    return value
