"""What the gate judges on: fetched from MLflow, and believed only where its parts agree with one another.

A run leaves every figure more than once: in MLflow's metrics and tags, in `evaluation.json`, in the manifests of the
bundles, and as the predictions themselves. The predictions are what is judged; all else must fit them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np

from clients.errors import NoVerdict, RpsError
from clients.settings import MlflowSettings
from clients.tracking import Missing, Tracking, artifacts_gone, connect
from forecasting.judging.evaluation import Evaluation, ModelErrors, Window, errors_of
from forecasting.judging.losses import LOSSES, Unmeasurable
from forecasting.judging.panel import COLUMNS, OPPONENT, Panel, PanelError, read_panel
from forecasting.models.manifest import MANIFEST, BundleError, Manifest, decoded_manifest
from records.judgement import Data, Judgement, Links
from records.mlflow_names import Artifact, GateTag, RunTag, VersionTag, error_metrics
from records.quality import QualityReport, Violation

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

T = TypeVar("T")
Require = Callable[[str, object, object], None]
"""Of two things that must be the same, what they are, the expected one and the found one. Raises NoVerdict."""

TOLERANCE = 1e-9
"""How far, relative, an error may lie from the one that its predictions give."""


class ProductionMoved(NoVerdict):
    """Another model was released while the run was under way; the candidate has to meet that one."""


@dataclass(frozen=True)
class Evidence:
    """Everything about one run that a verdict and its report need."""

    panel: Panel
    errors: Mapping[str, ModelErrors]
    """Of the panel."""
    evaluation: Evaluation
    data: Data
    model_version: str
    links: Links


def fetch_evidence(
    settings: MlflowSettings, challenge: str, run_id: str, git_sha: str, *, patience_seconds: float = 60.0
) -> Evidence:
    """What the DAG run ``run_id`` left of the candidate that was made from commit ``git_sha``.

    patience_seconds: for how long MLflow's faults are waited for, over all questions together.
    Raises NoVerdict when anything is missing or does not fit the rest (ProductionMoved when it is the production
    model's version), ConfigurationError when MLflow refuses us.
    """
    tracking = connect(settings, patience_seconds)
    run = _tracked_run(tracking, challenge, run_id)
    require = partial(_require, f"MLflow run {run.info.run_id} (of run {run_id})")
    require("its status", "FINISHED", run.info.status)
    require(f"its tag {RunTag.GIT_SHA}", git_sha, run.data.tags.get(RunTag.GIT_SHA))
    folder = str(run.info.artifact_uri)
    evaluation = _decoded(tracking.artifact(folder, Artifact.EVALUATION_RECORD), Evaluation, "evaluation.json")
    panel = _panel(tracking.artifact(folder, Artifact.LOSSES))
    quality = _decoded(tracking.artifact(folder, Artifact.QUALITY), QualityReport, "quality.json")
    version = _candidate_version(tracking, challenge, run)
    require("the version's tag git_sha", git_sha, version.tags.get(VersionTag.GIT_SHA))
    require("the version's tag run_id", run_id, version.tags.get(VersionTag.RUN_ID))
    require("evaluation.json: challenge", challenge, evaluation.challenge)
    require("evaluation.json: run_id", run_id, evaluation.run_id)
    _check_candidate(require, _manifest(tracking, challenge, version.version), evaluation, run, git_sha)
    _check_window(require, panel, evaluation)
    errors = _measured(panel, evaluation)
    _check_errors(require, errors, evaluation, run)
    _check_folds(require, errors, evaluation)
    _check_production(require, tracking, challenge, evaluation)
    run_url = f"{tracking.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    return Evidence(
        panel=panel,
        errors=errors,
        evaluation=evaluation,
        data=_data(require, quality, evaluation, run),
        model_version=str(version.version),
        links=Links(
            mlflow_run=run_url,
            profile=f"{run_url}/artifacts/{Artifact.PROFILE}",
            model_version=f"{tracking.uri}/#/models/{challenge}/versions/{version.version}",
        ),
    )


def record_verdict(settings: MlflowSettings, judgement: Judgement, *, patience_seconds: float = 60.0) -> None:
    """Tag the candidate's version with its verdict; without one, or without a version, it stays `pending`.

    A second call does the same. Raises as ``fetch_evidence`` does.
    """
    if judgement.outcome == "error" or judgement.verdict is None or not judgement.model_version:
        return
    tracking = connect(settings, patience_seconds)
    tags = {VersionTag.SUMMARY: judgement.summary, VersionTag.POLICY: judgement.policy_from}
    if judgement.verdict.skill is not None:
        tags[VersionTag.SKILL] = repr(judgement.verdict.skill)
    # Last, so that no version is seen as passed before all is said of it.
    tags[VersionTag.GATE] = GateTag.PASSED if judgement.outcome == "pass" else GateTag.BLOCKED
    name, version = judgement.challenge, judgement.model_version
    for key, value in tags.items():
        tracking.ask(
            f"tag version {version} of {name}",
            partial(tracking.client.set_model_version_tag, name, version, key, value),
        )


def rejected_data(
    settings: MlflowSettings, challenge: str, run_id: str, *, patience_seconds: float = 15.0
) -> tuple[Violation, ...]:
    """What the data gate of a run found, if it rejected the data and could say so to MLflow.

    It adds to a report about a run that failed anyway: where MLflow has no answer, the reason is printed.
    """
    try:
        tracking = connect(settings, patience_seconds)
        run = _tracked_run(tracking, challenge, run_id)
        content = tracking.artifact(str(run.info.artifact_uri), Artifact.QUALITY)
        quality = _decoded(content, QualityReport, "quality.json")
    except RpsError as error:
        print(f"what the data gate found is not known: {error}", file=sys.stderr, flush=True)
        return ()
    return () if quality.passed else quality.violations


def _require(subject: str, what: str, expected: object, found: object) -> None:
    """Floats may differ by TOLERANCE; NaN equals nothing."""
    same = expected == found
    if isinstance(expected, float) and isinstance(found, float):
        same = math.isclose(expected, found, rel_tol=TOLERANCE, abs_tol=1e-12)
    if not same:
        difference = f"{subject} cannot be judged: {what}: expected {expected}; found {found}"
        raise NoVerdict(f"{difference}. Look for what changed it, and run the pipeline again.")


def _tracked_run(tracking: Tracking, challenge: str, run_id: str) -> Run:
    """The one MLflow run of a DAG run. Raises NoVerdict when there is none, or several, or it was deleted."""
    from mlflow.entities import ViewType

    experiment = tracking.ask("find the experiment", lambda: tracking.client.get_experiment_by_name(challenge))
    if experiment is None:
        raise Missing(f"MLflow at {tracking.uri} has no experiment {challenge}: did the pipeline run log elsewhere?")
    quote = '"' if "'" in run_id else "'"
    found = tracking.ask(
        f"find the run {run_id}",
        lambda: tracking.client.search_runs(
            [experiment.experiment_id],
            filter_string=f"tags.`{RunTag.RUN_ID}` = {quote}{run_id}{quote}",
            run_view_type=ViewType.ALL,  # so that a deleted run is reported as such
        ),
    )
    active = [run for run in found if run.info.lifecycle_stage == "active"]
    if len(active) == 1:
        return active[0]
    expected = f"MLflow at {tracking.uri}: expected one run of {challenge} tagged {RunTag.RUN_ID}={run_id}"
    if active:
        raise NoVerdict(f"{expected}; found {len(active)}. Delete those that are not its, and judge again.")
    raise Missing(f"{expected}; found {'only deleted ones' if found else 'none'}. Run the pipeline again.")


def _candidate_version(tracking: Tracking, challenge: str, run: Run) -> ModelVersion:
    """The version that the run registered; the oldest, as `register` has it."""
    found = tracking.versions(f"name = '{challenge}' and run_id = '{run.info.run_id}'")
    if not found:
        absent = f"MLflow at {tracking.uri} has no version of {challenge} from run {run.info.run_id}"
        raise Missing(f"{absent}: it was not registered, or deleted. Run the pipeline again.")
    return found[-1]


def _manifest(tracking: Tracking, challenge: str, version: str) -> Manifest:
    """The manifest of the bundle that a version of the registry stands for."""
    what = f"find the bundle of version {version} of {challenge}"
    source = tracking.ask(what, lambda: tracking.client.get_model_version_download_uri(challenge, version))
    try:
        return decoded_manifest(tracking.artifact(str(source), MANIFEST))
    except BundleError as error:
        raise NoVerdict(f"version {version} of {challenge} cannot be judged: {error}") from error


def _decoded(content: bytes, kind: type[T], name: str) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NoVerdict(f"{name} cannot be judged on: {error}. Run the pipeline again.") from error


def _panel(content: bytes) -> Panel:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # Threads that read an object of Python can abort a process that ends: see `pipelines/files.py`.
        table = parquet.ParquetFile(pa.BufferReader(content), pre_buffer=False).read(use_threads=False)
        names = [name for name in table.column_names if name in COLUMNS or name.startswith(OPPONENT)]
        return read_panel({name: table.column(name).to_numpy() for name in names})
    except (pa.ArrowException, PanelError) as error:
        raise NoVerdict(f"losses.parquet cannot be judged on: {error}. Run the pipeline again.") from error


def _measured(panel: Panel, evaluation: Evaluation) -> dict[str, ModelErrors]:
    try:
        return errors_of(panel, evaluation.loss)
    except Unmeasurable as error:
        raise NoVerdict(f"losses.parquet cannot be judged on: {error}. Run the pipeline again.") from error


def _check_candidate(require: Require, manifest: Manifest, evaluation: Evaluation, run: Run, git_sha: str) -> None:
    candidate, tags = evaluation.candidate, run.data.tags
    require("the bundle's challenge", evaluation.challenge, manifest.challenge)
    for name, of in (("the bundle", manifest), ("evaluation.json: candidate", candidate)):
        require(f"{name}: MLflow run", run.info.run_id, of.mlflow_run)
        require(f"{name}: commit", git_sha, of.git_sha)
        require(f"{name}: dataset", tags.get(RunTag.DATASET_MD5), of.dataset_md5)
    for name in ("train_end", "rows_by_week"):
        require(f"evaluation.json: candidate.{name}", getattr(manifest, name), getattr(candidate, name))
    require("evaluation.json: baseline.title", manifest.baseline.title, evaluation.baseline.title)
    titles = [opponent.title for opponent in manifest.opponents]
    require("evaluation.json: titles of the opponents", titles, [each.title for each in evaluation.opponents])


def _check_window(require: Require, panel: Panel, evaluation: Evaluation) -> None:
    origins = np.unique(panel.origin)
    start, end = (origins[place].astype("datetime64[us]").item().replace(tzinfo=UTC) for place in (0, -1))
    own = Window(start=start, end=end, origins=len(origins), rows=len(panel.truth))
    for name in ("rows", "origins", "start", "end"):
        require(f"evaluation.json: window.{name}", getattr(own, name), getattr(evaluation.window, name))


def _check_errors(require: Require, own: Mapping[str, ModelErrors], evaluation: Evaluation, run: Run) -> None:
    """That `evaluation.json`, and MLflow's metrics, which people look at, hold what each model's predictions give."""
    reported = {"candidate": evaluation.candidate.measured, "baseline": evaluation.baseline.measured}
    reported |= {f"{OPPONENT}{each.kind}": each.measured for each in evaluation.opponents}
    if evaluation.production:
        reported["production"] = evaluation.production.measured
    require("evaluation.json: the compared models", sorted(own), sorted(reported))
    for model, measured in own.items():
        require(f"evaluation.json: series of {model}", sorted(measured.series), sorted(reported[model].series))
        found = dict(reported[model].slices())
        for one, errors in measured.slices():
            where = f"evaluation.json: {model}, {one}"
            if one not in found:
                require(where, "its errors", "none")
            for figure, value in msgspec.structs.asdict(errors).items():
                if value is not None:
                    require(f"{where}: {figure}", value, getattr(found[one], figure))
    for model, measured in own.items():
        for name, value in error_metrics(model, measured, LOSSES[evaluation.loss].measure, evaluation.interval):
            require(f"its metric {name}", value, run.data.metrics.get(name, "none"))


def _check_folds(require: Require, own: Mapping[str, ModelErrors], evaluation: Evaluation) -> None:
    """That the folds together give what all predictions give: as many rows, and each model the same mean loss."""
    loss, folds = LOSSES[evaluation.loss], evaluation.folds
    rows = sum(fold.rows for fold in folds)
    require("evaluation.json: rows of all folds", evaluation.window.rows, rows)
    for model, measured in own.items():
        total = sum(fold.rows * loss.mean_loss(fold.errors.get(model, math.nan)) for fold in folds)
        require(f"evaluation.json: {model}, mean loss of all folds", measured.overall.loss, total / rows)


def _check_production(require: Require, tracking: Tracking, challenge: str, evaluation: Evaluation) -> None:
    """That the candidate met the model that is released now, and that what is said of that model is so."""
    now, met = tracking.production(challenge), evaluation.production_version
    if now != met:
        moved = f"the production model of {challenge} was {met or 'none'} when the candidate was measured, and is"
        raise ProductionMoved(f"{moved} {now or 'none'} now. Run the pipeline again.")
    production = evaluation.production
    same_code = production is not None and production.git_sha == evaluation.candidate.git_sha
    require("evaluation.json: same_code", same_code, evaluation.same_code)
    if production is None:
        if now and not evaluation.reasons:
            require(f"evaluation.json: version {now}, which is in production", "measured, or why not", "neither")
        return
    try:
        manifest = _manifest(tracking, challenge, now)
    except Missing as error:
        uri = tracking.ask("find the bundle", partial(tracking.client.get_model_version_download_uri, challenge, now))
        raise artifacts_gone(challenge, now, f"{uri}/{MANIFEST}") from error
    require("evaluation.json: production.version", now, production.version)
    for name in ("train_end", "rows_by_week", "dataset_md5", "git_sha", "mlflow_run"):
        require(f"evaluation.json: production.{name}", getattr(manifest, name), getattr(production, name))


def _data(require: Require, quality: QualityReport, evaluation: Evaluation, run: Run) -> Data:
    require("quality.json: challenge", evaluation.challenge, quality.challenge)
    require("quality.json: as_of", evaluation.as_of, quality.as_of)
    require("quality.json: passed", "True", str(quality.passed))
    if quality.first is None or quality.last is None:
        raise NoVerdict("quality.json cannot be judged on: it does not say from when to when the data are.")
    errors = len(quality.errors)
    tags = run.data.tags
    if not tags.get(RunTag.DATASET_REV):
        require(f"its tag {RunTag.DATASET_REV}", "the commit that records the dataset", "none")
    return Data(
        rows=quality.rows,
        first=quality.first,
        last=quality.last,
        dataset_md5=tags[RunTag.DATASET_MD5],
        dataset_rev=tags[RunTag.DATASET_REV],
        errors=errors,
        warnings=len(quality.violations) - errors,
        drift=evaluation.drift,
        drift_from=evaluation.drift_from,
        sandbox=tags.get(RunTag.SANDBOX, ""),
    )
