"""Measure candidate, production model and baselines on the same folds, and write the results.

The gate judges them: this stage only records a candidate that is worse, or folds that are too short.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from clients.errors import ConfigurationError
from forecasting.drift.distances import population_stability_index
from forecasting.features.spec import feature_spec
from forecasting.judging.baselines import Fitted
from forecasting.judging.evaluation import BaselineEvaluation, Evaluation, FoldErrors, ModelErrors, ModelEvaluation
from forecasting.judging.losses import LOSSES, skill
from forecasting.judging.panel import OPPONENT
from forecasting.models.bundle import Bundle, read_bundle, record_errors
from forecasting.models.manifest import BundleError
from pipelines.comparison import PanelFrame, compare, seconds_per_row
from pipelines.files import read_table, write_json, write_table
from pipelines.plots import write_plots
from pipelines.production import Production, read_production
from pipelines.run import Run
from pipelines.transform import read_features, read_observations
from records.mlflow_names import Metric, error_metrics, metric


def run(run: Run) -> None:
    """Write `evaluation.json`, `losses.parquet`, `metrics.json` and `plots/`, and add the errors to the bundle."""
    candidate = _candidate(run)
    features = read_features(run.files.features, candidate.spec)
    observations = read_observations(run.files.observations, run.challenge)
    judged = read_table(run.files.out_of_sample, made_by="train")
    production = read_production(run)
    panel = compare(run.challenge, judged, observations, candidate, production)
    errors = panel.errors(run.challenge.target.loss)
    record_errors(run.files.bundle, manifest_errors(panel.own_errors(run.challenge.target.loss)))
    evaluation = evaluation_of(run, candidate, production, panel, features, errors=errors)
    _print(evaluation)
    write_json(run.files.evaluation, evaluation)
    write_json(run.files.metrics, dict(run_metrics(evaluation)))
    write_plots(run.files, panel.rows, LOSSES[run.challenge.target.loss])
    write_table(run.files.losses, panel.rows)


def _candidate(run: Run) -> Bundle:
    try:
        bundle = read_bundle(run.files.bundle)
        bundle.check_example()
    except BundleError as error:
        raise ConfigurationError(f"the candidate's bundle cannot be used ({error}): run the stage 'train'.") from error
    mlflow_run, spec = bundle.manifest.mlflow_run, feature_spec(run.challenge)
    if (mlflow_run, bundle.spec) != (run.mlflow_run, spec):
        found = f"{run.files.bundle} is of MLflow run {mlflow_run or 'none'}, or of other features than the challenge's"
        raise ConfigurationError(f"{found}: run the stage 'train'.")
    return bundle


def manifest_errors(errors: Mapping[str, ModelErrors]) -> dict[int, dict[str, float]]:
    """The reference for the service's live errors, by horizon."""
    return {
        horizon: {
            "error": ours.error,
            "baseline_error": errors["baseline"].horizons[horizon].error,
            Metric.R2: ours.r2,
            **({} if ours.coverage is None else {Metric.COVERAGE: ours.coverage}),
            **({} if ours.width is None else {"width": ours.width}),
            "rows": float(ours.rows),
        }
        for horizon, ours in errors["candidate"].horizons.items()
    }


def evaluation_of(
    run: Run,
    candidate: Bundle,
    production: Production | None,
    panel: PanelFrame,
    features: pd.DataFrame,
    *,
    errors: Mapping[str, ModelErrors],
) -> Evaluation:
    """The contents of `evaluation.json`. errors: the panel's; the candidate's bundle is among the run's files."""
    opponent, compared, version = panel.opponent, None, production.version if production else ""
    bundles = [candidate, opponent] if opponent else [candidate]
    times = seconds_per_row(bundles, features.iloc[-1].drop(["unique_id", "ds"]).astype(float).to_dict())
    if production and opponent:
        compared = _model_evaluation(opponent, version, production.directory, times[1], errors["production"])
    known = opponent if opponent and opponent.spec == candidate.spec else candidate
    return Evaluation(
        challenge=run.challenge.name,
        run_id=run.identity.run_id,
        as_of=run.identity.as_of,
        unit=run.challenge.target.unit,
        loss=run.challenge.target.loss,
        interval=run.challenge.learner.interval,
        window=panel.window(),
        fair=not panel.reasons,
        reasons=panel.reasons,
        candidate=_model_evaluation(candidate, "", run.files.bundle, times[0], errors["candidate"]),
        production=compared,
        production_version=version,
        baseline=_baseline_evaluation(candidate.manifest.baseline, errors["baseline"]),
        folds=panel.fold_errors(run.challenge.target.loss),
        same_code=bool(opponent and opponent.manifest.git_sha == run.identity.git_sha != "unknown"),
        opponents=tuple(
            _baseline_evaluation(each, errors[f"{OPPONENT}{each.kind}"]) for each in candidate.manifest.opponents
        ),
        drift=_drift(known, panel, features),
        drift_from="candidate" if known is candidate else "production",
    )


def _baseline_evaluation(baseline: Fitted, measured: ModelErrors) -> BaselineEvaluation:
    return BaselineEvaluation(kind=baseline.kind, title=baseline.title, measured=measured)


def _drift(known: Bundle, panel: PanelFrame, features: pd.DataFrame) -> dict[str, float]:
    """How far each feature in the newest fold lies from the training data of ``known``.

    Without the calendar: a month is always another season than the year before it, which says nothing of the data.
    """
    newest = panel.rows.loc[panel.rows["fold"] == panel.rows["fold"].max(), ["unique_id", "ds"]].drop_duplicates()
    seen = newest.merge(features, how="left", on=["unique_id", "ds"])
    return {
        name: population_stability_index(known.manifest.references[name], seen[name].to_numpy(dtype="float64"))
        for name in known.spec.shared_columns
    }


def _model_evaluation(
    bundle: Bundle, version: str, directory: Path, seconds: float, measured: ModelErrors
) -> ModelEvaluation:
    manifest = bundle.manifest
    return ModelEvaluation(
        version=version,
        mlflow_run=manifest.mlflow_run,
        git_sha=manifest.git_sha,
        dataset_md5=manifest.dataset_md5,
        train_end=manifest.train_end,
        rows_by_week=manifest.rows_by_week,
        bundle_bytes=sum(file.stat().st_size for file in directory.iterdir()),
        prediction_seconds_per_row=seconds,
        measured=measured,
    )


def _print(evaluation: Evaluation) -> None:
    window, loss = evaluation.window, LOSSES[evaluation.loss]
    for number, fold in enumerate(evaluation.folds, 1):
        errors = ", ".join(f"{model} {error:.3f}" for model, error in fold.errors.items())
        print(f"fold {number}, {fold.start:%Y-%m-%d} to {fold.end:%Y-%m-%d}: {loss.label} {errors}", flush=True)
    span = f"{window.start:%Y-%m-%dT%H:%MZ} to {window.end:%Y-%m-%dT%H:%MZ}"
    print(f"folds: {len(evaluation.folds)} with {window.rows:,} predictions, origins {span}", flush=True)
    titles = {"baseline": f"baseline, {evaluation.baseline.title}"}
    titles |= {f"{OPPONENT}{each.kind}": f"opponent, {each.title}" for each in evaluation.opponents}
    for model, measured in _models(evaluation):
        horizons = ", ".join(f"h{horizon} {errors.error:.3f}" for horizon, errors in measured.horizons.items())
        inside = measured.overall.coverage
        covered = f", {evaluation.interval:.0%} interval covers {inside:.1%}" if inside is not None else ""
        error = f"{loss.label} {measured.overall.error:.3f} {loss.unit(evaluation.unit)}".rstrip()
        print(f"{titles.get(model, model)}: {error} ({horizons}){covered}", flush=True)
    for reason in evaluation.reasons:
        print(f"not fair: {reason}", flush=True)


def run_metrics(evaluation: Evaluation) -> Iterator[tuple[str, float]]:
    """The metrics of the MLflow run, by name; those of other models than the candidate are prefixed."""
    yield Metric.FAIR, float(evaluation.fair)
    yield Metric.FOLDS, float(len(evaluation.folds))
    yield Metric.JUDGED_ROWS, float(evaluation.window.rows)
    yield Metric.JUDGED_DAYS, (evaluation.window.end - evaluation.window.start).total_seconds() / 86_400
    baseline = dict(evaluation.baseline.measured.slices())
    for model, measured in _models(evaluation):
        yield from error_metrics(model, measured, LOSSES[evaluation.loss].measure, evaluation.interval)
        for one, errors in measured.slices() if model in {"candidate", "production"} else ():
            gained = skill(errors.loss, baseline[one].loss)
            if gained is not None:
                yield metric(Metric.SKILL, model=model, horizon=one.horizon, series=one.series), gained
    both: dict[str, ModelEvaluation | None] = {"candidate": evaluation.candidate, "production": evaluation.production}
    for model, known in both.items():
        if known:
            yield metric(Metric.BUNDLE_BYTES, model=model), float(known.bundle_bytes)
            yield metric(Metric.PREDICTION_SECONDS, model=model), known.prediction_seconds_per_row


def fold_metrics(evaluation: Evaluation, fold: FoldErrors) -> Iterator[tuple[str, float]]:
    """The metrics of one fold, which are logged with its number as their step."""
    for model, error in fold.errors.items():
        yield metric(f"{LOSSES[evaluation.loss].measure}_{Metric.FOLD}", model=model), error


def _models(evaluation: Evaluation) -> Iterator[tuple[str, ModelErrors]]:
    yield "candidate", evaluation.candidate.measured
    if evaluation.production:
        yield "production", evaluation.production.measured
    yield "baseline", evaluation.baseline.measured
    for opponent in evaluation.opponents:
        yield f"{OPPONENT}{opponent.kind}", opponent.measured
