"""The recorded year as the pipeline would know it at any hour, and the models that it would make then.

Data gate, features, folds, fit, bundle, comparison and verdict are production's own code. What was trained is kept
under `.rps/bench/loop/`, by what it depends on, so that other rules are tried without training again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from bench.recorded_models import (
    CHALLENGE,
    bench_run,
    few_folds,
    fingerprint,
    in_processes,
    recorded,
    transformed,
    write_models,
)
from clients.disk import whole_directory
from forecasting.challenge.schema import Challenge, load_challenge
from forecasting.features.spec import feature_spec, target_column
from forecasting.features.table import Table
from forecasting.judging.panel import read_panel
from forecasting.judging.verdict import Verdict, judge
from forecasting.models.bundle import Bundle, read_bundle, record_errors
from pipelines.comparison import compare
from pipelines.data_rules import judge as judge_data
from pipelines.evaluate import evaluation_of, manifest_errors
from pipelines.files import read_table, write_table
from pipelines.out_of_sample import known_rows, out_of_sample
from pipelines.production import Production
from pipelines.run import Run
from pipelines.train import fit_horizon, fold_fit
from scripts.services import ROOT

HOUR = timedelta(hours=1)
YEAR = timedelta(days=364)
"""So far back the end of the recording, which lacks its last day, meets the beginning, at the same hour."""
CACHE = ROOT / ".rps" / "bench" / "loop"


@dataclass(frozen=True, eq=False)
class History:
    """Observations as they were collected, and all that is made of them but models."""

    name: str
    """Of where its models are kept."""
    challenge: Challenge
    rows: pd.DataFrame
    """As `ingest` has them, impossible values included."""
    observations: Table
    features: pd.DataFrame

    def data_errors(self, as_of: datetime) -> tuple[str, ...]:
        """Why the data gate rejects what is known at ``as_of``; empty when it does not."""
        report = judge_data(self.rows[self.rows["ds"] <= as_of], self.challenge, as_of)
        return tuple(f"{error.rule} {error.column}".strip() for error in report.errors)

    def features_at(self, as_of: datetime) -> pd.DataFrame:
        """The features table that `transform` would make at ``as_of``: a target that lies after it is not known."""
        known = self.features[self.features["ds"] <= as_of]
        targets = {}
        for horizon in self.challenge.target.horizons:
            name = target_column(horizon)
            targets[name] = known[name].where(known["ds"] + horizon * self.challenge.target.step <= as_of)
        return known.assign(**targets)

    def observations_at(self, as_of: datetime) -> Table:
        known = self.observations.ds <= np.datetime64(as_of.replace(tzinfo=None))
        columns = {name: values[known] for name, values in self.observations.variables.items()}
        return replace(
            self.observations, codes=self.observations.codes[known], ds=self.observations.ds[known], variables=columns
        )


class Rejected(Exception):
    """The data gate lets no model be made; the message says why."""


def history(name: str, rows: pd.DataFrame, challenge: Challenge) -> History:
    """rows: `unique_id`, `ds` and the challenge's columns, as `ingest` would have them."""
    rows = rows.sort_values(["unique_id", "ds"]).reset_index(drop=True)
    observations, features = transformed(rows, challenge)
    return History(name, challenge, rows, observations, features)


@functools.cache
def recorded_year() -> History:
    """The recording, from its first hour."""
    challenge = load_challenge(CHALLENGE)
    return history("year", recorded(challenge), challenge)


@functools.lru_cache(maxsize=2)
def year_before(month: int) -> History:
    """Eleven months that end where ``month`` begins: the months after it stand in for those of the year before."""
    challenge = load_challenge(CHALLENGE)
    rows = recorded(challenge)
    rows = rows[rows["ds"].dt.month != month]
    rows = rows.assign(ds=rows["ds"].mask(rows["ds"].dt.month > month, rows["ds"] - YEAR))
    return history(f"before_{month:02d}", rows, challenge)


def trained(past: History, as_of: datetime) -> Path:
    """The bundle of the model that a run would make at ``as_of``, with its folds' errors; made if it is not there.

    Raises Rejected.
    """
    errors = past.data_errors(as_of)
    if errors:
        raise Rejected(", ".join(errors))
    run = _run(past, as_of)
    if not run.files.bundle.exists():
        spec, features = feature_spec(past.challenge), past.features_at(as_of)
        known = known_rows(features, run.challenge, as_of)
        folds = out_of_sample(known, run.challenge, fold_fit(run, spec), lambda _: None)
        fitted = {horizon: fit_horizon(run, spec, known, horizon) for horizon in spec.horizons}
        observations = past.observations_at(as_of)
        run.files.root.mkdir(parents=True, exist_ok=True)
        write_table(run.files.out_of_sample, folds)
        with whole_directory(run.files.bundle) as directory:
            write_models(directory, run, known, folds, fitted, observations=observations)
            panel = compare(run.challenge, folds, observations, read_bundle(directory), None)
            record_errors(directory, manifest_errors(panel.own_errors(run.challenge.target.loss)))
    return run.files.bundle


def judged(past: History, as_of: datetime, production: datetime | None) -> Verdict:
    """The gate's verdict on the model of ``as_of``, against the one of ``production`` (None: nothing is in use).

    Both are of the same code, which the gate knows by the commit: it judges freshness, sanity and the artefact.
    """
    run = _run(past, as_of)
    path = run.files.root / f"verdict.{f'{production:%Y-%m-%dT%H}' if production else 'first'}.{_policy(past)}.json"
    if not path.exists():
        features, observations = past.features_at(as_of), past.observations_at(as_of)
        candidate, released = loaded(past, as_of), None
        if production:
            version, bundle = f"{production:%Y-%m-%dT%H}", loaded(past, production)
            released = Production(version, trained(past, production), bundle, _folds(past, production))
        panel = compare(run.challenge, _folds(past, as_of), observations, candidate, released)
        errors = panel.errors(run.challenge.target.loss)
        evaluation = evaluation_of(run, candidate, released, panel, features, errors=errors)
        columns = {str(name): panel.rows[name].to_numpy() for name in panel.rows}
        columns["ds"] = panel.rows["ds"].dt.tz_localize(None).to_numpy()
        verdict = judge(read_panel(columns), evaluation, past.challenge.gate)
        path.write_bytes(msgspec.json.encode(verdict))
    return msgspec.json.decode(path.read_bytes(), type=Verdict)


@functools.lru_cache(maxsize=8)
def loaded(past: History, as_of: datetime) -> Bundle:
    """The model of ``as_of`` with the challenge's drift thresholds as they are now. Raises Rejected."""
    bundle = read_bundle(trained(past, as_of))
    return replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, drift=past.challenge.drift))


def train_all(moments: Iterable[datetime]) -> None:
    """Train the models of the recorded year that are not there yet."""
    past = recorded_year()
    missing = [(as_of,) for as_of in moments if not _run(past, as_of).files.bundle.exists()]
    in_processes(_train_one, missing, "models trained")


def _train_one(as_of: datetime) -> None:
    with contextlib.suppress(Rejected):
        trained(recorded_year(), as_of)


def _folds(past: History, as_of: datetime) -> pd.DataFrame:
    return read_table(_run(past, as_of).files.out_of_sample, made_by="train")


def _run(past: History, as_of: datetime) -> Run:
    return bench_run(few_folds(past.challenge), as_of, CACHE / _fingerprint() / past.name / f"{as_of:%Y-%m-%dT%H}")


@functools.cache
def _fingerprint() -> str:
    """Of all that a model depends on: the code, the recording, and the challenge without its policy and thresholds."""
    challenge: dict[str, Any] = msgspec.to_builtins(load_challenge(CHALLENGE))
    del challenge["gate"], challenge["schedule"]
    challenge["drift"] = challenge["drift"]["window_rows"]
    return fingerprint(challenge, "loop_models")


def _policy(past: History) -> str:
    return hashlib.sha256(msgspec.json.encode(past.challenge.gate)).hexdigest()[:8]
