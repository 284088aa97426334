"""Everything known is learnt from, and each fold is predicted by a fit that has not seen it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from clients.errors import DataRejected
from forecasting.challenge.schema import Challenge, load_challenge
from forecasting.features.spec import feature_spec
from pipelines.out_of_sample import (
    Predict,
    known_rows,
    newest_target,
    offsets_of,
    out_of_sample,
    rows_by_week,
    scaling_of,
)

AS_OF = datetime(2013, 12, 30, 23, tzinfo=UTC)
WEATHER = load_challenge(Path(__file__).parents[2] / "challenges" / "weather.toml")


def challenge_with(horizons: tuple[int, ...] = (4, 5, 6), days: int = 28) -> Challenge:
    return msgspec.structs.replace(
        WEATHER,
        target=msgspec.structs.replace(WEATHER.target, horizons=horizons),
        folds=msgspec.structs.replace(WEATHER.folds, days=days),
    )


def features_of(challenge: Challenge, days: int, series: tuple[str, ...] = ("EWR", "JFK")) -> pd.DataFrame:
    """Hourly rows up to AS_OF whose target at origin + h is known up to AS_OF; noise around a daily cycle."""
    hours = days * 24
    ds = pd.date_range(end=AS_OF, periods=hours, freq="h")
    y = np.sin(np.arange(hours) * np.pi / 12) + np.random.default_rng(7).normal(0.0, 0.1, hours)
    table = pd.DataFrame({"ds": ds, "y": y})
    for horizon in challenge.target.horizons:
        table[f"target_h{horizon}"] = table["y"].shift(-horizon)
    for column in feature_spec(challenge).columns:
        table[column] = table["y"]
    return pd.concat([table.assign(unique_id=unique_id) for unique_id in series], ignore_index=True)


class Learner:
    """Predicts the mean change of what it learnt from, and remembers the origins of that and of what it predicted."""

    def __init__(self, known: pd.DataFrame) -> None:
        self.known = known
        self.uses: list[tuple[pd.Series, pd.Series]] = []

    def fit(self, rows: pd.DataFrame, horizon: int) -> Predict:
        mean = float((rows[f"target_h{horizon}"] - rows["y"]).mean())

        def predict(features: pd.DataFrame) -> np.ndarray:
            self.uses.append((rows["ds"], self.known.loc[features.index, "ds"]))
            return np.full(len(features), mean)

        return predict


def judged_with(challenge: Challenge, days: int, as_of: datetime = AS_OF) -> tuple[pd.DataFrame, Learner, list[str]]:
    known = known_rows(features_of(challenge, days), challenge, as_of)
    learner, said = Learner(known), []
    return out_of_sample(known, challenge, learner.fit, said.append), learner, said


def test_no_fit_has_seen_an_observation_of_the_fold_that_it_predicts() -> None:
    challenge = challenge_with()
    judged, learner, _ = judged_with(challenge, days=200)
    reach = 6 * challenge.target.step
    lookback = feature_spec(challenge).lookback * challenge.target.step
    assert len(learner.uses) == 3 * judged["fold"].nunique()
    for learnt, predicted in learner.uses:
        assert ((learnt + reach < predicted.min() - lookback) | (learnt - lookback > predicted.max() + reach)).all()


def test_every_known_target_is_learnt_from_up_to_the_moment_of_the_run() -> None:
    challenge = challenge_with()
    known = known_rows(features_of(challenge, days=100), challenge, AS_OF)
    assert newest_target(known, challenge) == AS_OF
    assert known["ds"].iloc[-1] == AS_OF - timedelta(hours=4)
    assert len(known) == 2 * (100 * 24 - 4)


def test_nothing_after_the_moment_of_the_run_is_used() -> None:
    challenge = challenge_with()
    earlier = AS_OF - timedelta(days=10)
    judged, learner, _ = judged_with(challenge, days=200, as_of=earlier)
    assert judged["ds"].max() <= earlier
    assert all(learnt.max() <= earlier for learnt, _ in learner.uses)


def test_newest_target_counts_only_targets_that_are_known() -> None:
    challenge = challenge_with(horizons=(1, 6))
    table = features_of(challenge, days=3)
    assert newest_target(table, challenge) == AS_OF
    table.loc[table["ds"] > AS_OF - timedelta(hours=12), "target_h6"] = np.nan
    table.loc[table["ds"] > AS_OF - timedelta(hours=9), "target_h1"] = np.nan
    assert newest_target(table, challenge) == AS_OF - timedelta(hours=6)


def test_rows_without_a_value_at_the_origin_teach_nothing() -> None:
    challenge = challenge_with()
    table = features_of(challenge, days=100)
    table.loc[::2, "y"] = np.nan
    known = known_rows(table, challenge, AS_OF)
    assert known["y"].notna().all()
    assert len(known) < 100 * 24


def test_a_fold_is_predicted_for_each_series_origin_and_horizon_whose_truth_is_known() -> None:
    challenge = challenge_with(days=28)
    judged, _, said = judged_with(challenge, days=100)
    assert sorted(judged["fold"].unique()) == [1, 2, 3]
    assert len(said) == 3
    assert "fold 3 of 3" in said[-1]
    assert not judged.duplicated(["unique_id", "ds", "horizon"]).any()
    newest = judged[(judged["horizon"] == 4) & (judged["unique_id"] == "EWR")]["ds"].max()
    assert newest == AS_OF - timedelta(hours=4)
    assert len(judged[judged["fold"] == 1]) == 28 * 24 * 2 * 3


def test_the_intervals_of_a_fold_come_from_the_other_folds() -> None:
    challenge = challenge_with()
    features = features_of(challenge, days=100)
    last = features["ds"] > AS_OF - timedelta(days=28)
    features.loc[last, "target_h4"] += 100.0
    known = known_rows(features, challenge, AS_OF)
    judged = out_of_sample(known, challenge, Learner(known).fit, lambda _: None)
    four = judged[judged["horizon"] == 4].sort_values("ds")
    upper = (four["candidate_upper"] - four["candidate"]).groupby(four["fold"]).first()
    scale = scaling_of(judged, challenge).usual[4]
    assert upper[3] / scale < 1.0 < upper[1] / scale
    assert offsets_of(judged, challenge)[4].upper > 90.0


def test_the_intervals_follow_the_errors_that_were_known_at_the_origin() -> None:
    challenge = challenge_with(horizons=(6,))
    features = features_of(challenge, days=200, series=("EWR",))
    wild = features["ds"].between(AS_OF - timedelta(days=60), AS_OF - timedelta(days=55))
    features.loc[wild, "target_h6"] += 50.0
    known = known_rows(features, challenge, AS_OF)
    judged = out_of_sample(known, challenge, Learner(known).fit, lambda _: None).set_index("ds").sort_index()
    width = judged["candidate_upper"] - judged["candidate_lower"]
    first = AS_OF - timedelta(days=60)
    assert width[first + timedelta(hours=5)] == pytest.approx(width[first], rel=0.1)
    assert width[first + timedelta(hours=7)] > 1.05 * width[first]
    assert width[first + timedelta(days=5)] > 3.0 * width[first]
    scaling = scaling_of(judged.reset_index(), challenge)
    assert scaling.half_life == 72.0
    assert scaling.series["EWR"][6].usual == pytest.approx(scaling.usual[6])
    assert scaling.series["EWR"][6].newest < scaling.usual[6]  # the newest errors are small again


def test_series_of_very_different_size_have_intervals_of_their_own() -> None:
    challenge = challenge_with(horizons=(4,))
    features = features_of(challenge, days=200)
    features.loc[features["unique_id"] == "JFK", ["y", "target_h4"]] *= 1000.0
    known = known_rows(features, challenge, AS_OF)
    judged = out_of_sample(known, challenge, Learner(known).fit, lambda _: None)
    inside = judged["truth"].between(judged["candidate_lower"], judged["candidate_upper"])
    for covered in inside.groupby(judged["unique_id"]).mean():
        assert 0.87 < covered < 0.93


def test_a_short_history_has_one_fold_if_enough_is_left_to_learn_from() -> None:
    judged, _, _ = judged_with(challenge_with(), days=50)
    assert judged["fold"].unique().tolist() == [1]
    covered = (judged["candidate_lower"] <= judged["truth"]) & (judged["truth"] <= judged["candidate_upper"])
    assert 0.85 < covered.mean() < 0.95


@pytest.mark.parametrize(
    ("days", "message"),
    [
        (5, r"horizon 4 has \d+ rows, at least 500 are needed"),
        (30, "the folds have 0 predictions for horizon 4, at least 100 are needed"),
    ],
)
def test_too_little_history_is_reported_with_numbers_and_what_to_do(days: int, message: str) -> None:
    with pytest.raises(DataRejected, match=message) as raised:
        judged_with(challenge_with(), days=days)
    assert "lower folds.days (28) in challenges/weather.toml" in str(raised.value)


def test_a_wider_interval_needs_more_predictions() -> None:
    narrow = challenge_with(days=10)
    wide = msgspec.structs.replace(narrow, learner=msgspec.structs.replace(narrow.learner, interval=0.9999))
    with pytest.raises(DataRejected, match=r"predictions for horizon 4, at least 20000 are needed"):
        judged_with(wide, days=60)


def test_a_fold_that_lies_in_a_gap_is_left_out() -> None:
    challenge = challenge_with(days=14)
    features = features_of(challenge, days=140)
    gap = features["ds"].between(AS_OF - timedelta(days=75), AS_OF - timedelta(days=40))
    known = known_rows(features[~gap], challenge, AS_OF)
    learner = Learner(known)
    judged = out_of_sample(known, challenge, learner.fit, lambda _: None)
    assert judged["fold"].nunique() == judged["fold"].max() < 10
    assert not judged["ds"].between(AS_OF - timedelta(days=75), AS_OF - timedelta(days=40)).any()
    assert all(len(predicted) for _, predicted in learner.uses)


def test_rows_are_counted_by_the_week_of_their_origin() -> None:
    ds = pd.to_datetime(["2012-12-31", "2013-01-06", "2013-01-07"], utc=True)
    assert rows_by_week(pd.DataFrame({"ds": ds})) == {"2013-W01": 2, "2013-W02": 1}
