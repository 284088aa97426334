"""A page for people about the observations: distributions, missing values, correlations."""

from __future__ import annotations

import os
import warnings

import pandas as pd

from clients.errors import DataRejected
from pipelines.files import read_table, require_files, write_text
from pipelines.run import Run


def run(run: Run) -> None:
    """Write `profile.html`."""
    files = run.files
    require_files({files.observations: "merge", files.quality: "validate", files.quality_report: "validate"})
    observations = read_table(files.observations, made_by="merge")
    if observations.empty:
        raise DataRejected(f"{files.observations}: expected observations; found none.")
    write_text(files.profile, profile_page(observations, title=run.challenge.title))
    print(f"profiled the observations in {files.profile}", flush=True)


def profile_page(observations: pd.DataFrame, *, title: str) -> str:
    """One self-contained HTML page about a table that has rows; it loads nothing from the network."""
    os.environ["YDATA_PROFILING_NO_ANALYTICS"] = "1"  # it reports the table's size to its makers by default
    os.environ["MPLBACKEND"] = "Agg"
    os.environ["TQDM_DISABLE"] = "1"  # one of its bars is shown whatever its own setting says
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        from ydata_profiling import ProfileReport

        report = ProfileReport(
            observations,
            title=title,
            # The cheap parts of the report, for tables of any length, and two more that cost little.
            minimal=True,
            correlations={"pearson": {"calculate": True}},
            missing_diagrams={"bar": True},
            progress_bar=False,
            html={"inline": True, "use_local_assets": True},
        )
        return str(report.to_html())
