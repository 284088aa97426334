"""What the gate judges on: fetched from MLflow, and believed only where its parts agree with one another.

A run leaves every figure more than once: in MLflow's metrics and tags, in `evaluation.json`, in the manifests of the
bundles, and as the predictions themselves. The predictions are what is judged; all else must fit them.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeVar

import msgspec
import numpy as np

from ci.errors import CiError, NoVerdict
from ci.judgement import Data, Judgement, Links, Violation
from ci.settings import MlflowSettings
from ci.tracking import Missing, Tracking, connect
from forecasting.evaluation import Errors, Evaluation, Measured, Predictions, measure
from forecasting.manifest import MANIFEST, BundleError, Manifest, decoded_manifest
from forecasting.panel import COLUMNS, Panel, PanelError, read_panel

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

T = TypeVar("T")

TOLERANCE = 1e-9
"""How far, relative, an error may lie from the one that its predictions give."""
_PROFILE = "profile"


class ProductionMoved(NoVerdict):
    """Another model was released while the run was under way; the candidate has to meet that one."""


@dataclass(frozen=True)
class Evidence:
    """Everything about one run that a verdict and its report need."""

    panel: Panel
    evaluation: Evaluation
    data: Data
    model_version: str
    links: Links


class _Quality(msgspec.Struct, frozen=True):
    """What is read of `quality.json`."""

    challenge: str
    as_of: datetime
    rows: int
    passed: bool
    violations: tuple[Violation, ...]
    first: datetime | None = None
    last: datetime | None = None


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
    same = _Same(f"MLflow run {run.info.run_id} (of run {run_id})")
    same.require("its status", "FINISHED", run.info.status)
    same.require("its tag rps.git_sha", git_sha, run.data.tags.get("rps.git_sha"))
    folder = str(run.info.artifact_uri)
    evaluation = _decoded(tracking.artifact(folder, "evaluation/evaluation.json"), Evaluation, "evaluation.json")
    panel = _panel(tracking.artifact(folder, "evaluation/losses.parquet"))
    quality = _decoded(tracking.artifact(folder, f"{_PROFILE}/quality.json"), _Quality, "quality.json")
    version = _candidate_version(tracking, challenge, run)
    same.require("the version's tag git_sha", git_sha, version.tags.get("git_sha"))
    same.require("the version's tag run_id", run_id, version.tags.get("run_id"))
    same.require("evaluation.json: challenge", challenge, evaluation.challenge)
    same.require("evaluation.json: run_id", run_id, evaluation.run_id)
    _check_candidate(same, _manifest(tracking, challenge, version.version), evaluation, run, git_sha)
    _check_window(same, panel, evaluation)
    recomputed = _recomputed(panel, evaluation)
    _check_errors(same, recomputed, evaluation)
    _check_metrics(same, recomputed, evaluation, run)
    _check_production(same, tracking, challenge, evaluation)
    return Evidence(
        panel=panel,
        evaluation=evaluation,
        data=_data(same, quality, evaluation, run),
        model_version=str(version.version),
        links=_links(tracking, challenge, run, str(version.version)),
    )


def production_version(settings: MlflowSettings, challenge: str, *, patience_seconds: float = 60.0) -> str:
    """The version behind the alias `production` now; empty when nothing was released. Raises as ``fetch_evidence``."""
    return connect(settings, patience_seconds).production(challenge)


def record_verdict(settings: MlflowSettings, judgement: Judgement, *, patience_seconds: float = 60.0) -> None:
    """Tag the candidate's version with its verdict; without one, or without a version, it stays `pending`.

    Again, it does the same. Raises as ``fetch_evidence`` does.
    """
    if judgement.outcome == "error" or judgement.verdict is None or not judgement.model_version:
        return
    tracking = connect(settings, patience_seconds)
    tags = {"gate_summary": judgement.summary, "gate_policy": judgement.policy_from}
    if judgement.verdict.skill is not None:
        tags["gate_skill"] = repr(judgement.verdict.skill)
    # Last, so that no version is seen as passed before all is said of it.
    tags["gate"] = "passed" if judgement.outcome == "pass" else "blocked"
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

    It adds to a report about a run that failed anyway: where MLflow does not tell, that is printed, and there is none.
    """
    try:
        tracking = connect(settings, patience_seconds)
        run = _tracked_run(tracking, challenge, run_id)
        content = tracking.artifact(str(run.info.artifact_uri), f"{_PROFILE}/quality.json")
        quality = _decoded(content, _Quality, "quality.json")
    except CiError as error:
        print(f"what the data gate found is not known: {error}", file=sys.stderr, flush=True)
        return ()
    return () if quality.passed else quality.violations


@dataclass(frozen=True)
class _Same:
    """Requires that two things that must be the same are."""

    subject: str

    def require(self, what: str, expected: object, found: object) -> None:
        """Raises NoVerdict when they differ."""
        if expected != found:
            self.differ(what, expected, found)

    def differ(self, what: str, expected: object, found: object) -> NoReturn:
        """Raises NoVerdict."""
        told = f"{self.subject} cannot be judged: {what}: expected {expected}; found {found}"
        raise NoVerdict(f"{told}. Look for what changed it, and run the pipeline again.")


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
            filter_string=f"tags.`rps.run_id` = {quote}{run_id}{quote}",
            run_view_type=ViewType.ALL,  # so that a deleted run is told as such
        ),
    )
    active = [run for run in found if run.info.lifecycle_stage == "active"]
    if len(active) == 1:
        return active[0]
    told = f"MLflow at {tracking.uri}: expected one run of {challenge} tagged rps.run_id={run_id}; found"
    if active:
        raise NoVerdict(f"{told} {len(active)}. Delete those that are not its, and judge again.")
    deleted = "only deleted ones" if found else "none"
    raise Missing(f"{told} {deleted}. Run the pipeline again.")


def _candidate_version(tracking: Tracking, challenge: str, run: Run) -> ModelVersion:
    """The version that the run registered; the oldest, as `register` has it."""
    filtered = f"name = '{challenge}' and run_id = '{run.info.run_id}'"
    found = tracking.ask("search the versions", lambda: list(tracking.client.search_model_versions(filtered)))
    if not found:
        told = f"MLflow at {tracking.uri} has no version of {challenge} from run {run.info.run_id}"
        raise Missing(f"{told}: it was not registered, or deleted. Run the pipeline again.")
    return min(found, key=lambda version: int(version.version))


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
        table = parquet.read_table(io.BytesIO(content))
        return read_panel({name: table.column(name).to_numpy() for name in COLUMNS if name in table.column_names})
    except (pa.ArrowException, PanelError) as error:
        raise NoVerdict(f"losses.parquet cannot be judged on: {error}. Run the pipeline again.") from error


def _check_candidate(same: _Same, manifest: Manifest, evaluation: Evaluation, run: Run, git_sha: str) -> None:
    candidate, tags = evaluation.candidate, run.data.tags
    same.require("the bundle's challenge", evaluation.challenge, manifest.challenge)
    for told, of in (("the bundle", manifest), ("evaluation.json: candidate", candidate)):
        same.require(f"{told}: MLflow run", run.info.run_id, of.mlflow_run)
        same.require(f"{told}: commit", git_sha, of.git_sha)
        same.require(f"{told}: dataset", tags.get("rps.dataset_md5"), of.dataset_md5)
    same.require("evaluation.json: candidate.train_end", manifest.train_end, candidate.train_end)


def _check_window(same: _Same, panel: Panel, evaluation: Evaluation) -> None:
    window = evaluation.window
    same.require("evaluation.json: window.rows", len(panel.truth), window.rows)
    same.require("evaluation.json: window.origins", len(np.unique(panel.origin)), window.origins)
    same.require("evaluation.json: window.start", _moment(panel.origin.min()), window.start)
    same.require("evaluation.json: window.end", _moment(panel.origin.max()), window.end)


def _moment(value: np.datetime64) -> datetime:
    moment: datetime = value.astype("datetime64[us]").item()
    return moment.replace(tzinfo=UTC)


def _recomputed(panel: Panel, evaluation: Evaluation) -> dict[str, Measured]:
    """The errors of every model from its predictions, by the prefix of its metrics."""
    bounds = {"candidate": (panel.candidate_lower, panel.candidate_upper)}
    values = {"candidate": panel.candidate, "persistence": panel.persistence}
    if panel.production is not None:
        values["production"] = panel.production
    measured = {}
    for name, value in values.items():
        lower, upper = bounds.get(name, (None, None))
        predictions = Predictions(
            unique_id=panel.unique_id.astype(object),
            horizon=panel.horizon,
            compared=np.ones(len(panel.truth), dtype=np.bool_),
            truth=panel.truth,
            value=value,
            lower=lower,
            upper=upper,
        )
        measured[name] = measure(predictions, evaluation.loss)
    return measured


def _check_errors(same: _Same, recomputed: dict[str, Measured], evaluation: Evaluation) -> None:
    """That `evaluation.json` tells of every model what its predictions give."""
    reported = {"candidate": evaluation.candidate.measured, "persistence": evaluation.persistence}
    if evaluation.production:
        reported["production"] = evaluation.production.measured
    same.require("evaluation.json: the compared models", sorted(recomputed), sorted(reported))
    for model, own in recomputed.items():
        same.require(f"evaluation.json: series of {model}", sorted(own.series), sorted(reported[model].series))
        told = {name: errors for name, _, errors in _slices(reported[model])}
        for name, _, errors in _slices(own):
            where = f"evaluation.json: {model}, {name}"
            if name not in told:
                same.differ(where, "its errors", "none")
            for measure_name, value in _figures(errors):
                _require_close(same, f"{where}: {measure_name}", value, getattr(told[name], measure_name))


def _check_metrics(same: _Same, recomputed: dict[str, Measured], evaluation: Evaluation, run: Run) -> None:
    """That MLflow's metrics, which people look at, are those of the predictions."""
    renamed = {"coverage": f"coverage_{evaluation.interval * 100:g}"}
    for model, measured in recomputed.items():
        prefix = "" if model == "candidate" else f"{model}."
        for _, suffix, errors in _slices(measured):
            for name, value in _figures(errors) if suffix is not None else ():
                if name in {"rmse", "mae", "r2", "coverage"}:
                    metric = f"{prefix}{renamed.get(name, name)}{suffix}"
                    _require_close(same, f"its metric {metric}", value, run.data.metrics.get(metric))


def _slices(measured: Measured) -> Iterator[tuple[str, str | None, Errors]]:
    """Name, suffix of the metrics (series have one that cannot always be told from their name), errors."""
    yield "overall", "", measured.overall
    for horizon, errors in measured.horizons.items():
        yield f"horizon {horizon}", f"_h{horizon}", errors
    for unique_id, errors in measured.series.items():
        yield f"series {unique_id}", None, errors


def _figures(errors: Errors) -> Iterator[tuple[str, float]]:
    for name in ("rows", "loss", "rmse", "mae", "r2", "coverage"):
        value = getattr(errors, name)
        if value is not None:
            yield name, value


def _require_close(same: _Same, what: str, expected: float, found: float | None) -> None:
    if found is None or not math.isclose(expected, found, rel_tol=TOLERANCE, abs_tol=1e-12):
        same.differ(what, expected, "none" if found is None else found)


def _check_production(same: _Same, tracking: Tracking, challenge: str, evaluation: Evaluation) -> None:
    """That the candidate met the model that is released now, and that what is said of that model is so."""
    now, met = tracking.production(challenge), evaluation.production_version
    if now != met:
        told = f"the production model of {challenge} was {met or 'none'} when the candidate was measured, and is"
        raise ProductionMoved(f"{told} {now or 'none'} now. Run the pipeline again.")
    production = evaluation.production
    if production is None:
        if now and not evaluation.reasons:
            same.differ(f"evaluation.json: version {now}, which is in production", "measured, or why not", "neither")
        return
    manifest = _manifest(tracking, challenge, now)
    same.require("evaluation.json: production.version", now, production.version)
    for name in ("train_end", "dataset_md5", "git_sha", "mlflow_run"):
        same.require(f"evaluation.json: production.{name}", getattr(manifest, name), getattr(production, name))


def _data(same: _Same, quality: _Quality, evaluation: Evaluation, run: Run) -> Data:
    same.require("quality.json: challenge", evaluation.challenge, quality.challenge)
    same.require("quality.json: as_of", evaluation.as_of, quality.as_of)
    same.require("quality.json: passed", expected=True, found=quality.passed)
    if quality.first is None or quality.last is None:
        raise NoVerdict("quality.json cannot be judged on: it does not say from when to when the data are.")
    errors = sum(violation.severity == "error" for violation in quality.violations)
    tags = run.data.tags
    if not tags.get("rps.dataset_rev"):
        same.differ("its tag rps.dataset_rev", "the commit that records the dataset", "none")
    return Data(
        rows=quality.rows,
        first=quality.first,
        last=quality.last,
        dataset_md5=tags["rps.dataset_md5"],
        dataset_rev=tags["rps.dataset_rev"],
        errors=errors,
        warnings=len(quality.violations) - errors,
        drift=evaluation.drift,
        drift_from=evaluation.drift_from,
    )


def _links(tracking: Tracking, challenge: str, run: Run, version: str) -> Links:
    run_url = f"{tracking.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    return Links(
        mlflow_run=run_url,
        profile=f"{run_url}/artifacts/{_PROFILE}",
        model_version=f"{tracking.uri}/#/models/{challenge}/versions/{version}",
    )
