"""Add the candidate to the model registry, tagged `gate=pending` and without an alias, and end the MLflow run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from clients.errors import PassingFault
from forecasting.judging.evaluation import Evaluation
from pipelines.carrier.tracked_run import TrackedRun, open_tracking, tolerated
from pipelines.files import read_json, write_json
from pipelines.run import Run
from records.mlflow_names import Artifact, GateTag, VersionTag

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

READY_SECONDS = 60


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """`registered.json`: the version that this run added."""

    name: str
    version: str
    run_id: str
    mlflow_run_id: str
    source: str
    url: str


def register(run: Run) -> None:
    """Register the bundle that is logged to this run; a repetition finds the version and leaves it alone."""
    evaluation = read_json(run.files.evaluation, Evaluation, made_by="evaluate")
    run.require_own(run.files.evaluation, evaluation.run_id, made_by="evaluate")
    tracking, name = open_tracking(run), run.challenge.name
    tags: dict[str, str] = {
        VersionTag.GATE: GateTag.PENDING,
        VersionTag.GIT_SHA: run.identity.git_sha,
        VersionTag.RUN_ID: run.identity.run_id,
    }
    with tracking.faults(f"make the registered model {name}"), tolerated("RESOURCE_ALREADY_EXISTS"):
        tracking.client.create_registered_model(name, description=run.challenge.title)
    version = _ready(_existing(name, tracking) or _created(name, tracking, tags), tracking)
    with tracking.faults("tag a model version"):
        # Only missing tags: an existing verdict is the gate's and stays.
        for key, value in tags.items():
            if key not in version.tags:
                tracking.client.set_model_version_tag(name, version.version, key, value)
    tracking.finish()
    registered = Registered(
        name=name,
        version=str(version.version),
        run_id=run.identity.run_id,
        mlflow_run_id=tracking.run_id,
        source=str(version.source),
        url=f"{tracking.uri}/#/models/{name}/versions/{version.version}",
    )
    write_json(run.files.registered, registered)
    print(f"registered as version {registered.version} of {name}: {registered.url}", flush=True)


def _existing(name: str, tracking: TrackedRun) -> ModelVersion | None:
    """The version that this MLflow run added before; the oldest, in case a lost answer made two."""
    with tracking.faults(f"search the versions of {name}"):
        found = tracking.client.search_model_versions(f"name = '{name}' and run_id = '{tracking.run_id}'")
    return min(found, key=lambda version: int(version.version), default=None)


def _created(name: str, tracking: TrackedRun, tags: dict[str, str]) -> ModelVersion:
    with tracking.faults("add a model version"):
        source = f"{tracking.client.get_run(tracking.run_id).info.artifact_uri}/{Artifact.BUNDLE}"
        return tracking.client.create_model_version(name, source, tracking.run_id, tags=tags, await_creation_for=0)


def _ready(version: ModelVersion, tracking: TrackedRun) -> ModelVersion:
    deadline = time.monotonic() + READY_SECONDS
    while version.status != "READY":
        if version.status == "FAILED_REGISTRATION" or time.monotonic() > deadline:
            what = f"version {version.version} of {version.name} is {version.status}: {version.status_message}"
            raise PassingFault(f"{what}. Look at it at {tracking.uri}, delete it there if need be, then run again.")
        time.sleep(0.5)
        with tracking.faults("read a model version"):
            version = tracking.client.get_model_version(version.name, version.version)
    return version
