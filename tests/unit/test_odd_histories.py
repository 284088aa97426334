"""Histories that are poor in one way or another: a model is trained of each, and a service works its example."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from forecasting.challenge.schema import Challenge, load_challenge
from forecasting.features.spec import feature_spec
from forecasting.models.bundle import read_bundle, recent_windows, write_bundle
from forecasting.models.manifest import SeriesWindow
from pipelines.out_of_sample import known_rows, out_of_sample
from pipelines.run import Run, RunIdentity
from pipelines.train import describe, fit_horizon, fold_fit
from pipelines.transform import feature_frame, observation_table
from pipelines.version import Dataset
from records.stages import RunFiles
from service.model.served import Model, check_example

PATH = Path(__file__).parents[2] / "challenges" / "weather.toml"
WEATHER = load_challenge(PATH)
START = datetime(2013, 1, 1, tzinfo=UTC)
DAYS = 100
EMPTY = SeriesWindow((), ())


def history() -> pd.DataFrame:
    """Hourly rows of all series and variables: a day's cycle and noise."""
    random = np.random.default_rng(3)
    ds = pd.date_range(START, periods=DAYS * 24, freq="h")
    cycle = np.sin(np.arange(len(ds)) * np.pi / 12)
    series = [
        pd.DataFrame({name: 10.0 + cycle + random.normal(0.0, 0.3, len(ds)) for name in WEATHER.columns}).assign(
            unique_id=unique_id, ds=ds
        )
        for unique_id in WEATHER.series_ids
    ]
    return pd.concat(series, ignore_index=True)


def first_series(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["unique_id"] == WEATHER.series_ids[0]].reset_index(drop=True)


def without_a_month(rows: pd.DataFrame) -> pd.DataFrame:
    gap = rows["ds"].between(START + timedelta(days=40), START + timedelta(days=70))
    return rows[~gap].reset_index(drop=True)


def small(challenge: Challenge, series: int) -> Challenge:
    """With a learner that takes a moment, folds of ten days, and only the first series."""
    parameters = {"ridge": {"alpha": 300.0}, "hist_gradient_boosting": {"max_iter": 5}}
    source = msgspec.structs.replace(challenge.source, series=challenge.source.series[:series])
    return msgspec.structs.replace(
        challenge,
        source=source,
        folds=msgspec.structs.replace(challenge.folds, count=3, days=10),
        learner=msgspec.structs.replace(challenge.learner, parameters=parameters),
        detectors=(),
    )


@pytest.mark.parametrize(
    ("change", "series"),
    [
        (lambda rows: rows.assign(temperature=11.0), 3),
        (lambda rows: rows.assign(temperature=rows["temperature"].mask(rows["unique_id"] == "EWR", 11.0)), 3),
        (lambda rows: rows.assign(pressure=np.nan), 3),
        (lambda rows: rows.assign(wind_speed=np.nan, wind_direction=np.nan), 3),
        (first_series, 1),
        (lambda rows: without_a_month(first_series(rows)), 1),
        (first_series, 3),
    ],
    ids=["constant", "one constant", "no pressure", "no wind", "one series", "a gap of a month", "two empty series"],
)
def test_a_poor_history_gives_a_model_that_can_be_served(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], series: int
) -> None:
    challenge, rows = small(WEATHER, series), change(history())
    spec, as_of = feature_spec(challenge), rows["ds"].max().to_pydatetime()
    run = Run(challenge, PATH, RunFiles(tmp_path), RunIdentity(run_id="r", git_sha="0" * 40, as_of=as_of, reason="r"))
    observations = observation_table(rows, challenge.columns)
    known = known_rows(feature_frame(spec, observations), challenge, as_of)
    judged = out_of_sample(known, challenge, fold_fit(run, spec), lambda _: None)
    fits = {horizon: fit_horizon(run, spec, known, horizon) for horizon in spec.horizons}
    dataset = Dataset(md5="0" * 32 + ".dir", rev="", branch="", rows=0, bytes=0, run_id="r")
    description = describe(run, known, judged, dataset, "m")
    recent = recent_windows(spec, observations)
    windows = {unique_id: recent.get(unique_id, EMPTY) for unique_id in description.series}
    write_bundle(tmp_path / "bundle", description, {each: fit.portable for each, fit in fits.items()}, windows)
    check_example(Model(read_bundle(tmp_path / "bundle"), "1"))
    inside = judged["truth"].between(judged["candidate_lower"], judged["candidate_upper"]).mean()
    assert inside > 0.85
    assert (judged["candidate_upper"] >= judged["candidate_lower"]).all()
