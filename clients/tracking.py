"""MLflow: its client, what each of its faults means, and questions that wait out passing faults for a bounded time.

Works with MLflow 2.7 servers (DagsHub) and the newest: only calls that both answer.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from clients.errors import ConfigurationError, NoVerdict, PassingFault, RpsError, one_line
from clients.patience import Patience
from clients.settings import MlflowSettings
from records.mlflow_names import PRODUCTION

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

T = TypeVar("T")

_CLIENT_SETTINGS = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
_PATIENT_SETTINGS = {
    # `Tracking.ask` repeats requests itself, where the time is bounded over all calls together.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    # A server that keeps artifacts in S3 may redirect its clients to a name that only its own network knows.
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
}
_PASSING = {408, 409, 429, 499}
"""Besides 500 and above: the statuses after which the same request may succeed."""
_LOST_RACES = ("IntegrityError", "UniqueViolation")
"""A server's words, with status 400, when two clients wrote the same row at once (SQLite and MySQL, PostgreSQL)."""
_LONGEST_BRIEF = 300


class Missing(NoVerdict):
    """MLflow answers, but does not have the requested object."""


@dataclass(frozen=True)
class Tracking:
    """A tracking server and registry, and how long to wait out its faults."""

    client: MlflowClient
    uri: str
    patience: Patience

    def patient_again(self) -> Tracking:
        """The same server with its whole patience: for the next part of a long command."""
        return replace(self, patience=self.patience.again())

    def ask(self, doing: str, call: Callable[[], T]) -> T:
        """What ``call`` returns, repeated after passing faults; ``doing`` completes "MLflow would not …".

        Raises Missing, NoVerdict (down for too long, or not understood), ConfigurationError (refused, unusable here).
        """
        known, waited = _client_faults(), self.patience.seconds
        with faults(self.uri, doing, absent=Missing, other=NoVerdict, away=NoVerdict, waited=waited):
            return self.patience.ask(call, lambda error: isinstance(error, known) and _meaning(error) == "passing")

    def artifact(self, directory_uri: str, path: str) -> bytes:
        """The content of one artifact. Raises as ``ask`` does: Missing at once when it does not exist."""

        def download() -> bytes:
            from mlflow.artifacts import download_artifacts
            from mlflow.exceptions import MlflowException

            with tempfile.TemporaryDirectory(prefix="rps-") as scratch:
                # By its artifact address: a 2.7 server does not answer the client's newer requests.
                uri = f"{directory_uri.rstrip('/')}/{path}"
                try:
                    fetched = download_artifacts(artifact_uri=uri, dst_path=scratch, tracking_uri=self.uri)
                except MlflowException as error:
                    if not _is_absent(error) and not self._lists(uri):
                        raise FileNotFoundError(f"there is no {uri}") from error
                    raise
                return Path(fetched).read_bytes()

        return self.ask(f"give the artifact {path}", download)

    def production(self, name: str) -> str:
        """``released_version``; raises as ``ask`` does."""
        return self.ask(f"look up the model {name}", lambda: released_version(self.client, name))

    def versions(self, filtered: str) -> list[ModelVersion]:
        """The registered versions that MLflow's filter accepts, newest first; raises as ``ask`` does."""
        found = self.ask("search the versions", lambda: list(self.client.search_model_versions(filtered)))
        return sorted(found, key=lambda version: int(version.version), reverse=True)

    def _lists(self, uri: str) -> bool:
        """Whether the folder lists the artifact: some servers answer 500 for one that does not exist."""
        from mlflow.artifacts import list_artifacts

        folder, _, name = uri.rpartition("/")
        found = list_artifacts(artifact_uri=folder, tracking_uri=self.uri)
        return any(each.path.rpartition("/")[2] == name for each in found)


def connect(settings: MlflowSettings, patience_seconds: float) -> Tracking:
    """The server that the settings name, before any request to it. Raises ConfigurationError."""
    try:
        client = open_client(settings.url, _PATIENT_SETTINGS)
    except _client_faults() as error:
        raise ConfigurationError(f"MLFLOW_TRACKING_URI={settings.url} cannot be used: {_brief(error)}") from error
    return Tracking(client, settings.url, Patience(patience_seconds))


def open_client(uri: str, settings: Mapping[str, str]) -> MlflowClient:
    """MLflow's client with these settings, unless the environment has others."""
    for name, value in {**_CLIENT_SETTINGS, **settings}.items():
        os.environ.setdefault(name, value)  # before the first import of mlflow, which reads some of them
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def released_version(client: MlflowClient, name: str) -> str:
    """The version of a registered model behind the alias `production`; empty without such a version or model."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_registered_model(name).aliases.get(PRODUCTION, ""))
    except MlflowException as error:
        # Only the registry's own error code counts: a proxy's 404 must not pass for "no production model".
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return ""


def artifacts_gone(name: str, version: str, uri: str) -> ConfigurationError:
    """A registered version has lost its artifacts, which no repetition brings back."""
    found = f"version {version} of {name} cannot be used: its artifact {uri} is gone from MLflow's artifact store"
    hint = "Restore it (and exempt it from the bucket's life-cycle rules), or release another version."
    return ConfigurationError(f"{found}. {hint}")


@contextlib.contextmanager
def faults(
    uri: str,
    doing: str,
    *,
    absent: type[RpsError] = ConfigurationError,
    other: type[RpsError] = ConfigurationError,
    away: type[RpsError] = PassingFault,
    waited: float = 0.0,
) -> Iterator[None]:
    """Around any use of MLflow's client: raises its faults as errors of ours. doing: completes "MLflow would not …".

    absent: for what does not exist; other: for refusals that have another reason than our login; away: for a server
    that is still down after ``waited`` seconds.
    """
    try:
        yield
    except _client_faults() as error:
        refused = f"MLflow at {uri} would not {doing}"
        match _meaning(error):
            case "passing":
                hint = f"Asked for {waited:g} s; is it up?" if waited else "Is it up?"
                raise away(f"MLflow at {uri} could not {doing}: {_brief(error)}. {hint}") from error
            case "unusable":
                hint = "Check MLFLOW_TRACKING_URI."
                raise ConfigurationError(f"MLflow at {uri} cannot be used here: {error}. {hint}") from error
            case "login":
                hint = "Check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
                raise ConfigurationError(f"{refused}: {_brief(error)}. {hint}") from error
            case "absent":
                hint = "Check MLFLOW_TRACKING_URI, and whether the pipeline run logged it."
                raise absent(f"{refused}: it is not there. {hint}") from error
            case "wrong":
                raise other(f"{refused}: {_brief(error)}. Check MLFLOW_TRACKING_URI.") from error


def _client_faults() -> tuple[type[Exception], ...]:
    """All that MLflow's client raises."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    known: tuple[type[Exception], ...] = (MlflowException, RequestException, OSError, ImportError)
    with contextlib.suppress(ImportError):  # a server may redirect its clients to the artifact store
        from botocore.exceptions import BotoCoreError, ClientError

        known = (*known, BotoCoreError, ClientError)
    return known


def _meaning(error: Exception) -> Literal["passing", "unusable", "login", "absent", "wrong"]:
    """What a fault of MLflow's client means; no answer at all may pass."""
    if isinstance(error, ImportError):  # a database, or a store, that needs a driver
        return "unusable"
    status = _status(error)
    lost_race = status == 400 and any(name in str(error) for name in _LOST_RACES)
    if status is None or status >= 500 or status in _PASSING or lost_race:
        return "passing"
    if status in {401, 403}:
        return "login"
    return "absent" if status == 404 else "wrong"


def _status(error: Exception) -> int | None:
    """The HTTP status behind an error; None without an answer."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return 404 if _is_absent(error) else int(error.get_http_status_code())
    if isinstance(error, FileNotFoundError):
        return 404
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        return int(response["ResponseMetadata"]["HTTPStatusCode"])
    status = getattr(response, "status_code", None)
    return int(status) if status is not None else None


def _is_absent(error: Exception) -> bool:
    """Of a failed download, MLflow's exception keeps only the server's message."""
    return "404 Client Error" in str(error) or "(404)" in str(error)


def _brief(error: Exception) -> str:
    """An error on one line; a proxy's HTML page is cut off."""
    return one_line(str(error), _LONGEST_BRIEF).rstrip(".")
