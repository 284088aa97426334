"""The same hold-out rows predicted by candidate, production and persistence, none of which has seen them."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
import numpy as np
import pandas as pd

from clients.errors import DataRejected
from forecasting.challenge.schema import Challenge
from forecasting.features.definitions import FeatureError
from forecasting.features.spec import feature_spec, target_column
from forecasting.features.table import Table
from forecasting.judging.evaluation import Model, ModelErrors, Window, errors_of
from forecasting.judging.losses import Loss
from forecasting.judging.panel import COLUMNS, MIN_HOLDOUT, Panel, PanelError, read_panel
from forecasting.models.bundle import Bundle
from pipelines.production import Production
from pipelines.split import split_by_time
from pipelines.transform import feature_frame

TIMED_REPEATS = 101


@dataclass(frozen=True)
class PanelFrame:
    """The panel as a table, with the rows that not every model predicts, and whether it can carry a verdict.

    rows: unique_id, ds (the origin), horizon, truth, persistence, candidate and production with `_lower` and `_upper`
    (production's NaN where there is none), and compared: whether every model predicts that row.
    """

    rows: pd.DataFrame
    opponent: Bundle | None
    """The production model, if it could be compared."""
    reasons: tuple[str, ...]
    """Why the hold-out can carry no verdict; empty when it can."""

    def window(self) -> Window:
        compared = self.rows[self.rows["compared"]]
        ds = compared["ds"]
        return Window(
            start=ds.min().to_pydatetime(),
            end=ds.max().to_pydatetime(),
            origins=int(ds.nunique()),
            rows=len(compared),
        )

    def errors(self, loss: Loss) -> dict[Model, ModelErrors]:
        """Of each model, on the compared rows; of a horizon that production does not predict, on all rows of it.

        Raises DataRejected when predictions or truths are no numbers to compare.
        """
        shared = self._panel(self.rows["compared"])
        found = errors_of(shared, loss)
        alone = ~self.rows["horizon"].isin(np.unique(shared.horizon))
        if alone.any():
            for model, errors in errors_of(self._panel(alone), loss).items():
                horizons = dict(sorted({**found[model].horizons, **errors.horizons}.items()))
                found[model] = msgspec.structs.replace(found[model], horizons=horizons)
        return found

    def _panel(self, compared: pd.Series[bool]) -> Panel:
        columns = {name: self.rows[name].to_numpy() for name in COLUMNS}
        columns |= {"ds": self.rows["ds"].dt.tz_localize(None).to_numpy(), "compared": compared.to_numpy()}
        try:
            return read_panel(columns)
        except PanelError as error:
            raise DataRejected(f"the hold-out cannot be measured: {error}") from error


def compare(
    challenge: Challenge,
    as_of: datetime,
    features: pd.DataFrame,
    observations: Table,
    models: tuple[Bundle, Production | None],
) -> PanelFrame:
    """Predict the hold-out that starts after whatever candidate and production have seen.

    features: the features table of the challenge; observations: what a production model of other features makes its
    own from; models: candidate and production. Without a fair hold-out the candidate is still measured on its own.
    Raises DataRejected when the candidate has too little hold-out.
    """
    candidate, production = models
    reasons = _incomparable(challenge, production)
    opponent = production.bundle if production and not reasons else None
    holdout = split_by_time(features, challenge, as_of).holdout
    rows = _predicted_rows(candidate, holdout, candidate.manifest.train_end)
    rows["compared"] = True
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
    for name in ("production", "production_lower", "production_upper"):
        if name not in rows:
            rows[name] = np.nan
    return PanelFrame(rows, opponent, (*reasons, *_too_short(rows, challenge)))


def seconds_per_row(bundles: list[Bundle], features: dict[str, float]) -> list[float]:
    """How long each bundle takes to predict one row of one horizon: the median over repeats, taken in turn.

    features: a number for any feature; the time does not depend on which.
    """
    rows = [
        {horizon: np.array([[features.get(name, np.nan) for name in bundle.spec.columns_for(horizon)]])
         for horizon in bundle.spec.horizons}
        for bundle in bundles
    ]  # fmt: skip
    took: list[list[float]] = [[] for _ in bundles]
    for _ in range(TIMED_REPEATS):
        for bundle, matrices, times in zip(bundles, rows, took, strict=True):
            started = time.perf_counter()
            for horizon, matrix in matrices.items():
                bundle.predict(horizon, matrix)
            times.append((time.perf_counter() - started) / len(matrices))
    return [statistics.median(times) for times in took]


def _incomparable(challenge: Challenge, production: Production | None) -> list[str]:
    """Why a production model cannot be measured by this challenge's numbers; empty when it can, or there is none."""
    if production is None:
        return []
    told = f"production (version {production.version}) was not compared"
    if production.bundle is None:
        return [f"{told}: its bundle cannot be read: {production.problem}"]
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
    return [f"{told}: {'; '.join(differences)}"] if differences else []


def _predicted_rows(candidate: Bundle, holdout: pd.DataFrame, seen_until: datetime) -> pd.DataFrame:
    """One row per series, origin and horizon whose target is known, predicted by the candidate and by persistence."""
    fresh = holdout[holdout["ds"] > seen_until]
    parts = []
    for horizon in candidate.spec.horizons:
        known = fresh[fresh[target_column(horizon)].notna()]
        rows = known[["unique_id", "ds"]].assign(
            horizon=horizon, truth=known[target_column(horizon)], persistence=known["y"]
        )
        parts.append(_with_predictions(rows, "candidate", candidate, horizon, known))
    return pd.concat(parts, ignore_index=True)


def _with_opponent(
    rows: pd.DataFrame, candidate: Bundle, opponent: Bundle, features: pd.DataFrame, observations: Table
) -> pd.DataFrame:
    """The rows after what the opponent has seen, with its predictions from its own features; may be empty."""
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
    if "production" not in met:
        return met.assign(compared=False)
    met["compared"] = met["production"].notna()
    return met


def _with_predictions(
    rows: pd.DataFrame, name: str, bundle: Bundle, horizon: int, features: pd.DataFrame
) -> pd.DataFrame:
    """rows, and in the same order the features of their origins; NaN is predicted where an origin is not known."""
    value = bundle.predict(horizon, features[list(bundle.spec.columns_for(horizon))].to_numpy(dtype=np.float64))
    offsets = bundle.manifest.offsets[horizon]
    return rows.assign(**{name: value, f"{name}_lower": value + offsets.lower, f"{name}_upper": value + offsets.upper})


def _too_short(rows: pd.DataFrame, challenge: Challenge) -> list[str]:
    origins = rows.loc[rows["compared"], "ds"].nunique()
    covered = origins * challenge.target.step
    if covered >= MIN_HOLDOUT:
        return []
    told = f"the hold-out that no model has seen is {covered / timedelta(days=1):.1f} days long ({origins} origins)"
    return [f"{told}; at least {MIN_HOLDOUT.days} days are needed"]
