"""The data gate's judgement of a table of observations: every rule of a challenge that it breaks, not only the first.

pandera finds the cells that break a rule. This module judges how many are too many, per series, over the whole table
and over the recent window, so that a burst in the newest hours cannot hide in a long history. Then come the rules about
whole series: present, long enough, without gaps, fresh, not stuck, in one unit, with sensors that work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import datetime

import numpy as np
import pandas as pd

from forecasting.challenge.schema import Challenge
from forecasting.drift.sensor_faults import explain, faults
from pipelines.sensors import sensor_grid, usual_before
from records.quality import QualityReport, Severity, Violation

JUMP_SCALE = 3.5
JUMP_QUANTILE = 0.99
"""A level shift of more than JUMP_SCALE times the series' own JUMP_QUANTILE of shifts counts as a change of unit.

In a year of New York's weather the largest shift is 2.7 times that quantile (temperature, at a cold front), while a
silent change from °C to °F at any temperature above -9 °C is more than 3.5 times.
"""
_KEY = ["unique_id", "ds"]
_SHAPE = ("columns", "types")
_UNLIMITED = (-np.inf, np.inf)
_ANY_IS_AN_ERROR = {
    "incomplete_key": "rows have no series or no time",
    "unknown_series": "rows of a series that the challenge does not name",
    "duplicates": "rows whose series and time occur more than once",
    "off_grid": "rows whose time is not a whole step of the grid",
    "future": "rows are newer than the moment of the run",
    "infinite": "values are infinite",
}


def judge(
    observations: pd.DataFrame,
    challenge: Challenge,
    as_of: datetime,
    *,
    rows_received: int = 0,
    conflicting_repeats: int = 0,
) -> QualityReport:
    """Judge observations (`unique_id`, `ds`, then the challenge's columns) by the challenge's rules.

    as_of: the moment of the run (UTC), at which the recent window ends.
    rows_received, conflicting_repeats: how many rows the source sent to this run's `ingest`, and how many hours came
    more than once with different values.
    """
    table = _in_nanoseconds(observations)
    broken = _broken(table, challenge, as_of)
    violations = list(_table_violations(broken, challenge))
    violations += _conflicts(rows_received, conflicting_repeats, challenge)
    keyed = not {"unique_id", "ds"} & {one.column for one in violations if one.rule in _SHAPE}
    if keyed:
        violations += _cell_violations(table, broken, challenge, as_of)
        mistyped = {one.column for one in violations if one.rule in _SHAPE}
        known = table.dropna(subset=_KEY)
        violations += _series_violations(known, challenge, as_of, without=mistyped)
        if not mistyped:
            violations += _sensor_faults(known, challenge, as_of)
    violations.sort(key=lambda one: (one.severity, one.rule, one.series, one.column))
    rows = table["unique_id"].value_counts() if keyed else pd.Series(dtype="int64")
    times = table["ds"].dropna() if keyed else pd.Series(dtype="datetime64[ns, UTC]")
    return QualityReport(
        challenge=challenge.name,
        as_of=as_of,
        rows=len(table),
        series={unique_id: int(rows.get(unique_id, 0)) for unique_id in challenge.series_ids},
        passed=all(one.severity != "error" for one in violations),
        violations=tuple(violations),
        first=times.min().to_pydatetime() if len(times) else None,
        last=times.max().to_pydatetime() if len(times) else None,
    )


def _in_nanoseconds(observations: pd.DataFrame) -> pd.DataFrame:
    """UTC times of any resolution in nanoseconds; the schema refuses everything else."""
    ds = observations.get("ds")
    if ds is not None and isinstance(ds.dtype, pd.DatetimeTZDtype) and str(ds.dtype.tz) == "UTC":
        # A time that nanoseconds cannot hold keeps its type, which then counts as wrong.
        with suppress(pd.errors.OutOfBoundsDatetime):
            observations = observations.assign(ds=ds.astype("datetime64[ns, UTC]"))
    return observations.reset_index(drop=True)


def _broken(table: pd.DataFrame, challenge: Challenge, as_of: datetime) -> pd.DataFrame:
    """All that pandera finds: one row per broken cell, with columns rule, column, index (NaN for shape)."""
    import pandera.pandas as pandera

    quality = challenge.quality
    step = pd.Timedelta(challenge.target.step)

    def in_range(low: float, high: float) -> pandera.Check:
        return pandera.Check(lambda values: values.between(low, high) | np.isinf(values), name="range")

    values = {
        name: pandera.Column(
            "float64",
            [in_range(*quality.ranges.get(name, _UNLIMITED)), pandera.Check(lambda v: ~np.isinf(v), name="infinite")],
            nullable=name not in quality.key_columns,
        )
        for name in challenge.columns
    }
    schema = pandera.DataFrameSchema(
        {
            "unique_id": pandera.Column(
                str, pandera.Check(lambda ids: ids.isin(challenge.series_ids), name="unknown_series")
            ),
            "ds": pandera.Column(
                pd.DatetimeTZDtype("ns", "UTC"),
                [
                    pandera.Check(lambda ds: ds.dt.floor(step) == ds, name="off_grid"),
                    pandera.Check(lambda ds: ds <= as_of, name="future"),
                ],
            ),
            **values,
        },
        unique=["unique_id", "ds"],
        strict=True,
    )
    try:
        schema.validate(table, lazy=True)
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases
    else:
        return pd.DataFrame({"rule": [], "column": [], "index": []})
    named = {"column_in_schema": "columns", "column_in_dataframe": "columns", "not_nullable": "nulls"}
    rule = cases["check"].replace(named)
    rule[rule.str.startswith("dtype(") | rule.str.startswith("DataFrameSchema")] = "types"
    rule[rule == "multiple_fields_uniqueness"] = "duplicates"
    column = cases["column"].where(rule != "columns", cases["failure_case"])
    rule[(rule == "nulls") & column.isin(_KEY)] = "incomplete_key"
    return pd.DataFrame({"rule": rule, "column": column, "index": cases["index"]}).drop_duplicates()


def _table_violations(broken: pd.DataFrame, challenge: Challenge) -> Iterator[Violation]:
    expected = ("unique_id", "ds", *challenge.columns)
    for column in broken.loc[broken["rule"] == "columns", "column"]:
        what = "is missing" if column in expected else "is not of this challenge"
        message = f"the column {column!r} {what}; expected {', '.join(expected)}"
        yield Violation(rule="columns", column=column, found=1, limit=0, count=1, message=message)
    for column in broken.loc[~broken["rule"].isin([*_ANY_IS_AN_ERROR, "columns", "nulls", "range"]), "column"].unique():
        kind = {"unique_id": "text", "ds": "times in UTC"}.get(column, "float64")
        message = f"the column {column!r} is not of the expected type, {kind}"
        yield Violation(rule="types", column=column, found=1, limit=0, count=1, message=message)


def _conflicts(rows_received: int, conflicting_repeats: int, challenge: Challenge) -> Iterator[Violation]:
    count, limit = conflicting_repeats, challenge.quality.max_conflicting_share
    if not count:
        return
    share = count / max(rows_received, count)
    severity: Severity = "error" if share > limit else "warning"
    message = f"{count} of {rows_received} hours received came again with different values ({share:.2%})"
    rule = "conflicting_repeats"
    yield Violation(rule=rule, severity=severity, found=share, limit=limit, count=count, message=message)


def _cell_violations(
    table: pd.DataFrame, broken: pd.DataFrame, challenge: Challenge, as_of: datetime
) -> Iterator[Violation]:
    cells = broken[broken["index"].notna() & ~broken["rule"].isin(_SHAPE)]
    cells = cells.assign(index=cells["index"].astype("int64"))
    # A key that occurs twice is one violation, but pandera reports it for each of the key's columns.
    about_rows = ["duplicates", "incomplete_key", "unknown_series", "off_grid", "future"]
    cells.loc[cells["rule"].isin(about_rows), "column"] = ""
    cells = cells.drop_duplicates().join(table[_KEY], on="index")
    # A row without a key is wrong whatever its values are, and belongs to no series.
    cells = cells[(cells["column"] == "") | cells[_KEY].notna().all(axis=1)].fillna({"unique_id": ""})
    since = pd.Timestamp(as_of) - pd.Timedelta(hours=challenge.quality.recent_hours)
    recent = table["ds"] > since
    rows, recent_rows = (part["unique_id"].value_counts() for part in (table, table[recent]))
    for (rule, series, column), when in cells.groupby(["rule", "unique_id", "column"], sort=True)["ds"]:
        if rule in _ANY_IS_AN_ERROR:
            message = f"{len(when)} {_ANY_IS_AN_ERROR[rule]}{f' in {column}' if column else ''}"
            yield _violation(rule, (series, column), when, found=len(when), limit=0.0, message=message)
            continue
        yield _share(rule, (series, column), when, int(rows[series]), challenge)
        newest = when[when > since]
        if len(newest):
            yield _share(f"recent_{rule}", (series, column), newest, int(recent_rows[series]), challenge)


def _share(rule: str, where: tuple[str, str], when: pd.Series, rows: int, challenge: Challenge) -> Violation:
    """Which share of a series (or of its recent window) is null or out of range; ``where``: series and column."""
    quality = challenge.quality
    low, high = quality.ranges.get(where[1], _UNLIMITED)
    if rule.endswith("nulls"):
        limit, what = quality.max_null_share, "are null"
    else:
        limit, what = quality.max_out_of_range_share, f"are outside {low:g} … {high:g}"
    window = f" in the last {quality.recent_hours} h" if rule.startswith("recent_") else ""
    share = len(when) / rows
    # Two values make a burst: otherwise one wrong reading would reject a whole recent window.
    severity: Severity = "error" if share > limit and len(when) > 1 else "warning"
    message = f"{len(when)} of {rows} values {what}{window} ({share:.2%})"
    return _violation(rule, where, when, found=share, limit=limit, message=message, severity=severity)


def _series_violations(
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
        rows, limit = len(series), challenge.quality.min_rows
        if rows < limit:
            message = f"{rows} rows, where at least {limit} are needed to fit and measure a model"
            yield Violation(rule="too_few_rows", series=unique_id, found=rows, limit=limit, count=rows, message=message)
        yield from _gap(unique_id, series, challenge, now)
        yield from _stale(unique_id, series, challenge, now)
        for rule, columns in ((_stuck, challenge.quality.stuck_columns), (_unit_change, challenge.quality.key_columns)):
            for column in columns:
                if column not in without:
                    yield from rule(unique_id, series[column].dropna(), challenge, now)


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
        yield _violation("gap", (unique_id, ""), when, found=found, limit=limit, count=count, message=message)


def _stale(unique_id: str, series: pd.DataFrame, challenge: Challenge, now: pd.Timestamp) -> Iterator[Violation]:
    newest = series.index[-1:]
    age, limit = (now - newest[0]) / pd.Timedelta(hours=1), challenge.quality.max_age_hours
    if age > limit:
        message = f"the newest observation is {age:.1f} h old; at most {limit} h are allowed"
        yield _violation("stale", (unique_id, ""), newest, found=age, limit=limit, message=message)


def _stuck(unique_id: str, values: pd.Series, challenge: Challenge, now: pd.Timestamp) -> Iterator[Violation]:  # noqa: ARG001 - as `_unit_change`
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
        where = (unique_id, str(values.name))
        yield _violation("stuck", where, stuck.index, found=found, limit=limit, message=message)


def _unit_change(unique_id: str, values: pd.Series, challenge: Challenge, now: pd.Timestamp) -> Iterator[Violation]:
    """A level that jumps and stays, as when °C silently become °F.

    A shift is the median of three readings minus the median of the three before: a single wrong reading does not count.
    The series' own shifts are the yardstick. In the recent window it is an error; an older one, which was accepted
    before, is a warning.
    """
    if len(values) < 6:
        return
    medians = np.median(np.lib.stride_tricks.sliding_window_view(values.to_numpy(), 3), axis=1)
    shift = np.abs(medians[3:] - medians[:-3])
    limit = JUMP_SCALE * float(np.quantile(shift, JUMP_QUANTILE))
    jumps = np.flatnonzero(shift > limit) if limit > 0 else np.array([], dtype=np.int64)
    if not len(jumps):
        return
    largest, times = shift[jumps].max(), values.index[jumps + 3]
    recent = times[-1] > now - pd.Timedelta(hours=challenge.quality.recent_hours)
    message = f"the level jumped by {largest:.1f} and stayed; more than {limit:.1f} is a change of unit"
    severity: Severity = "error" if recent else "warning"
    where = (unique_id, str(values.name))
    yield _violation("unit_change", where, times, found=largest, limit=limit, message=message, severity=severity)


def _sensor_faults(table: pd.DataFrame, challenge: Challenge, as_of: datetime) -> Iterator[Violation]:
    """What the challenge's detectors find in the recent window; what is usual comes from the days before it.

    A warning: a detector is wrong about every fourth month, and then a person must decide, not a retraining fail.
    """
    now, step = pd.Timestamp(as_of), pd.Timedelta(challenge.target.step)
    since = now - pd.Timedelta(hours=challenge.quality.recent_hours)
    usual = usual_before(table, challenge, since)
    for detector in challenge.detectors:
        before = (detector.steps - 1) * step  # so that the window's first step is judged in full
        grid = sensor_grid(table, challenge, since - before, now)
        steps = pd.date_range(end=now.floor(step), periods=len(grid.hours), freq=step)
        recent = steps > since
        for unique_id, found in zip(grid.unique_ids, faults(detector, grid, usual), strict=True):
            when = steps[found & recent]
            if len(when):
                where, message = (unique_id, detector.variable), explain(detector)
                rule, found_in = detector.kind, len(when)
                yield _violation(rule, where, when, found=found_in, limit=0, message=message, severity="warning")


def _violation(
    rule: str,
    where: tuple[str, str],
    when: pd.Series | pd.DatetimeIndex,
    *,
    found: float,
    limit: float,
    message: str,
    count: int | None = None,
    severity: Severity = "error",
) -> Violation:
    """A violation at the moments ``when``; where: series and column; count: by default the number of moments."""
    known = when.dropna()
    first, last = (known.min().to_pydatetime(), known.max().to_pydatetime()) if len(known) else (None, None)
    return Violation(
        rule=rule,
        series=where[0],
        column=where[1],
        severity=severity,
        found=float(found),
        limit=limit,
        count=len(when) if count is None else count,
        first=first,
        last=last,
        message=message,
    )
