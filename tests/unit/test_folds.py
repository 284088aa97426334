"""Folds: where they lie, and that a model for one of them shares no observation with it."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.judging.folds import folds

STEP = timedelta(hours=1)
HOUR = np.timedelta64(1, "h")
START = np.datetime64("2013-01-01T00", "s")


def hours(days: int) -> np.ndarray:
    return START + HOUR * np.arange(24 * days)


def test_a_year_has_twelve_folds_of_four_weeks_that_end_with_its_last_hour() -> None:
    found = folds(hours(365), STEP, count=12, days=28)
    assert len(found) == 12
    assert found[0].start == START
    assert found[-1].judged(hours(365))[-28 * 24 :].all()
    assert all(fold.judged(hours(365)).sum() == 28 * 24 for fold in found)
    assert all(one.end <= other.start for one, other in pairwise(found))


def test_within_two_years_a_fold_learns_from_what_comes_after_it() -> None:
    fold = folds(hours(365), STEP, count=12, days=28)[5]
    learnt = fold.learnt(hours(365), timedelta(hours=54))
    assert fold.wrapped
    assert learnt[0]
    assert learnt[-1]


def test_with_two_years_a_fold_learns_from_the_past_alone_and_the_first_year_is_not_judged() -> None:
    origins = hours(2 * 365 + 90)
    found = folds(origins, STEP, count=12, days=28)
    assert found[0].start >= START + np.timedelta64(365, "D")
    assert all(not fold.learnt(origins, timedelta(hours=54))[origins >= fold.start].any() for fold in found)
    assert all(fold.learnt(origins, timedelta(hours=54)).sum() >= 24 * 365 - 54 for fold in found)


@pytest.mark.parametrize(("days", "expected"), [(0, 0), (27, 0), (28, 1), (55, 1), (56, 2), (100, 3), (365, 12)])
def test_a_short_history_has_as_many_folds_as_fit(days: int, expected: int) -> None:
    assert len(folds(hours(days), STEP, count=12, days=28)) == expected


@settings(deadline=None, max_examples=40)
@given(days=st.integers(28, 900), lookback=st.integers(0, 72), reach=st.integers(1, 12), which=st.integers(0, 11))
def test_a_model_shares_no_observation_with_the_fold_that_it_predicts(
    days: int, lookback: int, reach: int, which: int
) -> None:
    origins = hours(days)
    found = folds(origins, STEP, count=12, days=28)
    fold = found[which % len(found)]

    def seen(chosen: np.ndarray) -> set[int]:
        places = np.flatnonzero(chosen)
        return set((places[:, None] + np.arange(-lookback, reach + 1)).ravel().tolist())

    learnt = fold.learnt(origins, timedelta(hours=lookback + reach))
    assert not seen(learnt) & seen(fold.judged(origins))
    nearest = fold.learnt(origins, timedelta(hours=lookback + reach - 1))
    assert learnt.sum() == nearest.sum() or seen(nearest) & seen(fold.judged(origins))
