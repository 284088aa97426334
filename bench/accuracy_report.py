"""What `bench.accuracy` found, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import pandas as pd

from bench.peer_environments import pinned_version
from bench.report import met, table
from forecasting.judging.equal_accuracy import diebold_mariano, holm
from forecasting.models.intervals import calibrate

NAMES = {
    "ours": "**ours, retrained weekly**",
    "held_back": "the same, but nothing learnt from the newest 56 days",
    "ridge": "ridge on the same features, retrained weekly",
    "climatology": "climatology of 28 days",
    "persistence": "persistence",
    "mlforecast": "mlforecast, LightGBM",
    "MSTL": "statsforecast, MSTL",
    "AutoETS": "statsforecast, AutoETS",
    "AutoTheta": "statsforecast, AutoTheta",
}
"""By column of forecasts."""
COLOURS = {"ours": ("blue", "#0072B2"), "climatology": ("orange", "#E69F00"), "persistence": ("grey", "#888888")}


GOAL_ERROR, GOAL_SHARE = 1.80, 0.87
"""Ours over the year, °C, and over climatology's."""
GOAL_INSIDE, GOAL_WIDTH, LEVEL = (0.87, 0.93), 1.03, 0.9
"""The share of truths inside the intervals by month, their width over plain ones', and their level."""
CERTAIN = 0.05
"""Ours is ahead of a peer when the paired test's p is below it."""


def every_hour_section(rows: pd.DataFrame, *, goals: bool) -> Iterator[str]:
    """rows: `unique_id`, `ds`, `horizon`, `truth`, and the forecasts of models of NAMES; goals: whether they apply."""
    models = [name for name in NAMES if name in rows]
    errors, months = by_horizon(rows, models), by_month(rows, models)
    yield f"RMSE of {len(rows):,} forecasts, all horizons together and each: an origin every hour, from"
    yield f"{rows['ds'].min():%d %B} to {rows['ds'].max():%d %B}."
    yield ""
    yield from table(
        "l" + "r" * (len(errors.columns) + 3),
        ("", *_heads(errors), "of climatology's", "months worse than climatology", "months worse than persistence"),
        (
            (
                NAMES[model],
                *_degrees(errors.loc[model]),
                f"{errors.loc[model, 'all'] / errors.loc['climatology', 'all']:.3f}",
                *(int((months.loc[model] > months.loc[other]).sum()) for other in ("climatology", "persistence")),
            )
            for model in models
        ),
    )
    yield ""
    if goals:
        yield from _goals(errors, months)
    for other in ("persistence", "climatology"):
        yield from months_table(months, other)
        yield ""
    yield from months_chart(months)
    yield ""


def _goals(errors: pd.DataFrame, months: pd.DataFrame) -> Iterator[str]:
    error = float(errors.loc["ours", "all"])
    share = error / float(errors.loc["climatology", "all"])
    worse = {other: bool((months.loc["ours"] > months.loc[other]).any()) for other in ("persistence", "climatology")}
    yield f"Goals: RMSE of {GOAL_ERROR:.2f} °C or less ({met(well=error <= GOAL_ERROR)}: {error:.3f}),"
    yield f"{GOAL_SHARE:.2f} of climatology's or less ({met(well=share <= GOAL_SHARE)}: {share:.3f}),"
    yield f"no month worse than persistence ({met(well=not worse['persistence'])}) or climatology"
    yield f"({met(well=not worse['climatology'])})."
    yield ""


def folds_section(rows: pd.DataFrame) -> Iterator[str]:
    """rows: as above, of a run's folds, with `fold`, and the ends of the intervals of `ours`, `lower` and `upper`."""
    models = [name for name in NAMES if name in rows]
    yield "### The folds of one run"
    yield ""
    yield "A run at the year's end: RMSE in °C by fold, which the recipe's fits on the rest of the year predict, and"
    yield "the share of truths inside the intervals."
    yield ""
    heads = ("fold", "origins", "forecasts", "ours", *(NAMES[name] for name in models if name != "ours"), "inside")
    folds = [(str(number), *_fold(fold, models)) for number, fold in rows.groupby("fold")]
    yield from table("rlr" + "r" * (len(models) + 1), heads, [*folds, ("**all**", *_fold(rows, models))])
    yield ""


def intervals_section(rows: pd.DataFrame, *, goals: bool) -> Iterator[str]:
    """rows: as for `folds_section`; goals: whether they apply."""
    found = interval_months(rows)
    yield "### The intervals by month"
    yield ""
    yield "Of the same folds: the share of truths inside the 90 % intervals, which follow each series' last"
    yield "errors, beside plain split conformal intervals of the same model, and the ratio of their widths."
    yield ""
    heads = ("", "forecasts", "inside ours", "inside plain", "width, of plain's")
    yield from table(
        "lrrrr",
        heads,
        [
            (name, f"{one.forecasts:,}", f"{one.ours:.1%}", f"{one.plain:.1%}", f"{one.width:.2f}")
            for name, one in zip([*_month_names(found.iloc[:-1].T), "**all**"], found.itertuples(), strict=True)
        ],
    )
    yield ""
    if goals:
        held = bool(found["ours"].iloc[:-1].between(*GOAL_INSIDE).all())
        narrow = bool(found["width"].iloc[-1] <= GOAL_WIDTH)
        low, high = (f"{limit:.0%}" for limit in GOAL_INSIDE)
        yield f"Goals: from {low} to {high} inside in every month ({met(well=held)}), at most {GOAL_WIDTH:.2f} of the"
        yield f"width of plain ones ({met(well=narrow)})."
        yield ""


def interval_months(rows: pd.DataFrame) -> pd.DataFrame:
    """By month of the origin, and of `all` rows: `forecasts`, shares inside (`ours`, `plain`), `width` of plain's."""
    rows = rows.reset_index(drop=True)
    residuals = (rows["truth"] - rows["ours"]).to_numpy()
    low, high = np.zeros(len(rows)), np.zeros(len(rows))
    for (horizon, fold), places in rows.groupby(["horizon", "fold"]).indices.items():
        others = ((rows["horizon"] == horizon) & (rows["fold"] != fold)).to_numpy()
        low[places], high[places] = msgspec.structs.astuple(calibrate(residuals[others], LEVEL))
    figures = pd.DataFrame(
        {
            "month": rows["ds"].dt.month,
            "ours": rows["truth"].between(rows["lower"], rows["upper"]),
            "plain": (low <= residuals) & (residuals <= high),
            "own_width": rows["upper"] - rows["lower"],
            "plain_width": high - low,
        }
    )
    months = figures.groupby("month").mean()
    months.loc["all"] = figures.drop(columns="month").mean()
    counts = figures["month"].value_counts()
    counts["all"] = len(figures)
    return months.assign(forecasts=counts, width=months["own_width"] / months["plain_width"])


def _fold(rows: pd.DataFrame, models: Sequence[str]) -> tuple[str, ...]:
    errors = _squared(rows, models).mean() ** 0.5
    inside = rows["truth"].between(rows["lower"], rows["upper"]).mean()
    span = f"{rows['ds'].min():%d %B} to {rows['ds'].max():%d %B}"
    return (span, f"{len(rows):,}", *(f"{errors[model]:.2f}" for model in models), f"{inside:.1%}")


def peers_section(rows: pd.DataFrame, every_hours: int, *, goals: bool) -> Iterator[str]:
    """rows: as above, of the peers' origins alone, with their forecasts; goals: whether they apply."""
    models = [name for name in NAMES if name in rows]
    errors, months = by_horizon(rows, models), by_month(rows, models)
    others = [model for model in models if model != "ours"]
    p_values = dict(zip(others, holm([ahead(rows, model) for model in others]), strict=True))
    worst = (months / months.loc["persistence"]).max(axis=1)
    versions = ", ".join(
        f"{name} {pinned_version('bench', name)}" for name in ("mlforecast", "lightgbm", "statsforecast")
    )
    yield "### Beside peers"
    yield ""
    yield f"The same {len(rows):,} forecasts by each: an origin every {every_hours} hours. mlforecast refits weekly,"
    yield f"and statsforecast at every origin ({versions}). p: that the model's squared error is not larger than"
    yield "ours, by the paired test (Diebold and Mariano, one-sided, Holm); small where ours is ahead."
    yield ""
    yield from table(
        "l" + "r" * (len(errors.columns) + 2),
        ("", *_heads(errors), "worst month, of persistence's", "p"),
        (
            (
                NAMES[model],
                *_degrees(errors.loc[model]),
                f"{worst[model]:.2f}",
                f"{p_values[model]:.2g}" if model in p_values else "",
            )
            for model in models
        ),
    )
    yield ""
    if goals:
        behind = [NAMES[model] for model, p_value in p_values.items() if p_value >= CERTAIN]
        found = f", but for {', '.join(behind)}" if behind else ""
        yield f"Goal: ahead of each, with p below {CERTAIN:g}: {met(well=not behind)}{found}."
        yield ""
    yield from months_table(months, "persistence")


def by_horizon(rows: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """RMSE by model, of `all` rows and of each horizon's."""
    squared = _squared(rows, models)
    mean = squared.groupby(rows["horizon"]).mean().T
    mean.insert(0, "all", squared.mean())
    return mean**0.5


def by_month(rows: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """RMSE by model and month of the origin."""
    return _squared(rows, models).groupby(rows["ds"].dt.month).mean().T ** 0.5


def ahead(rows: pd.DataFrame, model: str) -> float:
    """The paired test's p that the model's squared error is larger than ours: the means of each origin's rows."""
    squared = _squared(rows, ["ours", model])
    difference = (squared[model] - squared["ours"]).groupby(rows["ds"]).mean()
    steps = (difference.index - difference.index[0]) // pd.Timedelta(hours=1)
    return diebold_mariano(
        difference.to_numpy(), int(rows["horizon"].max()), steps=steps.to_numpy(dtype=np.int64)
    ).p_value


def months_table(months: pd.DataFrame, other: str) -> Iterator[str]:
    """Relative to a model."""
    yield f"By month, relative to {NAMES[other]}:"
    yield ""
    relative = months / months.loc[other]
    yield from table(
        "l" + "r" * len(relative.columns),
        ("", *_month_names(relative)),
        ((NAMES[model], *(f"{value:.2f}" for value in relative.loc[model])) for model in relative.index),
    )


def months_chart(months: pd.DataFrame) -> Iterator[str]:
    """Relative to persistence, as lines; Mermaid draws no legend."""
    relative = months / months.loc["persistence"]
    palette = ", ".join(colour for _, colour in COLOURS.values())
    legend = ", ".join(f"{colour} is {model}" for model, (colour, _) in COLOURS.items())
    low, high = 0.9 * float(relative.to_numpy().min()), 1.05 * float(relative.to_numpy().max())
    yield f"Lower is better: {legend}. The axis does not start at 0."
    yield ""
    yield "```mermaid"
    yield f'%%{{init: {{"themeVariables": {{"xyChart": {{"plotColorPalette": "{palette}"}}}}}}}}%%'
    yield "xychart-beta"
    yield f"    x-axis [{', '.join(_month_names(relative))}]"
    yield f'    y-axis "RMSE relative to persistence" {low:.2f} --> {high:.2f}'
    for model in COLOURS:
        yield f"    line [{', '.join(f'{value:.3f}' for value in relative.loc[model])}]"
    yield "```"


def _squared(rows: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    return rows[list(models)].sub(rows["truth"], axis=0) ** 2


def _month_names(months: pd.DataFrame) -> list[str]:
    return [f"{pd.Timestamp(2013, month, 1):%b}" for month in months.columns]


def _heads(errors: pd.DataFrame) -> list[str]:
    return [name if name == "all" else f"{name} h" for name in errors.columns]


def _degrees(errors: pd.Series[float]) -> list[str]:
    return [f"{value:.2f} °C" if name == "all" else f"{value:.2f}" for name, value in errors.items()]
