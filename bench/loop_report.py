"""The Markdown of `bench/results/loop.md`: tables of what `bench.loop` measured, and whether the goals are met."""

from __future__ import annotations

import calendar
import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import msgspec

from bench.loop_changes import (
    CHANGED,
    FAULT_DAY,
    NATURAL_DAYS,
    QUIET_ERROR,
    QUIET_OUTSIDE,
    Faulty,
    Jump,
    Natural,
    Served,
)
from bench.loop_policies import FIRST, LAST, Year, root_mean_square
from bench.loop_service import CONCEPT, DRIFT, STARTING, WATCHED
from bench.recorded_models import FOLDS
from bench.report import table
from forecasting.judging.verdict import Verdict

WITHIN, SHARE = 0.02, 0.25
"""The goal: on drift within so much of daily's RMSE, at so large a share of its retrainings."""
BEST_BEFORE = 2.645
"""The lowest RMSE of any policy when models learnt nothing from their newest 56 days, °C."""
MINUTES = 5.0
"""The goal from the alert to the new model being served."""
MONTHS = calendar.month_name
NAIVE = "persistence, no model"
YEAR_HEADS = ("RMSE, °C", "against daily", "retrainings", "released", "blocked by the gate", "data rejected")


class Demo(msgspec.Struct):
    """What is read of the demo's `timeline.json`."""

    alert_to_serving_seconds: float


def policies_section(
    years: Sequence[Year], daily: Year, drift: Year, first: Verdict, differing: Sequence[int] | None
) -> Iterator[str]:
    """daily, drift: the two of the years that the goal is about; first: the gate's verdict on the first model.

    differing: the hours of the year on drift in which other alerts fire in Prometheus; None without promtool.
    """
    yield from _paragraph(
        f"Live RMSE of the forecasts made from {FIRST:%d %B} to {LAST:%d %B}, the same {len(daily.errors):,} of",
        f"each policy. The first model is as of {FIRST:%d %B}, when the data gate's `min_rows` are there; the",
        f"gate's verdict on it: {first.outcome}. A run takes an hour of the data's time: it learns from all that",
        "is known when it starts, and is served from the next hour on, with windows that are empty and the",
        "series' last hours from its bundle. A release waits for nobody.",
    )
    yield from _paragraph(
        f"Intervals and the error that drift is measured against come from {FOLDS} folds in place of the challenge's",
        "twelve, so that hundreds of models can be made: one at the start of the history, one at its end. Every",
        "candidate is of production's code, so that the gate judges its freshness, its intervals and its bundle, and",
        f"whether the recipe beats the baseline. The goal: on drift within {WITHIN:.0%} of daily, at {SHARE:.0%} of",
        f"its retrainings or fewer, and both below {BEST_BEFORE:g} °C, the best of the table before models learnt to",
        "the last hour.",
    )
    naive = root_mean_square(daily.persistence)
    persistence = (NAIVE, f"{naive:.3f}", f"{naive / daily.rmse - 1.0:+.1%}", "", "", "", "")
    yield from _table("lrrrrrr", ("policy", *YEAR_HEADS), [persistence, *(_row(year, daily) for year in years)])
    worse, share = drift.rmse / daily.rmse - 1.0, len(drift.retrainings) / len(daily.retrainings)
    yield from _paragraph(
        f"**On drift: {worse:+.1%} of daily's RMSE ({_met(well=worse <= WITHIN)}), with {share:.0%} of its retrainings",
        f"({_met(well=share <= SHARE)}); both below {BEST_BEFORE:g} °C",
        f"({_met(well=max(drift.rmse, daily.rmse) < BEST_BEFORE)}).**",
    )
    yield from _paragraph("By the month in which the forecast was made, RMSE in °C:")
    monthly = {NAIVE: daily.monthly(daily.persistence)}
    monthly |= {year.policy.name: year.monthly(year.errors) for year in years}
    names = [calendar.month_abbr[number] for number in monthly[NAIVE]]
    by_month = ((name, *(f"{error:.2f}" for error in errors.values())) for name, errors in monthly.items())
    yield from _table("l" + "r" * len(names), ("policy", *names), by_month)
    yield from _starts(drift)
    if differing is None:
        yield from _paragraph("Not checked against Prometheus: `promtool` is not on this machine.")
    else:
        hours = len(drift.firing)
        yield from _paragraph(
            "The alerts are worked out in Python here. Given what `/metrics` exposes in each hour of the year on",
            "drift, and the generated rules, `promtool test rules` has the same alerts firing in",
            f"{hours - len(differing):,} of {hours:,} hours.",
        )


def _row(year: Year, daily: Year) -> tuple[str, ...]:
    counts = (str(year.count(outcome)) for outcome in ("released", "blocked", "data rejected"))
    against = f"{year.rmse / daily.rmse - 1.0:+.1%}"
    return (year.policy.name, f"{year.rmse:.3f}", against, str(len(year.retrainings)), *counts)


def _met(*, well: bool) -> str:
    return "goal met" if well else "goal missed"


def _starts(drift: Year) -> Iterator[str]:
    """What started the retrainings, why candidates were blocked, and when."""
    starts = Counter(alert for one in drift.retrainings for alert in one.alerts)
    reasons = Counter(reason for one in drift.retrainings for reason in one.reasons)
    outcomes = Counter((one.at.month, one.outcome) for one in drift.retrainings)
    better = [one for one in drift.retrainings if one.outcome == "blocked" and (one.change or 0.0) < 0.0]
    covering = sum(set(one.reasons) == {"coverage"} for one in better)
    fired = ", ".join(f"{name} {starts[name]}" for name in DRIFT if name in STARTING)
    rules = ", ".join(f"{rule} {count}" for rule, count in reasons.items())
    months = ", ".join(f"{MONTHS[number]} {count} {outcome}" for (number, outcome), count in outcomes.items())
    yield from _paragraph(
        f"What fired when a retraining on drift was started (more than one alert may): {fired}. Rules of the gates",
        f"that were broken: {rules or 'none'}. Of the blocked candidates, {len(better)} had a lower error than",
        f"production on the folds, of which {covering} broke the rule of coverage alone. By month:",
        f"{months or 'none'}.",
    )


def rules_section(years: Sequence[Year], daily: Year, phases: Sequence[Year]) -> Iterator[str]:
    """years: on drift, under other rules; phases: every fourth day, begun on one of four days."""
    yield from _paragraph(
        "To spare training, a run in this table takes the model of the midnight before it, which the daily policies",
        "have made; the first row is what is shipped, so seen. All with the gate.",
    )
    yield from _table("lrrrrrr", ("on drift, with", *YEAR_HEADS), (_row(year, daily) for year in years))
    spread = [year.rmse / daily.rmse - 1.0 for year in phases]
    yield from _paragraph(
        "How much is chance: retrained every fourth day without any alert or gate, but begun on one of four days, the",
        f"RMSE is {min(spread):+.1%} to {max(spread):+.1%} of daily's; and what is shipped comes out otherwise above,",
        "where it takes the model of the hour. A rule chosen from this table has seen the data it is measured on.",
    )


def windows_section(seen: Iterable[tuple[int, Sequence[Served], Sequence[Jump], Sequence[Natural]]]) -> Iterator[str]:
    """seen: by `RPS_LIVE_WINDOW`."""
    yield from _paragraph(
        "`ConceptDrift`, by how many forecasts of each horizon the live error is taken over (`RPS_LIVE_WINDOW`; 504",
        "are a week of three hourly series): false alarms in a quiet month, hours from the jump into another season,",
        "and hours from the change where the season changed by itself.",
    )
    rows = []
    for window, months, jumped, changed in seen:
        quiet = [one for one in months if one.quiet]
        false = sum(one.starts(CONCEPT) for one in quiet) / max(len(quiet), 1)
        hours = _median(one.hours[CONCEPT] for one in jumped)
        alone = ", ".join(_hours(one.hours[CONCEPT]) for one in changed if one.changed)
        rows.append((window, f"{false:.2f}", f"{hours} of {len(jumped)}", alone))
    heads = ("window", "false alarms a quiet month", "season jumps: median hours (of how many)", "by itself: hours")
    yield from _table("rrrl", heads, rows)


def quiet_section(months: Mapping[int, Served]) -> Iterator[str]:
    """months: by number."""
    yield from ("### False alarms in quiet months", "")
    yield from _paragraph(
        "Each month is served by a model of the eleven others, which stand in for those before it: it has seen",
        "nothing of the month, and learns from all before it, to the last hour. A month is quiet when",
        f"at most {QUIET_OUTSIDE:.0%} of its rows lie outside what training saw, and its error is at most",
        f"{QUIET_ERROR:g} times the folds'. In the columns: how often the alert began to fire, and for how",
        "many hours it did.",
    )
    rows: list[Sequence[object]] = []
    for number, one in months.items():
        fired = (f"{one.starts(name)} ({sum(name in each for each in one.firing)} h)" for name in WATCHED)
        quietness = "yes" if one.quiet else "no"
        rows.append((MONTHS[number], f"{one.outside:.1%}", f"{one.error:.2f}", quietness, *fired))
    quiet = [one for one in months.values() if one.quiet]
    if quiet:
        rates = (f"**{sum(one.starts(name) for one in quiet) / len(quiet):.2f}**" for name in WATCHED)
        rows.append(("**false alarms a quiet month**", "", "", len(quiet), *rates))
    heads = ("month", "rows outside", "error / folds'", "quiet", *WATCHED)
    yield from _table("lrrl" + "r" * len(WATCHED), heads, rows)
    starting = " and ".join(f"`{name}`" for name in DRIFT if name in STARTING)
    yield from _paragraph(f"{starting} start retrainings; the others notify people.")


def jumps_section(found: Sequence[Jump]) -> Iterator[str]:
    yield from ("### The season changes at once", "")
    yield from _paragraph(
        "A model that knows one season alone serves the last four weeks that it learnt from; then the clock jumps.",
        "Hours of data from the first hour of the new season to the alert; the first twelve give no forecast, for",
        "half of the last day must be known. In brackets: in how many of the hours before the jump the alert",
        "fired.",
    )
    rows = []
    for one in found:
        hours = (f"{'on' if name in one.on else _hours(one.hours[name])} ({one.before[name]})" for name in DRIFT)
        first = _first(one.hours[name] for name in DRIFT if name not in one.on)
        rows.append((one.season, f"{one.to:%B}", f"{one.error:.2f}", *hours, f"**{_hours(first)}**"))
    yield from _table("llrrrrr", ("model of", "meets", "week's error / folds'", *DRIFT, "first"), rows)


def natural_section(found: Sequence[Natural]) -> Iterator[str]:
    yield from ("### The season changes by itself", "")
    yield from _paragraph(
        "A model of the months before, served without another. The change is the first hour from which on the",
        f"error of a week is {CHANGED:g} times the folds', within {NATURAL_DAYS} days. The alerts: hours from",
        "it, negative when they fired before. Where there is no change: hours from the start, in brackets.",
    )
    rows = []
    for one in found:
        hours = [_hours(hour) for hour in (*one.hours.values(), _first(one.hours.values()))]
        if one.changed is None:
            hours = [f"({each})" for each in hours]
        changed = f"{one.changed:%d %B, %H:00}" if one.changed else "none"
        rows.append((f"{one.as_of:%d %B}", changed, *hours[:-1], f"**{hours[-1]}**"))
    yield from _table("llrrrr", ("model of", "change", *DRIFT, "first"), rows)


def faults_section(found: Sequence[Faulty]) -> Iterator[str]:
    yield from ("### Faults in the inputs", "")
    yield from _paragraph(
        f"In each of the {len({one.month for one in found})} quiet months a fault begins on the {FAULT_DAY}th, and",
        "stays; values that become impossible are left out, as the feed does. Hours from its beginning to the",
        "first in which the alert fires and would not have without it: the median, and in brackets in how many of",
        "the months it does at all. Last: in how many of them the data gate stops a retraining at the first",
        "alert, and by which rules.",
    )
    rows = []
    for (fault, stations), group in groupby(found, lambda one: (one.fault, one.stations)):
        those = list(group)
        hours = (_median(one.hours[name] for one in those) for name in DRIFT)
        first = _median(_first(one.hours.values()) for one in those)
        rules = ", ".join(sorted({error for one in those for error in one.data_errors}))
        stopped = f"{sum(bool(one.data_errors) for one in those)} {rules}".strip()
        rows.append((fault, "all three" if len(stations) > 1 else stations[0], *hours, f"**{first}**", stopped))
    yield from _table("llrrrrl", ("fault", "at", *DRIFT, "first", "data gate"), rows)


def demo_section(path: Path) -> Iterator[str]:
    if not path.is_file():
        yield "Not measured yet: `make loop-demo` does it."
        return
    minutes = msgspec.json.decode(path.read_bytes(), type=Demo).alert_to_serving_seconds / 60.0
    yield from _paragraph(
        f"`make loop-demo`, on one machine: **{minutes:.1f} minutes** from the alert to the new model being",
        f"served; goal: {MINUTES:g} or less ({_met(well=minutes <= MINUTES)}).",
    )


def _table(alignments: str, heads: Iterable[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield from table(alignments, heads, rows)
    yield ""


def _paragraph(*parts: str) -> Iterator[str]:
    yield from textwrap.wrap(" ".join(parts), 118, break_long_words=False, break_on_hyphens=False)
    yield ""


def _first(hours: Iterable[int | None]) -> int | None:
    return min((hour for hour in hours if hour is not None), default=None)


def _median(hours: Iterable[int | None]) -> str:
    fired = [hour for hour in hours if hour is not None]
    return f"{statistics.median(fired):.0f} ({len(fired)})" if fired else "– (0)"


def _hours(hours: int | None) -> str:
    return "–" if hours is None else str(hours)
