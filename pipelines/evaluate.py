"""Measure candidate, production model and persistence on the same hold-out; write and log what came out.

Nothing is judged here: a candidate that is worse, or a hold-out that is too short, is written down, for the gate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from forecasting.bundle import Bundle, read_bundle, record_holdout
from forecasting.drift import population_stability_index
from forecasting.evaluation import Compared, Errors, Evaluation, Measured
from forecasting.features import feature_spec
from forecasting.manifest import BundleError
from forecasting.metrics import skill
from pipelines.comparison import Comparison, compare, seconds_per_row
from pipelines.errors import ConfigurationError
from pipelines.feature_table import read_features
from pipelines.files import whole_file, write_json
from pipelines.production import Production, fetch_production
from pipelines.run import Run
from pipelines.tracking import Tracking, open_tracking
from pipelines.transform import read_observations


def run(run: Run) -> None:
    """Write `evaluation.json` and `losses.parquet`, and put the hold-out metrics into the bundle; log all of it.

    Raises ConfigurationError (a stage before is missing, MLflow refuses), DataRejected (too little data), PassingFault.
    """
    tracking = open_tracking(run)
    candidate = _candidate(run, tracking)
    features = read_features(run.files.features, candidate.spec)
    observations = read_observations(run.files.observations, run.challenge)
    production = fetch_production(run, tracking)
    comparison = compare(run.challenge, run.identity.as_of, features, observations, (candidate, production))
    measured = comparison.measured("candidate", run.challenge)
    record_holdout(run.files.bundle, _manifest_metrics(comparison, measured, run))
    evaluation = evaluation_of(run, candidate, production, comparison, features)
    _print(evaluation)
    write_json(run.files.evaluation, evaluation)
    with whole_file(run.files.losses) as scratch:
        comparison.rows.to_parquet(scratch, index=False)
    _log(run, evaluation, tracking)
    print(f"logged to {tracking.run_url}", flush=True)


def _candidate(run: Run, tracking: Tracking) -> Bundle:
    try:
        bundle = read_bundle(run.files.bundle)
        bundle.check_example()
    except BundleError as error:
        raise ConfigurationError(f"the candidate's bundle cannot be used ({error}): run the stage 'train'.") from error
    manifest = bundle.manifest
    if (manifest.mlflow_run, bundle.spec) != (tracking.run_id, feature_spec(run.challenge)):
        told = f"{run.files.bundle} is of MLflow run {manifest.mlflow_run}, or of other features than the challenge's"
        raise ConfigurationError(f"{told}: run the stage 'train'.")
    return bundle


def _manifest_metrics(comparison: Comparison, measured: Measured, run: Run) -> dict[int, dict[str, float]]:
    baseline = comparison.measured("persistence", run.challenge)
    return {
        horizon: {
            **dict(_named(errors)),
            "rows": float(errors.rows),
            "persistence_rmse": baseline.horizons[horizon].rmse,
        }
        for horizon, errors in measured.horizons.items()
    }


def evaluation_of(
    run: Run, candidate: Bundle, production: Production | None, comparison: Comparison, features: pd.DataFrame
) -> Evaluation:
    """What `evaluation.json` holds of a comparison; the candidate's bundle lies where the run keeps it."""
    opponent = comparison.opponent
    bundles = [candidate, *([opponent] if opponent else [])]
    times = seconds_per_row(bundles, features.iloc[-1].drop(["unique_id", "ds"]).astype(float).to_dict())
    version = production.version if production else ""
    compared = None
    if production and opponent:
        measured = comparison.measured("production", run.challenge)
        compared = _compared(opponent, version, production.directory, times[1], measured)
    measured = comparison.measured("candidate", run.challenge)
    known = opponent if opponent and opponent.spec == candidate.spec else candidate
    return Evaluation(
        challenge=run.challenge.name,
        run_id=run.identity.run_id,
        as_of=run.identity.as_of,
        unit=run.challenge.target.unit,
        loss=run.challenge.target.loss,
        interval=run.challenge.learner.interval,
        window=comparison.window(),
        fair=not comparison.reasons,
        reasons=comparison.reasons,
        candidate=_compared(candidate, "", run.files.bundle, times[0], measured),
        production=compared,
        production_version=version,
        persistence=comparison.measured("persistence", run.challenge),
        drift=_drift(known, comparison, features),
        drift_from="candidate" if known is candidate else "production",
    )


def _drift(known: Bundle, comparison: Comparison, features: pd.DataFrame) -> dict[str, float]:
    """How far each feature at the compared origins lies from what the training of ``known`` saw.

    The calendar is left out: a month is always another season than the year before it, and no news of the data.
    """
    compared = comparison.rows.loc[comparison.rows["compared"], ["unique_id", "ds"]].drop_duplicates()
    seen = compared.merge(features, how="left", on=["unique_id", "ds"])
    return {
        name: population_stability_index(known.manifest.references[name], seen[name].to_numpy(dtype="float64"))
        for name in known.spec.shared_columns
    }


def _compared(bundle: Bundle, version: str, directory: Path, seconds: float, measured: Measured) -> Compared:
    manifest = bundle.manifest
    return Compared(
        version=version,
        mlflow_run=manifest.mlflow_run,
        git_sha=manifest.git_sha,
        dataset_md5=manifest.dataset_md5,
        train_end=manifest.train_end,
        bundle_bytes=sum(file.stat().st_size for file in directory.iterdir()),
        prediction_seconds_per_row=seconds,
        measured=measured,
    )


def _print(evaluation: Evaluation) -> None:
    window = evaluation.window
    span = f"{window.start:%Y-%m-%dT%H:%MZ} to {window.end:%Y-%m-%dT%H:%MZ}"
    print(f"hold-out: {window.rows:,} predictions, origins {span}", flush=True)
    for name, measured in _models(evaluation):
        told = ", ".join(f"h{horizon} {errors.rmse:.3f}" for horizon, errors in measured.horizons.items())
        inside = measured.overall.coverage
        covered = f", {evaluation.interval:.0%} interval covers {inside:.1%}" if inside is not None else ""
        print(
            f"{name or 'candidate'}: RMSE {measured.overall.rmse:.3f} {evaluation.unit} ({told}){covered}", flush=True
        )
    for reason in evaluation.reasons:
        print(f"not fair: {reason}", flush=True)


def _log(run: Run, evaluation: Evaluation, tracking: Tracking) -> None:
    """Everything again on a second run, but a metric only when it has another value: MLflow keeps every one given."""
    with tracking.faults("read the run"):
        known = tracking.client.get_run(tracking.run_id).data.metrics
    tracking.log_artifacts(run.files.bundle, "bundle")
    tracking.log_artifacts(run.files.evaluation, "evaluation")
    tracking.log_artifacts(run.files.losses, "evaluation")
    metrics = dict(run_metrics(evaluation))
    tracking.log_metrics({name: value for name, value in metrics.items() if known.get(name) != value})
    tracking.set_tags(
        {
            "rps.fair": str(evaluation.fair).lower(),
            "rps.unfair_reasons": " ".join(f"{reason}." for reason in evaluation.reasons),
            "rps.production_version": evaluation.production_version,
        }
    )


def run_metrics(evaluation: Evaluation) -> Iterator[tuple[str, float]]:
    """The metrics of the MLflow run, by name; production's and persistence's are prefixed."""
    yield "fair", float(evaluation.fair)
    yield "holdout_rows", float(evaluation.window.rows)
    yield "holdout_days", (evaluation.window.end - evaluation.window.start).total_seconds() / 86_400
    baseline = evaluation.persistence
    for model, measured in _models(evaluation):
        prefix = f"{model}." if model else ""
        slices = [("", measured.overall, baseline.overall)]
        slices += [(f"_h{h}", errors, baseline.horizons[h]) for h, errors in measured.horizons.items()]
        slices += [(_series_suffix(name), errors, baseline.series[name]) for name, errors in measured.series.items()]
        for suffix, errors, of_baseline in slices:
            for name, value in _named(errors, interval=evaluation.interval):
                yield f"{prefix}{name}{suffix}", value
            gained = skill(errors.loss, of_baseline.loss) if model != "persistence" else None
            if gained is not None:
                yield f"{prefix}skill{suffix}", gained
    for prefix, model_costs in (("", evaluation.candidate), ("production.", evaluation.production)):
        if model_costs:
            yield f"{prefix}bundle_bytes", float(model_costs.bundle_bytes)
            yield f"{prefix}prediction_seconds_per_row", model_costs.prediction_seconds_per_row


def _models(evaluation: Evaluation) -> Iterator[tuple[str, Measured]]:
    yield "", evaluation.candidate.measured
    if evaluation.production:
        yield "production", evaluation.production.measured
    yield "persistence", evaluation.persistence


def _named(errors: Errors, interval: float | None = None) -> Iterator[tuple[str, float]]:
    yield "rmse", errors.rmse
    yield "mae", errors.mae
    yield "r2", errors.r2
    if errors.coverage is not None:
        yield (f"coverage_{interval * 100:g}" if interval else "coverage"), errors.coverage


def _series_suffix(unique_id: str) -> str:
    """MLflow takes no colon in a name (a space, which no series has, stands for it); a series `h4` is no horizon."""
    taken = re.fullmatch(r"h\d+", unique_id)
    return f"_series {unique_id}" if taken else f"_{unique_id.replace(':', ' ')}"
