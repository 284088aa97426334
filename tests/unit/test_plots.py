"""The tables that DVC draws, against errors worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from forecasting.judging.losses import LOSSES
from pipelines.plots import write_plots
from records.stages import RunFiles


def test_errors_by_horizon_and_month_and_the_newest_forecasts_of_one_series(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "unique_id": ["A", "A", "B", "A"],
            "ds": pd.to_datetime(["2013-01-31", "2013-02-10", "2013-02-10", "2013-02-10"], utc=True),
            "horizon": [4, 4, 4, 5],
            "truth": [0.0, 0.0, 0.0, 0.0],
            "candidate": [3.0, 4.0, 5.0, 2.0],
            "production": [np.nan, np.nan, np.nan, 7.0],
            "baseline": [1.0, 1.0, 1.0, 1.0],
        }
    )
    files = RunFiles(tmp_path)
    write_plots(files, rows, LOSSES["absolute_error"])
    assert files.error_by_horizon.read_text() == "horizon,candidate,production,baseline\n4,4.0,,1.0\n5,2.0,7.0,1.0\n"
    months = files.error_by_month.read_text()
    assert months == f"month,candidate,production,baseline\n2013-01,3.0,,1.0\n2013-02,{11 / 3},7.0,1.0\n"
    newest = files.newest_forecasts.read_text().splitlines()
    assert [line.split(",")[1:] for line in newest[1:]] == [["0.0", "3.0", "", "1.0"], ["0.0", "4.0", "", "1.0"]]
