"""Each rule of the policy blocks by itself, passes when it just holds, and none depends on unit, order or side."""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.challenge.schema import Gate
from forecasting.judging.equal_accuracy import diebold_mariano
from forecasting.judging.evaluation import BaselineEvaluation, Errors, Evaluation, ModelErrors, ModelEvaluation, Window
from forecasting.judging.panel import Panel
from forecasting.judging.verdict import Verdict, judge

START = datetime(2013, 12, 2, tzinfo=UTC)
POLICY = Gate(
    max_regression=0.10,
    negligible_regression=0.03,
    significance=0.05,
    max_slice_regression=0.15,
    coverage=(0.85, 0.95),
    max_bundle_bytes=1000,
    max_prediction_time_ratio=2.0,
)
UNUSED = ModelErrors(overall=Errors(rows=1, loss=0.0, error=0.0, r2=1.0), horizons={}, series={})
BASELINE = BaselineEvaluation(kind="last", title="last week's", measured=UNUSED)


def panel(*, days: int = 21, series: int = 4, horizons: tuple[int, ...] = (4, 5, 6), seed: int = 0) -> Panel:
    """Errors of 1 °C (production) and 2 °C (baseline) in size, that last some hours; the candidate is production."""
    random = np.random.default_rng(seed)
    origins, shape = 24 * days, (series, len(horizons), 24 * days)
    truth = 10.0 * random.normal(size=shape)
    noise = random.normal(size=(*shape[:-1], origins + 5))
    error = sum(noise[..., k : k + origins] for k in range(6)) / np.sqrt(6.0)
    when = np.datetime64(START.replace(tzinfo=None), "s") + np.arange(origins) * np.timedelta64(3600, "s")
    production = (truth + error).ravel()
    return Panel(
        unique_id=np.repeat([f"S{number}" for number in range(series)], len(horizons) * origins),
        origin=np.tile(when, series * len(horizons)),
        horizon=np.tile(np.repeat(horizons, origins), series),
        truth=truth.ravel(),
        baseline=truth.ravel() + 2.0,
        candidate=production,
        candidate_lower=production - 1.645,
        candidate_upper=production + 1.645,
        production=production,
        production_lower=production - 1.645,
        production_upper=production + 1.645,
    )


def with_candidate(made: Panel, factor: float | np.ndarray) -> Panel:
    """The candidate's errors are production's, times the factor, with intervals that are as wide as those errors."""
    assert made.production is not None
    candidate = made.truth + factor * (made.production - made.truth)
    half = 1.645 * np.broadcast_to(factor, candidate.shape)
    return dataclasses.replace(
        made, candidate=candidate, candidate_lower=candidate - half, candidate_upper=candidate + half
    )


def without_production(made: Panel) -> Panel:
    return dataclasses.replace(made, production=None, production_lower=None, production_upper=None)


def rows(made: Panel, wanted: np.ndarray) -> Panel:
    return dataclasses.replace(
        made,
        **{name: values[wanted] for name, values in vars(made).items() if isinstance(values, np.ndarray)},
    )


def compared(**changes: object) -> ModelEvaluation:
    model = ModelEvaluation(
        version="", mlflow_run="r", git_sha="s", dataset_md5="m", train_end=START - timedelta(hours=1),
        bundle_bytes=1000, prediction_seconds_per_row=1e-5, measured=UNUSED,
    )  # fmt: skip
    return msgspec.structs.replace(model, **changes)


def evaluation(made: Panel, **changes: object) -> Evaluation:
    """What the stage would have written of this panel, every cost within its budget."""
    known = made.production is not None
    shown = Evaluation(
        challenge="weather", run_id="r", as_of=START, unit="°C", loss="squared_error", interval=0.9,
        window=Window(
            start=made.origin.min().astype(datetime).replace(tzinfo=UTC),
            end=made.origin.max().astype(datetime).replace(tzinfo=UTC),
            origins=len(np.unique(made.origin)),
            rows=len(made.truth),
        ),
        fair=True, reasons=(), candidate=compared(), production=compared(version="3") if known else None,
        production_version="3" if known else "", baseline=BASELINE,
    )  # fmt: skip
    return msgspec.structs.replace(shown, **changes)


def verdict(made: Panel, policy: Gate = POLICY, **changes: object) -> Verdict:
    return judge(made, evaluation(made, **changes), policy)


def policy(**changes: object) -> Gate:
    return msgspec.structs.replace(POLICY, **changes)


def blocked_by(found: Verdict) -> list[str]:
    assert found.outcome == ("block" if found.reasons else "pass")
    return [reason.rule for reason in found.reasons]


# A verdict as a whole


def test_a_better_model_passes_with_its_numbers() -> None:
    found = verdict(with_candidate(panel(), 0.9))
    assert blocked_by(found) == []
    assert (found.measure, found.unit, found.opponent) == ("RMSE", "°C", "production")
    assert found.overall.change == pytest.approx(-0.1)
    assert found.overall.production == pytest.approx(1.0, abs=0.1)
    assert found.overall.baseline == pytest.approx(2.0)
    assert found.skill == pytest.approx(1.0 - (found.overall.candidate / 2.0) ** 2)
    assert [contest.slice for contest in found.horizons] == ["horizon 4", "horizon 5", "horizon 6"]
    assert [contest.slice for contest in found.series] == ["series S0", "series S1", "series S2", "series S3"]
    assert sum(contest.rows for contest in found.series) == found.overall.rows == 21 * 24 * 12
    assert found.coverage == pytest.approx(0.9, abs=0.02)
    assert (found.confidence, found.interval, found.prediction_time_ratio) == (0.95, 0.9, 1.0)


def test_the_same_model_again_passes() -> None:
    found = verdict(panel())
    assert blocked_by(found) == []
    assert (found.overall.change, found.overall.low, found.overall.high) == (0.0, 0.0, 0.0)


def test_the_error_is_the_mean_absolute_one_when_that_is_the_loss() -> None:
    made = with_candidate(panel(), 1.02)
    found = verdict(made, loss="absolute_error")
    assert found.measure == "MAE"
    assert found.overall.candidate == pytest.approx(np.mean(np.abs(made.candidate - made.truth)))
    assert found.overall.change == pytest.approx(0.02)
    assert blocked_by(verdict(with_candidate(panel(), 1.04), loss="absolute_error")) == ["regression"]


def test_every_broken_rule_is_reported() -> None:
    made = with_candidate(panel(days=6), 2.5)
    narrow = dataclasses.replace(made, candidate_lower=made.candidate, candidate_upper=made.candidate)
    found = verdict(
        narrow,
        policy(strict=True),
        reasons=("the moon was full",),
        candidate=compared(bundle_bytes=1001, prediction_seconds_per_row=1.0),
    )
    assert set(blocked_by(found)) == {
        "evidence", "baseline", "regression", "slice", "coverage", "bundle_size", "prediction_time"
    }  # fmt: skip
    assert blocked_by(found).count("regression") == 3
    assert blocked_by(found).count("evidence") == 2
    assert blocked_by(found).count("slice") == 7


# Regression


def test_a_large_regression_is_blocked_however_unsure() -> None:
    """A third of one day goes wrong: what that makes of four weeks is far from sure."""
    factor = np.where(np.tile(np.arange(21 * 24) < 8, 12), 6.0, 1.0)
    made = with_candidate(panel(), factor)
    found = verdict(made)
    assert found.overall.change is not None
    assert found.overall.change > 0.10
    assert found.overall.p_value is not None
    assert found.overall.p_value > 0.05
    assert blocked_by(found) == ["regression"]
    assert found.overall.worse
    assert "at most 10% is allowed" in found.reasons[0].message
    assert blocked_by(verdict(made, policy(max_regression=found.overall.change + 1e-9))) == []


def test_a_regression_that_is_surely_more_than_negligible_is_blocked() -> None:
    found = verdict(with_candidate(panel(), 1.05))
    assert blocked_by(found) == ["regression"]
    assert "+5.00%; that is significantly more than 3% (p < 0.0001, below 0.05)" in found.reasons[0].message
    assert found.overall.worse


def test_a_negligible_regression_is_not_blocked_however_sure() -> None:
    found = verdict(with_candidate(panel(), 1.02))
    assert blocked_by(found) == []
    assert found.overall.low is not None
    assert found.overall.low > 0.0
    assert not found.overall.worse


def test_what_is_negligible_is_the_policys_to_say() -> None:
    made = with_candidate(panel(), 1.02)
    assert blocked_by(verdict(made, policy(negligible_regression=0.01))) == ["regression"]


def test_a_strict_policy_blocks_any_regression() -> None:
    made = with_candidate(panel(), 1.0001)
    assert blocked_by(verdict(made)) == []
    assert blocked_by(verdict(made, policy(strict=True))) == ["regression"]
    assert blocked_by(verdict(panel(), policy(strict=True))) == []


def test_a_production_model_without_any_error_is_not_matched_by_one_with() -> None:
    made = panel()
    perfect = dataclasses.replace(made, production=made.truth)
    found = verdict(perfect)
    assert set(blocked_by(found)) == {"regression", "slice"}
    assert (found.overall.change, found.overall.low) == (None, None)
    assert found.overall.p_value == pytest.approx(0.0)
    assert blocked_by(verdict(with_candidate(perfect, 1.0))) == ["coverage"]


def test_origins_on_either_side_of_a_gap_are_not_taken_for_neighbours() -> None:
    made = with_candidate(panel(seed=1), 1.0)
    other = panel(seed=2)
    assert other.production is not None
    made = dataclasses.replace(made, candidate=made.truth + other.production - other.truth)
    hour = (made.origin - made.origin.min()).astype(np.int64) // 3600
    gapped = rows(made, hour % 12 < 4)
    assert gapped.production is not None
    loss = (gapped.candidate - gapped.truth) ** 2 - 1.03**2 * (gapped.production - gapped.truth) ** 2
    of_hour = np.bincount(hour[hour % 12 < 4], weights=loss)
    hours = np.unique(hour[hour % 12 < 4])
    by_time = diebold_mariano(of_hour[hours], 6, steps=hours).p_value
    by_place = diebold_mariano(of_hour[hours], 6).p_value
    found = verdict(gapped).overall.p_value
    assert found == pytest.approx(by_time)
    assert found != pytest.approx(by_place)


# Slices


@pytest.mark.parametrize(("column", "value", "shown"), [("unique_id", "S2", "series S2"), ("horizon", 5, "horizon 5")])
def test_a_slice_that_gets_much_worse_is_blocked_by_its_name(column: str, value: object, shown: str) -> None:
    made = panel()
    factor = np.where(getattr(made, column) == value, 1.2, 0.9)
    found = verdict(with_candidate(made, factor))
    assert blocked_by(found) == ["slice"]
    assert found.reasons[0].message.startswith(f"{shown}: RMSE")
    assert [contest.slice for contest in (*found.horizons, *found.series) if contest.worse] == [shown]
    assert not found.overall.worse


def test_a_slice_may_get_a_little_worse() -> None:
    made = panel()
    assert blocked_by(verdict(with_candidate(made, np.where(made.unique_id == "S2", 1.14, 0.9)))) == []


def test_a_slice_that_may_be_worse_by_chance_is_not_blocked() -> None:
    """All of the loss is that of a few hours."""
    made = panel()
    hours = np.tile(np.arange(21 * 24) < 8, 12)
    found = verdict(with_candidate(made, np.where((made.unique_id == "S2") & hours, 7.0, 0.93)))
    slice_ = found.series[2]
    assert slice_.change is not None
    assert slice_.change > 0.15
    assert slice_.p_value is not None
    assert slice_.p_value > 0.05
    assert blocked_by(found) == []


def test_p_values_of_slices_grow_with_the_number_of_slices() -> None:
    made = panel(series=4)
    few = rows(made, np.isin(made.unique_id, ["S0", "S1"]))
    hours = np.tile(np.arange(21 * 24) < 90, 12)
    factor = np.where((made.unique_id == "S0") & hours, 1.5, 1.0)
    many, fewer = with_candidate(made, factor), with_candidate(few, factor[np.isin(made.unique_id, ["S0", "S1"])])
    p_many, p_few = (verdict(judged).series[0].p_value for judged in (many, fewer))
    assert p_many is not None
    assert p_few is not None
    # Seven slices against five, of which this one is the least likely.
    assert p_many == pytest.approx(p_few * 7 / 5)


def test_a_slice_with_too_few_origins_counts_in_the_whole_and_is_not_judged_alone() -> None:
    made = panel()
    short = rows(made, (made.unique_id != "S2") | (made.origin < made.origin.min() + np.timedelta64(20, "h")))
    found = verdict(with_candidate(short, np.where(short.unique_id == "S2", 3.0, 0.9)))
    assert blocked_by(found) == []
    assert found.series[2].p_value is None
    assert found.series[2].rows == 60


# Baseline


def test_a_model_that_does_not_beat_the_baseline_is_blocked() -> None:
    made = panel()
    assert blocked_by(verdict(dataclasses.replace(made, baseline=made.candidate))) == ["baseline"]
    found = verdict(dataclasses.replace(made, baseline=made.truth))
    assert blocked_by(found) == ["baseline"]
    assert found.reasons[0].message == "RMSE 1.023 °C does not beat the 0 °C of last week's"
    assert found.skill is None
    slightly = made.truth + 1.001 * (made.candidate - made.truth)
    assert blocked_by(verdict(dataclasses.replace(made, baseline=slightly))) == []


def test_a_further_opponent_is_shown_and_decides_nothing() -> None:
    made = panel()
    shown = dataclasses.replace(made, opponents={"opponent.perfect": made.truth})
    found = verdict(shown)
    assert (found.outcome, found.overall.opponents) == ("pass", {"perfect": 0.0})
    assert all(contest.opponents == {"perfect": 0.0} for contest in (*found.horizons, *found.series))


def test_the_loss_says_what_the_errors_are_called_and_whether_they_have_a_unit() -> None:
    made = panel()
    positive = {name: np.abs(getattr(made, name)) + 1.0 for name in ("truth", "candidate", "production", "baseline")}
    found = verdict(dataclasses.replace(made, **positive), loss="qlike")
    assert (found.measure, found.unit) == ("QLIKE", "")
    ratio = positive["truth"] / positive["candidate"]
    assert found.overall.candidate == pytest.approx(np.mean(ratio - np.log(ratio) - 1.0))


def test_without_a_production_model_the_baseline_is_the_only_opponent() -> None:
    made = without_production(panel())
    found = verdict(made)
    assert blocked_by(found) == []
    assert found.opponent == "baseline"
    assert (found.overall.production, found.overall.change, found.overall.p_value) == (None, None, None)
    assert found.prediction_time_ratio is None
    assert blocked_by(verdict(dataclasses.replace(made, baseline=made.candidate))) == ["baseline"]


# Coverage


def covering(share: float, *, scattered: bool) -> Panel:
    """Intervals that miss a share of the truths: at random moments, or all in one stretch of time."""
    made = panel()
    count = len(made.truth) // 12
    hour = np.random.default_rng(0).permutation(count) if scattered else np.arange(count)
    missed = np.tile(hour >= share * count, 12)
    lower = np.where(missed, made.truth + 1.0, made.truth - 1.0)
    return dataclasses.replace(made, candidate_lower=lower, candidate_upper=lower + 2.0)


@pytest.mark.parametrize(("share", "rules"), [(0.80, ["coverage"]), (0.90, []), (0.99, ["coverage"])])
def test_intervals_that_surely_cover_too_little_or_too_much_are_blocked(share: float, rules: list[str]) -> None:
    found = verdict(covering(share, scattered=True))
    assert found.coverage == pytest.approx(share, abs=0.002)
    assert blocked_by(found) == rules


def test_a_stretch_of_misses_can_be_the_weathers_fault() -> None:
    found = verdict(covering(0.80, scattered=False))
    assert found.coverage == pytest.approx(0.80, abs=0.002)
    assert found.coverage_low is not None
    assert found.coverage_high is not None
    assert found.coverage_low < 0.80 < 0.85 < found.coverage_high
    assert blocked_by(found) == []


@pytest.mark.parametrize("width", [0.0, 1e6])
def test_intervals_that_cover_nothing_or_everything_are_blocked(width: float) -> None:
    made = panel()
    made = dataclasses.replace(made, candidate_lower=made.candidate - width, candidate_upper=made.candidate + width)
    assert blocked_by(verdict(made)) == ["coverage"]


# Freshness


def test_a_candidate_that_has_not_learnt_from_the_newest_data_is_blocked() -> None:
    old = {name: compared(train_end=START - timedelta(hours=48)) for name in ("candidate", "production")}
    assert blocked_by(verdict(panel(), **old)) == []
    old = {name: compared(train_end=START - timedelta(hours=49)) for name in ("candidate", "production")}
    found = verdict(panel(), **old)
    assert blocked_by(found) == ["freshness"]
    assert found.reasons[0].message == (
        "the newest target that the candidate has learnt from, of 2013-11-29T23:00Z, is 49 h old; "
        "at most 48 h are allowed"
    )
    assert blocked_by(verdict(panel(), policy(max_training_age_hours=49), **old)) == []


def test_a_candidate_more_than_a_day_staler_than_production_is_blocked() -> None:
    production = compared(version="3", train_end=START - timedelta(hours=2))
    day_staler = compared(train_end=production.train_end - timedelta(days=1))
    assert blocked_by(verdict(panel(), candidate=day_staler, production=production)) == []
    more = compared(train_end=production.train_end - timedelta(days=1, hours=1))
    found = verdict(panel(), candidate=more, production=production)
    assert blocked_by(found) == ["freshness"]
    assert found.reasons[0].message == (
        "the candidate has learnt until 2013-11-30T21:00Z, production until 2013-12-01T22:00Z; "
        "at most 24 h less are allowed"
    )


def test_a_candidate_that_leaves_out_rows_of_productions_weeks_is_blocked() -> None:
    production = compared(version="3", rows_by_week={"2013-W46": 500, "2013-W47": 500, "2013-W48": 500})
    enough = compared(rows_by_week={"2013-W46": 500, "2013-W47": 500, "2013-W48": 400})
    assert blocked_by(verdict(panel(), candidate=enough, production=production)) == []
    found = verdict(panel(), candidate=compared(rows_by_week={"2013-W46": 500, "2013-W48": 500}), production=production)
    assert blocked_by(found) == ["freshness"]
    assert found.reasons[0].message == (
        "of the 1,000 rows that production has learnt from in the same weeks, the candidate has 500; "
        "at least 90% are expected"
    )


def test_weeks_that_the_history_has_moved_on_from_are_not_missed() -> None:
    production = compared(version="3", rows_by_week={"2012-W52": 500, "2013-W01": 500, "2013-W02": 500})
    moved_on = compared(rows_by_week={"2013-W01": 70, "2013-W02": 500})
    assert blocked_by(verdict(panel(), candidate=moved_on, production=production)) == []


# The same code


def test_a_candidate_of_productions_own_commit_is_not_judged_by_its_recipe() -> None:
    made = with_candidate(panel(), 1.5)
    assert set(blocked_by(verdict(made, policy(strict=True)))) == {"regression", "slice"}
    found = verdict(made, policy(strict=True), same_code=True)
    assert blocked_by(found) == []
    assert not found.overall.worse
    assert not any(contest.worse for contest in (*found.horizons, *found.series))


def test_a_candidate_of_productions_own_commit_meets_every_other_rule() -> None:
    found = verdict(
        with_candidate(panel(), 2.5), same_code=True, candidate=compared(train_end=START - timedelta(days=3))
    )
    assert blocked_by(found) == ["baseline", "freshness", "freshness"]


# Budgets


def test_a_bundle_that_is_too_large_is_blocked() -> None:
    found = verdict(panel(), candidate=compared(bundle_bytes=1001))
    assert blocked_by(found) == ["bundle_size"]
    assert found.reasons[0].message == "the bundle has 1,001 bytes; at most 1,000 are allowed"
    assert blocked_by(verdict(panel(), candidate=compared(bundle_bytes=1000))) == []


def test_a_prediction_that_takes_too_long_is_blocked() -> None:
    found = verdict(panel(), candidate=compared(prediction_seconds_per_row=2.1e-5))
    assert blocked_by(found) == ["prediction_time"]
    assert "2.10 times as long as production's" in found.reasons[0].message
    assert blocked_by(verdict(panel(), candidate=compared(prediction_seconds_per_row=2e-5))) == []


# Evidence


def test_less_than_a_week_is_no_evidence() -> None:
    assert blocked_by(verdict(panel(days=7))) == []
    found = verdict(panel(days=6))
    assert blocked_by(found) == ["evidence"]
    assert "the folds have 6.0 days (144 origins); at least 7 days are needed" in found.reasons[0].message


def test_a_week_with_holes_is_less_than_a_week() -> None:
    made = panel(days=7)
    assert blocked_by(verdict(rows(made, made.origin != made.origin[30]))) == ["evidence"]


def test_few_origins_are_no_evidence_however_far_apart() -> None:
    made = panel(days=29)
    daily = rows(made, (made.origin - made.origin.min()) % np.timedelta64(24, "h") == np.timedelta64(0, "h"))
    found = verdict(daily)
    assert blocked_by(found) == ["evidence"]
    assert found.reasons[0].message == "the folds have 29 origins; at least 30 are needed"
    assert (found.overall.p_value, found.overall.low, found.coverage_low) == (None, None, None)


def test_a_single_origin_is_judged_without_a_fault() -> None:
    made = panel()
    found = verdict(rows(made, made.origin == made.origin.min()))
    assert set(blocked_by(found)) >= {"evidence"}


def test_what_the_evaluation_found_unfair_is_kept() -> None:
    found = verdict(panel(), fair=False, reasons=("production (version 3) was not compared: its bundle is torn",))
    assert [reason.message for reason in found.reasons] == [
        "production (version 3) was not compared: its bundle is torn"
    ]
    assert blocked_by(found) == ["evidence"]


def test_the_word_fair_is_not_believed() -> None:
    assert blocked_by(verdict(panel(), fair=True, reasons=("it was not",))) == ["evidence"]
    assert blocked_by(verdict(panel(days=6), fair=True)) == ["evidence"]
    assert blocked_by(verdict(panel(), fair=False)) == ["evidence"]


def test_a_production_model_without_predictions_is_no_reason_to_judge_by_the_baseline_alone() -> None:
    made = without_production(panel())
    assert blocked_by(verdict(made, production_version="3")) == ["evidence"]
    assert blocked_by(verdict(made, production_version="3", production=compared())) == ["evidence", "evidence"]
    assert blocked_by(verdict(panel(), production=None, production_version="")) == ["evidence"]


@pytest.mark.parametrize(
    "change", [{"rows": 1}, {"origins": 1}, {"start": START - timedelta(hours=1)}, {"end": START + timedelta(days=99)}]
)
def test_predictions_of_other_folds_than_the_evaluations_are_no_evidence(change: dict[str, object]) -> None:
    made = panel()
    window = msgspec.structs.replace(evaluation(made).window, **change)
    found = verdict(made, window=window)
    assert blocked_by(found) == ["evidence"]
    assert found.reasons[0].message.startswith("the predictions are not those of the evaluation")


@pytest.mark.parametrize("seconds", [float("nan"), 0.0])
@pytest.mark.parametrize("model", ["candidate", "production"])
def test_a_time_that_was_not_measured_is_no_evidence(model: str, seconds: float) -> None:
    found = verdict(panel(), **{model: compared(prediction_seconds_per_row=seconds)})
    assert blocked_by(found) == ["evidence"]
    assert found.prediction_time_ratio is None


def test_a_candidate_of_an_unnamed_dataset_is_no_evidence() -> None:
    assert blocked_by(verdict(panel(), candidate=compared(dataset_md5=""))) == ["evidence"]


def test_the_evaluations_own_errors_are_not_looked_at() -> None:
    perfect = ModelErrors(overall=Errors(rows=9, loss=0.0, error=0.0, r2=1.0), horizons={}, series={})
    made = with_candidate(panel(), 1.5)
    assert verdict(made, candidate=compared(measured=perfect)).overall == verdict(made).overall


# Properties


@settings(max_examples=15, deadline=None)
@given(factor=st.floats(0.85, 1.25), power=st.integers(-40, 40), bad=st.floats(0.7, 1.6))
def test_the_unit_does_not_matter(factor: float, power: int, bad: float) -> None:
    made = panel(days=8, series=2, horizons=(4, 6))
    made = with_candidate(made, np.where(made.unique_id == "S1", bad * factor, factor))
    times = 2.0**power
    numbers = {
        name: values * times
        for name, values in vars(made).items()
        if isinstance(values, np.ndarray) and values.dtype == np.float64
    }
    one, other = verdict(made), verdict(dataclasses.replace(made, **numbers))
    assert blocked_by(other) == blocked_by(one)
    assert other.overall.change == pytest.approx(one.overall.change, abs=1e-12)
    assert other.overall.candidate == pytest.approx(one.overall.candidate * times)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.85, 1.25))
def test_the_order_of_the_rows_does_not_matter(seed: int, factor: float) -> None:
    made = with_candidate(panel(days=8, series=2, horizons=(4, 6)), factor)
    shuffled = rows(made, np.random.default_rng(seed).permutation(len(made.truth)))
    one, other = verdict(made), verdict(shuffled)
    assert blocked_by(other) == blocked_by(one)
    for contest, again in zip((one.overall, *one.series), (other.overall, *other.series), strict=True):
        assert again.change == pytest.approx(contest.change, abs=1e-12)
        assert (again.low, again.high, again.p_value) == pytest.approx(
            (contest.low, contest.high, contest.p_value), abs=1e-9
        )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.floats(0.8, 1.25))
def test_exchanging_the_models_turns_the_sign_around(seed: int, factor: float) -> None:
    made, other_errors = (
        panel(days=8, series=2, horizons=(4, 6)),
        panel(days=8, series=2, horizons=(4, 6), seed=seed + 1),
    )
    assert other_errors.production is not None
    made = dataclasses.replace(made, candidate=made.truth + factor * (other_errors.production - other_errors.truth))
    exchanged = dataclasses.replace(made, candidate=made.production, production=made.candidate)
    one, other = (verdict(judged, policy(negligible_regression=0.0)).overall for judged in (made, exchanged))
    assert one.change is not None
    assert one.low is not None
    assert one.p_value is not None
    assert other.change == pytest.approx(1.0 / (1.0 + one.change) - 1.0, abs=1e-9)
    assert other.high == pytest.approx(1.0 / (1.0 + one.low) - 1.0, abs=1e-9)
    assert other.p_value == pytest.approx(1.0 - one.p_value, abs=1e-9)


def test_the_same_input_gives_the_same_verdict() -> None:
    made = with_candidate(panel(), 1.05)
    assert verdict(made) == verdict(made)


def test_a_verdict_comes_through_json_whole() -> None:
    made = panel()
    for judged in (
        verdict(made),
        verdict(without_production(made)),
        verdict(dataclasses.replace(made, production=made.truth)),
    ):
        assert msgspec.json.decode(msgspec.json.encode(judged), type=Verdict) == judged


def test_four_weeks_are_judged_within_a_second() -> None:
    made = with_candidate(panel(days=28, series=3), 1.05)
    started = time.perf_counter()
    verdict(made)
    assert time.perf_counter() - started < 1.0
