"""Numbers and times in words."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest

from ci.wording import compared, counted, duration, moment, number, p_value, percent, size


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.9286, "1.93"),
        (9.996, "10.0"),
        (123.4, "123"),
        (26_115.4, "26,115"),
        (0.012345, "0.0123"),
        (1.2e-7, "1.20e-07"),
        (3.2e10, "3.20e+10"),
        (-2.0, "−2.00"),
        (-0.0, "0"),
        (math.nan, "NaN"),
        (-math.inf, "−∞"),
    ],
)
def test_an_error_has_three_significant_digits(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.0214, "2.1 %"),
        (-0.034, "−3.4 %"),
        (-0.0004, "0.0 %"),
        (-0.0, "0.0 %"),
        (12.5, "1,250.0 %"),
        (math.nan, "NaN %"),
        (1e308, "∞ %"),
        (-math.inf, "−∞ %"),
    ],
)
def test_a_share_is_a_percentage_with_one_decimal(share, shown):
    assert percent(share) == shown


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (-0.021, "2.1 % better than production"),
        (0.003, "0.3 % worse than production"),
        (-0.0001, "0.0 % different from production"),
        (math.inf, "∞ % worse than production"),
        (math.nan, "not comparable with production"),
        (None, "not comparable with production"),
    ],
)
def test_a_change_is_better_or_worse(change, shown):
    assert compared(change, "production") == shown


def test_a_moment_is_reported_in_utc():
    when = datetime(2013, 12, 30, 6, 59, tzinfo=UTC)
    assert moment(when.astimezone(timezone(timedelta(hours=-5)))) == "2013-12-30 06:59"
    assert moment(when.replace(tzinfo=None)) == "2013-12-30 06:59"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(71.3, "71 s"), (119.6, "2 min 0 s"), (3599, "59 min 59 s"), (7380, "2 h 3 min"), (math.nan, "NaN s")],
)
def test_a_duration_is_reported_in_the_largest_units(seconds, shown):
    assert duration(seconds) == shown


def test_small_probabilities_are_bounded():
    assert (p_value(0.0004), p_value(0.0432), p_value(math.nan)) == ("p < 0.001", "p = 0.043", "p = NaN")


def test_sizes_and_counts():
    assert (size(1_230_000), size(4_200)) == ("1.23 MB", "4.20 kB")
    assert (counted(1, "row"), counted(1200, "row")) == ("1 row", "1,200 rows")
