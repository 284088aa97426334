"""The transform stage on made-up observations: rows, features, targets, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from clients.errors import ConfigurationError, DataRejected
from forecasting.features.spec import feature_spec
from pipelines import transform
from pipelines.transform import read_features
from tests.runs import made_up_weather, make_run, weather, write_observations

SPEC = feature_spec(weather())


def transformed(root: Path, observations: pd.DataFrame) -> pd.DataFrame:
    run = make_run(root)
    write_observations(run, observations)
    transform.run(run)
    return pd.read_parquet(run.files.features)


def test_each_observation_of_the_target_is_an_origin(tmp_path: Path) -> None:
    observations = made_up_weather(hours=200)
    observations.loc[[5, 210], "temperature"] = np.nan
    features = transformed(tmp_path, observations)
    targets = ["target_h4", "target_h5", "target_h6"]
    assert list(features.columns) == ["unique_id", "ds", "y", *SPEC.columns, *targets]
    assert len(features) == 598
    assert features["ds"].dt.tz is not None
    assert (features.dtypes.drop(["unique_id", "ds"]) == "float64").all()
    kept = observations.dropna(subset="temperature").reset_index(drop=True)
    pd.testing.assert_series_equal(features["y"], kept["temperature"], check_names=False)
    pd.testing.assert_frame_equal(features[["unique_id", "ds"]], kept[["unique_id", "ds"]])
    assert list(features["temperature_lag_0"]) == list(features["y"])


def test_targets_are_the_same_series_hours_later(tmp_path: Path) -> None:
    observations = made_up_weather(hours=100).drop(index=[30])
    features = transformed(tmp_path, observations)
    later = observations[["unique_id", "ds", "temperature"]].assign(ds=lambda rows: rows["ds"] - pd.Timedelta(hours=5))
    expected = features[["unique_id", "ds"]].merge(later, how="left", on=["unique_id", "ds"])["temperature"]
    pd.testing.assert_series_equal(features["target_h5"], expected, check_names=False)
    assert features["target_h5"].isna().sum() == 3 * 5 + 1


def test_values_out_of_range_count_as_missing_and_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    observations = made_up_weather(hours=100)
    observations.loc[50, "temperature"] = 999.0
    observations.loc[60, "humidity"] = -5.0
    features = transformed(tmp_path, observations)
    shown = capsys.readouterr().out
    assert "temperature: 1 values outside -60 to 60 count as missing" in shown
    assert "humidity: 1 values outside 0 to 100 count as missing" in shown
    assert f"features: {len(SPEC.columns)} in 299 rows" in shown
    assert features.drop(columns=["unique_id", "ds"]).max().max() < 2000
    assert features["temperature_rolling_max_24_relative"].max() < 60
    assert features["humidity_lag_0"].isna().sum() == 1


def test_the_same_observations_give_the_same_file(tmp_path: Path) -> None:
    observations = made_up_weather(hours=100)
    transformed(tmp_path / "one", observations)
    transformed(tmp_path / "two", observations)
    files = [tmp_path / name / "data/weather/features.parquet" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_missing_and_damaged_observations_name_the_stage_to_run(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(ConfigurationError, match=r"observations\.parquet is missing: run the stage 'merge' first"):
        transform.run(run)
    run.files.observations.write_bytes(b"PAR1 no more")
    with pytest.raises(ConfigurationError, match=r"cannot be read .* run the stage 'merge' again"):
        transform.run(run)
    write_observations(run, made_up_weather(hours=50).drop(columns="pressure"))
    with pytest.raises(ConfigurationError, match="pressure missing"):
        transform.run(run)


def test_a_time_off_the_grid_and_an_unknown_series_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    observations = made_up_weather(hours=50)
    observations.loc[7, "ds"] += pd.Timedelta(minutes=20)
    write_observations(run, observations)
    with pytest.raises(ConfigurationError, match=r"series EWR, .*whole multiples of 60 minutes.*target\.step_minutes"):
        transform.run(run)
    write_observations(run, made_up_weather(hours=50).replace({"unique_id": {"JFK": "XXX"}}))
    with pytest.raises(ConfigurationError, match="expected the series EWR, JFK, LGA; found XXX"):
        transform.run(run)
    assert not run.files.features.exists()


def test_no_value_of_the_target_at_all_is_rejected_data(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_observations(run, made_up_weather(hours=50).assign(temperature=np.nan))
    with pytest.raises(DataRejected, match="expected observations of temperature; found none in 150 rows"):
        transform.run(run)


@pytest.mark.parametrize(
    ("column", "values", "shown"),
    [
        ("ds", "yesterday", "expected ds as times"),
        ("temperature", "warm", "as floats"),
        ("unique_id", 7, "expected the series EWR, JFK, LGA; found 7"),
        ("unique_id", None, "expected the series EWR, JFK, LGA; found None"),
    ],
)
def test_a_table_of_other_types_is_reported_and_not_a_crash(
    tmp_path: Path, column: str, values: object, shown: str
) -> None:
    observations = made_up_weather(hours=48).assign(**{column: values})
    with pytest.raises(ConfigurationError, match=shown):
        transformed(tmp_path, observations)


def test_features_of_another_scale_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_observations(run, made_up_weather(hours=50))
    transform.run(run)
    assert len(read_features(run.files.features, SPEC))
    with pytest.raises(ConfigurationError, match=r"on another scale of temperature than 'log'.* 'transform' again"):
        read_features(run.files.features, msgspec.structs.replace(SPEC, scale="log"))
