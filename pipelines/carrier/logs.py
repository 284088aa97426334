"""What the files of a run say, logged to its MLflow run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clients.errors import ConfigurationError, RpsError
from forecasting.challenge.schema import Challenge
from forecasting.judging.evaluation import Evaluation
from forecasting.models.bundle import read_bundle
from forecasting.models.manifest import Description
from pipelines.carrier.process import sandbox
from pipelines.carrier.tracked_run import TrackedRun, open_tracking
from pipelines.evaluate import fold_metrics, run_metrics
from pipelines.files import read_json
from pipelines.run import Run
from records.mlflow_names import LOSS, Artifact, RunTag


def log_rejection(run: Run) -> None:
    """Log the report on data that failed the quality gate, and end the MLflow run there: no later stage does.

    A fault of MLflow is printed and changes nothing about the verdict.
    """
    try:
        tracking = open_tracking(run)
        log_quality(run, tracking)
        tracking.finish("FAILED")
    except RpsError as error:
        print(f"the report is not in MLflow: {' '.join(str(error).split())}", flush=True)
    else:
        print(f"logged the report to {tracking.run_url}", flush=True)


def end_failed(run: Run) -> None:
    """End the run in MLflow, if it has begun there and goes on, as FAILED."""
    if not run.mlflow_run:
        return
    tracking = open_tracking(run)
    with tracking.faults("read the run"):
        status = tracking.client.get_run(tracking.run_id).info.status
    if status == "RUNNING":
        tracking.finish("FAILED")
        print(f"ended as FAILED: {tracking.run_url}", flush=True)


def log_quality(run: Run, tracking: TrackedRun) -> None:
    for path in (run.files.quality, run.files.quality_report):
        tracking.log_artifacts(path, Artifact.PROFILE)


def log_profile(run: Run, tracking: TrackedRun) -> None:
    tracking.log_artifacts(run.files.profile, Artifact.PROFILE)
    log_quality(run, tracking)


def log_training(run: Run, tracking: TrackedRun) -> None:
    """What was trained: parameters, bundle, the training library's models, the challenge.

    Raises ConfigurationError when the MLflow run has other parameters already, which it never replaces.
    """
    description: Description = read_bundle(run.files.bundle).manifest
    with tracking.faults("read the run"):
        known = tracking.client.get_run(tracking.run_id).data.params
    parameters = _parameters(run.challenge, description)
    changed = [f"{name} from {known[name]} to {new}" for name, new in parameters.items() if known.get(name, new) != new]
    if changed:
        hint = "start a new run with the stage 'ingest'"
        raise ConfigurationError(f"this run was trained before with other settings: {', '.join(changed)}; {hint}.")
    tracking.log_params({name: value for name, value in parameters.items() if name not in known})
    tracking.set_tags({RunTag.TRAIN_END: description.train_end.isoformat(), RunTag.SANDBOX: sandbox()})
    tracking.log_artifacts(run.files.bundle, Artifact.BUNDLE)
    tracking.log_artifacts(run.files.models, Artifact.SKLEARN)
    tracking.log_artifacts(run.challenge_path, Artifact.CHALLENGE)
    with tracking.faults("take the list of features"):
        columns = {f"h{horizon}": description.features.columns_for(horizon) for horizon in description.offsets}
        tracking.client.log_dict(tracking.run_id, columns, Artifact.FEATURES)


def log_evaluation(run: Run, tracking: TrackedRun) -> None:
    """What was measured. Done again, it logs a metric only if its value is new: MLflow keeps every value."""
    evaluation = read_json(run.files.evaluation, Evaluation, made_by="evaluate")
    run.require_own(run.files.evaluation, evaluation.run_id, made_by="evaluate")
    with tracking.faults("read the run"):
        known = tracking.client.get_run(tracking.run_id).data.metrics
    tracking.log_artifacts(run.files.bundle, Artifact.BUNDLE)
    tracking.log_artifacts(run.files.evaluation, Artifact.EVALUATION)
    tracking.log_artifacts(run.files.losses, Artifact.EVALUATION)
    tracking.log_artifacts(run.files.plots, Artifact.PLOTS)
    tracking.log_metrics({name: value for name, value in run_metrics(evaluation) if known.get(name) != value})
    folds = [dict(fold_metrics(evaluation, fold)) for fold in evaluation.folds]
    if any(known.get(name) != value for name, value in folds[-1].items()):
        tracking.log_steps(folds)
    tracking.set_tags(
        {
            RunTag.FAIR: str(evaluation.fair).lower(),
            RunTag.UNFAIR_REASONS: " ".join(f"{reason}." for reason in evaluation.reasons),
            RunTag.PRODUCTION_VERSION: evaluation.production_version,
        }
    )


def _parameters(challenge: Challenge, description: Description) -> dict[str, str]:
    learner = challenge.learner
    values = {
        "target.variable": challenge.target.variable,
        "target.horizons": " ".join(map(str, challenge.target.horizons)),
        "target.scale": challenge.target.scale,
        LOSS: challenge.target.loss,
        "target.baseline": challenge.target.baseline.title,
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
