"""MLflow as `ci` asks it: through passing faults for a bounded time, and every other fault told as what it is.

Works against MLflow 2.7 servers (DagsHub) as against the newest: only calls that both answer.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from clients.errors import ConfigurationError, NoVerdict, PassingFault, RpsError
from clients.patience import Patience, patient
from clients.settings import MlflowSettings
from records.mlflow_names import PRODUCTION

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

T = TypeVar("T")
Meaning = Literal["passing", "unusable", "login", "absent", "wrong"]

_CLIENT_SETTINGS = {
    # Faults are waited for here, where the time is bounded over all calls together.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server that keeps artifacts in S3 may send its clients there, by a name that only its own network knows.
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_PASSING = {408, 409, 429, 499}
"""Besides 500 and above: the statuses after which the same question may be answered."""
_LOST_RACES = ("IntegrityError", "UniqueViolation")
"""What a server says, with status 400, when two clients wrote the same row at once (SQLite and MySQL, PostgreSQL)."""
_TOLD_CHARACTERS = 300


class Missing(NoVerdict):
    """MLflow is there, and has not what was asked for."""


@dataclass(frozen=True)
class Tracking:
    """A tracking server and registry, and for how long its faults are waited out."""

    client: MlflowClient
    uri: str
    patience: Patience

    def patient_again(self) -> Tracking:
        """The same, as patient as it was at first: for the next part of a long command."""
        return replace(self, patience=self.patience.again())

    def ask(self, doing: str, call: Callable[[], T]) -> T:
        """What ``call`` gives, asked again after a passing fault; ``doing`` completes "MLflow would not …".

        Raises Missing, NoVerdict (down for too long, or not understood), ConfigurationError (refused, unusable here).
        """
        faults = client_faults()
        try:
            return self.patience.ask(call, lambda error: isinstance(error, faults) and meaning_of(error) == "passing")
        except faults as error:
            waited = self.patience.seconds
            raise error_of(
                error, self.uri, doing, absent=Missing, other=NoVerdict, away=NoVerdict, waited=waited
            ) from error

    def artifact(self, directory_uri: str, path: str) -> bytes:
        """The content of one artifact. Raises as ``ask`` does: Missing at once when it is not there."""

        def download() -> bytes:
            from mlflow.artifacts import download_artifacts
            from mlflow.exceptions import MlflowException

            with tempfile.TemporaryDirectory(prefix="rps-") as scratch:
                # By its artifact address: a 2.7 server does not answer what the client's newer ways ask it.
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
        """As ``released_version``. Raises as ``ask`` does."""
        return self.ask(f"look up the model {name}", lambda: released_version(self.client, name))

    def _lists(self, uri: str) -> bool:
        """Looked for in the list: many a server calls an artifact that is not there a fault of its own (500)."""
        from mlflow.artifacts import list_artifacts

        folder, _, name = uri.rpartition("/")
        found = list_artifacts(artifact_uri=folder, tracking_uri=self.uri)
        return any(each.path.rpartition("/")[2] == name for each in found)


def connect(settings: MlflowSettings, patience_seconds: float) -> Tracking:
    """The server that the settings name; nothing is asked of it yet. Raises ConfigurationError."""
    for name, value in _CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri=settings.url, registry_uri=settings.url)
    except (MlflowException, ImportError) as error:
        raise ConfigurationError(f"MLFLOW_TRACKING_URI={settings.url} cannot be used: {_brief(error)}") from error
    return Tracking(client, settings.url, patient(patience_seconds))


def released_version(client: MlflowClient, name: str) -> str:
    """The version of a registered model behind the alias `production`; empty when there is none, nor a model."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_registered_model(name).aliases.get(PRODUCTION, ""))
    except MlflowException as error:
        # Nothing but the registry's own word for it: a 404 of a proxy must not pass for "no production model".
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return ""


def artifacts_gone(name: str, version: str, uri: str) -> ConfigurationError:
    """A registered version has lost its artifacts: asking again does not bring them back."""
    told = f"version {version} of {name} cannot be used: its artifact {uri} is gone from MLflow's artifact store"
    return ConfigurationError(
        f"{told}. Restore it (and exempt it from the bucket's life-cycle rules), or release another version."
    )


def client_faults() -> tuple[type[Exception], ...]:
    """All that MLflow's client raises."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    faults: tuple[type[Exception], ...] = (MlflowException, RequestException, OSError, ImportError)
    with contextlib.suppress(ImportError):  # a server may send its clients to the artifact store themselves
        from botocore.exceptions import BotoCoreError, ClientError

        faults = (*faults, BotoCoreError, ClientError)
    return faults


def meaning_of(error: Exception) -> Meaning:
    """What a fault of MLflow's client stands for; where there was no answer at all, it may pass."""
    if isinstance(error, ImportError):  # a database, or a store, that needs a driver
        return "unusable"
    status = _status(error)
    lost_race = status == 400 and any(name in str(error) for name in _LOST_RACES)
    if status is None or status >= 500 or status in _PASSING or lost_race:
        return "passing"
    if status in {401, 403}:
        return "login"
    return "absent" if status == 404 else "wrong"


def error_of(
    error: Exception,
    uri: str,
    doing: str,
    *,
    absent: type[RpsError] = ConfigurationError,
    other: type[RpsError] = ConfigurationError,
    away: type[RpsError] = PassingFault,
    waited: float = 0.0,
) -> RpsError:
    """A fault of MLflow's client as an error of ours. doing: completes "MLflow would not …".

    absent, other: for what is not there, and for what is refused for another reason than our login; away: for a server
    that is down after so many seconds (``waited``).
    """
    refused = f"MLflow at {uri} would not {doing}: {_brief(error)}"
    match meaning_of(error):
        case "passing":
            hint = f"Asked for {waited:g} s; is it up?" if waited else "Is it up?"
            return away(f"MLflow at {uri} could not {doing}: {_brief(error)}. {hint}")
        case "unusable":
            return ConfigurationError(f"MLflow at {uri} cannot be used here: {error}. Check MLFLOW_TRACKING_URI.")
        case "login":
            hint = "Check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            return ConfigurationError(f"{refused}. {hint}.")
        case "absent":
            hint = "Check MLFLOW_TRACKING_URI, and whether the pipeline run logged it"
            return absent(f"MLflow at {uri} would not {doing}: it is not there. {hint}.")
        case "wrong":
            return other(f"{refused}. Check MLFLOW_TRACKING_URI.")


def _status(error: Exception) -> int | None:
    """The HTTP status behind an error; None when there was no answer."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        if _is_absent(error):
            return 404
        return int(error.get_http_status_code())
    if isinstance(error, FileNotFoundError):
        return 404
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        return int(response["ResponseMetadata"]["HTTPStatusCode"])
    status = getattr(response, "status_code", None)
    return int(status) if status is not None else None


def _is_absent(error: Exception) -> bool:
    """A failed download is wrapped, with nothing but the message left of what the server said."""
    return "404 Client Error" in str(error) or "(404)" in str(error)


def _brief(error: Exception) -> str:
    """An error on one line; a proxy's page of HTML is cut off."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= _TOLD_CHARACTERS else f"{text[:_TOLD_CHARACTERS]}…"
