"""How close forecasts come to the truth, ours and those of baselines and peers: `python -m bench.accuracy PLACE`.

A year is walked through from its 27th of March: every forecast is made of what was known at its origin. Forecasts are
kept under `.rps/bench/accuracy/`, by what they depend on.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bench.accuracy_peers import PEERS
from bench.accuracy_places import PLACES
from bench.accuracy_report import every_hour_section, folds_section, intervals_section, peers_section
from bench.loop_models import History
from bench.peer_environments import interpreter
from bench.recorded_models import bench_run, fingerprint, in_processes
from bench.report import BenchError, arguments, run, say
from clients.disk import whole_file
from forecasting.features.spec import FeatureSpec, feature_spec, target_column
from pipelines.files import read_parquet, read_table, write_table
from pipelines.out_of_sample import FitFold, Predict, known_rows, out_of_sample
from pipelines.train import fold_fit
from scripts.services import ROOT

DAY = 24
WEEK = timedelta(days=7)
HELD_BACK = timedelta(days=56)
"""What models did not learn from before there were folds: the newest eight weeks."""
CHOSEN_ON = "new_york"
"""The place that the goals are of."""
CACHE = ROOT / ".rps" / "bench" / "accuracy"
EVERY_HOURS = 37
"""Between two origins of the peers, which take minutes each: all hours of the day in turn."""
KEYS = ["unique_id", "ds", "horizon"]
_PEERS = ROOT / "bench" / "accuracy_peers.py"


def report(place: str) -> Iterator[str]:
    past = PLACES[place].past()
    target = past.challenge.target
    observed = hourly(past.rows, target.variable)
    first = first_origin(past.rows)
    every = moments(observed, target.horizons)
    rows = weekly(place, every[every["ds"] >= first])
    beside = peers(observed, first, max(target.horizons))
    yield from (PLACES[place].about, "")
    yield from every_hour_section(rows, goals=place == CHOSEN_ON)
    folds = every.merge(folds_of(place), on=KEYS)
    yield from folds_section(folds)
    yield from intervals_section(folds, goals=place == CHOSEN_ON)
    yield from peers_section(rows.merge(beside, on=KEYS), EVERY_HOURS, goals=place == CHOSEN_ON)


def first_origin(rows: pd.DataFrame) -> datetime:
    """By then the data gate's `min_rows` are there: the first model's moment."""
    return datetime(rows["ds"].min().year, 3, 27, tzinfo=UTC)


def hourly(rows: pd.DataFrame, variable: str) -> pd.DataFrame:
    """The variable by hour and series, NaN where it was not observed."""
    wide = rows.pivot_table(index="ds", columns="unique_id", values=variable)
    return wide.reindex(pd.date_range(wide.index[0], wide.index[-1], freq="h", name="ds"))


def moments(observed: pd.DataFrame, horizons: tuple[int, ...]) -> pd.DataFrame:
    """What is forecast: KEYS, truth, and the baselines' forecasts; both ends of each were observed.

    observed: as `hourly` gives it; horizons: in hours.
    """
    parts = []
    for horizon in horizons:
        part = observed.melt(ignore_index=False, value_name="persistence").reset_index()
        columns = {"truth": observed.shift(-horizon), "climatology": climatology(observed, horizon)}
        values = {name: wide.melt()["value"] for name, wide in columns.items()}
        parts.append(part.assign(horizon=horizon, **values))
    return pd.concat(parts, ignore_index=True).dropna()


def climatology(observed: pd.DataFrame, horizon: int, days: int = 28) -> pd.DataFrame:
    """The value at the origin and the mean change over the next ``horizon`` hours at its time of day, of ``days`` days.

    Three lines of pandas and none of the product's own, as a check. horizon: 24 or less.
    """
    change = observed.shift(-horizon) - observed
    changes = pd.concat([change.shift(day * DAY) for day in range(1, days + 1)], keys=range(days))
    return observed + changes.groupby("ds").mean()


def weekly(place: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the forecasts of each recipe, retrained every week on what is known.

    Where the data gate rejects that, the model before stays. Raises BenchError when there is none before.
    """
    past = PLACES[place].past()
    weeks = [moment.to_pydatetime() for moment in pd.date_range(rows["ds"].min(), rows["ds"].max(), freq=WEEK)]
    rejected = {as_of: errors for as_of in weeks if (errors := past.data_errors(as_of))}
    if weeks[0] in rejected:
        raise BenchError(f"{weeks[0]:%Y-%m-%d}: expected data for a first model; found {rejected[weeks[0]]}")
    sound = [as_of for as_of in weeks if as_of not in rejected]
    spans = zip(sound, [*sound[1:], weeks[-1] + WEEK], strict=True)
    made = in_processes(_served, [(place, as_of, until) for as_of, until in spans], "models trained")
    return rows.merge(pd.concat(made), on=KEYS, validate="one_to_one")


def _served(place: str, as_of: datetime, until: datetime) -> pd.DataFrame:
    """What models of ``as_of`` forecast until before ``until``: KEYS and a column per recipe, kept in a file."""
    past = PLACES[place].past()
    path = _kept(past) / f"{as_of:%Y-%m-%d}_{until:%Y-%m-%d}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        due = past.features[(past.features["ds"] >= as_of) & (past.features["ds"] < until)]
        write_table(path, _forecasts(past, as_of, due))
    return read_table(path, made_by="bench.accuracy")


def _forecasts(past: History, as_of: datetime, due: pd.DataFrame) -> pd.DataFrame:
    challenge = past.challenge
    spec = feature_spec(challenge)
    shipped = fold_fit(bench_run(challenge, as_of, _kept(past)), spec)
    known = known_rows(past.features_at(as_of), challenge, as_of)
    held_back = known_rows(past.features_at(as_of - HELD_BACK), challenge, as_of)
    recipes = {"ours": (shipped, known), "held_back": (shipped, held_back), "ridge": (ridge(spec), known)}
    parts = []
    for horizon in spec.horizons:
        columns = list(spec.columns_for(horizon))
        values = {name: due["y"] + fit(learnt, horizon)(due[columns]) for name, (fit, learnt) in recipes.items()}
        parts.append(due[["unique_id", "ds"]].assign(horizon=horizon, **values))
    return pd.concat(parts, ignore_index=True)


def ridge(spec: FeatureSpec) -> FitFold:
    """scikit-learn's ridge on the same features: standardised, and their mean where one is missing."""

    def fit(rows: pd.DataFrame, horizon: int) -> Predict:
        learnt, columns = rows[rows[target_column(horizon)].notna()], list(spec.columns_for(horizon))
        model = make_pipeline(StandardScaler(), SimpleImputer(keep_empty_features=True), Ridge())
        model.fit(learnt[columns], learnt[target_column(horizon)] - learnt["y"])
        predict: Predict = model.predict
        return predict

    return fit


def folds_of(place: str) -> pd.DataFrame:
    """What a run at the year's end predicts of its folds: KEYS, fold, ours, and its interval's ends; kept in a file."""
    past = PLACES[place].past()
    path = _kept(past) / "folds.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        as_of = past.rows["ds"].max().to_pydatetime()
        fit = fold_fit(bench_run(past.challenge, as_of, path.parent), feature_spec(past.challenge))
        known = known_rows(past.features_at(as_of), past.challenge, as_of)
        write_table(path, out_of_sample(known, past.challenge, fit, say))
    found = read_table(path, made_by="bench.accuracy").drop(columns="truth")
    return found.rename(columns={"candidate": "ours", "candidate_lower": "lower", "candidate_upper": "upper"})


def _kept(past: History) -> Path:
    return CACHE / fingerprint(past.challenge, "accuracy") / past.name


def peers(observed: pd.DataFrame, first: datetime, horizon: int) -> pd.DataFrame:
    """KEYS, and the forecasts of each peer at every EVERY_HOURS-th hour, the last ``horizon`` hours before the end."""
    long = observed.melt(ignore_index=False, value_name="y").dropna().reset_index()
    windows = ((observed.index[-1] - first) // timedelta(hours=1) - horizon) // EVERY_HOURS + 1
    options = ["--windows", str(windows), "--every", str(EVERY_HOURS), "--horizon", str(horizon)]
    digest = hashlib.sha256(long.to_csv().encode() + repr(options).encode())
    for path in (_PEERS, ROOT / "requirements" / "bench.txt"):
        digest.update(path.read_bytes())
    home = CACHE / digest.hexdigest()[:16]
    home.mkdir(parents=True, exist_ok=True)
    long.assign(ds=long["ds"].dt.tz_localize(None)).to_parquet(home / "observed")
    interpreter("bench")  # once, before two want it
    missing = [(home, peer, options) for peer in PEERS if not (home / peer).exists()]
    in_processes(_forecast, missing, "peers")
    tables = [read_parquet(home / peer).to_pandas(use_threads=False) for peer in PEERS]
    forecasts = functools.reduce(lambda left, right: left.merge(right, on=KEYS), tables)
    return forecasts.assign(ds=forecasts["ds"].dt.tz_localize("UTC"))


def _forecast(home: Path, peer: str, options: list[str]) -> None:
    # Two peers at a time keep two cores busy; a fit's own threads would only get in each other's way.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with whole_file(home / peer) as scratch:
        command: list[str | Path] = [interpreter("bench"), _PEERS, peer, home / "observed", scratch, *options]
        subprocess.run(command, check=True, stdout=sys.stderr, env=environment)


if __name__ == "__main__":
    parser = arguments()
    parser.add_argument("place", choices=PLACES, help="whose year")
    sys.exit(run(parser, report))
