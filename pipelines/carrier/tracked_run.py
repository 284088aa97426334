"""The one MLflow run of a pipeline run, found or made when it is first needed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clients.disk import locked
from clients.errors import ConfigurationError
from clients.settings import mlflow_settings
from clients.tracking import faults, open_client
from pipelines.files import write_json
from pipelines.run import Run, RunAddress
from records.mlflow_names import RunTag

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

_BATCH = 100
"""Entries of any kind that MLflow accepts in one request."""
_CLIENT_SETTINGS = {
    # A stage notices in seconds that a server is down; Airflow's backoff does the long waiting.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True)
class TrackedRun:
    """The MLflow run. Every method raises ConfigurationError (refused) or PassingFault (down, lost half-way)."""

    client: MlflowClient
    uri: str
    experiment_id: str
    run_id: str

    @property
    def run_url(self) -> str:
        """Where a person looks at the run."""
        return f"{self.uri}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        self.log_steps([metrics], first=0)

    def log_steps(self, steps: Sequence[Mapping[str, float]], *, first: int = 1) -> None:
        """Metrics of which each has a value per step. MLflow shows the last; it keeps every value."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        numbered = [(step, *entry) for step, metrics in enumerate(steps, first) for entry in metrics.items()]
        self._log_batches("metrics", [Metric(name, float(value), now, step) for step, name, value in numbered])

    def log_params(self, parameters: Mapping[str, object]) -> None:
        """MLflow refuses to log a parameter again with another value."""
        from mlflow.entities import Param

        self._log_batches("params", [Param(name, str(value)) for name, value in parameters.items()])

    def set_tags(self, tags: Mapping[str, object]) -> None:
        from mlflow.entities import RunTag as Tag

        self._log_batches("tags", [Tag(name, str(value)) for name, value in tags.items()])

    def log_artifacts(self, source: Path, artifact_path: str | None = None) -> None:
        """Upload a file, or all of a directory, below ``artifact_path``; existing artifacts are replaced."""
        upload = self.client.log_artifacts if source.is_dir() else self.client.log_artifact
        with self.faults(f"take the artifact {source}"):
            upload(self.run_id, str(source), artifact_path)

    def finish(self, status: str = "FINISHED") -> None:
        """End the MLflow run; status: FINISHED, FAILED or KILLED."""
        with self.faults("end the run"):
            self.client.set_terminated(self.run_id, status)

    def faults(self, doing: str) -> AbstractContextManager[None]:
        """Around any use of ``client``: raises its faults as those of the stages."""
        return faults(self.uri, doing)

    def _log_batches(self, kind: str, entries: list[Any]) -> None:
        for start in range(0, len(entries), _BATCH):
            with self.faults(f"log {kind}"):
                self.client.log_batch(self.run_id, **{kind: entries[start : start + _BATCH]})


def open_tracking(run: Run) -> TrackedRun:
    """The MLflow run of this pipeline run, made when there is none; stages that run at the same time get the same one.

    Raises ConfigurationError when `MLFLOW_TRACKING_URI` is missing or refuses us, PassingFault when it is down.
    """
    uri = mlflow_settings(os.environ).url
    with faults(uri, "open the run"):
        _require_answer(uri)
        client = open_client(uri, _CLIENT_SETTINGS)
        with locked(run.files.tracking.with_suffix(".lock"), "the MLflow run"):
            found = _remembered(client, run) or _searched_or_created(client, run)
            tracking = TrackedRun(client, uri, found.info.experiment_id, found.info.run_id)
            address = RunAddress(run.identity.run_id, tracking.run_id, tracking.experiment_id, tracking.run_url)
            write_json(run.files.tracking, address)
    return tracking


def _require_answer(uri: str) -> None:
    """Notice in seconds a host that swallows packets: MLflow's one time-out is long, as it covers slow answers too."""
    if not uri.startswith(("http://", "https://")):
        return
    import requests

    try:
        requests.get(uri, timeout=(5.0, 30.0), allow_redirects=False, stream=True).close()
    except requests.ConnectTimeout:
        raise
    except requests.RequestException:
        return  # MLflow's own client meets it next, with retries


def _remembered(client: MlflowClient, run: Run) -> MlflowRun | None:
    """The run that `mlflow.json` names, if the server still has it and it belongs to this pipeline run."""
    with suppress(OSError, msgspec.DecodeError), tolerated("RESOURCE_DOES_NOT_EXIST"):
        stored = msgspec.json.decode(run.files.tracking.read_bytes(), type=RunAddress)
        found = client.get_run(stored.mlflow_run_id)
        if found.data.tags.get(RunTag.RUN_ID) == run.identity.run_id and found.info.lifecycle_stage == "active":
            return found
    return None


def _searched_or_created(client: MlflowClient, run: Run) -> MlflowRun:
    identity, name = run.identity, run.challenge.name
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        with tolerated("RESOURCE_ALREADY_EXISTS"):
            client.create_experiment(name)
        experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        hint = "restore it (mlflow experiments restore), or purge it."
        raise ConfigurationError(f"MLflow's experiment {name!r} is deleted: {hint}")
    quote = '"' if "'" in identity.run_id else "'"
    # The oldest: if a retried request ever made two, every stage still agrees on one.
    found = client.search_runs(
        [experiment.experiment_id],
        filter_string=f"tags.`{RunTag.RUN_ID}` = {quote}{identity.run_id}{quote}",
        order_by=["attribute.start_time ASC"],
        max_results=1,
    )
    if found:
        return found[0]
    tags = {
        RunTag.RUN_ID: identity.run_id,
        RunTag.GIT_SHA: identity.git_sha,
        RunTag.PULL_REQUEST: identity.pull_request,
        RunTag.REASON: identity.reason,
    }
    return client.create_run(experiment.experiment_id, tags=tags, run_name=identity.run_id)


@contextmanager
def tolerated(code: str) -> Iterator[None]:
    """Lets MLflow's own error of this code pass."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != code:
            raise
