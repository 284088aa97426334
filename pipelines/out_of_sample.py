"""What a recipe predicts without having seen it: each fold by models that were fitted on the rest of the history."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from clients.errors import DataRejected
from forecasting.challenge.scales import SCALES
from forecasting.challenge.schema import Challenge
from forecasting.features.spec import FeatureSpec, feature_spec, target_column
from forecasting.judging.folds import Fold, folds
from forecasting.judging.losses import LOSSES
from forecasting.models.intervals import (
    Offsets,
    Scale,
    Scaling,
    calibrate,
    recent_scales,
    residuals_needed,
)

FloatArray = npt.NDArray[np.float64]
Predict = Callable[[pd.DataFrame], FloatArray]
"""From features, (n, columns), to the change of the target: (n,)."""
FitFold = Callable[[pd.DataFrame, int], Predict]
"""Of rows of the features table and a horizon whose target they all know."""

FEWEST_ROWS = 500
"""With fewer rows of a known target, a fit says nothing."""
FEWEST_JUDGED = 100
"""With fewer predictions, a 90 % quantile and a comparison say nothing."""


def known_rows(features: pd.DataFrame, challenge: Challenge, as_of: datetime) -> pd.DataFrame:
    """The rows to learn from, in order of time: until ``as_of``, with the target now and at one horizon at least.

    features: one row per series and origin `ds` (UTC) with `y` and the targets `target_h…`.
    Raises DataRejected when a horizon has too few.
    """
    has_target = features.filter(regex="^target_h").notna().any(axis=1)
    known = features[(features["ds"] <= as_of) & features["y"].notna() & has_target]
    short = [
        f"horizon {horizon} has {rows} rows, at least {FEWEST_ROWS} are needed"
        for horizon in challenge.target.horizons
        if (rows := int(known[target_column(horizon)].notna().sum())) < FEWEST_ROWS
    ]
    if short:
        raise _too_little(challenge, short)
    return known.sort_values("ds", kind="stable")


def newest_target(known: pd.DataFrame, challenge: Challenge) -> datetime:
    """The newest moment whose target the rows know (UTC): as far as a model fitted on them has seen."""
    newest: pd.Timestamp = max(
        known.loc[known[target_column(horizon)].notna(), "ds"].max() + horizon * challenge.target.step
        for horizon in challenge.target.horizons
    )
    moment: datetime = newest.to_pydatetime()
    return moment


def rows_by_week(known: pd.DataFrame) -> dict[str, int]:
    """How many rows were learnt from in each week, by ISO 8601: `2013-W09`."""
    weeks = known["ds"].dt.strftime("%G-W%V").value_counts(sort=False)
    return {str(week): int(count) for week, count in weeks.sort_index().items()}


def out_of_sample(
    known: pd.DataFrame, challenge: Challenge, fit: FitFold, progress: Callable[[str], None]
) -> pd.DataFrame:
    """Every fold's predictions: unique_id, ds (the origin), horizon, fold (from 1), truth, candidate with its interval.

    known: what ``known_rows`` gave. A fold that leaves too little to learn from, or lies in a gap, is left out. The
    interval of a fold, and the ``correction`` that its candidate holds, come from the other folds' residuals; of a
    single fold, from its own. The interval follows the errors of the folds before, as the service's follows its own.
    Raises DataRejected when no fold is left, or a horizon has too few predictions.
    """
    spec, origins = feature_spec(challenge), known["ds"].dt.tz_localize(None).to_numpy()
    purge = challenge.target.step * (spec.lookback + max(spec.horizons))
    wanted = folds(origins, challenge.target.step, count=challenge.folds.count, days=challenge.folds.days)
    judged = [fold for fold in wanted if _can_be_judged(known, fold, purge, spec)]
    tasks = [(number, fold, horizon) for number, fold in enumerate(judged, 1) for horizon in spec.horizons]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = []
        done = pool.map(lambda task: _predicted(known, task, purge, spec, fit), tasks)
        for (number, fold, horizon), part in zip(tasks, done, strict=True):
            parts.append(part)
            if horizon == spec.horizons[-1]:
                progress(f"fold {number} of {len(judged)}: origins {_span(fold)}")
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"horizon": []})
    needed = max(FEWEST_JUDGED, residuals_needed(challenge.learner.interval))
    short = [
        f"the folds have {rows} predictions for horizon {horizon}, at least {needed} are needed"
        for horizon in spec.horizons
        if (rows := int((found["horizon"] == horizon).sum())) < needed
    ]
    if short:
        raise _too_little(challenge, short)
    return _with_intervals(found, challenge)


def corrections_of(judged: pd.DataFrame, challenge: Challenge) -> dict[int, float]:
    """By horizon, the change on the target's scale that a model which is to be served adds: from all folds."""
    return {horizon: _correction(_uncorrected(rows, challenge), challenge) for horizon, rows in _by_horizon(judged)}


def offsets_of(judged: pd.DataFrame, challenge: Challenge) -> dict[int, Offsets]:
    """By horizon, the offsets of the intervals of a model that is to be served: from all folds' residuals."""
    corrections, level = corrections_of(judged, challenge), challenge.learner.interval
    return {
        horizon: calibrate(_residuals(_uncorrected(rows, challenge), challenge) - corrections[horizon], level)
        for horizon, rows in _by_horizon(judged)
    }


def scaling_of(judged: pd.DataFrame, challenge: Challenge) -> Scaling:
    """How the intervals of a model that is to be served follow its last errors: from all folds' residuals."""
    corrections = corrections_of(judged, challenge)
    scaled = {
        horizon: _scaled(_uncorrected(rows, challenge), challenge, corrections[horizon])
        for horizon, rows in _by_horizon(judged)
    }
    series: dict[str, dict[int, Scale]] = {}
    for horizon, one in scaled.items():
        for unique_id, scale in one.series.items():
            series.setdefault(unique_id, {})[horizon] = scale
    return Scaling(
        half_life=_half_life(challenge),
        offsets={horizon: calibrate(one.ratios, challenge.learner.interval) for horizon, one in scaled.items()},
        usual={horizon: float(np.abs(one.residuals).mean()) for horizon, one in scaled.items()},
        series=series,
    )


def _by_horizon(judged: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    return ((int(horizon), rows) for horizon, rows in judged.groupby("horizon"))


def _uncorrected(rows: pd.DataFrame, challenge: Challenge) -> pd.DataFrame:
    """The rows with the forecasts as they were fitted."""
    changed = SCALES[challenge.target.scale].changed_values
    return rows.assign(candidate=changed(rows["candidate"].to_numpy(), -rows["correction"].to_numpy()))


def _correction(rows: pd.DataFrame, challenge: Challenge) -> float:
    """The change that is best for the loss. rows: uncorrected."""
    truth, candidate = (rows[name].to_numpy(dtype=np.float64) for name in ("truth", "candidate"))
    return SCALES[challenge.target.scale].correction(LOSSES[challenge.target.loss].factor, truth, candidate)


def _predicted(
    known: pd.DataFrame, task: tuple[int, Fold, int], purge: timedelta, spec: FeatureSpec, fit: FitFold
) -> pd.DataFrame:
    number, fold, horizon = task
    rows = known[known[target_column(horizon)].notna()]
    origins = rows["ds"].dt.tz_localize(None).to_numpy()
    judged = rows[fold.judged(origins)]
    predict = fit(rows[fold.learnt(origins, purge)], horizon)
    change = predict(judged[list(spec.columns_for(horizon))])
    return judged[["unique_id", "ds"]].assign(
        horizon=horizon,
        fold=number,
        truth=judged[target_column(horizon)],
        candidate=spec.target_scale.changed_values(judged["y"].to_numpy(), change),
    )


def _can_be_judged(known: pd.DataFrame, fold: Fold, purge: timedelta, spec: FeatureSpec) -> bool:
    origins = known["ds"].dt.tz_localize(None).to_numpy()
    has_target = known[[target_column(horizon) for horizon in spec.horizons]].notna()
    learnt, judged = has_target[fold.learnt(origins, purge)], has_target[fold.judged(origins)]
    return bool((learnt.sum() >= FEWEST_ROWS).all() and judged.any().all())


def _with_intervals(found: pd.DataFrame, challenge: Challenge) -> pd.DataFrame:
    """With the interval of each forecast and the ``correction`` that the forecast holds.

    Of a fold, both come from the other folds, whose forecasts are corrected alike; of a single fold, from its own.
    """
    level, scale = challenge.learner.interval, SCALES[challenge.target.scale]
    parts = []
    for _, alike in _by_horizon(found):
        scaled: dict[float, _Scaled] = {}
        for number in alike["fold"].unique():
            here = (alike["fold"] == number).to_numpy()
            others = ~here if (~here).sum() >= residuals_needed(level) else here | ~here
            correction = _correction(alike[others], challenge)
            if correction not in scaled:
                scaled[correction] = _scaled(alike, challenge, correction)
            offsets = calibrate(scaled[correction].ratios[others], level)
            rows, scales = alike[here], scaled[correction].scales[here]
            candidate = scale.changed_values(rows["candidate"].to_numpy(), correction)
            lower = scale.changed_values(candidate, scales * offsets.lower)
            upper = scale.changed_values(candidate, scales * offsets.upper)
            ends = {"candidate_lower": lower, "candidate_upper": upper}
            parts.append(rows.assign(candidate=candidate, correction=correction, **ends))
    return pd.concat(parts, ignore_index=True)


class _Scaled(NamedTuple):
    """The residuals of one horizon, and what the service would have known of their size when it made the forecasts."""

    residuals: FloatArray
    """Of each row: (n,), on the target's scale."""
    scales: FloatArray
    """Of each row: (n,), likewise."""
    ratios: FloatArray
    """The residuals divided by their scales: (n,)."""
    series: dict[str, Scale]


def _scaled(alike: pd.DataFrame, challenge: Challenge, correction: float) -> _Scaled:
    """alike: the folds' predictions of one horizon, uncorrected."""
    residuals, half_life = _residuals(alike, challenge) - correction, _half_life(challenge)
    horizon = int(alike["horizon"].iloc[0])
    steps = ((alike["ds"] - pd.Timestamp(0, tz="UTC")) // challenge.target.step).to_numpy(dtype=np.int64)
    scales, series = np.zeros(len(alike)), {}
    for unique_id, places in alike.groupby("unique_id").indices.items():
        ordered = places[np.argsort(steps[places], kind="stable")]
        usual = float(np.abs(residuals[ordered]).mean())
        scales[ordered], newest = recent_scales(steps[ordered], residuals[ordered], horizon, usual, half_life)
        series[str(unique_id)] = Scale(usual, newest)
    return _Scaled(residuals, scales, residuals / scales, series)


def _half_life(challenge: Challenge) -> float:
    """In steps, as a series has one forecast of a horizon in each."""
    return timedelta(hours=challenge.learner.interval_half_life_hours) / challenge.target.step


def _residuals(rows: pd.DataFrame, challenge: Challenge) -> FloatArray:
    """From the forecasts to their truths, on the target's scale: (n,)."""
    candidate, truth = (rows[name].to_numpy(dtype=np.float64) for name in ("candidate", "truth"))
    return SCALES[challenge.target.scale].changes(candidate, truth)


def _span(fold: Fold) -> str:
    return f"{np.datetime_as_string(fold.start, unit='D')} to {np.datetime_as_string(fold.end, unit='D')}"


def _too_little(challenge: Challenge, short: list[str]) -> DataRejected:
    return DataRejected(
        f"too little data to train {challenge.name}: {'; '.join(short)}. Wait for more history, raise "
        f"source.history_days, or lower folds.days ({challenge.folds.days}) in challenges/{challenge.name}.toml."
    )
