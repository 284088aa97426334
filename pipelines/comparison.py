"""The same rows predicted by candidate, production and baselines, by models that have not seen them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import msgspec
import numpy as np
import pandas as pd

from clients.errors import DataRejected
from forecasting.challenge.schema import Challenge
from forecasting.features.spec import feature_spec
from forecasting.features.table import Table, table_baseline
from forecasting.judging.evaluation import FoldErrors, ModelErrors, Window, errors_of
from forecasting.judging.losses import LossName, Unmeasurable
from forecasting.judging.panel import MIN_JUDGED, OPPONENT, Panel, PanelError, read_panel
from forecasting.models.bundle import Bundle
from pipelines.production import Production

TIMED_REPEATS = 101


@dataclass(frozen=True)
class PanelFrame:
    """The panel as a table, including rows that not every model predicts, and whether it can carry a verdict.

    rows: unique_id, ds (the origin), horizon, fold, truth, baseline, `opponent.<kind>` for each further opponent,
    candidate and production with `_lower` and `_upper` (production's NaN where there is none), and compared: whether
    every model predicts that row.
    """

    rows: pd.DataFrame
    opponent: Bundle | None
    """The production model, if it could be compared."""
    reasons: tuple[str, ...]
    """Why the comparison can carry no verdict; empty when it can."""

    def window(self) -> Window:
        ds = self.rows.loc[self.rows["compared"], "ds"]
        start, end = ds.min().to_pydatetime(), ds.max().to_pydatetime()
        return Window(start=start, end=end, origins=int(ds.nunique()), rows=len(ds))

    def fold_errors(self, loss: LossName) -> tuple[FoldErrors, ...]:
        """Each fold's, on its compared rows. Raises DataRejected as ``errors`` does."""
        found = []
        for number in sorted(self.rows.loc[self.rows["compared"], "fold"].unique().tolist()):
            here = self.rows["compared"] & (self.rows["fold"] == number)
            ds = self.rows.loc[here, "ds"]
            errors = {model: measured.overall.error for model, measured in self._errors_of(here, loss).items()}
            start, end = ds.min().to_pydatetime(), ds.max().to_pydatetime()
            found.append(FoldErrors(start=start, end=end, rows=len(ds), errors=errors))
        return tuple(found)

    def errors(self, loss: LossName) -> dict[str, ModelErrors]:
        """Each model's, on the compared rows; for a horizon that production does not predict, on all its rows.

        Raises DataRejected when predictions or truths are not numbers to compare.
        """
        found = self._errors_of(self.rows["compared"], loss)
        alone = ~self.rows["horizon"].isin(list(found["candidate"].horizons))
        if alone.any():
            for model, errors in self._errors_of(alone, loss).items():
                horizons = dict(sorted({**found[model].horizons, **errors.horizons}.items()))
                found[model] = msgspec.structs.replace(found[model], horizons=horizons)
        return found

    def own_errors(self, loss: LossName) -> dict[str, ModelErrors]:
        """The candidate's and the baselines', on all folds, whether production predicts them or not."""
        unknown = dict.fromkeys(("production", "production_lower", "production_upper"), np.nan)
        return PanelFrame(self.rows.assign(compared=True, **unknown), None, ()).errors(loss)

    def _errors_of(self, compared: pd.Series[bool], loss: LossName) -> dict[str, ModelErrors]:
        try:
            return errors_of(self._panel(compared), loss)
        except (PanelError, Unmeasurable) as error:
            raise DataRejected(f"the folds cannot be measured: {error}") from error

    def _panel(self, compared: pd.Series[bool]) -> Panel:
        columns = {str(name): self.rows[name].to_numpy() for name in self.rows}
        columns |= {"ds": self.rows["ds"].dt.tz_localize(None).to_numpy(), "compared": compared.to_numpy()}
        return read_panel(columns)


def compare(
    challenge: Challenge, judged: pd.DataFrame, observations: Table, candidate: Bundle, production: Production | None
) -> PanelFrame:
    """The folds' predictions beside the baselines' and, where production's recipe has predicted the same, production's.

    judged: the candidate's ``out_of_sample``; observations: what the baselines are computed from. Without a fair
    comparison, this still measures the candidate alone.
    """
    reasons = _incomparable(challenge, production)
    opponent = production.bundle if production and not reasons else None
    rows = _with_baselines(judged, candidate, observations)
    if production and opponent and production.judged is not None:
        met = _with_opponent(rows, production.judged)
        if met["compared"].any():
            rows = met
        else:
            opponent = None
            problem = "its folds and this run's have no forecast in common: train production's commit again"
            reasons.append(f"production (version {production.version}) was not compared: {problem}")
    return PanelFrame(rows, opponent, (*reasons, *_too_short(rows, challenge)))


def seconds_per_row(
    bundles: list[Bundle], features: dict[str, float], now: Callable[[], float] = time.perf_counter
) -> list[float]:
    """How long each bundle takes to predict one row of one horizon: the fastest of many repeats, taken in turn.

    Other work on the machine only ever makes a repeat slower, and must not block a model.
    features: any number for each feature; the time does not depend on it. now: a clock in seconds.
    """
    rows = [
        {horizon: np.array([[features.get(name, np.nan) for name in bundle.spec.columns_for(horizon)]])
         for horizon in bundle.spec.horizons}
        for bundle in bundles
    ]  # fmt: skip
    took: list[list[float]] = [[] for _ in bundles]
    for _ in range(TIMED_REPEATS):
        for bundle, matrices, times in zip(bundles, rows, took, strict=True):
            started = now()
            for horizon, matrix in matrices.items():
                bundle.predict(horizon, matrix)
            times.append((now() - started) / len(matrices))
    return [min(times) for times in took]


def _incomparable(challenge: Challenge, production: Production | None) -> list[str]:
    """Why a production model does not fit this challenge's numbers; empty when it does, or there is none."""
    if production is None:
        return []
    outcome = f"production (version {production.version}) was not compared"
    if production.bundle is None:
        return [f"{outcome}: its bundle cannot be read: {production.problem}"]
    if production.judged is None:
        return [f"{outcome}: {production.problem}"]
    theirs, ours = production.bundle.spec, feature_spec(challenge)
    differences = [
        f"{what} is {found}, here {expected}"
        for what, found, expected in (
            ("its target", theirs.target, ours.target),
            ("its unit", production.bundle.manifest.unit, challenge.target.unit),
            ("its step in minutes", theirs.step_minutes, ours.step_minutes),
        )
        if found != expected
    ]
    if not set(theirs.horizons) & set(ours.horizons):
        differences.append(f"it predicts the horizons {list(theirs.horizons)}, here {list(ours.horizons)}")
    return [f"{outcome}: {'; '.join(differences)}"] if differences else []


def _with_baselines(judged: pd.DataFrame, candidate: Bundle, observations: Table) -> pd.DataFrame:
    """The folds' predictions, with those of the challenge's baselines from the same origins; production's unknown."""
    baselines = _baselines(candidate, observations)
    parts = [
        rows.merge(baselines[int(horizon)], how="left", on=["unique_id", "ds"])
        for horizon, rows in judged.groupby("horizon", sort=True)
    ]
    unknown = dict.fromkeys(("production", "production_lower", "production_upper"), np.nan)
    return pd.concat(parts, ignore_index=True).assign(compared=True, **unknown)


def _baselines(candidate: Bundle, observations: Table) -> dict[int, pd.DataFrame]:
    """By horizon, the forecasts of the candidate's baseline and of the further opponents, at each observation."""
    manifest = candidate.manifest
    named = {"baseline": manifest.baseline, **{f"{OPPONENT}{each.kind}": each for each in manifest.opponents}}
    forecasts = {name: table_baseline(candidate.spec, each, observations) for name, each in named.items()}
    origins = {
        "unique_id": np.asarray(observations.unique_ids, dtype=object)[observations.codes],
        "ds": pd.DatetimeIndex(observations.ds).tz_localize("UTC"),
    }
    return {
        horizon: pd.DataFrame(origins | {name: values[:, place] for name, values in forecasts.items()})
        for place, horizon in enumerate(candidate.spec.horizons)
    }


def _with_opponent(rows: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """The rows, with what production's recipe predicted of them when it was judged itself; NaN where it did not.

    A fit on a fold's rest is the recipe's, whichever day it was done: so production was not there to learn from these.
    """
    names = {"candidate": "production", "candidate_lower": "production_lower", "candidate_upper": "production_upper"}
    known = theirs[["unique_id", "ds", "horizon", *names]].rename(columns=names)
    met = rows.drop(columns=list(names.values())).merge(known, how="left", on=["unique_id", "ds", "horizon"])
    return met.assign(compared=met["production"].notna())


def _too_short(rows: pd.DataFrame, challenge: Challenge) -> list[str]:
    origins = rows.loc[rows["compared"], "ds"].nunique()
    covered = origins * challenge.target.step
    if covered >= MIN_JUDGED:
        return []
    found = f"the folds that are compared have {covered / timedelta(days=1):.1f} days ({origins} origins)"
    return [f"{found}; at least {MIN_JUDGED.days} days are needed"]
