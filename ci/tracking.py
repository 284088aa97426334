"""MLflow as `ci` asks it: through passing faults for a bounded time, and every other fault told as what it is.

Works against MLflow 2.7 servers (DagsHub) as against the newest: only calls that both answer.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from ci.errors import ConfigurationError, NoVerdict
from ci.settings import MlflowSettings

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

T = TypeVar("T")

PRODUCTION = "production"
"""The alias of the released version."""

_CLIENT_SETTINGS = {
    # Faults are waited for here, where the time is bounded over all calls together.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server that keeps artifacts in S3 may send its clients there, by a name that only its own network knows.
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 5.0
_PASSING = {408, 409, 429, 499}
"""Besides 500 and above: the statuses after which the same question may be answered."""
_LOST_RACES = ("IntegrityError", "UniqueViolation")
"""What a server says, with status 400, when two clients wrote the same row at once (SQLite and MySQL, PostgreSQL)."""
_TOLD_CHARACTERS = 300


class Missing(NoVerdict):
    """MLflow is there, and has not what was asked for."""


@dataclass(frozen=True)
class Tracking:
    """A tracking server and registry; ``deadline`` is when its faults are no longer waited for (`time.monotonic`)."""

    client: MlflowClient
    uri: str
    patience_seconds: float
    deadline: float

    def patient_again(self) -> Tracking:
        """The same, as patient as it was at first: for the next part of a long command."""
        return replace(self, deadline=time.monotonic() + self.patience_seconds)

    def ask(self, doing: str, call: Callable[[], T]) -> T:
        """What ``call`` gives, asked again after a passing fault; ``doing`` completes "MLflow would not …".

        Raises Missing, NoVerdict (down for too long, or not understood), ConfigurationError (refused, unusable here).
        """
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return call()
            except _client_faults() as error:
                if not self._passes(error, doing):
                    told = f"MLflow at {self.uri} could not {doing}: {_brief(error)}"
                    raise NoVerdict(f"{told}. Asked for {self.patience_seconds:g} s; is it up?") from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def artifact(self, directory_uri: str, path: str) -> bytes:
        """The content of one artifact. Raises as ``ask`` does."""

        def download() -> bytes:
            from mlflow.artifacts import download_artifacts

            with tempfile.TemporaryDirectory(prefix="rps-") as scratch:
                # By its artifact address: a 2.7 server does not answer what the client's newer ways ask it.
                uri = f"{directory_uri.rstrip('/')}/{path}"
                return Path(download_artifacts(artifact_uri=uri, dst_path=scratch, tracking_uri=self.uri)).read_bytes()

        return self.ask(f"give the artifact {path}", download)

    def production(self, name: str) -> str:
        """The version of a registered model behind the alias `production`; empty when there is none, nor a model.

        Raises as ``ask`` does.
        """
        from mlflow.exceptions import MlflowException

        def look_up() -> dict[str, str]:
            try:
                return dict(self.client.get_registered_model(name).aliases)
            except MlflowException as error:
                # Nothing but the registry's own word for it: a 404 of a proxy must not pass for "no production model".
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return {}

        return str(self.ask(f"look up the model {name}", look_up).get(PRODUCTION, ""))

    def _passes(self, error: Exception, doing: str) -> bool:
        """Whether to ask again; raises what can be told at once."""
        if isinstance(error, ImportError):
            raise ConfigurationError(f"MLflow at {self.uri} cannot be used here: {error}.") from error
        status = _status(error)
        told = f"MLflow at {self.uri} would not {doing}: {_brief(error)}"
        if status in {401, 403}:
            hint = "Check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            raise ConfigurationError(f"{told}. {hint}.") from error
        if status == 404:
            hint = "Check MLFLOW_TRACKING_URI, and whether the pipeline run logged it"
            raise Missing(f"MLflow at {self.uri} would not {doing}: it is not there. {hint}.") from error
        lost_race = status == 400 and any(name in str(error) for name in _LOST_RACES)
        if status is not None and status < 500 and status not in _PASSING and not lost_race:
            raise NoVerdict(f"{told}. Check MLFLOW_TRACKING_URI.") from error
        return time.monotonic() < self.deadline


def connect(settings: MlflowSettings, patience_seconds: float) -> Tracking:
    """The server that the settings name; nothing is asked of it yet. Raises ConfigurationError."""
    address = urlsplit(settings.url)
    if address.username is not None or address.password is not None:
        hint = "put it into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD: addresses are shown in reports"
        raise ConfigurationError(f"MLFLOW_TRACKING_URI holds a credential; {hint}")
    for name, value in _CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri=settings.url, registry_uri=settings.url)
    except (MlflowException, ImportError) as error:
        raise ConfigurationError(f"MLFLOW_TRACKING_URI={settings.url} cannot be used: {_brief(error)}") from error
    return Tracking(client, settings.url, patience_seconds, time.monotonic() + patience_seconds)


def _client_faults() -> tuple[type[Exception], ...]:
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    faults: tuple[type[Exception], ...] = (MlflowException, RequestException, OSError, ImportError)
    with contextlib.suppress(ImportError):  # a server may send its clients to the artifact store themselves
        from botocore.exceptions import BotoCoreError, ClientError

        faults = (*faults, BotoCoreError, ClientError)
    return faults


def _status(error: Exception) -> int | None:
    """The HTTP status behind an error; None when there was no answer."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        # A failed download is wrapped, with nothing but the message left of what the server said.
        if "404 Client Error" in str(error) or "(404)" in str(error):
            return 404
        return int(error.get_http_status_code())
    if isinstance(error, FileNotFoundError):
        return 404
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        return int(response["ResponseMetadata"]["HTTPStatusCode"])
    status = getattr(response, "status_code", None)
    return int(status) if status is not None else None


def _brief(error: Exception) -> str:
    """An error on one line; a proxy's page of HTML is cut off."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= _TOLD_CHARACTERS else f"{text[:_TOLD_CHARACTERS]}…"
