"""A real service process around a small bundle that is trained on the recorded weather."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from doubles.replay import recording
from forecasting.challenge.schema import load_challenge
from forecasting.drift.distances import feature_references
from forecasting.features.spec import FeatureSpec, feature_spec
from forecasting.features.table import Table, table_features, table_targets
from forecasting.models.bundle import recent_windows, write_bundle
from forecasting.models.intervals import Scaling, calibrate
from forecasting.models.manifest import Description
from pipelines.learners.hist_gradient_boosting import HistGradientBoosting
from pipelines.learners.learner import Learner
from pipelines.train import variable_ranges
from scripts.services import free_ports

ROOT = Path(__file__).parents[1]
CHALLENGE = load_challenge(ROOT / "challenges" / "weather.toml")
SPEC = feature_spec(CHALLENGE)
START, END = datetime(2013, 1, 1, tzinfo=UTC), datetime(2014, 1, 1, tzinfo=UTC)
READY_SECONDS = 60.0


def recorded_table(first: datetime = START, last: datetime = END, spec: FeatureSpec = SPEC) -> Table:
    """The recorded hours from ``first`` to before ``last``, in the challenge's units, each hour once."""
    codes, ds, rows = [], [], []
    stations = recording.load().stations
    for code, station in enumerate(stations):
        times, values = station.between(int(first.timestamp()), int(last.timestamp()) - 1)
        latest = dict(zip(times, values, strict=True))
        codes += [code] * len(latest)
        ds += list(latest)
        rows += [_converted(each) for each in latest.values()]
    columns = {name: np.array([row[name] for row in rows]) for name in spec.variables}
    return Table(tuple(each.name for each in stations), np.array(codes), np.array(ds, "datetime64[s]"), columns)


def _converted(values: recording.Values) -> dict[str, float]:
    found = dict(zip(recording.COLUMNS, (np.nan if value is None else value for value in values), strict=True))
    return {
        "temperature": round((found["temperature_f"] - 32) / 1.8, 4),
        "dew_point": round((found["dew_point_f"] - 32) / 1.8, 4),
        "humidity": found["humidity_percent"],
        "wind_speed": round(found["wind_speed_mph"] * 0.44704, 4),
        "wind_direction": found["wind_direction_degrees"],
        "pressure": found["pressure_hpa"],
    }


def make_bundle(
    directory: Path,
    first: datetime = START,
    last: datetime = END,
    *,
    trees: int = 20,
    leaves: int = 31,
    learner: Learner | None = None,
) -> Path:
    """A bundle fitted on the recorded hours from ``first`` to before ``last``; it carries the last of them.

    learner: boosting of so many trees of so many leaves when there is none.
    """
    learner = learner or HistGradientBoosting(max_iter=trees, max_leaf_nodes=leaves, min_samples_leaf=40)
    table = recorded_table(first, last)
    matrix, targets = table_features(SPEC, table), table_targets(SPEC, table)
    origin, models, offsets, scaled, usual, errors = table.variables[SPEC.target], {}, {}, {}, {}, {}
    for horizon, target in zip(SPEC.horizons, targets.T, strict=True):
        columns = [SPEC.columns.index(name) for name in SPEC.columns_for(horizon)]
        change = target - origin
        known = ~np.isnan(change)
        features = pd.DataFrame(matrix[known][:, columns], columns=SPEC.columns_for(horizon))
        with threadpool_limits(1, user_api="openmp"):  # threads would wait for one another, busily
            fit = learner.fit(features, change[known], "squared_error", seed=0)
        residuals = change[known] - fit.estimator.predict(features)
        models[horizon] = fit.portable
        offsets[horizon] = calibrate(residuals, 0.9)
        usual[horizon] = float(np.abs(residuals).mean())
        scaled[horizon] = calibrate(residuals / usual[horizon], 0.9)
        width = offsets[horizon].upper - offsets[horizon].lower
        errors[horizon] = {"error": float(np.sqrt(np.mean(residuals**2))), "width": width}
    baseline = CHALLENGE.target.baseline.fitted({}, {}, lambda _truth, _forecast: 0.0)
    in_time = [place for place in np.argsort(table.ds, kind="stable") if not np.isnan(origin[place])]
    description = Description(
        challenge=CHALLENGE.name,
        unit=CHALLENGE.target.unit,
        features=SPEC,
        series=table.unique_ids,
        train_start=first,
        train_end=last - timedelta(hours=1),
        newest_row=last - timedelta(hours=1 + min(SPEC.horizons)),
        rows={"train": len(origin)},
        dataset_md5="0" * 32 + ".dir",
        git_sha="a" * 40,
        mlflow_run="b" * 32,
        interval=0.9,
        offsets=offsets,
        scaling=Scaling(half_life=72.0, offsets=scaled, usual=usual, series={}),
        references=feature_references(SPEC.columns, matrix[in_time], CHALLENGE.drift.window_rows),
        title=CHALLENGE.title,
        variables=variable_ranges(CHALLENGE, SPEC),
        baseline=baseline,
        drift=CHALLENGE.drift,
        errors=errors,
        detectors=CHALLENGE.detectors,
    )
    write_bundle(directory, description, models, recent_windows(SPEC, table, baseline.lookback(SPEC.step_minutes)))
    return directory


def observations(table: Table, unique_id: str) -> Iterator[dict[str, Any]]:
    """One series of a table as `/v1/observations` takes it, oldest first; values that are missing are left out."""
    for place in np.flatnonzero(table.codes == table.unique_ids.index(unique_id)).tolist():
        values = {name: float(column[place]) for name, column in table.variables.items()}
        known = {name: value for name, value in values.items() if not np.isnan(value)}
        yield {"unique_id": unique_id, "ds": f"{table.ds[place].astype('datetime64[s]')}Z", **known}


@dataclass(frozen=True)
class Running:
    """A service that answers."""

    url: str
    port: int
    process: subprocess.Popen[str]
    log: Path

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """On a connection of its own."""
        return _client().request(method, f"{self.url}{path}", timeout=60, **options)

    def send(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        """Observations that must be accepted; what the service says of them."""
        answer = self.post("/v1/observations", json={"observations": records})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def metrics(self) -> dict[str, float]:
        """Every sample of `/metrics`, by its name and labels as they are written there."""
        lines = [line for line in self.get("/metrics").text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def stop(self, seconds: float = 30.0) -> int:
        """Ask it to stop, and wait until it has; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=seconds)


@contextmanager
def running(bundle: Path, log: Path, environment: Mapping[str, str] | None = None) -> Iterator[Running]:
    """`python -m service` on a free port, from its first good /health to its end."""
    port = free_ports(1)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RPS_")}
    command = [sys.executable, "-m", "service", "--bundle", str(bundle), "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**inherited, **(environment or {})}, stdout=output, stderr=output, text=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + READY_SECONDS
        while not _healthy(url):
            assert process.poll() is None, f"the service ended with {process.returncode}: {log.read_text()}"
            assert time.monotonic() < until, f"not ready after {READY_SECONDS:g} s: {log.read_text()}"
            time.sleep(0.05)
        yield Running(url, port, process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def refused(bundle: Path, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """A service that must not start: its exit code, and what it says."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RPS_")}
    command = [sys.executable, "-m", "service", "--bundle", str(bundle), "--port", "0"]
    variables = {**inherited, **(environment or {})}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, re.sub(r"\s+", " ", done.stderr)


@cache
def _client() -> httpx.Client:
    """No TLS here: making it ready for each request takes twenty times as long as the request."""
    return httpx.Client(verify=False, limits=httpx.Limits(max_keepalive_connections=0))


def _healthy(url: str) -> bool:
    try:
        return _client().get(f"{url}/health", timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False
