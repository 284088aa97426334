"""The data gate's judgement of a table of observations: every rule of a challenge that it breaks, not only the first.

pandera finds the cells that break a rule. This module judges how many are too many, per series, over the whole table
and over the recent window, so that a burst in the newest hours cannot hide in a long history. The rules about whole
series are in `series_rules`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

import numpy as np
import pandas as pd

from forecasting.challenge.schema import Challenge
from pipelines.series_rules import series_violations, violation
from records.quality import QualityReport, Severity, Violation


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
        violations += series_violations(table.dropna(subset=_KEY), challenge, as_of, without=mistyped)
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


_KEY = ["unique_id", "ds"]
_SHAPE = ("columns", "types")
_ANY_IS_AN_ERROR = {
    "incomplete_key": "rows have no series or no time",
    "unknown_series": "rows of a series that the challenge does not name",
    "duplicates": "rows whose series and time occur more than once",
    "off_grid": "rows whose time is not a whole step of the grid",
    "future": "rows are newer than the moment of the run",
    "infinite": "values are infinite",
}


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
    unlimited = (-np.inf, np.inf)

    def in_range(low: float, high: float) -> pandera.Check:
        return pandera.Check(lambda values: values.between(low, high) | np.isinf(values), name="range")

    values = {
        name: pandera.Column(
            "float64",
            [in_range(*quality.ranges.get(name, unlimited)), pandera.Check(lambda v: ~np.isinf(v), name="infinite")],
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
    limit = challenge.quality.max_conflicting_share
    if not conflicting_repeats:
        return
    share = conflicting_repeats / max(rows_received, conflicting_repeats)
    message = f"{conflicting_repeats} of {rows_received} hours received came again with different values ({share:.2%})"
    yield Violation(
        rule="conflicting_repeats",
        severity="error" if share > limit else "warning",
        found=share,
        limit=limit,
        count=conflicting_repeats,
        message=message,
    )


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
    for (rule, series, column), found in cells.groupby(["rule", "unique_id", "column"], sort=True):
        when = found["ds"]
        if rule in _ANY_IS_AN_ERROR:
            subject = f" in {column}" if column else ""
            message = f"{len(found)} {_ANY_IS_AN_ERROR[rule]}{subject}"
            yield violation(rule, series, when, found=len(found), limit=0.0, message=message, column=column)
            continue
        yield _share((rule, series, column), when, int(rows[series]), challenge, "")
        if (when > since).any():
            window = f" in the last {challenge.quality.recent_hours} h"
            newest = when[when > since]
            yield _share((f"recent_{rule}", series, column), newest, int(recent_rows[series]), challenge, window)


def _share(where: tuple[str, str, str], when: pd.Series, rows: int, challenge: Challenge, window: str) -> Violation:
    """Which share of a series (or of its recent window) is null or out of range; ``where``: rule, series, column."""
    (rule, series, column), quality = where, challenge.quality
    are_nulls = rule.endswith("nulls")
    limit = quality.max_null_share if are_nulls else quality.max_out_of_range_share
    share = len(when) / rows
    # A single value is no burst: without this, one wrong reading would reject a whole recent window.
    severity: Severity = "error" if share > limit and len(when) > 1 else "warning"
    low, high = quality.ranges.get(column, (-np.inf, np.inf))
    what = "are null" if are_nulls else f"are outside {low:g} … {high:g}"
    message = f"{len(when)} of {rows} values {what}{window} ({share:.2%})"
    return violation(rule, series, when, found=share, limit=limit, message=message, column=column, severity=severity)
