"""The observations as the detectors of faulty sensors take them, and what is usual between the series."""

from __future__ import annotations

import numpy as np
import pandas as pd

from forecasting.challenge.detectors import Neighbours
from forecasting.challenge.schema import Challenge
from forecasting.drift.sensor_faults import SensorGrid, UsualDifference, usual_differences


def sensor_grid(
    observations: pd.DataFrame, challenge: Challenge, since: pd.Timestamp, until: pd.Timestamp
) -> SensorGrid:
    """The steps after ``since`` up to ``until`` (UTC) of every series of the challenge, on its grid.

    observations: `unique_id`, `ds` (UTC) and the columns that the detectors read, in any order; of a repeated time the
    last row counts. A value that is not finite or out of its range counts as missing.
    """
    step = pd.Timedelta(challenge.target.step)
    steps = pd.date_range(since.floor(step) + step, until, freq=step)
    near = observations[(observations["ds"] > since) & (observations["ds"] <= until)]
    near = near.drop_duplicates(["unique_id", "ds"], keep="last").set_index(["unique_id", "ds"])
    every = pd.MultiIndex.from_product([challenge.series_ids, steps])
    values = {}
    for variable in dict.fromkeys(name for detector in challenge.detectors for name in detector.reads.values()):
        low, high = challenge.quality.ranges.get(variable, (-np.inf, np.inf))
        column = near[variable].reindex(every).to_numpy(dtype=np.float64)
        possible = np.isfinite(column) & (column >= low) & (column <= high)
        values[variable] = np.where(possible, column, np.nan).reshape(len(challenge.series_ids), len(steps))
    return SensorGrid(challenge.series_ids, steps.hour.to_numpy(dtype=np.int64), values)


def usual_before(
    observations: pd.DataFrame, challenge: Challenge, moment: pd.Timestamp
) -> dict[str, dict[str, UsualDifference]]:
    """By variable and series, how a series usually differs from the others, up to a moment.

    observations: as ``sensor_grid`` takes them. A challenge whose detectors do not compare series gets {}.
    """
    found = {}
    for detector in challenge.detectors:
        if isinstance(detector, Neighbours):
            since = moment - pd.Timedelta(days=detector.days)
            grid = sensor_grid(observations, challenge, since, moment)
            found[detector.variable] = usual_differences(grid, detector.variable)
    return found
