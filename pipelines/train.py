"""Fit one direct model per horizon on everything known, and the same recipe on folds; write the bundle.

The models predict the change of the target. The folds give the intervals, and what the stage `evaluate` measures.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import sklearn.ensemble  # here, because a limit on threads holds for the libraries that are loaded
from threadpoolctl import threadpool_limits

from clients.disk import whole_directory
from clients.errors import ConfigurationError, DataRejected
from forecasting.challenge.schema import Challenge, ChallengeError
from forecasting.drift.distances import feature_references
from forecasting.features.spec import FeatureSpec, feature_spec, target_column
from forecasting.judging import baselines
from forecasting.judging.losses import LOSSES, Loss
from forecasting.models.bundle import recent_windows, write_bundle
from forecasting.models.manifest import Description, SeriesWindow, VariableRange
from forecasting.models.portable import Portable, PortableError, shifted
from pipelines.files import read_table, write_table
from pipelines.learners import make_learner
from pipelines.learners.learner import Estimator, Fit, FloatArray, Learner
from pipelines.out_of_sample import (
    FitFold,
    Predict,
    corrections_of,
    known_rows,
    newest_target,
    offsets_of,
    out_of_sample,
    rows_by_week,
    scaling_of,
)
from pipelines.run import Run
from pipelines.sensors import usual_before
from pipelines.transform import read_features, read_observations

_CHECKED_ROWS = 1000
"""Of the rows that a model was fitted on, on so many its two forms must predict the same."""


def run(run: Run) -> None:
    """Train on the features table; the same table gives the same bundle, byte for byte."""
    spec = feature_spec(run.challenge)
    _check_baselines(run, spec)
    table = read_features(run.files.features, spec)
    known, dataset = known_rows(table, run.challenge, run.identity.as_of), run.dataset
    _print_known(spec, known)
    with threadpool_limits(1, user_api="blas"):
        judged = out_of_sample(known, run.challenge, fold_fit(run, spec), lambda line: print(line, flush=True))
        fitted = _fit_all(run, spec, known)
    observations = read_table(run.files.observations, made_by="merge")
    description = msgspec.structs.replace(
        describe(run, known, judged, dataset.md5 if dataset else "", run.mlflow_run),
        usual_differences=usual_before(observations, run.challenge, pd.Timestamp(run.identity.as_of)),
    )
    _print_intervals(description)
    write_table(run.files.out_of_sample, judged)
    _write(run, description, fitted, served_models(run.challenge, fitted, judged))
    print(f"bundle in {run.files.bundle}", flush=True)


def _check_baselines(run: Run, spec: FeatureSpec) -> None:
    """That the features which a baseline reads are the challenge's. Raises ConfigurationError."""
    target = run.challenge.target
    named = {"baseline": target.baseline, **{f"opponents[{n}]": each for n, each in enumerate(target.opponents)}}
    for key, baseline in named.items():
        for name in baseline.inputs:
            if name not in spec.columns:
                expected = f"features of the challenge ({', '.join(spec.columns)})"
                raise ConfigurationError(f"{run.challenge_path}: target.{key}: expected {expected}; found {name!r}")


def _fitted_baseline(
    baseline: baselines.Baseline, loss: Loss, spec: FeatureSpec, training: pd.DataFrame
) -> baselines.Fitted:
    """With the numbers that the training rows give it. Raises DataRejected when they give none."""
    scale = spec.target_scale
    features = {name: training[name].to_numpy(dtype=np.float64) for name in baseline.inputs}
    known = {horizon: training[target_column(horizon)].to_numpy(dtype=np.float64) for horizon in spec.horizons}
    targets = {horizon: scale.scaled_values(target) for horizon, target in known.items()}

    def correction(truth: FloatArray, forecast: FloatArray) -> float:
        return scale.correction(loss.factor, scale.unscaled_values(truth), scale.unscaled_values(forecast))

    try:
        return baseline.fitted(features, targets, correction)
    except ValueError as error:
        raise DataRejected(str(error)) from error


def _print_known(spec: FeatureSpec, known: pd.DataFrame) -> None:
    first, last = known["ds"].iloc[0], known["ds"].iloc[-1]
    print(f"learnt from: {len(known):,} rows, origins {first:%Y-%m-%dT%H:%MZ} to {last:%Y-%m-%dT%H:%MZ}", flush=True)
    empty = [column for column in spec.columns if known[column].isna().all()]
    if empty:
        print(f"not learnt from, without any value: {', '.join(empty)}", flush=True)


def _learner(run: Run) -> Learner:
    try:
        return make_learner(run.challenge, run.challenge_path)
    except ChallengeError as error:
        raise ConfigurationError(str(error)) from error


def _print_intervals(description: Description) -> None:
    text = description.features.target_scale.text
    for horizon, offsets in description.offsets.items():
        interval = f"{text(offsets.lower, description.unit)} to {text(offsets.upper, description.unit)}"
        print(f"horizon {horizon}: {description.interval:.0%} interval {interval}", flush=True)


def fold_fit(run: Run, spec: FeatureSpec) -> FitFold:
    """How the run's recipe is fitted for a fold."""

    def fit(rows: pd.DataFrame, horizon: int) -> Predict:
        return fit_horizon(run, spec, rows, horizon).predict

    return fit


def _fit_all(run: Run, spec: FeatureSpec, known: pd.DataFrame) -> dict[int, Fit]:
    """Every horizon's model, one core each: as fast as all cores on one model, and no slower on a busy machine.

    There, threads that share one fit wait for one another at every node: a fit of 1 s took 28 s.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        models = pool.map(lambda horizon: fit_horizon(run, spec, known, horizon), spec.horizons)
        return dict(zip(spec.horizons, models, strict=True))


def fit_horizon(run: Run, spec: FeatureSpec, rows: pd.DataFrame, horizon: int) -> Fit:
    """One horizon's model, fitted on the rows whose target is known, on one core.

    Raises ConfigurationError when the learner refuses its parameters, or with them diverges.
    """
    learner, loss, seed = _learner(run), LOSSES[run.challenge.target.loss].learner, run.challenge.learner.seed
    with threadpool_limits(1, user_api="openmp"):
        try:
            features, change = _known(rows, spec, horizon)
            fit = learner.fit(features, change, loss, seed)
            fit.predict(features.tail(_CHECKED_ROWS))
        except PortableError as error:
            found = f"the model for horizon {horizon} holds numbers that are not finite: lower learning_rate"
            raise ConfigurationError(f"{run.challenge_path}: learner.parameters: {found} ({error}).") from error
        return fit


def _known(part: pd.DataFrame, spec: FeatureSpec, horizon: int) -> tuple[pd.DataFrame, FloatArray]:
    """The rows whose target is known: the horizon's features, and the target's change from the origin, on its scale."""
    rows = part[part[target_column(horizon)].notna()]
    change = spec.target_scale.changes(rows["y"].to_numpy(), rows[target_column(horizon)].to_numpy())
    return rows[list(spec.columns_for(horizon))], change


def describe(
    run: Run, known: pd.DataFrame, judged: pd.DataFrame, dataset_md5: str = "", mlflow_run: str = ""
) -> Description:
    """The bundle's description of models that were fitted on ``known``; judged: the recipe's ``out_of_sample``."""
    spec, target = feature_spec(run.challenge), run.challenge.target
    loss = LOSSES[target.loss]
    return Description(
        challenge=run.challenge.name,
        unit=target.unit,
        features=spec,
        series=run.challenge.series_ids,
        train_start=known["ds"].iloc[0].to_pydatetime(),
        train_end=newest_target(known, run.challenge),
        newest_row=known["ds"].iloc[-1].to_pydatetime(),
        rows={"train": len(known), "judged": len(judged)},
        rows_by_week=rows_by_week(known),
        dataset_md5=dataset_md5,
        git_sha=run.identity.git_sha,
        mlflow_run=mlflow_run,
        interval=run.challenge.learner.interval,
        offsets=offsets_of(judged, run.challenge),
        scaling=scaling_of(judged, run.challenge),
        title=run.challenge.title,
        variables=variable_ranges(run.challenge, spec),
        loss=target.loss,
        baseline=_fitted_baseline(target.baseline, loss, spec, known),
        opponents=tuple(_fitted_baseline(each, loss, spec, known) for each in target.opponents),
        drift=run.challenge.drift,
        detectors=run.challenge.detectors,
        references=feature_references(
            spec.columns, known[list(spec.columns)].to_numpy(), run.challenge.drift.window_rows
        ),
    )


def variable_ranges(challenge: Challenge, spec: FeatureSpec) -> dict[str, VariableRange]:
    """The unit and range of each variable that a feature reads, as the data gate has them."""
    ranges = challenge.quality.ranges
    return {
        variable: VariableRange(challenge.source.variables[variable].unit, *ranges.get(variable, (None, None)))
        for variable in spec.variables
    }


def served_models(challenge: Challenge, fitted: Mapping[int, Fit], judged: pd.DataFrame) -> dict[int, Portable]:
    """By horizon, what the bundle holds; judged: the recipe's ``out_of_sample``, which corrects what was fitted."""
    corrections = corrections_of(judged, challenge)
    return {horizon: shifted(one.portable, corrections[horizon]) for horizon, one in fitted.items()}


def _write(run: Run, description: Description, fitted: dict[int, Fit], models: dict[int, Portable]) -> None:
    spec, observations = description.features, read_observations(run.files.observations, run.challenge)
    recent = recent_windows(spec, observations, description.baseline.lookback(spec.step_minutes))
    windows = {unique_id: recent.get(unique_id, SeriesWindow((), ())) for unique_id in description.series}
    with whole_directory(run.files.models) as directory:
        for horizon, one in fitted.items():
            columns = list(description.features.columns_for(horizon))
            _save_for_mlflow(one.estimator, columns, directory / f"h{horizon}")
    with whole_directory(run.files.bundle) as directory:
        write_bundle(directory, description, models, windows)


def _save_for_mlflow(model: Estimator, columns: list[str], directory: Path) -> None:
    """In scikit-learn's own form, for people who use MLflow's tools; our code never loads it."""
    import mlflow.sklearn
    from mlflow.models import infer_signature

    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of pickles; the server reads the bundle instead
    try:
        example = pd.DataFrame(np.zeros((1, len(columns))), columns=columns)
        mlflow.sklearn.save_model(
            model,
            str(directory),
            serialization_format="cloudpickle",
            signature=infer_signature(example, model.predict(example)),
            pip_requirements=[f"scikit-learn=={sklearn.__version__}"],
        )
    finally:
        logger.setLevel(level)
