"""Which origins train, calibrate and judge a model: by time, with no target of one part inside the next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pandas as pd

from clients.errors import DataRejected
from forecasting.challenge.schema import Challenge
from forecasting.models.intervals import residuals_needed

MIN_ROWS = {"training": 500, "calibration": 100, "holdout": 100}
"""Below these a fit, a 90 % quantile and a comparison say nothing; rows are origins whose targets are known.

A wider interval than 90 % needs more calibration (see `residuals_needed`).
"""


@dataclass(frozen=True)
class Split:
    """The features table in three parts, oldest first, in its own columns and order."""

    training: pd.DataFrame
    calibration: pd.DataFrame
    holdout: pd.DataFrame


def split_by_time(features: pd.DataFrame, challenge: Challenge, as_of: datetime) -> Split:
    """Cut the features table into training, calibration and hold-out.

    features: one row per series and origin `ds` (UTC) with `y` and the targets `target_h…`; rows after ``as_of`` are
    left out, and so are those without `y` or without any target.
    The hold-out holds the origins of the last `learner.holdout_days` before ``as_of``, calibration those of the
    `calibration_days` before it, training the rest. Between two parts lies the longest horizon: the last target of the
    earlier one is older than the first origin of the later one.
    Raises DataRejected with the numbers when a part is too small to say anything.
    """
    learner = challenge.learner
    reach = longest_reach(challenge)
    usable = features[(features["ds"] <= as_of) & features["y"].notna() & _targets(features).notna().any(axis=1)]
    holdout_from = pd.Timestamp(as_of) - timedelta(days=learner.holdout_days)
    calibration_from = holdout_from - timedelta(days=learner.calibration_days)
    origins = usable["ds"]
    split = Split(
        training=usable[origins + reach < calibration_from],
        calibration=usable[(origins >= calibration_from) & (origins + reach < holdout_from)],
        holdout=usable[origins >= holdout_from],
    )
    _require_rows(split, challenge, calibration_from, holdout_from)
    return split


def longest_reach(challenge: Challenge) -> timedelta:
    """How far after its origin a forecast's last target lies."""
    return challenge.target.step * max(challenge.target.horizons)


def newest_target(parts: list[pd.DataFrame], challenge: Challenge) -> datetime:
    """The newest moment whose target any of the parts knows (UTC): what a model fitted on them has seen."""
    newest: pd.Timestamp = max(
        part.loc[part[f"target_h{horizon}"].notna(), "ds"].max() + horizon * challenge.target.step
        for part in parts
        for horizon in challenge.target.horizons
        if part[f"target_h{horizon}"].notna().any()
    )
    moment: datetime = newest.to_pydatetime()
    return moment


def _targets(features: pd.DataFrame) -> pd.DataFrame:
    return features[[name for name in features.columns if name.startswith("target_h")]]


def _require_rows(
    split: Split, challenge: Challenge, calibration_from: pd.Timestamp, holdout_from: pd.Timestamp
) -> None:
    where = {
        "training": f"before {calibration_from:%Y-%m-%dT%H:%MZ}",
        "calibration": f"between {calibration_from:%Y-%m-%dT%H:%MZ} and {holdout_from:%Y-%m-%dT%H:%MZ}",
        "holdout": f"from {holdout_from:%Y-%m-%dT%H:%MZ} on",
    }
    needed = {**MIN_ROWS, "calibration": max(MIN_ROWS["calibration"], residuals_needed(challenge.learner.interval))}
    short = [
        f"{name} ({where[name]}) has {len(part)} rows for horizon {horizon}, at least {needed[name]} are needed"
        for name, part in (("training", split.training), ("calibration", split.calibration), ("holdout", split.holdout))
        for horizon in challenge.target.horizons
        for part in [part[part[f"target_h{horizon}"].notna()]]
        if len(part) < needed[name]
    ]
    if short:
        days = f"learner.holdout_days ({challenge.learner.holdout_days}) and "
        days += f"calibration_days ({challenge.learner.calibration_days})"
        raise DataRejected(
            f"too little data to train {challenge.name}: {'; '.join(short)}. Wait for more history, raise "
            f"source.history_days, or lower {days} in challenges/{challenge.name}.toml."
        )
