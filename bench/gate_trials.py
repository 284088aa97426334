"""The trials behind the gate's error rates: pairs of models that are trained anew on the recorded weather.

The recording is of one year. For a hold-out that ends with a month, the months after it stand in for those of the year
before, so that every model has a year of history, as `source.history_days` asks, and every season has its hold-out.
Data, features, fit, bundle, comparison and evaluation are the pipeline's own code.
"""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd
from pipelines.holdout import PanelFrame, compare
from pipelines.split import Split, split_by_time

from bench.recorded_models import CHALLENGE, YEAR, bench_run, recorded, transformed, write_models
from forecasting.challenge.schema import Challenge, load_challenge
from forecasting.features.spec import FeatureSpec, feature_spec, target_column
from forecasting.features.table import Table
from forecasting.judging.evaluation import Evaluation
from forecasting.models.bundle import Bundle, read_bundle, recent_windows
from forecasting.models.manifest import SeriesWindow
from pipelines.evaluate import evaluation_of
from pipelines.production import Production
from pipelines.train import fit_horizon

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

WEEK = timedelta(days=7)
MONTH_ENDS = tuple(
    datetime(2013, month, day, 23, tzinfo=UTC)
    for month, day in enumerate((31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 30), start=1)
)
"""When the trials' hold-outs end; the recording ends on the 30th of December."""
NEWEST_LAG, LATEST_CHANGE = "temperature_lag_0", "temperature_difference_1"

STALE_WEEKS = (2, 4, 8, 12, 16, 20, 24, 28)
"""How much older stale data may be. Still older ones leave less than three months to learn from."""
WORSE = 0.05
"""By how much a damage makes a model worse."""
SIZING_TRIALS = 2

Kind = Literal["none", "noise", "lag", "stale"]


class Damage(msgspec.Struct, frozen=True):
    """What is done to a candidate, in training as in use.

    noise: normal noise on the newest temperature lag, its standard deviation in °C; lag: the share of the hours in
    which that lag is lost and the one before stands in for it; stale: how many weeks earlier its data end.
    series: the only one that is damaged; all when empty.
    """

    kind: Kind = "none"
    size: float = 0.0
    series: str = ""


class Fitting(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial keeps of a model besides its predictions."""

    offsets: dict[int, tuple[float, float]]
    """By horizon, what is added to a prediction for the ends of its interval."""
    own_test_rmse: float
    """On the weeks of the training period that its sample left out."""
    holdout_rmse: float


@dataclass(frozen=True)
class Season:
    """The year up to one moment, as the pipeline would see it then."""

    as_of: datetime
    challenge: Challenge
    features: pd.DataFrame
    observations: Table
    recent: dict[str, SeriesWindow]
    trained_until: pd.Timestamp
    """Where training ends and calibration starts, save for a stale model."""

    @property
    def spec(self) -> FeatureSpec:
        return feature_spec(self.challenge)


@dataclass(frozen=True)
class Model:
    """A trained model, as bundle and as the predictions that it makes on the season's hold-out."""

    bundle: Bundle
    directory: Path
    rows: pd.DataFrame
    """As a comparison has them: unique_id, ds, horizon, truth, baseline, candidate, candidate_lower, …"""
    fitting: Fitting


@functools.lru_cache(maxsize=1)
def season(as_of: datetime, horizon: int | None = None) -> Season:
    """The year up to ``as_of``. horizon: when only one is to be predicted."""
    challenge = load_challenge(CHALLENGE)
    if horizon is not None:
        target = msgspec.structs.replace(challenge.target, horizons=(horizon,))
        challenge = msgspec.structs.replace(challenge, target=target)
    rows = recorded(challenge)
    rows["ds"] = rows["ds"].mask(rows["ds"] > as_of, rows["ds"] - YEAR)
    rows = rows.sort_values(["unique_id", "ds"]).reset_index(drop=True)
    observations, features = transformed(rows, challenge)
    learner = challenge.learner
    calibration_from = pd.Timestamp(as_of) - timedelta(days=learner.holdout_days + learner.calibration_days)
    spec = feature_spec(challenge)
    recent = recent_windows(spec, observations, challenge.target.baseline.lookback(spec.step_minutes))
    return Season(as_of, challenge, features, observations, recent, calibration_from)


def draw_weeks(season: Season, random: np.random.Generator) -> IntArray:
    """A block-bootstrap sample of the training weeks, numbered back from the end of training: as many, repeats too."""
    weeks = np.unique(_week_of(season, split_by_time(season.features, season.challenge, season.as_of).training))
    return np.sort(random.choice(weeks, len(weeks)))


def train(season: Season, weeks: IntArray, damage: Damage, seed: int, directory: Path) -> Model:
    """A model of these weeks. seed: of the damage; directory: where its run may lie, emptied first."""
    shutil.rmtree(directory, ignore_errors=True)
    run = bench_run(season.challenge, season.as_of, directory)
    features = _damaged(season, damage, np.random.default_rng(seed))
    until = season.as_of - damage.size * WEEK if damage.kind == "stale" else season.as_of
    split = split_by_time(features, season.challenge, until)
    week_of = _week_of(season, split.training)
    places = [np.flatnonzero(week_of == week) for week in weeks.tolist()]
    drawn = Split(split.training.iloc[np.concatenate(places)], split.calibration, split.holdout)
    spec = season.spec
    fitted = {horizon: fit_horizon(run, spec, drawn, horizon) for horizon in spec.horizons}
    write_models(run.files.bundle, run, drawn, fitted, season.recent)
    bundle = read_bundle(run.files.bundle)
    rows = compare(season.challenge, season.as_of, features, season.observations, (bundle, None)).rows
    fitting = Fitting(
        offsets={horizon: (one.offsets.lower, one.offsets.upper) for horizon, one in fitted.items()},
        own_test_rmse=_rmse_of(bundle, split.training[~np.isin(week_of, weeks)]),
        holdout_rmse=rmse(rows),
    )
    return Model(bundle, run.files.bundle, rows, fitting)


def evaluated(season: Season, candidate: Model, production: Model) -> Evaluation:
    """What the stage `evaluate` would write of the two: errors, provenance, and costs measured now, in turn."""
    sides = ("", "_lower", "_upper")
    theirs = {f"production{side}": production.rows[f"candidate{side}"] for side in sides}
    released = Production("1", production.directory, production.bundle)
    panel = PanelFrame(candidate.rows.assign(**theirs), production.bundle, ())
    run = bench_run(season.challenge, season.as_of, candidate.directory.parent)
    errors = panel.errors(season.challenge.target.loss)
    return evaluation_of(run, candidate.bundle, released, panel, season.features, errors=errors)


def rmse(rows: pd.DataFrame) -> float:
    """The candidate's RMSE on all rows, °C."""
    return float(np.sqrt(np.mean((rows["candidate"] - rows["truth"]) ** 2)))


def sizes_for(season: Season, scratch: Path) -> dict[str, float]:
    """For each kind of damage, the size that makes a model ``WORSE`` on average over some samples of weeks.

    The damaged model and the sound one are trained on the same weeks. Squared error grows in proportion to the noise's
    variance and to the share of lost lags, so one measurement gives the factor; how it grows with the age of the data
    is looked up among some ages.
    """
    random = np.random.default_rng([0, season.as_of.month])
    samples = [draw_weeks(season, random) for _ in range(SIZING_TRIALS)]
    sound = np.array([train(season, weeks, Damage(), 0, scratch).fitting.holdout_rmse for weeks in samples])

    def growth(damage: Damage) -> float:
        damaged = [
            train(season, weeks, damage, seed, scratch).fitting.holdout_rmse for seed, weeks in enumerate(samples)
        ]
        return float(np.mean(np.array(damaged) / sound)) - 1.0

    wanted = float(np.mean(sound**2)) * ((1.0 + WORSE) ** 2 - 1.0)
    holdout = split_by_time(season.features, season.challenge, season.as_of).holdout
    step = float(np.mean(holdout[LATEST_CHANGE] ** 2))
    sizes = {}
    for kind, added, power in (("noise", 1.0, 0.5), ("lag", step, 1.0)):
        tried = Damage(kind, (wanted / added) ** power)  # type: ignore[arg-type]  # the literals, as text
        factor = ((1.0 + WORSE) ** 2 - 1.0) / ((1.0 + growth(tried)) ** 2 - 1.0)
        sizes[kind] = tried.size * factor**power
    ages = {age: growth(Damage("stale", float(age))) for age in STALE_WEEKS}
    return {**sizes, "stale": float(min(ages, key=lambda age: abs(ages[age] - WORSE)))}


def _week_of(season: Season, part: pd.DataFrame) -> IntArray:
    """In which week before the end of training each origin lies; 0 is the last."""
    weeks: IntArray = ((season.trained_until - part["ds"]) // WEEK).to_numpy(dtype=np.int64)
    return weeks


def _damaged(season: Season, damage: Damage, random: np.random.Generator) -> pd.DataFrame:
    features = season.features
    if damage.kind not in {"noise", "lag"}:
        return features
    hit = np.ones(len(features), dtype=bool)
    if damage.series:
        hit = (features["unique_id"] == damage.series).to_numpy()
    newest = features[NEWEST_LAG].to_numpy()
    if damage.kind == "noise":
        changed = newest + random.normal(0.0, damage.size, len(features))
    else:
        before = newest - features[LATEST_CHANGE].to_numpy()
        lost = (random.random(len(features)) < damage.size) & np.isfinite(before)
        changed = np.where(lost, before, newest)
    return features.assign(**{NEWEST_LAG: np.where(hit, changed, newest)})


def _rmse_of(bundle: Bundle, rows: pd.DataFrame) -> float:
    squares = []
    for horizon in bundle.spec.horizons:
        known = rows[rows[target_column(horizon)].notna()]
        value = bundle.predict(horizon, known[list(bundle.spec.columns_for(horizon))].to_numpy(dtype=np.float64))
        squares.append((value - known[target_column(horizon)].to_numpy()) ** 2)
    return float(np.sqrt(np.mean(np.concatenate(squares))))
