"""The same hold-out rows predicted by candidate, production and baselines, none of which has seen them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
import numpy as np
import pandas as pd

from clients.errors import DataRejected
from forecasting.challenge.schema import Challenge, LossName
from forecasting.features.definitions import FeatureError
from forecasting.features.spec import feature_spec, target_column
from forecasting.features.table import Table, table_baseline
from forecasting.judging.evaluation import ModelErrors, Window, errors_of
from forecasting.judging.losses import Unmeasurable
from forecasting.judging.panel import MIN_HOLDOUT, OPPONENT, Panel, PanelError, read_panel
from forecasting.models.bundle import Bundle
from pipelines.production import Production
from pipelines.split import split_by_time
from pipelines.transform import feature_frame

TIMED_REPEATS = 101


@dataclass(frozen=True)
class PanelFrame:
    """The panel as a table, including rows that not every model predicts, and whether it can carry a verdict.

    rows: unique_id, ds (the origin), horizon, truth, baseline, `opponent.<kind>` for each further opponent, candidate
    and production with `_lower` and `_upper` (production's NaN where there is none), and compared: whether every model
    predicts that row.
    """

    rows: pd.DataFrame
    opponent: Bundle | None
    """The production model, if it could be compared."""
    reasons: tuple[str, ...]
    """Why the hold-out can carry no verdict; empty when it can."""

    def window(self) -> Window:
        ds = self.rows.loc[self.rows["compared"], "ds"]
        start, end = ds.min().to_pydatetime(), ds.max().to_pydatetime()
        return Window(start=start, end=end, origins=int(ds.nunique()), rows=len(ds))

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

    def _errors_of(self, compared: pd.Series[bool], loss: LossName) -> dict[str, ModelErrors]:
        try:
            return errors_of(self._panel(compared), loss)
        except (PanelError, Unmeasurable) as error:
            raise DataRejected(f"the hold-out cannot be measured: {error}") from error

    def _panel(self, compared: pd.Series[bool]) -> Panel:
        columns = {str(name): self.rows[name].to_numpy() for name in self.rows}
        columns |= {"ds": self.rows["ds"].dt.tz_localize(None).to_numpy(), "compared": compared.to_numpy()}
        return read_panel(columns)


def compare(
    challenge: Challenge,
    as_of: datetime,
    features: pd.DataFrame,
    observations: Table,
    models: tuple[Bundle, Production | None],
) -> PanelFrame:
    """Predict the hold-out that neither candidate nor production has seen.

    features: the challenge's features table; observations: the source of the baselines, and of the features of a
    production model that has other ones; models: candidate and production. Without a fair hold-out, this still measures
    the candidate alone.
    Raises DataRejected when the candidate has too little hold-out.
    """
    candidate, production = models
    reasons = _incomparable(challenge, production)
    opponent = production.bundle if production and not reasons else None
    holdout = split_by_time(features, challenge, as_of).holdout
    rows = _predicted_rows(candidate, holdout, observations)
    if production and opponent:
        try:
            met = _with_opponent(rows, candidate, opponent, features, observations)
        except FeatureError as error:
            met, problem = None, f"its features cannot be made from these observations: {error}"
        else:
            seen = f"{opponent.manifest.train_end:%Y-%m-%dT%H:%MZ}"
            problem = f"it has seen data until {seen}, and no hold-out that it can predict is left"
        if met is None or not met["compared"].any():
            opponent = None
            reasons.append(f"production (version {production.version}) was not compared: {problem}")
        else:
            rows = met
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


def _predicted_rows(candidate: Bundle, holdout: pd.DataFrame, observations: Table) -> pd.DataFrame:
    """One row per series, origin and horizon whose target is known, with candidate's and baselines' predictions."""
    fresh = holdout[holdout["ds"] > candidate.manifest.train_end]
    baselines = _baselines(candidate, observations)
    parts = []
    for horizon in candidate.spec.horizons:
        known = fresh[fresh[target_column(horizon)].notna()]
        rows = known[["unique_id", "ds"]].assign(horizon=horizon, truth=known[target_column(horizon)])
        at_origins = rows[["unique_id", "ds"]].merge(baselines[horizon], how="left", on=["unique_id", "ds"])
        rows = rows.assign(**at_origins.drop(columns=["unique_id", "ds"]).set_axis(rows.index))
        parts.append(_with_predictions(rows, "candidate", candidate, horizon, known))
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


def _with_opponent(
    rows: pd.DataFrame, candidate: Bundle, opponent: Bundle, features: pd.DataFrame, observations: Table
) -> pd.DataFrame:
    """The rows later than the opponent's training, with its predictions from its own features; may be empty."""
    fresh = rows[rows["ds"] > opponent.manifest.train_end]
    theirs = features if opponent.spec == candidate.spec else feature_frame(opponent.spec, observations)
    theirs = theirs[theirs["unique_id"].isin(opponent.manifest.series)]
    parts = []
    for horizon in candidate.spec.horizons:
        part = fresh[fresh["horizon"] == horizon]
        if horizon in opponent.spec.horizons:
            own = part[["unique_id", "ds"]].merge(theirs, how="left", on=["unique_id", "ds"])
            part = _with_predictions(part, "production", opponent, horizon, own)
        parts.append(part)
    met = pd.concat(parts, ignore_index=True)
    return met.assign(compared=met["production"].notna())


def _with_predictions(
    rows: pd.DataFrame, name: str, bundle: Bundle, horizon: int, features: pd.DataFrame
) -> pd.DataFrame:
    """rows, and in the same order the features of their origins; predicts NaN for an unknown origin."""
    value = bundle.predict(horizon, features[list(bundle.spec.columns_for(horizon))].to_numpy(dtype=np.float64))
    offsets = bundle.manifest.offsets[horizon]
    return rows.assign(**{name: value, f"{name}_lower": value + offsets.lower, f"{name}_upper": value + offsets.upper})


def _too_short(rows: pd.DataFrame, challenge: Challenge) -> list[str]:
    origins = rows.loc[rows["compared"], "ds"].nunique()
    covered = origins * challenge.target.step
    if covered >= MIN_HOLDOUT:
        return []
    found = f"the hold-out that no model has seen is {covered / timedelta(days=1):.1f} days long ({origins} origins)"
    return [f"{found}; at least {MIN_HOLDOUT.days} days are needed"]
