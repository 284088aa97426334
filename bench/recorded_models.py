"""The recorded year of weather, and the pipeline's own steps from it to a bundle, as every benchmark takes them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlencode

import msgspec
import pandas as pd

from bench.report import say
from doubles.replay import open_meteo_wire as wire
from doubles.replay import recording
from forecasting.challenge.schema import Challenge
from forecasting.features.spec import feature_spec
from forecasting.features.table import Table
from forecasting.models.bundle import recent_windows, write_bundle
from pipelines.history import fold
from pipelines.learners.learner import Fit
from pipelines.run import Run, RunIdentity
from pipelines.sources import make_source
from pipelines.sources.source import Answer
from pipelines.train import describe, served_models
from pipelines.transform import feature_frame, read_observations
from records.stages import RunFiles
from scripts.services import ROOT

T = TypeVar("T")

CHALLENGE = ROOT / "challenges" / "weather.toml"
YEAR = timedelta(days=365)
FOLDS = 2
"""Of a model of a benchmark, in place of the challenge's twelve: one at the start of its history, one at the end."""
_CODE = ("bench/recorded_models.py", "forecasting/**/*.py", "pipelines/**/*.py")
"""What a model comes from, besides the challenge, the recording and the benchmark's own module."""
_DATASET = "0" * 32 + ".dir"
_WORKERS = 2


def fingerprint(settings: object, module: str) -> str:
    """Of settings, the recording, and the code."""
    digest = hashlib.sha256(recording.RECORDING.read_bytes())
    digest.update(msgspec.json.encode(settings))
    for path in (path for pattern in (f"bench/{module}.py", *_CODE) for path in sorted(ROOT.glob(pattern))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def recorded(challenge: Challenge) -> pd.DataFrame:
    """The recorded year as `ingest` would have it: requested, answered and parsed as Open-Meteo's, with no server."""
    weather = recording.load()
    source = make_source(challenge)
    tables = []
    for request in source.requests(weather.end - YEAR, weather.end, weather.end):
        query = urlencode(request.query)
        asked = wire.parse_query(parse_qs(query), weather.end, archive="archive" in request.url)
        body = msgspec.json.encode(wire.to_json(wire.select(weather, asked, weather.end), asked, 0.0))
        url = f"{request.url}?{query}"
        answer = Answer(collected_at=weather.end, as_of=weather.end, url=url, status=200, headers={}, body=body)
        tables.append(source.parse(answer).assign(collected_at=weather.end))
    return fold(tables).drop(columns="collected_at")


def transformed(rows: pd.DataFrame, challenge: Challenge) -> tuple[Table, pd.DataFrame]:
    """The observations and the features of collected rows in order, as the stage `transform` makes them."""
    with tempfile.TemporaryDirectory(prefix="rps-bench-") as scratch, contextlib.redirect_stdout(io.StringIO()):
        path = Path(scratch) / "observations.parquet"
        rows.to_parquet(path)
        observations = read_observations(path, challenge)
    features = feature_frame(feature_spec(challenge), observations)
    return observations, features[features["y"].notna()].reset_index(drop=True)


def bench_run(challenge: Challenge, as_of: datetime, directory: Path) -> Run:
    """A run of the pipeline in that directory."""
    identity = RunIdentity(run_id="bench", git_sha="0" * 40, as_of=as_of, reason="bench")
    return Run(challenge, CHALLENGE, RunFiles(directory), identity)


def few_folds(challenge: Challenge) -> Challenge:
    """The challenge with ``FOLDS`` folds, so that hundreds of models can be made."""
    return msgspec.structs.replace(challenge, folds=msgspec.structs.replace(challenge.folds, count=FOLDS))


def write_models(
    directory: Path,
    run: Run,
    known: pd.DataFrame,
    judged: pd.DataFrame,
    fitted: dict[int, Fit],
    *,
    observations: Table,
) -> None:
    """The bundle that the stage `train` would write of models of ``known``; judged: their recipe's folds."""
    description = describe(run, known, judged, _DATASET, "bench")
    recent = recent_windows(
        description.features, observations, description.baseline.lookback(description.features.step_minutes)
    )
    write_bundle(directory, description, served_models(run.challenge, fitted, judged), recent)


def in_processes(function: Callable[..., T], tasks: list[tuple[Any, ...]], what: str) -> list[T]:
    """The function of every task, in order, with progress."""
    with ProcessPoolExecutor(_WORKERS, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(function, *task) for task in tasks]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()  # a failure ends the bench at once
            say(f"{what}: {done} of {len(tasks)}", over=True)
    if tasks:
        say("")
    return [future.result() for future in futures]
