"""Histories that are poor in one way or another: a model is trained of each, and a service works its example."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from forecasting.challenge.schema import Challenge, load_challenge
from forecasting.features.spec import feature_spec
from forecasting.models.bundle import Bundle, read_bundle, recent_windows, write_bundle
from forecasting.models.intervals import next_scale
from forecasting.models.manifest import BundleError, SeriesWindow
from pipelines.out_of_sample import corrections_of, known_rows, out_of_sample
from pipelines.run import Run, RunIdentity
from pipelines.train import describe, fit_horizon, fold_fit, served_models
from pipelines.transform import feature_frame, observation_table
from records.stages import RunFiles
from service.model.served import Model, check_example
from service.state.series import SeriesState

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


def trained(root: Path, challenge: Challenge, rows: pd.DataFrame) -> tuple[pd.DataFrame, Model]:
    """The folds' predictions, and the model as a service has it."""
    spec, as_of = feature_spec(challenge), rows["ds"].max().to_pydatetime()
    run = Run(challenge, PATH, RunFiles(root), RunIdentity(run_id="r", git_sha="0" * 40, as_of=as_of, reason="r"))
    observations = observation_table(rows, challenge.columns)
    known = known_rows(feature_frame(spec, observations), challenge, as_of)
    judged = out_of_sample(known, challenge, fold_fit(run, spec), lambda _: None)
    fits = {horizon: fit_horizon(run, spec, known, horizon) for horizon in spec.horizons}
    description = describe(run, known, judged)
    recent = recent_windows(spec, observations)
    windows = {unique_id: recent.get(unique_id, EMPTY) for unique_id in description.series}
    write_bundle(root / "bundle", description, served_models(challenge, fits, judged), windows)
    return judged, Model(read_bundle(root / "bundle"), "1")


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
    judged, model = trained(tmp_path, challenge, rows)
    check_example(model)
    inside = judged["truth"].between(judged["candidate_lower"], judged["candidate_upper"]).mean()
    assert inside > 0.85
    assert (judged["candidate_upper"] >= judged["candidate_lower"]).all()


def on_log_scale(challenge: Challenge) -> Challenge:
    """A challenge of a target that is positive and has a long tail, as volatility has."""
    ranges = {**challenge.quality.ranges, "temperature": (1e-6, 1e6)}
    return msgspec.structs.replace(
        challenge,
        target=msgspec.structs.replace(challenge.target, scale="log", loss="qlike"),
        quality=msgspec.structs.replace(challenge.quality, ranges=ranges),
    )


def test_a_model_on_the_log_scale_is_unbiased_in_the_targets_unit(tmp_path: Path) -> None:
    challenge, rows = on_log_scale(small(WEATHER, 3)), history()
    noise = np.random.default_rng(5).normal(0.0, 1.0, len(rows))
    rows["temperature"] = np.exp(rows["temperature"] - 10.0 + noise)
    judged, model = trained(tmp_path, challenge, rows)
    check_example(model)
    assert (judged["candidate_lower"] > 0.0).all()
    ratio = judged["truth"] / judged["candidate"]
    assert ratio.mean() == pytest.approx(1.0, abs=0.03)
    assert np.exp(judged["correction"]).min() > 1.4  # without it, the mean of the ratios is exp(1 / 2) or more
    assert 0.87 < judged["truth"].between(judged["candidate_lower"], judged["candidate_upper"]).mean() < 0.93
    for scale in model.first_scales("EWR"):  # on the log scale, the noise has a mean size of √(2/π), and there is more
        assert math.sqrt(2.0 / math.pi) < scale.usual < 1.5


def test_a_series_on_the_log_scale_keeps_its_errors_on_it(tmp_path: Path) -> None:
    challenge, rows = on_log_scale(small(WEATHER, 3)), history()
    _, model = trained(tmp_path, challenge, rows)
    state, newest = model.bundle.buffer("EWR"), SeriesState(model, "EWR")
    assert state.newest_step is not None
    for step in range(state.newest_step - model.spec.lookback, state.newest_step + 1):
        newest.take(step, state.at(step))
        if not model.missing_steps(newest.buffer.columns[0]):
            row = model.row_at(newest.buffer.columns, step)
            newest.remember(model.score(row).values, model.baseline_at(newest.buffer.columns, row))
    made, (lower, upper) = newest.made_for(step + model.horizons[0])[0], model.offsets(newest.scales)[0]
    assert made is not None
    assert made.lower == pytest.approx(made.value * math.exp(lower))
    assert made.upper == pytest.approx(made.value * math.exp(upper))
    before, truth = newest.scales[0], 40.0
    newest.take(step + 1, [truth, *state.at(step)[1:]])
    met = newest.made_for(step + 1)[0]
    assert met is not None
    error = math.log(truth / met.value)
    assert newest.scales[0] == pytest.approx(next_scale(before, error, model.scale_weight, 0.0))


def test_one_fold_of_wild_values_spoils_no_other_folds_intervals(tmp_path: Path) -> None:
    challenge, rows = on_log_scale(small(WEATHER, 3)), history()
    noise = np.random.default_rng(5).normal(0.0, 0.5, len(rows))
    rows["temperature"] = np.exp(rows["temperature"] - 10.0 + noise)
    wild = rows["ds"] == rows["ds"].max() - timedelta(days=4)
    rows.loc[wild, "temperature"] *= 1000.0
    judged, model = trained(tmp_path, challenge, rows)
    inside = judged["truth"].between(judged["candidate_lower"], judged["candidate_upper"])
    for fold, covered in inside.groupby(judged["fold"]).mean().items():
        assert 0.85 < covered < 0.97, fold
    four = judged[judged["horizon"] == 4]
    offsets = model.bundle.manifest.offsets[4]
    served = four["candidate"] * np.exp(corrections_of(judged, challenge)[4] - four["correction"])
    covered = four["truth"].between(served * math.exp(offsets.lower), served * math.exp(offsets.upper)).mean()
    assert 0.89 < covered < 0.91


def test_the_example_of_a_tiny_target_is_checked_as_that_of_another(tmp_path: Path) -> None:
    challenge, rows = on_log_scale(small(WEATHER, 1)), first_series(history())
    rows["temperature"] *= 1e-12
    _, model = trained(tmp_path, challenge, rows)
    manifest, bundle = model.bundle.manifest, model.bundle
    wrong = [msgspec.structs.replace(each, value=each.value * 1.001) for each in manifest.example.forecasts]
    example = msgspec.structs.replace(manifest.example, forecasts=tuple(wrong))
    spoilt = Bundle(msgspec.structs.replace(manifest, example=example), bundle.observations, bundle.models)
    with pytest.raises(BundleError):
        spoilt.check_example()
    with pytest.raises(BundleError):
        check_example(Model(spoilt, "1"))
