"""The data gate's rules about whole series: present, long enough, without gaps, fresh, not stuck, in one unit."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.challenge.schema import Challenge
from records.quality import Severity, Violation

JUMP_SCALE = 3.5
JUMP_QUANTILE = 0.99
"""A level shift of more than JUMP_SCALE times the series' own JUMP_QUANTILE of shifts counts as a change of unit.

In a year of New York's weather the largest shift is 2.7 times that quantile (temperature, at a cold front), while a
silent change from °C to °F at any temperature above -9 °C is more than 3.5 times.
"""


def violation(
    rule: str,
    series: str,
    when: pd.Series | pd.DatetimeIndex,
    *,
    found: float,
    limit: float,
    message: str,
    column: str = "",
    count: int | None = None,
    severity: Severity = "error",
) -> Violation:
    """A violation from the first to the last of the moments ``when``; count: by default, how many moments these are."""
    known = when.dropna()
    first, last = (known.min().to_pydatetime(), known.max().to_pydatetime()) if len(known) else (None, None)
    return Violation(
        rule=rule,
        series=series,
        column=column,
        severity=severity,
        found=float(found),
        limit=limit,
        count=len(when) if count is None else count,
        first=first,
        last=last,
        message=message,
    )


def series_violations(
    table: pd.DataFrame, challenge: Challenge, as_of: datetime, *, without: Collection[str]
) -> Iterator[Violation]:
    """The violations of each series in a table whose key is right; ``without``: columns to skip."""
    groups = dict(iter(table.sort_values("ds", kind="stable").groupby("unique_id")))
    now = pd.Timestamp(as_of)
    for unique_id in challenge.series_ids:
        group = groups.get(unique_id)
        if group is None:
            message = "the series has no observations at all"
            yield Violation(rule="missing_series", series=unique_id, found=0, limit=1, count=0, message=message)
            continue
        series = group.drop_duplicates("ds", keep="last").set_index("ds")
        yield from _too_few_rows(unique_id, series, challenge)
        yield from _gap(unique_id, series, challenge, now)
        yield from _stale(unique_id, series, challenge, now)
        for column in challenge.quality.stuck_columns:
            if column not in without:
                yield from _stuck(unique_id, series[column].dropna(), challenge)
        for column in challenge.quality.key_columns:
            if column not in without:
                yield from _unit_change(unique_id, series[column].dropna(), challenge, now)


def _too_few_rows(unique_id: str, series: pd.DataFrame, challenge: Challenge) -> Iterator[Violation]:
    rows, limit = len(series), challenge.quality.min_rows
    if rows < limit:
        message = f"{rows} rows, where at least {limit} are needed to fit and measure a model"
        yield Violation(rule="too_few_rows", series=unique_id, found=rows, limit=limit, count=rows, message=message)


def _gap(unique_id: str, series: pd.DataFrame, challenge: Challenge, now: pd.Timestamp) -> Iterator[Violation]:
    """The longest run of missing steps, up to now."""
    step, limit = pd.Timedelta(challenge.target.step), challenge.quality.max_gap_hours
    past = series.index[series.index <= now]
    if not len(past):
        return
    # The step that holds `now` may not be measured yet: it does not count as missing.
    ends = past.append(pd.DatetimeIndex([max(now.floor(step), past[-1] + step)]))
    missing = np.asarray((ends[1:] - ends[:-1]) / step) - 1
    hours = missing * (step / pd.Timedelta(hours=1))
    longest = int(np.argmax(hours))
    found = float(hours[longest])
    if found > limit:
        message = f"{found:g} h in a row are missing; at most {limit} h may be"
        when = pd.DatetimeIndex([ends[longest] + step, ends[longest + 1] - step])
        count = int(missing[hours > limit].sum())
        yield violation("gap", unique_id, when, found=found, limit=limit, count=count, message=message)


def _stale(unique_id: str, series: pd.DataFrame, challenge: Challenge, now: pd.Timestamp) -> Iterator[Violation]:
    newest = series.index[-1:]
    age, limit = (now - newest[0]) / pd.Timedelta(hours=1), challenge.quality.max_age_hours
    if age > limit:
        message = f"the newest observation is {age:.1f} h old; at most {limit} h are allowed"
        yield violation("stale", unique_id, newest, found=age, limit=limit, message=message)


def _stuck(unique_id: str, values: pd.Series, challenge: Challenge) -> Iterator[Violation]:
    """The longest time for which a sensor repeats the same value; missing readings do not end it."""
    if values.empty:
        return
    run = values.ne(values.shift()).cumsum().to_numpy()
    times = values.index.to_series().groupby(run)
    hours = (times.last() - times.first() + pd.Timedelta(challenge.target.step)) / pd.Timedelta(hours=1)
    limit, longest = challenge.quality.max_stuck_hours, hours.idxmax()
    found = hours[longest]
    if found > limit:
        stuck = values[run == longest]
        message = f"the value stood at {stuck.iloc[0]:g} for {found:g} h; more than {limit} h mean a stuck sensor"
        column = str(values.name)
        yield violation("stuck", unique_id, stuck.index, found=found, limit=limit, column=column, message=message)


def _unit_change(unique_id: str, values: pd.Series, challenge: Challenge, now: pd.Timestamp) -> Iterator[Violation]:
    """A level that jumps and stays, as when °C silently become °F.

    A shift is the median of three readings minus the median of the three before: a single wrong reading does not count.
    The series' own shifts are the yardstick. In the recent window it is an error; older ones were accepted before, and
    are a warning.
    """
    shift = np.abs(_level_shifts(values.to_numpy()))
    if not len(shift):
        return
    limit = JUMP_SCALE * float(np.quantile(shift, JUMP_QUANTILE))
    jumps = np.flatnonzero(shift > limit) if limit > 0 else np.array([], dtype=np.int64)
    if not len(jumps):
        return
    largest, times = shift[jumps].max(), values.index[jumps + 3]
    recent = times[-1] > now - pd.Timedelta(hours=challenge.quality.recent_hours)
    message = f"the level jumped by {largest:.1f} and stayed; more than {limit:.1f} is a change of unit"
    yield violation(
        "unit_change",
        unique_id,
        times,
        found=largest,
        limit=limit,
        message=message,
        column=str(values.name),
        severity="error" if recent else "warning",
    )


def _level_shifts(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n - 5,): the median of values i + 3 … i + 5 minus that of values i … i + 2."""
    if len(values) < 6:
        return np.empty(0)
    medians = np.median(np.lib.stride_tricks.sliding_window_view(values, 3), axis=1)
    return np.asarray(medians[3:] - medians[:-3])
