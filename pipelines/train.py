"""Fit one direct model per horizon on the change of the target, calibrate the intervals, write and log the bundle."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn.ensemble  # here, because a limit on threads holds for the libraries that are loaded
from threadpoolctl import threadpool_limits

from clients.disk import whole_directory
from clients.errors import ConfigurationError
from forecasting.challenge.schema import Challenge, ChallengeError
from forecasting.drift.distances import feature_references
from forecasting.features.spec import FeatureSpec, feature_spec, target_column
from forecasting.models.bundle import recent_windows, write_bundle
from forecasting.models.intervals import Offsets, calibrate
from forecasting.models.manifest import Description, SeriesWindow, VariableRange
from forecasting.models.portable import PortableError
from pipelines.files import read_json
from pipelines.learners import make_learner
from pipelines.learners.learner import Estimator, Fit, FloatArray, Learner
from pipelines.run import Run
from pipelines.split import Split, newest_target, split_by_time
from pipelines.tracked_run import TrackedRun, open_tracking
from pipelines.transform import read_features, read_observations
from pipelines.version import Dataset
from records.mlflow_names import Artifact, RunTag


@dataclass(frozen=True)
class Fitted:
    """The model of one horizon, in both forms, with the offsets of its interval."""

    fit: Fit
    offsets: Offsets


def run(run: Run) -> None:
    """Train on the features table; the same table gives the same bundle, byte for byte."""
    _learner(run)  # a wrong parameter is reported before any work
    spec = feature_spec(run.challenge)
    table = read_features(run.files.features, spec)
    dataset = read_json(run.files.dataset, Dataset, made_by="version")
    run.require_own(run.files.dataset, dataset.run_id, made_by="version")
    split = split_by_time(table, run.challenge, run.identity.as_of)
    tracking = open_tracking(run)
    _print_split(spec, split)
    fitted = _fit_all(run, spec, split)
    description = describe(run, split, fitted, dataset, tracking.run_id)
    _write(run, description, fitted)
    _log(run, description, tracking)
    print(f"bundle in {run.files.bundle}, logged to {tracking.run_url}", flush=True)


def _print_split(spec: FeatureSpec, split: Split) -> None:
    for name, part in (("training", split.training), ("calibration", split.calibration), ("hold-out", split.holdout)):
        first, last = part["ds"].min(), part["ds"].max()
        print(f"{name}: {len(part):,} rows, origins {first:%Y-%m-%dT%H:%MZ} to {last:%Y-%m-%dT%H:%MZ}", flush=True)
    empty = [column for column in spec.columns if split.training[column].isna().all()]
    if empty:
        print(f"not learnt from, without any value in training: {', '.join(empty)}", flush=True)


def _learner(run: Run) -> Learner:
    try:
        return make_learner(run.challenge, run.challenge_path)
    except ChallengeError as error:
        raise ConfigurationError(str(error)) from error


def _fit_all(run: Run, spec: FeatureSpec, split: Split) -> dict[int, Fitted]:
    """Every horizon's model, one core each: as fast as all cores on one model, and no slower on a busy machine.

    There, threads that share one fit wait for one another at every node: a fit of 1 s took 28 s.
    """
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        models = pool.map(lambda horizon: fit_horizon(run, spec, split, horizon), spec.horizons)
        fitted = dict(zip(spec.horizons, models, strict=True))
    for horizon, one in fitted.items():
        interval = f"{one.offsets.lower:+.2f} to {one.offsets.upper:+.2f} {run.challenge.target.unit}"
        print(f"horizon {horizon}: {run.challenge.learner.interval:.0%} interval {interval}", flush=True)
    return fitted


def fit_horizon(run: Run, spec: FeatureSpec, split: Split, horizon: int) -> Fitted:
    """One horizon's model, fitted on ``split.training`` and calibrated on ``split.calibration``, on one core.

    Raises ConfigurationError when the learner refuses its parameters, or with them diverges.
    """
    learner, loss, seed = _learner(run), run.challenge.target.loss, run.challenge.learner.seed
    with threadpool_limits(1, user_api="openmp"):
        try:
            fit = learner.fit(*_known(split.training, spec, horizon), loss, seed)
            features, change = _known(split.calibration, spec, horizon)
            residuals = change - fit.predict(features)
        except PortableError as error:
            found = f"the model for horizon {horizon} holds numbers that are not finite: lower learning_rate"
            raise ConfigurationError(f"{run.challenge_path}: learner.parameters: {found} ({error}).") from error
        return Fitted(fit, calibrate(residuals, run.challenge.learner.interval))


def _known(part: pd.DataFrame, spec: FeatureSpec, horizon: int) -> tuple[pd.DataFrame, FloatArray]:
    """The rows whose target is known: the horizon's features, and the change of the target from the origin."""
    rows = part[part[target_column(horizon)].notna()]
    change: FloatArray = (rows[target_column(horizon)] - rows["y"]).to_numpy()
    return rows[list(spec.columns_for(horizon))], change


def describe(run: Run, split: Split, fitted: dict[int, Fitted], dataset: Dataset, mlflow_run: str) -> Description:
    """The bundle's description of the models in ``fitted``, by horizon."""
    spec, training = feature_spec(run.challenge), split.training.sort_values("ds", kind="stable")
    return Description(
        challenge=run.challenge.name,
        unit=run.challenge.target.unit,
        features=spec,
        series=run.challenge.series_ids,
        train_start=training["ds"].min().to_pydatetime(),
        train_end=newest_target([training, split.calibration], run.challenge),
        rows={"train": len(training), "calibration": len(split.calibration), "holdout": len(split.holdout)},
        dataset_md5=dataset.md5,
        git_sha=run.identity.git_sha,
        mlflow_run=mlflow_run,
        interval=run.challenge.learner.interval,
        offsets={horizon: one.offsets for horizon, one in fitted.items()},
        title=run.challenge.title,
        variables=variable_ranges(run.challenge, spec),
        loss=run.challenge.target.loss,
        drift=run.challenge.drift,
        references=feature_references(
            spec.columns, training[list(spec.columns)].to_numpy(), run.challenge.drift.window_rows
        ),
    )


def variable_ranges(challenge: Challenge, spec: FeatureSpec) -> dict[str, VariableRange]:
    """The unit and range of each variable that a feature reads, as the data gate has them."""
    ranges = challenge.quality.ranges
    return {
        variable: VariableRange(challenge.source.variables[variable].unit, *ranges.get(variable, (None, None)))
        for variable in spec.variables
    }


def _write(run: Run, description: Description, fitted: dict[int, Fitted]) -> None:
    recent = recent_windows(description.features, read_observations(run.files.observations, run.challenge))
    windows = {unique_id: recent.get(unique_id, SeriesWindow((), ())) for unique_id in description.series}
    with whole_directory(run.files.models) as directory:
        for horizon, one in fitted.items():
            columns = list(description.features.columns_for(horizon))
            _save_for_mlflow(one.fit.estimator, columns, directory / f"h{horizon}")
    with whole_directory(run.files.bundle) as directory:
        write_bundle(directory, description, {h: one.fit.portable for h, one in fitted.items()}, windows)


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


def _log(run: Run, description: Description, tracking: TrackedRun) -> None:
    with tracking.faults("read the run"):
        known = tracking.client.get_run(tracking.run_id).data.params
    parameters = _parameters(run.challenge, description)
    changed = [f"{name} from {known[name]} to {new}" for name, new in parameters.items() if known.get(name, new) != new]
    if changed:
        hint = "start a new run with the stage 'ingest'"
        raise ConfigurationError(f"this run was trained before with other settings: {', '.join(changed)}; {hint}.")
    tracking.log_params({name: value for name, value in parameters.items() if name not in known})
    tracking.set_tags({RunTag.TRAIN_END: description.train_end.isoformat()})
    tracking.log_artifacts(run.files.bundle, Artifact.BUNDLE)
    tracking.log_artifacts(run.files.models, Artifact.SKLEARN)
    tracking.log_artifacts(run.challenge_path, Artifact.CHALLENGE)
    with tracking.faults("take the list of features"):
        columns = {f"h{horizon}": description.features.columns_for(horizon) for horizon in description.offsets}
        tracking.client.log_dict(tracking.run_id, columns, Artifact.FEATURES)


def _parameters(challenge: Challenge, description: Description) -> dict[str, str]:
    learner = challenge.learner
    values = {
        "target.variable": challenge.target.variable,
        "target.horizons": " ".join(map(str, challenge.target.horizons)),
        "target.loss": challenge.target.loss,
        **{f"learner.{name}": getattr(learner, name) for name in learner.__struct_fields__ if name != "parameters"},
        **dict(_flat(learner.parameters, "learner.parameters")),
        "features": len(description.features.columns),
        **{f"rows.{name}": count for name, count in description.rows.items()},
        "train_start": description.train_start.isoformat(),
        "train_end": description.train_end.isoformat(),
    }
    return {name: str(value) for name, value in values.items()}


def _flat(table: Mapping[str, object], key: str) -> Iterator[tuple[str, object]]:
    """The values of a table and of the tables in it, in order, by their keys below ``key``."""
    for name, value in sorted(table.items()):
        if isinstance(value, dict):
            yield from _flat(value, f"{key}.{name}")
        else:
            yield f"{key}.{name}", value
