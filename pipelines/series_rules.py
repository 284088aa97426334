"""The data gate's rules about a series as a whole: present, long enough, without gaps, fresh, alive, in one unit."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.challenge.schema import Challenge
from records.quality import Violation

JUMP_SCALE = 3.5
JUMP_QUANTILE = 0.99
"""A level shift of more than JUMP_SCALE times the series' own JUMP_QUANTILE of shifts counts as a change of unit.

In a year of New York's weather the largest shift is 2.7 times that quantile (temperature, at a cold front), while a
silent change from °C to °F at any temperature above -9 °C is more than 3.5 times.
"""


def series_violations(
    table: pd.DataFrame, challenge: Challenge, as_of: datetime, *, without: Collection[str]
) -> Iterator[Violation]:
    """What is wrong with each series of a table of which the key is right; ``without``: columns not to be looked at."""
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
    """The longest run of missing steps, the one up to now included."""
    step = pd.Timedelta(challenge.target.step)
    past = series.index[series.index <= now]
    if not len(past):
        return
    # The step that holds `now` may not have been measured yet: it is not missing.
    ends = past.append(pd.DatetimeIndex([max(now.floor(step), past[-1] + step)]))
    missing = np.asarray((ends[1:] - ends[:-1]) / step) - 1
    hours = missing * (step / pd.Timedelta(hours=1))
    limit = challenge.quality.max_gap_hours
    longest = int(np.argmax(hours))
    if hours[longest] > limit:
        message = f"{hours[longest]:g} h in a row are missing; at most {limit} h may be"
        yield Violation(
            rule="gap",
            series=unique_id,
            found=float(hours[longest]),
            limit=limit,
            count=int(missing[hours > limit].sum()),
            first=(ends[longest] + step).to_pydatetime(),
            last=(ends[longest + 1] - step).to_pydatetime(),
            message=message,
        )


def _stale(unique_id: str, series: pd.DataFrame, challenge: Challenge, now: pd.Timestamp) -> Iterator[Violation]:
    newest = series.index[-1]
    age, limit = (now - newest) / pd.Timedelta(hours=1), challenge.quality.max_age_hours
    if age > limit:
        message = f"the newest observation is {age:.1f} h old; at most {limit} h are allowed"
        moment = newest.to_pydatetime()
        yield Violation(
            rule="stale", series=unique_id, found=age, limit=limit, count=1, first=moment, last=moment, message=message
        )


def _stuck(unique_id: str, values: pd.Series, challenge: Challenge) -> Iterator[Violation]:
    """The longest time for which the same value was read again and again; missing readings do not end it."""
    if values.empty:
        return
    run = values.ne(values.shift()).cumsum().to_numpy()
    times = values.index.to_series().groupby(run)
    first, last = times.first(), times.last()
    hours = (last - first + pd.Timedelta(challenge.target.step)) / pd.Timedelta(hours=1)
    limit = challenge.quality.max_stuck_hours
    longest = hours.idxmax()
    if hours[longest] > limit:
        value = values.loc[first[longest]]
        message = f"the value stood at {value:g} for {hours[longest]:g} h; more than {limit} h mean a stuck sensor"
        yield Violation(
            rule="stuck",
            series=unique_id,
            column=str(values.name),
            found=float(hours[longest]),
            limit=limit,
            count=int((run == longest).sum()),
            first=first[longest].to_pydatetime(),
            last=last[longest].to_pydatetime(),
            message=message,
        )


def _unit_change(unique_id: str, values: pd.Series, challenge: Challenge, now: pd.Timestamp) -> Iterator[Violation]:
    """A level that jumps and stays, as when °C become °F without a word.

    A shift is the median of three readings minus the median of the three before: a single wrong reading does not count.
    What the series does by itself is its yardstick. In the recent window it is an error; what is older has been
    accepted before, and is a warning.
    """
    shift = np.abs(_level_shifts(values.to_numpy()))
    if not len(shift):
        return
    limit = JUMP_SCALE * float(np.quantile(shift, JUMP_QUANTILE))
    jumps = np.flatnonzero(shift > limit) if limit > 0 else np.array([], dtype=np.int64)
    if not len(jumps):
        return
    largest = jumps[np.argmax(shift[jumps])]
    recent_since = now - pd.Timedelta(hours=challenge.quality.recent_hours)
    times = values.index[jumps + 3]
    message = f"the level jumped by {shift[largest]:.1f} and stayed; more than {limit:.1f} is a change of unit"
    yield Violation(
        rule="unit_change",
        series=unique_id,
        column=str(values.name),
        severity="error" if times[-1] > recent_since else "warning",
        found=float(shift[largest]),
        limit=limit,
        count=len(jumps),
        first=times[0].to_pydatetime(),
        last=times[-1].to_pydatetime(),
        message=message,
    )


def _level_shifts(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n - 5,): the median of values i + 3 … i + 5 minus that of values i … i + 2."""
    if len(values) < 6:
        return np.empty(0)
    medians = np.median(np.lib.stride_tricks.sliding_window_view(values, 3), axis=1)
    return np.asarray(medians[3:] - medians[:-3])
