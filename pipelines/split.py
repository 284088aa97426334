"""Which origins train, calibrate and judge a model: by time, with no target of one part inside the next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pandas as pd

from clients.errors import DataRejected
from forecasting.challenge.schema import Challenge
from forecasting.models.intervals import residuals_needed

MIN_ROWS = {"training": 500, "calibration": 100, "holdout": 100}
"""With fewer origins of known targets, a fit, a 90 % quantile and a comparison say nothing.

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

    features: one row per series and origin `ds` (UTC) with `y` and the targets `target_h…`; rows after ``as_of``,
    without `y` or without any target do not count.
    The hold-out has the origins of the last `learner.holdout_days` before ``as_of``, calibration those of the
    `calibration_days` before it, training the rest. Between two parts lies the longest horizon, so that the last target
    of the earlier one is older than the first origin of the later one.
    Raises DataRejected with the numbers when a part is too small to say anything.
    """
    learner = challenge.learner
    reach = challenge.target.step * max(challenge.target.horizons)
    has_target = features.filter(regex="^target_h").notna().any(axis=1)
    usable = features[(features["ds"] <= as_of) & features["y"].notna() & has_target]
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


def newest_target(parts: list[pd.DataFrame], challenge: Challenge) -> datetime:
    """The newest moment whose target any of the parts knows (UTC): as far as a model fitted on them has seen."""
    newest: pd.Timestamp = max(
        part.loc[part[f"target_h{horizon}"].notna(), "ds"].max() + horizon * challenge.target.step
        for part in parts
        for horizon in challenge.target.horizons
        if part[f"target_h{horizon}"].notna().any()
    )
    moment: datetime = newest.to_pydatetime()
    return moment


def _require_rows(
    split: Split, challenge: Challenge, calibration_from: pd.Timestamp, holdout_from: pd.Timestamp
) -> None:
    first, last = f"{calibration_from:%Y-%m-%dT%H:%MZ}", f"{holdout_from:%Y-%m-%dT%H:%MZ}"
    calibration_rows = max(MIN_ROWS["calibration"], residuals_needed(challenge.learner.interval))
    short = [
        f"{name} ({where}) has {rows} rows for horizon {horizon}, at least {needed} are needed"
        for name, where, part, needed in (
            ("training", f"before {first}", split.training, MIN_ROWS["training"]),
            ("calibration", f"between {first} and {last}", split.calibration, calibration_rows),
            ("holdout", f"from {last} on", split.holdout, MIN_ROWS["holdout"]),
        )
        for horizon in challenge.target.horizons
        if (rows := int(part[f"target_h{horizon}"].notna().sum())) < needed
    ]
    if short:
        days = f"learner.holdout_days ({challenge.learner.holdout_days}) and "
        days += f"calibration_days ({challenge.learner.calibration_days})"
        raise DataRejected(
            f"too little data to train {challenge.name}: {'; '.join(short)}. Wait for more history, raise "
            f"source.history_days, or lower {days} in challenges/{challenge.name}.toml."
        )
