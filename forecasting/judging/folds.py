"""Folds: stretches of the history that a recipe is judged on, and what it may learn from to predict each of them.

A fold is a function of the data before a moment and the data after it. With less than two years of history the year is
wrapped: what comes after a fold stands in for the year before it, so that every season is judged by a model that knows
all others. With more, the origins roll: only what lies before a fold is learnt from.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt

Moments = npt.NDArray[np.datetime64]

YEAR = timedelta(days=365)
_ROLLING_FROM = 2 * YEAR


@dataclass(frozen=True)
class Fold:
    """The origins from ``start`` until before ``end`` (UTC), which a model predicts without having seen them."""

    start: np.datetime64
    end: np.datetime64
    wrapped: bool
    """Whether what comes after the fold may be learnt from, as if it came a year before."""

    def judged(self, origins: Moments) -> npt.NDArray[np.bool_]:
        """Which origins lie in the fold: (n,)."""
        return np.asarray((origins >= self.start) & (origins < self.end))

    def learnt(self, origins: Moments, purge: timedelta) -> npt.NDArray[np.bool_]:
        """Which origins a model for this fold may learn from: (n,).

        purge: the lookback of the features plus the longest horizon. An origin that is farther from the fold than that
        shares no observation with it, neither through its features nor through its target.
        Source: López de Prado (2018), "Advances in Financial Machine Learning", 7.4: purging.
        """
        apart = np.timedelta64(purge)
        before = origins < self.start - apart
        return np.asarray(before | (origins >= self.end + apart) if self.wrapped else before)


def folds(origins: Moments, step: timedelta, *, count: int, days: int) -> tuple[Fold, ...]:
    """As many folds as fit, ``count`` at most, of ``days`` days each, oldest first, evenly over the history.

    origins: (n,), in any order, ``step`` apart. The last fold ends with the newest one. With two years of history or
    more, the first year is only learnt from. () when the history is shorter than a fold.
    """
    if not len(origins):
        return ()
    seconds = origins.astype("datetime64[s]").astype(np.int64)
    first, end = int(seconds.min()), int(seconds.max() + step.total_seconds())
    wrapped = end - first < _ROLLING_FROM.total_seconds()
    if not wrapped:
        first += int(YEAR.total_seconds())
    length = days * 86_400
    fitting = min(count, (end - first) // length)
    if fitting < 1:
        return ()
    starts = np.linspace(first, end - length, fitting) if fitting > 1 else np.array([end - length])
    return tuple(
        Fold(np.datetime64(int(start), "s"), np.datetime64(int(start) + length, "s"), wrapped)
        for start in starts.tolist()
    )
