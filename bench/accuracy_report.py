"""What `bench.accuracy` found, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from bench.peer_environments import pinned_version
from bench.report import table
from forecasting.judging.equal_accuracy import diebold_mariano, holm

NAMES = {
    "ours": "**ours, retrained weekly**",
    "climatology": "climatology of 28 days",
    "persistence": "persistence",
    "mlforecast": "mlforecast, LightGBM",
    "MSTL": "statsforecast, MSTL",
    "AutoETS": "statsforecast, AutoETS",
    "AutoTheta": "statsforecast, AutoTheta",
}
"""By column of forecasts."""
COLOURS = {"ours": ("blue", "#0072B2"), "climatology": ("orange", "#E69F00"), "persistence": ("grey", "#888888")}


def every_hour_section(rows: pd.DataFrame) -> Iterator[str]:
    """rows: `unique_id`, `ds`, `horizon`, `truth`, and the forecasts of `ours`, `climatology` and `persistence`."""
    models = list(COLOURS)
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
    yield from months_table(months)
    yield ""
    yield from months_chart(months)
    yield ""


def peers_section(rows: pd.DataFrame, every_hours: int) -> Iterator[str]:
    """rows: as above, of the peers' origins alone, with their forecasts."""
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
    yield from months_table(months)


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


def months_table(months: pd.DataFrame) -> Iterator[str]:
    """Relative to persistence."""
    yield "By month, relative to persistence:"
    yield ""
    relative = months / months.loc["persistence"]
    yield from table(
        "l" + "r" * len(relative.columns),
        ("", *_month_names(relative)),
        ((NAMES[model], *(f"{value:.2f}" for value in relative.loc[model])) for model in relative.index),
    )


def months_chart(months: pd.DataFrame) -> Iterator[str]:
    """The same as lines; Mermaid draws no legend."""
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
