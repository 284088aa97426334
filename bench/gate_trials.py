"""The trials behind the gate's error rates: pairs of models that are trained anew on the recorded weather.

The recording is of one year. For a hold-out that ends with a month, the months after it stand in for those of the year
before, so that every model has a year of history, as `source.history_days` asks, and every season has its hold-out.
Data, features, fit, bundle, comparison and evaluation are the pipeline's own code.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import shutil
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlencode

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from doubles.replay import open_meteo_wire as wire
from doubles.replay import recording
from forecasting.challenge.schema import Challenge, load_challenge
from forecasting.features.spec import FeatureSpec, feature_spec, target_column
from forecasting.features.table import Table
from forecasting.judging.evaluation import Evaluation
from forecasting.models.bundle import Bundle, read_bundle, recent_windows, write_bundle
from forecasting.models.manifest import SeriesWindow
from pipelines.evaluate import evaluation_of
from pipelines.history import fold
from pipelines.holdout import PanelFrame, compare
from pipelines.production import Production
from pipelines.run import Run, RunIdentity
from pipelines.sources import make_source
from pipelines.sources.source import Answer
from pipelines.split import Split, split_by_time
from pipelines.train import describe, fit_horizon
from pipelines.transform import feature_frame, read_observations
from pipelines.version import Dataset
from records.stages import RunFiles
from scripts.services import ROOT

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

CHALLENGE = ROOT / "challenges" / "weather.toml"
YEAR = timedelta(days=365)
WEEK = timedelta(days=7)
MONTH_ENDS = tuple(
    datetime(2013, month, day, 23, tzinfo=UTC)
    for month, day in enumerate((31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 30), start=1)
)
"""When the trials' hold-outs end; the recording ends on the 30th of December."""
NEWEST_LAG, LAG_BEFORE = "temperature_lag_0", "temperature_lag_1"

STALE_WEEKS = (2, 4, 8, 12, 16, 20, 24, 28)
"""How much older stale data may be. Still older ones leave less than three months to learn from."""

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


class Size(msgspec.Struct, frozen=True):
    """How large a damage must be in one season, and by how much it then makes a model worse on average."""

    size: float
    worse: float


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
    """As a comparison has them: unique_id, ds, horizon, truth, persistence, candidate, candidate_lower, …"""
    fitting: Fitting


def fingerprint(challenge: object, code: Iterable[str], without: Collection[str] = ()) -> str:
    """Of a challenge, the recording, and the code that these patterns name, files of some names left out."""
    digest = hashlib.sha256(recording.RECORDING.read_bytes())
    digest.update(msgspec.json.encode(challenge))
    for path in (path for pattern in code for path in sorted(ROOT.glob(pattern)) if path.name not in without):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


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
    with tempfile.TemporaryDirectory(prefix="rps-gate-") as scratch, contextlib.redirect_stdout(io.StringIO()):
        rows.to_parquet(Path(scratch) / "observations.parquet")
        observations = read_observations(Path(scratch) / "observations.parquet", challenge)
    features = feature_frame(feature_spec(challenge), observations)
    features = features[features["y"].notna()].reset_index(drop=True)
    learner = challenge.learner
    calibration_from = pd.Timestamp(as_of) - timedelta(days=learner.holdout_days + learner.calibration_days)
    recent = recent_windows(feature_spec(challenge), observations)
    return Season(as_of, challenge, features, observations, recent, calibration_from)


def recorded(challenge: Challenge) -> pd.DataFrame:
    """The recorded year as `ingest` would have it: asked for, answered and parsed as Open-Meteo's, with no server."""
    weather = recording.load()
    source = make_source(challenge)
    tables = []
    for request in source.requests(weather.end - YEAR, weather.end, weather.end):
        query = urlencode(request.query)
        asked = wire.parse_query(parse_qs(query), weather.end, archive="archive" in request.url)
        body = msgspec.json.encode(wire.to_json(wire.select(weather, asked, weather.end), asked, 0.0))
        answer = Answer(
            collected_at=weather.end,
            as_of=weather.end,
            url=f"{request.url}?{query}",
            status=200,
            headers={},
            body=body,
        )
        tables.append(source.parse(answer).assign(collected_at=weather.end))
    return fold(tables).drop(columns="collected_at")


def draw_weeks(season: Season, random: np.random.Generator) -> IntArray:
    """A block-bootstrap sample of the training weeks, numbered back from the end of training: as many, repeats too."""
    weeks = np.unique(_week_of(season, split_by_time(season.features, season.challenge, season.as_of).training))
    return np.sort(random.choice(weeks, len(weeks)))


def train(season: Season, weeks: IntArray, damage: Damage, seed: int, directory: Path) -> Model:
    """A model of these weeks. seed: of the damage; directory: where its run may lie, emptied first."""
    shutil.rmtree(directory, ignore_errors=True)
    run = _run(season, directory)
    features = _damaged(season, damage, np.random.default_rng(seed))
    until = season.as_of - damage.size * WEEK if damage.kind == "stale" else season.as_of
    split = split_by_time(features, season.challenge, until)
    week_of = _week_of(season, split.training)
    places = [np.flatnonzero(week_of == week) for week in weeks.tolist()]
    drawn = Split(split.training.iloc[np.concatenate(places)], split.calibration, split.holdout)
    spec = season.spec
    fitted = {horizon: fit_horizon(run, spec, drawn, horizon) for horizon in spec.horizons}
    description = describe(run, drawn, fitted, _DATASET, "bench")
    trees = {horizon: one.trees.serialize_bytes() for horizon, one in fitted.items()}
    write_bundle(run.files.bundle, description, trees, season.recent)
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
    run = _run(season, candidate.directory.parent)
    errors = panel.errors(season.challenge.target.loss)
    return evaluation_of(run, candidate.bundle, released, panel, season.features, errors=errors)


def rmse(rows: pd.DataFrame) -> float:
    """The candidate's RMSE on all rows, °C."""
    return float(np.sqrt(np.mean((rows["candidate"] - rows["truth"]) ** 2)))


def sizes_for(season: Season, worse: float, trials: int, scratch: Path) -> dict[str, Size]:
    """For each kind of damage, the size that makes a model ``worse`` (0.05: by 5 %) on average over samples of weeks.

    Measured on ``trials`` samples, the damaged model and the sound one on the same weeks. Squared error grows in
    proportion to the noise's variance and to the share of lost lags, so that one measurement gives the factor; how it
    grows with the age of the data is looked up among some ages.
    """
    random = np.random.default_rng([0, season.as_of.month])
    samples = [draw_weeks(season, random) for _ in range(trials)]
    sound = np.array([train(season, weeks, Damage(), 0, scratch).fitting.holdout_rmse for weeks in samples])

    def growth(damage: Damage) -> float:
        damaged = [
            train(season, weeks, damage, seed, scratch).fitting.holdout_rmse for seed, weeks in enumerate(samples)
        ]
        return float(np.mean(np.array(damaged) / sound)) - 1.0

    wanted = float(np.mean(sound**2)) * ((1.0 + worse) ** 2 - 1.0)
    holdout = split_by_time(season.features, season.challenge, season.as_of).holdout
    step = float(np.mean((holdout[NEWEST_LAG] - holdout[LAG_BEFORE]) ** 2))
    sizes = {}
    for kind, added, power in (("noise", 1.0, 0.5), ("lag", step, 1.0)):
        tried = Damage(kind, (wanted / added) ** power)  # type: ignore[arg-type]  # the literals, as text
        factor = ((1.0 + worse) ** 2 - 1.0) / ((1.0 + growth(tried)) ** 2 - 1.0)
        sizes[kind] = Size(tried.size * factor**power, worse)
    ages = {age: growth(Damage("stale", float(age))) for age in STALE_WEEKS}
    age = min(ages, key=lambda age: abs(ages[age] - worse))
    return {**sizes, "stale": Size(float(age), ages[age])}


_DATASET = Dataset(md5="0" * 32 + ".dir", rev="", branch="", rows=0, bytes=0, run_id="bench")


def _run(season: Season, directory: Path) -> Run:
    identity = RunIdentity(run_id="bench", git_sha="0" * 40, as_of=season.as_of, reason="bench")
    return Run(season.challenge, CHALLENGE, RunFiles(directory), identity)


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
        before = features[LAG_BEFORE].to_numpy()
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
