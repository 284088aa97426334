"""Judgements made up for tests, one for each way in which a gate ends; every field can be changed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from forecasting.challenge.schema import Gate
from forecasting.judging.contests import Contest
from forecasting.judging.evaluation import (
    BaselineEvaluation,
    Errors,
    Evaluation,
    FoldErrors,
    ModelErrors,
    ModelEvaluation,
    Window,
)
from forecasting.judging.verdict import Reason, Verdict
from records.judgement import Data, Failure, Judgement, Links, PullRequest
from records.quality import Violation

SHA = "9c1e5bd0c2f24f5d8a3b7e6f1a2b3c4d5e6f7a8b"
NOW = datetime(2013, 12, 30, 6, 0, tzinfo=UTC)
CLIMATOLOGY = {4: 2.21, 5: 2.63, 6: 3.02}
PRODUCTION = {4: 1.71, 5: 1.98, 6: 2.24}
FOLDS = 3
"""Of four weeks each, the newest of which ends at NOW."""


def contest(name: str, change: float, production: float, baseline: float, **changes: object) -> Contest:
    """Against a production model: its interval is 1.3 percentage points to either side."""
    made = Contest(
        slice=name,
        rows=2016,
        candidate=production * (1 + change),
        baseline=baseline,
        opponents={"persistence": 1.25 * baseline},
        production=production,
        change=change,
        low=change - 0.013,
        high=change + 0.013,
        p_value=0.0004 if change > 0.013 else 0.997,
    )
    return msgspec.structs.replace(made, **changes)


def verdict(change: float = -0.021, **changes: object) -> Verdict:
    """The candidate is that much better (below 0) or worse than production, everywhere."""
    horizons = [contest(f"horizon {h}", change, PRODUCTION[h], CLIMATOLOGY[h]) for h in PRODUCTION]
    series = [contest(f"series {name}", change, 1.97, 2.64) for name in ("EWR", "JFK", "LGA")]
    made = Verdict(
        outcome="pass",
        reasons=(),
        measure="RMSE",
        unit="°C",
        baseline="climatology (28 days)",
        opponents={"persistence": "persistence"},
        opponent="production",
        overall=contest("overall", change, 1.97, 2.64),
        horizons=tuple(horizons),
        series=tuple(series),
        confidence=0.95,
        interval=0.9,
        coverage=0.902,
        skill=0.46,
        bundle_bytes=1_230_000,
        prediction_time_ratio=1.02,
        policy=Gate(),
    )
    return msgspec.structs.replace(made, **changes)


def without_production(made: Verdict) -> Verdict:
    def alone(one: Contest) -> Contest:
        return msgspec.structs.replace(one, production=None, change=None, low=None, high=None, p_value=None)

    return msgspec.structs.replace(
        made,
        opponent="baseline",
        overall=alone(made.overall),
        horizons=tuple(map(alone, made.horizons)),
        series=tuple(map(alone, made.series)),
        prediction_time_ratio=None,
    )


def evaluation(**changes: object) -> Evaluation:
    errors = Errors(rows=6048, loss=3.88, error=1.97, r2=0.9, coverage=0.897)
    measured = ModelErrors(overall=errors, horizons={}, series={})
    candidate = ModelEvaluation(
        version="",
        mlflow_run="9450d49be5b14d109ab0845b5ffa0fdf",
        git_sha=SHA,
        dataset_md5="5f0e6d3c1b2a49788f0e6d3c1b2a4978",
        train_end=NOW - timedelta(hours=6),
        bundle_bytes=1_230_000,
        prediction_seconds_per_row=3.1e-5,
        measured=measured,
    )
    made = Evaluation(
        challenge="weather",
        run_id=f"gate__weather__{SHA}__1",
        as_of=NOW,
        unit="°C",
        loss="squared_error",
        interval=0.9,
        window=Window(start=folds()[0].start, end=folds()[-1].end, origins=672 * FOLDS, rows=6048 * FOLDS),
        fair=True,
        reasons=(),
        candidate=candidate,
        production=msgspec.structs.replace(candidate, version="7"),
        production_version="7",
        baseline=BaselineEvaluation(kind="climatology", title="climatology (28 days)", measured=measured),
        folds=folds(),
        opponents=(BaselineEvaluation(kind="persistence", title="persistence", measured=measured),),
    )
    return msgspec.structs.replace(made, **changes)


def folds() -> tuple[FoldErrors, ...]:
    """Oldest first; each is harder than the one before it."""
    starts = [NOW - timedelta(days=28 * left) for left in range(FOLDS, 0, -1)]
    return tuple(
        FoldErrors(
            start=start,
            end=start + timedelta(days=28, hours=-1),
            rows=6048,
            errors={"candidate": 1.9 + step, "production": 1.8 + step, "baseline": 2.5 + step},
        )
        for start, step in zip(starts, (0.0, 0.2, 0.4), strict=True)
    )


def data(**changes: object) -> Data:
    made = Data(
        rows=26_115,
        first=NOW - timedelta(days=363),
        last=NOW,
        dataset_md5="5f0e6d3c1b2a49788f0e6d3c1b2a4978",
        dataset_rev="3b72c09de84a1f5c6b7a8d9e0f1a2b3c4d5e6f70",
        sandbox="bubblewrap",
        errors=0,
        warnings=2,
        drift={"pressure_lag_0": 0.31, "temperature_lag_0": 0.17, "dew_point_lag_0": 0.08, "wind_speed_lag_0": 0.02},
        drift_from="production",
    )
    return msgspec.structs.replace(made, **changes)


def passing(**changes: object) -> Judgement:
    """2.1 % better than production."""
    made = Judgement(
        challenge="weather",
        title="Hourly temperature at New York's airports",
        outcome="pass",
        summary="passed: RMSE 1.93 °C, 2.1 % better than production",
        git_sha=SHA,
        run_id=f"gate__weather__{SHA}__1",
        model_version="8",
        pull_request=PullRequest(
            number=12, title="Add the wind's direction", head_ref="dev", base_ref="test", base_sha="ab" * 20
        ),
        policy=Gate(),
        policy_from="the branch test at abababababab",
        policy_changes=(),
        verdict=verdict(),
        evaluation=evaluation(),
        data=data(),
        failure=None,
        links=Links(
            dag_run="http://127.0.0.1:8080/dags/retrain_weather/runs/gate__weather__1",
            mlflow_run="http://127.0.0.1:5000/#/experiments/1/runs/9450d49be5b14d109ab0845b5ffa0fdf",
            profile="http://127.0.0.1:5000/#/experiments/1/runs/9450d49be5b14d109ab0845b5ffa0fdf/artifacts/profile",
            model_version="http://127.0.0.1:5000/#/models/weather/versions/8",
            workflow="https://github.com/team/rps/actions/runs/1",
        ),
        started=NOW,
        seconds=71.3,
        task_seconds=58.2,
    )
    return msgspec.structs.replace(made, **changes)


def blocked(**changes: object) -> Judgement:
    """6.4 % worse than production, in each horizon and series."""
    worse = verdict(0.064)
    made = msgspec.structs.replace(
        worse,
        outcome="block",
        reasons=(
            Reason(
                rule="regression",
                message="RMSE 2.096 °C, production's is 1.97 °C: +6.40%; that is significantly more than 0.2% "
                "(p = 0.0004, below 0.001)",
            ),
            Reason(
                rule="slice",
                message="horizon 6: RMSE 2.715 °C, production's is 2.24 °C: +21.20%; at most 20% is allowed when it is "
                "significantly more than 0.2% (p = 0.0004 after Holm's correction, below 0.001)",
            ),
        ),
        overall=msgspec.structs.replace(worse.overall, worse=True),
        horizons=(*worse.horizons[:2], contest("horizon 6", 0.212, 2.24, 3.02, worse=True)),
    )
    shown = "blocked by regression (and 1 more): RMSE 2.1 °C, 6.4 % worse than production"
    return msgspec.structs.replace(passing(outcome="block", verdict=made, summary=shown), **changes)


def first_model(**changes: object) -> Judgement:
    """No model is in production yet; the baseline is beaten."""
    made = passing(
        verdict=without_production(verdict()),
        evaluation=evaluation(production=None, production_version=""),
        data=data(drift_from="candidate"),
    )
    return msgspec.structs.replace(made, **changes)


def task_failed(**changes: object) -> Judgement:
    """A task of the run ended with a bug."""
    failure = Failure(
        reason="the task transform failed: KeyError: 'dew_point'",
        task="transform",
        log_url="http://127.0.0.1:8080/dags/retrain_weather/runs/gate__weather__1/tasks/transform",
        log_tail=(
            "Traceback (most recent call last):",
            '  File "pipelines/transform.py", line 40, in transform',
            "KeyError: 'dew_point'",
        ),
    )
    return msgspec.structs.replace(_without_verdict(failure), **changes)


def data_rejected(**changes: object) -> Judgement:
    """The data gate stopped the run."""
    failure = Failure(
        reason="the task validate failed: the data failed the quality gate: 2 rules are broken",
        task="validate",
        log_url="http://127.0.0.1:8080/dags/retrain_weather/runs/gate__weather__1/tasks/validate",
        log_tail=("validate: 2 errors, 1 warning",),
        violations=(
            violation(severity="warning", rule="range", message="1 of 8,705 values is outside -60 to 60"),
            violation(),
            violation(rule="gap", column="", message="31 hours are missing in a row; at most 12 are allowed"),
        ),
    )
    return msgspec.structs.replace(_without_verdict(failure), **changes)


def violation(**changes: object) -> Violation:
    made = Violation(
        rule="nulls",
        series="EWR",
        column="temperature",
        found=0.104,
        limit=0.01,
        count=905,
        message="10.4 % of the values are missing; at most 1.0 % is allowed",
        first=NOW - timedelta(days=3),
        last=NOW,
    )
    return msgspec.structs.replace(made, **changes)


def _without_verdict(failure: Failure) -> Judgement:
    nothing: Mapping[str, object] = {"verdict": None, "evaluation": None, "data": None, "model_version": ""}
    links = Links(dag_run=passing().links.dag_run, workflow=passing().links.workflow)
    return passing(outcome="error", summary=f"no verdict: {failure.reason}", failure=failure, links=links, **nothing)
