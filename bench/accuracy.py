"""How close forecasts come to the truth, ours and those of baselines and peers: `python -m bench.accuracy PLACE`.

A year is walked through from its 27th of March: every forecast is made of what was known at its origin. Models and
peers' forecasts are kept under `.rps/bench/`, by what they depend on.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from bench.accuracy_peers import PEERS
from bench.accuracy_places import PLACES
from bench.accuracy_report import every_hour_section, peers_section
from bench.loop_models import Rejected, loaded, trained
from bench.peer_environments import interpreter
from bench.recorded_models import in_processes
from bench.report import arguments, run
from clients.disk import whole_file
from forecasting.models.bundle import Bundle
from pipelines.files import read_parquet
from scripts.services import ROOT

DAY = 24
WEEK = timedelta(days=7)
EVERY_HOURS = 37
"""Between two origins of the peers, which take minutes each: all hours of the day in turn."""
KEYS = ["unique_id", "ds", "horizon"]
_PEERS = ROOT / "bench" / "accuracy_peers.py"


def report(place: str) -> Iterator[str]:
    past = PLACES[place].past()
    target = past.challenge.target
    observed = hourly(past.rows, target.variable)
    rows = moments(observed, target.horizons, first_origin(past.rows))
    rows["ours"] = ours(place, rows)
    beside = peers(observed, first_origin(past.rows), max(target.horizons))
    yield from (PLACES[place].about, "")
    yield from every_hour_section(rows)
    yield from peers_section(rows.merge(beside, on=KEYS), EVERY_HOURS)


def first_origin(rows: pd.DataFrame) -> datetime:
    """By then the data gate's `min_rows` are there: the first model's moment."""
    return datetime(rows["ds"].min().year, 3, 27, tzinfo=UTC)


def hourly(rows: pd.DataFrame, variable: str) -> pd.DataFrame:
    """The variable by hour and series, NaN where it was not observed."""
    wide = rows.pivot_table(index="ds", columns="unique_id", values=variable)
    return wide.reindex(pd.date_range(wide.index[0], wide.index[-1], freq="h", name="ds"))


def moments(observed: pd.DataFrame, horizons: tuple[int, ...], first: datetime) -> pd.DataFrame:
    """What is forecast: KEYS, truth, and the baselines' forecasts; both ends of each were observed.

    observed: as `hourly` gives it; horizons: in hours.
    """
    parts = []
    for horizon in horizons:
        part = observed.melt(ignore_index=False, value_name="persistence").reset_index()
        columns = {"truth": observed.shift(-horizon), "climatology": climatology(observed, horizon)}
        values = {name: wide.melt()["value"] for name, wide in columns.items()}
        parts.append(part.assign(horizon=horizon, **values))
    rows = pd.concat(parts).dropna()
    return rows[rows["ds"] >= first].reset_index(drop=True)


def climatology(observed: pd.DataFrame, horizon: int, days: int = 28) -> pd.DataFrame:
    """The value at the origin and the mean change over the next ``horizon`` hours at its time of day, of ``days`` days.

    Three lines of pandas and none of the product's own, as a check. horizon: 24 or less.
    """
    change = observed.shift(-horizon) - observed
    changes = pd.concat([change.shift(day * DAY) for day in range(1, days + 1)], keys=range(days))
    return observed + changes.groupby("ds").mean()


def ours(place: str, rows: pd.DataFrame) -> pd.Series[float]:
    """The project's own forecast at each row, retrained every week on what is known; where the data gate rejects
    that, the model before stays.
    """
    past = PLACES[place].past()
    weeks = [moment.to_pydatetime() for moment in pd.date_range(rows["ds"].min(), rows["ds"].max(), freq=WEEK)]
    in_processes(_train, [(place, as_of) for as_of in weeks], "models trained")
    features = past.features.set_index(["unique_id", "ds"])
    forecasts = pd.Series(np.nan, index=rows.index)
    model: Bundle | None = None
    for as_of in weeks:
        with contextlib.suppress(Rejected):
            model = loaded(past, as_of)
        if model is None:
            raise Rejected(f"{as_of:%Y-%m-%d}: expected data for a first model; found {past.data_errors(as_of)}")
        week = rows[(rows["ds"] >= as_of) & (rows["ds"] < as_of + WEEK)]
        for horizon, due in week.groupby("horizon"):
            matrix = features.loc[
                pd.MultiIndex.from_frame(due[["unique_id", "ds"]]), list(model.spec.columns_for(horizon))
            ]
            forecasts[due.index] = model.predict(horizon, matrix.to_numpy())
    return forecasts


def _train(place: str, as_of: datetime) -> None:
    with contextlib.suppress(Rejected):
        trained(PLACES[place].past(), as_of)


def peers(observed: pd.DataFrame, first: datetime, horizon: int) -> pd.DataFrame:
    """KEYS, and the forecasts of each peer at every EVERY_HOURS-th hour, the last ``horizon`` hours before the end."""
    long = observed.melt(ignore_index=False, value_name="y").dropna().reset_index()
    windows = ((observed.index[-1] - first) // timedelta(hours=1) - horizon) // EVERY_HOURS + 1
    options = ["--windows", str(windows), "--every", str(EVERY_HOURS), "--horizon", str(horizon)]
    digest = hashlib.sha256(long.to_csv().encode() + repr(options).encode())
    for path in (_PEERS, ROOT / "requirements" / "bench.txt"):
        digest.update(path.read_bytes())
    home = ROOT / ".rps" / "bench" / "accuracy" / digest.hexdigest()[:16]
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
