"""Made-up runs for the tests of the stages: a workspace with a challenge, a run identity and observations."""

from __future__ import annotations

import importlib
import shutil
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from clients.errors import DataRejected
from forecasting.challenge.schema import Challenge, load_challenge
from forecasting.drift.sensor_faults import relative_humidity
from pipelines import validate
from pipelines.carrier.__main__ import carry
from pipelines.files import write_json
from pipelines.run import Run, RunIdentity
from records.stages import RunFiles

ROOT = Path(__file__).resolve().parent.parent
AS_OF = datetime(2013, 12, 30, 12, 30, tzinfo=UTC)


def weather() -> Challenge:
    return load_challenge(ROOT / "challenges" / "weather.toml")


def make_run(root: Path, run_id: str = "manual__1", *, as_of: datetime = AS_OF) -> Run:
    """A run on the weather challenge in the workspace ``root``, as if `ingest` had just started it."""
    (root / "challenges").mkdir(exist_ok=True, parents=True)
    path = Path(shutil.copy(ROOT / "challenges" / "weather.toml", root / "challenges"))
    identity = RunIdentity(run_id=run_id, git_sha="a" * 40, as_of=as_of, reason="test", pull_request="7")
    files = RunFiles(root / "data" / "weather")
    write_json(files.run, identity)
    return Run(load_challenge(path), path, files, identity)


def carried(step: str, run: Run) -> None:
    """As the carrier does it, but for the process around a stage: what a stage raises comes out."""

    def in_this_process(stage: str, run: Run) -> int:
        importlib.import_module(f"pipelines.{stage}").run(run)
        return 0

    assert carry(step, run, in_this_process) == 0


def rejection(run: Run) -> str:
    """The data gate rejects the run's observations; its message."""
    said: list[str] = []

    def in_this_process(_: str, run: Run) -> int:
        with pytest.raises(DataRejected) as raised:
            validate.run(run)
        said.append(str(raised.value))
        return DataRejected.exit_code

    assert carry("validate", run, in_this_process) == DataRejected.exit_code
    return said[0]


def made_up_weather(*, hours: int = 24 * 100, newest: datetime = AS_OF, seed: int = 1) -> pd.DataFrame:
    """Plausible observations of every series of the weather challenge, one row an hour, none missing.

    A year's and a day's wave plus an autoregressive part, so that neighbouring hours are alike, as in real weather.
    """
    challenge = weather()
    newest_hour = pd.Timestamp(newest).floor("h")
    ds = pd.date_range(end=newest_hour, periods=hours, freq="h", tz="UTC")
    parts = []
    for number, unique_id in enumerate(sorted(challenge.series_ids)):
        random = np.random.default_rng(seed + number)
        steps = random.normal(0.0, 0.6, hours)
        slow = np.zeros(hours)
        for hour in range(1, hours):
            slow[hour] = 0.98 * slow[hour - 1] + steps[hour]
        temperature = 12 + 9 * np.sin(ds.dayofyear * 2 * np.pi / 365) + 4 * np.sin(ds.hour * 2 * np.pi / 24) + slow
        dew_point = temperature - random.uniform(2, 9, hours)
        values = {
            "temperature": temperature,
            "dew_point": dew_point,
            "humidity": relative_humidity(temperature, dew_point),
            "wind_speed": random.uniform(0, 12, hours),
            "wind_direction": random.uniform(0, 360, hours),
            "precipitation": random.uniform(0, 1, hours),
            "pressure": random.normal(1015, 6, hours),
        }
        columns = {name: np.asarray(values[name], dtype="float64") for name in challenge.columns}
        parts.append(pd.DataFrame({"unique_id": unique_id, "ds": ds, **columns}))
    return pd.concat(parts, ignore_index=True)


def write_observations(run: Run, observations: pd.DataFrame, *, conflicting: int = 0) -> None:
    """What `ingest` leaves behind."""
    run.files.root.mkdir(parents=True, exist_ok=True)
    observations.to_parquet(run.files.observations, index=False)
    collection = {"conflicting_repeats": conflicting, "rows_received": len(observations)}
    run.files.collection.write_bytes(msgspec.json.encode(collection))
