"""May the candidate take production's place? Judged from the predictions themselves, by a policy, with every reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec
import numpy as np
from msgspec import Struct

from forecasting.challenge.schema import Gate
from forecasting.judging.contests import (
    CONFIDENCE,
    Contest,
    LossesByOrigin,
    contests,
    covered,
    losses_by_origin,
)
from forecasting.judging.equal_accuracy import MIN_PERIODS
from forecasting.judging.evaluation import Evaluation, ModelErrors, errors_of
from forecasting.judging.losses import LOSSES, skill
from forecasting.judging.panel import MIN_JUDGED, Panel

__all__ = ["Contest", "Reason", "Rule", "Verdict", "judge"]

Rule = Literal["evidence", "baseline", "freshness", "regression", "slice", "coverage", "bundle_size", "prediction_time"]


MAX_STALER = timedelta(days=1)
"""By so much may a candidate's newest target be older than production's."""
MIN_ROWS_SHARE = 0.9
"""Of the rows that production has learnt from, so many must be a candidate's, where its history reaches back as far."""

Broken = Iterator[tuple[Rule, str]]
"""The rules that something breaks, each with its message."""


class Reason(Struct, frozen=True, kw_only=True):
    """One broken rule of the policy: which, and in one sentence with its numbers, what was expected and found."""

    rule: Rule
    message: str


class Verdict(Struct, frozen=True, kw_only=True):
    """What was decided, and the numbers that it was decided on."""

    outcome: Literal["pass", "block"]
    reasons: tuple[Reason, ...]
    """Every broken rule; empty when passed."""
    measure: str
    """What people call the errors, by the loss's label."""
    unit: str
    """The errors'; empty when they have none."""
    baseline: str
    """What people call the baseline: `climatology (28 days)`."""
    opponents: dict[str, str] = {}
    """By kind, what people call the further ones, which decide nothing."""
    opponent: Literal["production", "baseline"]
    overall: Contest
    horizons: tuple[Contest, ...]
    series: tuple[Contest, ...]
    confidence: float
    """The level of the confidence intervals, e.g. 0.95."""
    interval: float
    """The nominal level of the models' intervals, e.g. 0.9."""
    coverage: float
    """The share of truths inside the candidate's intervals."""
    coverage_low: float | None = None
    coverage_high: float | None = None
    """The confidence interval of ``coverage``; None with too few origins."""
    skill: float | None
    """1 - loss / the baseline's loss; None when the baseline made no error."""
    bundle_bytes: int
    prediction_time_ratio: float | None
    """The candidate's time per prediction over production's."""
    policy: Gate


def judge(
    panel: Panel, evaluation: Evaluation, policy: Gate, errors: Mapping[str, ModelErrors] | None = None
) -> Verdict:
    """Every rule of the policy on the compared predictions; ``evaluation`` gives the models' provenance and costs.

    What `evaluation` says of errors is not used; errors: the panel's own, for a caller that has computed them already.
    A reason of its own why the comparison is unfair is kept, and its ``fair`` is not believed. The rules:

    - evidence: the folds span seven days and thirty origins, are those that the evaluation describes, and hold
      production's predictions when there is a production model;
    - baseline: the candidate's loss is below the baseline's;
    - freshness: the newest target that the candidate has learnt from is at most ``max_training_age_hours`` old and at
      most a day older than production's, and of the weeks that production has learnt from it leaves out no tenth;
    - regression: its error is not more than ``max_regression`` above production's, nor
      significantly (Diebold-Mariano) more than ``negligible_regression`` above it, nor above it at all when
      ``strict``;
    - slice: no horizon and no series has an error that is more than ``max_slice_regression`` above production's and
      significantly more than ``negligible_regression`` above it, after Holm's correction for all of them;
    - coverage: the confidence interval of the intervals' coverage reaches into the ``coverage`` limits;
    - bundle_size, prediction_time: the bundle and the time per prediction, over production's, are within their budgets.

    A slice with fewer than thirty origins counts in the whole, and is not judged alone. A candidate of production's own
    commit has no other recipe, so that regression and slice do not apply to it.
    """
    loss = LOSSES[evaluation.loss]
    by_origin = losses_by_origin(panel, loss)
    overall, *sliced = contests(by_origin, errors or errors_of(panel, evaluation.loss), policy)
    another = not evaluation.same_code
    regressions = tuple(_regression(overall, evaluation, policy)) if another else ()
    horizons, series = (
        tuple(msgspec.structs.replace(contest, worse=another and _is_worse(contest, policy)) for contest in slices)
        for slices in sliced
    )
    coverage, coverage_low, coverage_high = covered(by_origin)
    found = (
        *_evidence(panel, by_origin, evaluation),
        *_baseline(overall, evaluation),
        *_freshness(evaluation, policy),
        *regressions,
        *_slices((*horizons, *series), evaluation, policy),
        *_coverage(coverage, coverage_low, coverage_high, evaluation, policy),
        *_budgets(evaluation, policy),
    )
    return Verdict(
        outcome="block" if found else "pass",
        reasons=tuple(Reason(rule=rule, message=message) for rule, message in found),
        measure=loss.label,
        unit=loss.unit(evaluation.unit),
        baseline=evaluation.baseline.title,
        opponents={each.kind: each.title for each in evaluation.opponents},
        opponent="baseline" if panel.production is None else "production",
        overall=msgspec.structs.replace(overall, worse=bool(regressions)),
        horizons=horizons,
        series=series,
        confidence=CONFIDENCE,
        interval=evaluation.interval,
        coverage=coverage,
        coverage_low=coverage_low,
        coverage_high=coverage_high,
        skill=skill(loss.mean_loss(overall.candidate), loss.mean_loss(overall.baseline)),
        bundle_bytes=evaluation.candidate.bundle_bytes,
        prediction_time_ratio=_time_ratio(evaluation),
        policy=policy,
    )


def _evidence(panel: Panel, by_origin: LossesByOrigin, evaluation: Evaluation) -> Broken:
    messages = list(evaluation.reasons)
    if not evaluation.fair and not messages:
        messages.append("the evaluation calls its comparison unfair and gives no reason")
    messages += _too_short(by_origin)
    messages += _mismatch(panel, by_origin, evaluation)
    for name, model in (("the candidate", evaluation.candidate), (_production(evaluation), evaluation.production)):
        if model and not _is_time(model.prediction_seconds_per_row):
            messages.append(f"{name} has no time per prediction: found {model.prediction_seconds_per_row} seconds")
    if not evaluation.candidate.dataset_md5:
        messages.append("the dataset that the candidate was trained on is not named")
    for message in messages:
        yield "evidence", message


def _too_short(by_origin: LossesByOrigin) -> Iterator[str]:
    origins = len(by_origin.origins)
    span = timedelta(seconds=origins * by_origin.step_seconds)
    if span < MIN_JUDGED:
        days = span / timedelta(days=1)
        yield f"the folds have {days:.1f} days ({origins} origins); at least {MIN_JUDGED.days} days are needed"
    if origins < MIN_PERIODS:
        yield f"the folds have {origins} origins; at least {MIN_PERIODS} are needed"


def _mismatch(panel: Panel, by_origin: LossesByOrigin, evaluation: Evaluation) -> Iterator[str]:
    """Where the predictions and the evaluation, which one run wrote, do not belong together."""
    window = evaluation.window
    found = (len(panel.truth), len(by_origin.origins), _moment(by_origin.origins[0]), _moment(by_origin.origins[-1]))
    if found != (window.rows, window.origins, window.start, window.end):
        yield (
            f"the predictions are not those of the evaluation: found {found[0]} rows, {found[1]} origins from "
            f"{_at(found[2])} to {_at(found[3])}; it tells of {window.rows} rows, {window.origins} origins from "
            f"{_at(window.start)} to {_at(window.end)}"
        )
    if panel.production is None and evaluation.production_version and not evaluation.reasons:
        yield f"{_production(evaluation)} is in use, and there is no prediction of it to compare with"
    if panel.production is None and evaluation.production:
        yield f"{_production(evaluation)} was compared, and its predictions are not there"
    if panel.production is not None and not evaluation.production:
        yield "there are predictions of a production model of which nothing else is known"


def _baseline(overall: Contest, evaluation: Evaluation) -> Broken:
    if not overall.candidate < overall.baseline:
        measure, ours, theirs = _errors(evaluation, overall.candidate, overall.baseline)
        yield "baseline", f"{measure} {ours} does not beat the {theirs} of {evaluation.baseline.title}"


def _freshness(evaluation: Evaluation, policy: Gate) -> Broken:
    candidate, production = evaluation.candidate, evaluation.production
    age = (evaluation.as_of - candidate.train_end) / timedelta(hours=1)
    if age > policy.max_training_age_hours:
        found = (
            f"the newest target that the candidate has learnt from, of {_at(candidate.train_end)}, is {age:.0f} h old"
        )
        yield "freshness", f"{found}; at most {policy.max_training_age_hours} h are allowed"
    if production is None:
        return
    if candidate.train_end < production.train_end - MAX_STALER:
        ends = (
            f"the candidate has learnt until {_at(candidate.train_end)}, production until {_at(production.train_end)}"
        )
        yield "freshness", f"{ends}; at most {MAX_STALER / timedelta(hours=1):.0f} h less are allowed"
    first = min(candidate.rows_by_week, default="")  # a part of a week only, as the history moves on
    weeks = [week for week in production.rows_by_week if week > first]
    theirs = sum(production.rows_by_week[week] for week in weeks)
    ours = sum(candidate.rows_by_week.get(week, 0) for week in weeks)
    if ours < MIN_ROWS_SHARE * theirs:
        found = f"of the {theirs:,} rows that production has learnt from in the same weeks, the candidate has {ours:,}"
        yield "freshness", f"{found}; at least {MIN_ROWS_SHARE:.0%} are expected"


def _regression(overall: Contest, evaluation: Evaluation, policy: Gate) -> Broken:
    if overall.production is None:
        return
    found = _compared(overall, evaluation)
    if overall.candidate > (1.0 + policy.max_regression) * overall.production:
        yield "regression", f"{found}; at most {_percent(policy.max_regression)} is allowed"
    if overall.p_value is not None and overall.p_value < policy.significance:
        sure = f"({_probability(overall.p_value)}, below {policy.significance:g})"
        yield "regression", f"{found}; that is significantly more than {_percent(policy.negligible_regression)} {sure}"
    if policy.strict and overall.candidate > overall.production:
        yield "regression", f"{found}; the policy is strict: no increase is allowed"


def _is_worse(contest: Contest, policy: Gate) -> bool:
    return (
        contest.production is not None
        and contest.candidate > (1.0 + policy.max_slice_regression) * contest.production
        and contest.p_value is not None
        and contest.p_value < policy.significance
    )


def _slices(slices: tuple[Contest, ...], evaluation: Evaluation, policy: Gate) -> Broken:
    for contest in slices:
        if contest.worse and contest.p_value is not None:
            margins = (
                f"at most {_percent(policy.max_slice_regression)} is allowed when it is significantly more than "
                f"{_percent(policy.negligible_regression)} ({_probability(contest.p_value)} after Holm's correction, "
                f"below {policy.significance:g})"
            )
            yield "slice", f"{contest.slice}: {_compared(contest, evaluation)}; {margins}"


def _coverage(share: float, low: float | None, high: float | None, evaluation: Evaluation, policy: Gate) -> Broken:
    least, most = policy.coverage
    surely_low = share < least if high is None else high < least
    surely_high = share > most if low is None else low > most
    if surely_low or surely_high:
        sure = "" if low is None or high is None else f" ({CONFIDENCE:.0%} sure: {low:.1%} to {high:.1%})"
        found = f"the {evaluation.interval:.0%} intervals cover {share:.1%} of the truths{sure}"
        yield "coverage", f"{found}; expected {least:.0%} to {most:.0%}"


def _budgets(evaluation: Evaluation, policy: Gate) -> Broken:
    found = evaluation.candidate.bundle_bytes
    if found > policy.max_bundle_bytes:
        yield "bundle_size", f"the bundle has {found:,} bytes; at most {policy.max_bundle_bytes:,} are allowed"
    times, limit = _time_ratio(evaluation), policy.max_prediction_time_ratio
    if times is not None and times > limit:
        found_times = f"a prediction takes {times:.2f} times as long as production's"
        yield "prediction_time", f"{found_times}; at most {limit:g} times is allowed"


def _time_ratio(evaluation: Evaluation) -> float | None:
    if evaluation.production is None:
        return None
    candidate, production = (
        model.prediction_seconds_per_row for model in (evaluation.candidate, evaluation.production)
    )
    return candidate / production if _is_time(candidate) and _is_time(production) else None


def _is_time(seconds: float) -> bool:
    return math.isfinite(seconds) and seconds > 0.0


def _errors(evaluation: Evaluation, *errors: float | None) -> list[str]:
    """What the errors are called, and each of them with its unit."""
    loss = LOSSES[evaluation.loss]
    return [loss.label, *(f"{error:.4g} {loss.unit(evaluation.unit)}".rstrip() for error in errors)]


def _compared(contest: Contest, evaluation: Evaluation) -> str:
    measure, ours, theirs = _errors(evaluation, contest.candidate, contest.production)
    errors = f"{measure} {ours}, production's is {theirs}"
    return errors if contest.change is None else f"{errors}: {contest.change:+.2%}"


def _production(evaluation: Evaluation) -> str:
    return f"production (version {evaluation.production_version or 'unknown'})"


def _percent(share: float) -> str:
    return f"{100.0 * share:g}%"


def _probability(p_value: float) -> str:
    return f"p = {p_value:.2g}" if p_value >= 1e-4 else "p < 0.0001"


def _moment(origin: np.datetime64) -> datetime:
    return datetime.fromtimestamp(int(origin.astype("datetime64[s]").astype(np.int64)), tz=UTC)


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%MZ}"
