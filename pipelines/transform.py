"""The stage that turns observations into features and targets, one row per forecast origin.

A value outside its allowed range counts as missing, because the quality gate lets a tiny share of them pass.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from clients.errors import ConfigurationError, DataRejected
from forecasting.challenge.schema import Challenge
from forecasting.features.definitions import FeatureError
from forecasting.features.spec import FeatureSpec, feature_spec, target_column
from forecasting.features.table import Table, table_features, table_targets
from pipelines.files import read_table, reading, write_table
from pipelines.run import Run


def run(run: Run) -> None:
    """Write `features.parquet`."""
    spec = feature_spec(run.challenge)
    table = read_observations(run.files.observations, run.challenge)
    try:
        features = feature_frame(spec, table)
    except FeatureError as error:
        message = f"{run.files.observations}: {error}. Check target.step_minutes, or run the stage 'merge' again."
        raise ConfigurationError(message) from error
    origins = features.loc[features["y"].notna()].reset_index(drop=True)
    if origins.empty:
        expected = f"expected observations of {spec.target}; found none in {len(features)} rows"
        raise DataRejected(f"{run.files.observations}: {expected}.")
    write_table(run.files.features, origins)
    print(f"observations: {len(features):,} of {origins['unique_id'].nunique()} series", flush=True)
    print(f"left out: {len(features) - len(origins):,} rows without {spec.target} at the origin", flush=True)
    print(f"features: {len(spec.columns)} in {len(origins):,} rows", flush=True)
    for horizon in spec.horizons:
        known = int(origins[target_column(horizon)].notna().sum())
        print(f"targets {horizon} steps ahead: {known:,} known", flush=True)


def read_observations(path: Path, challenge: Challenge) -> Table:
    """The observations; values out of range become missing, and their number is printed.

    Raises ConfigurationError when the file is missing, damaged, or not of this challenge.
    """
    frame = read_table(path, made_by="merge")
    wanted = ["unique_id", "ds", *challenge.columns]
    lacking = [column for column in wanted if column not in frame]
    if lacking:
        raise ConfigurationError(f"{path}: expected the columns {', '.join(wanted)}; {', '.join(lacking)} missing.")
    numeric = all(pd.api.types.is_float_dtype(frame[column]) for column in challenge.columns)
    if not numeric or not pd.api.types.is_datetime64_any_dtype(frame["ds"]):
        expected = f"ds as times, and {', '.join(challenge.columns)} as floats"
        found = frame.dtypes.astype(str).to_dict()
        raise ConfigurationError(f"{path}: expected {expected}; found {found}: run the stage 'merge' again.")
    unknown = sorted(set(map(str, frame["unique_id"].unique())) - set(challenge.series_ids))
    if unknown:
        message = f"{path}: expected the series {', '.join(challenge.series_ids)}; found {', '.join(unknown)}"
        raise ConfigurationError(f"{message}: run the stage 'merge' again.")
    for column, (low, high) in challenge.quality.ranges.items():
        beyond = (frame[column] < low) | (frame[column] > high)
        if beyond.any():
            frame[column] = frame[column].mask(beyond)
            print(f"{column}: {int(beyond.sum()):,} values outside {low:g} to {high:g} count as missing", flush=True)
    return observation_table(frame, challenge.columns)


def observation_table(frame: pd.DataFrame, variables: tuple[str, ...]) -> Table:
    """A frame with ``unique_id``, ``ds`` (UTC) and the variables, sorted by the first two, as arrays."""
    codes, unique_ids = pd.factorize(frame["unique_id"])
    times = frame["ds"]
    ds = (times.dt.tz_convert("UTC").dt.tz_localize(None) if times.dt.tz is not None else times).to_numpy()
    columns = {variable: frame[variable].to_numpy(dtype=np.float64) for variable in variables}
    return Table(tuple(map(str, unique_ids)), codes, ds, columns)


def feature_frame(spec: FeatureSpec, table: Table) -> pd.DataFrame:
    """One row per observation: ``unique_id``, ``ds`` (the origin), ``y``, the features, the targets.

    Raises FeatureError when the observations are not in order or not on the grid.
    """
    frame = pd.DataFrame(table_features(spec, table), columns=list(spec.columns), copy=False)
    # Inserting keeps the features where they are; concatenating would copy them all.
    frame.insert(0, "unique_id", np.asarray(table.unique_ids, dtype=object)[table.codes])
    frame.insert(1, "ds", pd.DatetimeIndex(table.ds).tz_localize("UTC"))
    frame.insert(2, "y", table.variables[spec.target])
    for horizon, target in zip(spec.horizons, table_targets(spec, table).T, strict=True):
        frame[target_column(horizon)] = target
    return frame


def read_features(path: Path, spec: FeatureSpec) -> pd.DataFrame:
    """`features.parquet`: `unique_id`, `ds`, `y`, the specification's columns, and a target for each horizon.

    Raises ConfigurationError when the file is missing, damaged, or of another specification.
    """
    wanted = ["unique_id", "ds", "y", *spec.columns, *map(target_column, spec.horizons)]
    with reading(path, made_by="transform"):
        lacking = set(wanted) - set(pq.read_schema(path).names)
    if lacking:
        message = f"{path} was made for other features (no {', '.join(sorted(lacking))})"
        raise ConfigurationError(f"{message}: run the stage 'transform' again.")
    table = read_table(path, wanted, made_by="transform")
    origin = table[spec.columns[spec.origin_column]].to_numpy()
    if not np.array_equal(spec.target_scale.scaled_values(table["y"].to_numpy()), origin, equal_nan=True):
        message = f"{path} was made on another scale of {spec.target} than {spec.scale!r}"
        raise ConfigurationError(f"{message}: run the stage 'transform' again.")
    return table
