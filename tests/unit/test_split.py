"""Training, calibration and hold-out are cut by time and never share a moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.errors import DataRejected
from forecasting.challenge.schema import Challenge, load_challenge
from pipelines.split import newest_target, split_by_time

AS_OF = datetime(2013, 12, 30, 23, tzinfo=UTC)
WEATHER = load_challenge(Path(__file__).parents[2] / "challenges" / "weather.toml")


def challenge_with(horizons: tuple[int, ...] = (4, 5, 6), holdout: int = 28, calibration: int = 28) -> Challenge:
    return msgspec.structs.replace(
        WEATHER,
        target=msgspec.structs.replace(WEATHER.target, horizons=horizons),
        learner=msgspec.structs.replace(WEATHER.learner, holdout_days=holdout, calibration_days=calibration),
    )


def features_of(challenge: Challenge, days: int, series: tuple[str, ...] = ("EWR", "JFK")) -> pd.DataFrame:
    """Hourly rows up to AS_OF whose target at origin + h is the number of that hour; unknown after AS_OF."""
    hours = days * 24
    ds = pd.date_range(end=AS_OF, periods=hours, freq="h")
    table = pd.DataFrame({"ds": ds, "y": np.arange(hours, dtype=float)})
    for horizon in challenge.target.horizons:
        table[f"target_h{horizon}"] = table["y"].shift(-horizon)
    return pd.concat([table.assign(unique_id=unique_id) for unique_id in series], ignore_index=True)


@settings(max_examples=40, deadline=None)
@given(
    horizons=st.lists(st.integers(1, 30), min_size=1, max_size=4, unique=True).map(lambda found: tuple(sorted(found))),
    holdout=st.integers(5, 20),
    calibration=st.integers(5, 20),
    offset_minutes=st.integers(0, 59),
)
def test_every_target_of_a_part_is_older_than_the_first_origin_of_the_next(
    horizons, holdout, calibration, offset_minutes
):
    challenge = challenge_with(horizons, holdout, calibration)
    as_of = AS_OF + timedelta(minutes=offset_minutes)
    split = split_by_time(features_of(challenge, days=80), challenge, as_of)
    for earlier, later in ((split.training, split.calibration), (split.calibration, split.holdout)):
        for horizon in horizons:
            assert (earlier["ds"] + horizon * challenge.target.step).max() < later["ds"].min()
    assert newest_target([split.training, split.calibration], challenge) < split.holdout["ds"].min()


def test_parts_are_as_long_as_the_challenge_says_and_lose_only_the_gap():
    challenge = challenge_with(holdout=28, calibration=14)
    table = features_of(challenge, days=100, series=("EWR",))
    split = split_by_time(table, challenge, AS_OF)
    newest_known = AS_OF - timedelta(hours=4)
    assert split.holdout["ds"].min() == AS_OF - timedelta(days=28)
    assert split.holdout["ds"].max() == newest_known
    assert split.calibration["ds"].min() == AS_OF - timedelta(days=42)
    assert len(split.calibration) == 14 * 24 - 6
    assert len(split.training) == (100 - 42) * 24 - 1 - 6


def test_newest_target_counts_only_targets_that_are_known():
    challenge = challenge_with(horizons=(1, 6))
    table = features_of(challenge, days=3)
    assert newest_target([table], challenge) == AS_OF
    table.loc[table["ds"] > AS_OF - timedelta(hours=12), "target_h6"] = np.nan
    table.loc[table["ds"] > AS_OF - timedelta(hours=9), "target_h1"] = np.nan
    assert newest_target([table], challenge) == AS_OF - timedelta(hours=6)


def test_nothing_after_the_moment_of_the_run_is_used():
    challenge = challenge_with()
    earlier = AS_OF - timedelta(days=10)
    split = split_by_time(features_of(challenge, days=100), challenge, earlier)
    assert split.holdout["ds"].max() <= earlier


def test_rows_without_a_value_at_the_origin_train_nothing():
    challenge = challenge_with()
    table = features_of(challenge, days=100, series=("EWR",))
    table.loc[::2, "y"] = np.nan
    split = split_by_time(table, challenge, AS_OF)
    assert split.training["y"].notna().all()
    assert len(split.training) < 24 * 30


@pytest.mark.parametrize(("days", "part"), [(57, "training"), (30, "calibration"), (2, "holdout")])
def test_too_little_history_is_reported_by_part_with_numbers(days, part):
    challenge = challenge_with()
    with pytest.raises(DataRejected, match=rf"{part} \(.*has \d+ rows for horizon 4, at least \d+ are needed"):
        split_by_time(features_of(challenge, days=days, series=("EWR",)), challenge, AS_OF)


def test_a_wider_interval_needs_more_calibration():
    narrow = challenge_with(calibration=10)
    features = features_of(narrow, days=120)
    split_by_time(features, narrow, AS_OF)
    wide = msgspec.structs.replace(narrow, learner=msgspec.structs.replace(narrow.learner, interval=0.999))
    with pytest.raises(DataRejected, match=r"calibration .* has 4\d\d rows for horizon 4, at least 1999 are needed"):
        split_by_time(features, wide, AS_OF)
