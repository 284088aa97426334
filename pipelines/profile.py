"""A page for people about the observations (distributions, missing values, correlations), logged to MLflow."""

from __future__ import annotations

import os
import warnings

import pandas as pd

from clients.errors import DataRejected
from pipelines.files import read_table, require_files, write_text
from pipelines.run import Run
from pipelines.tracked_run import open_tracking
from records.mlflow_names import Artifact


def run(run: Run) -> None:
    """Write `profile.html`; log it and the quality report to MLflow under `profile/`."""
    files = run.files
    require_files({files.observations: "ingest", files.quality: "validate", files.quality_report: "validate"})
    observations = read_table(files.observations, made_by="ingest")
    if observations.empty:
        raise DataRejected(f"{files.observations}: expected observations; found none.")
    write_text(files.profile, profile_page(observations, title=run.challenge.title))
    print(f"profiled the observations in {files.profile}", flush=True)
    tracking = open_tracking(run)
    for path in (files.profile, files.quality, files.quality_report):
        tracking.log_artifacts(path, Artifact.PROFILE)
    print(f"logged it to {tracking.run_url}", flush=True)


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
