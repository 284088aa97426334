"""Plots of what was measured on the folds, as tables that DVC draws: `dvc plots show`."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd

from forecasting.judging.losses import Loss
from pipelines.files import write_text
from records.mlflow_names import MODELS
from records.stages import RunFiles

SHOWN_DAYS = 14


def write_plots(files: RunFiles, rows: pd.DataFrame, loss: Loss) -> None:
    """The error of each model by horizon and by month; the forecasts of one series in the newest days.

    rows: as in `losses.parquet`.
    """
    months = rows["ds"].dt.strftime("%Y-%m").rename("month")
    newest = rows[(rows["unique_id"] == rows["unique_id"].min()) & (rows["horizon"] == rows["horizon"].min())]
    newest = newest[newest["ds"] > newest["ds"].max() - timedelta(days=SHOWN_DAYS)].sort_values("ds")
    for path, table in (
        (files.error_by_horizon, _errors(rows, rows["horizon"], loss)),
        (files.error_by_month, _errors(rows, months, loss)),
        (files.newest_forecasts, newest[["ds", "truth", *MODELS]]),
    ):
        write_text(path, table.to_csv(index=False))


def _errors(rows: pd.DataFrame, parts: pd.Series, loss: Loss) -> pd.DataFrame:
    """A row for each part, and a column for each model; empty where it has no forecast."""
    found = []
    for part, some in rows.groupby(parts):
        errors: dict[str, object] = {str(parts.name): part}
        for model in MODELS:
            known = some[some[model].notna()]
            if len(known):
                losses = loss.losses(known["truth"].to_numpy(np.float64), known[model].to_numpy(np.float64))
                errors[model] = loss.error(float(losses.mean()))
        found.append(errors)
    return pd.DataFrame(found, columns=[str(parts.name), *MODELS])
