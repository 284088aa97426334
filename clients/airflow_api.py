"""Calls of Airflow's REST API: the login, how long a call may take, and which faults may pass by themselves.

`clients.dag_run` decides what to ask and what an answer means for a run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
from airflow_client import client as airflow
from airflow_client.client.exceptions import ApiException, NotFoundException
from urllib3 import Retry
from urllib3.exceptions import HTTPError

from clients.errors import ConfigurationError, PassingFault
from clients.settings import AirflowSettings

CONNECT_SECONDS = 5.0
DETAIL_CHARACTERS = 300
PAGE = 100
"""As many as Airflow gives at once by default (`[api] maximum_page_limit`)."""
PASSING = {0, 408, 425, 429}
"""Statuses below 500 that may be gone at the next call; 0 is the client's own, for an answer it cannot read."""


class AirflowApi:
    """Airflow's API for one user."""

    def __init__(self, settings: AirflowSettings, *, request_seconds: float) -> None:
        self.address = settings.url
        self._settings = settings
        self._request_seconds = request_seconds
        # The client asks once; `clients.dag_run` decides how often to ask again.
        once = Retry(total=None, connect=0, read=0, status=0, other=0, redirect=3)
        configuration = airflow.Configuration(host=settings.url, access_token=settings.token or None, retries=once)
        self._client = airflow.ApiClient(configuration)
        self.dags = airflow.DAGApi(self._client)
        self.runs = airflow.DagRunApi(self._client)
        self.tasks = airflow.TaskInstanceApi(self._client)
        self.import_errors = airflow.ImportErrorApi(self._client)
        self.events = airflow.EventLogApi(self._client)

    def call(self, ask: Callable[..., Any], *arguments: object, seconds: float | None = None, **options: object) -> Any:  # noqa: ANN401 - the client's models have no types
        """One answer of ``ask``, an operation of this API. Logs in if needed, and once more when refused.

        seconds: the longest wait for an answer, if shorter than usual.
        Raises PassingFault, ConfigurationError when the credentials are refused, and ApiException for any other answer
        but a success, such as 403 and 404.
        """
        limit = min(seconds or self._request_seconds, self._request_seconds)
        timeout = (min(CONNECT_SECONDS, limit), limit)
        for last in (False, True):
            if not self._client.configuration.access_token:
                self._client.configuration.access_token = self._new_token(limit)
            try:
                answer = ask(*arguments, _request_timeout=timeout, **options)
                if answer is None:
                    raise PassingFault("an answer that is not Airflow's: null")
                return answer
            except ApiException as error:
                status = error.status or 0
                if status in PASSING or status >= 500:
                    raise PassingFault(message_of(error)) from error
                if not _credentials_refused(error):
                    raise
                if last or self._settings.token:
                    raise ConfigurationError(self._refusal()) from error
                self._client.configuration.access_token = None
            except HTTPError as error:
                raise PassingFault(str(getattr(error, "reason", None) or error)) from error
            except ValueError as error:  # a proxy's page, or half an answer
                raise PassingFault(f"an answer that is not Airflow's: {type(error).__name__}") from error
        raise AssertionError("unreachable: the second refusal raises")

    def pages(self, entries: str, ask: Callable[..., Any], *arguments: object, **options: Any) -> list[Any]:  # noqa: ANN401 - as above
        """All entries of a listing, page by page. entries: the answer's field. Raises as ``call``."""
        found: list[Any] = []
        while True:
            page = self.call(ask, *arguments, limit=PAGE, offset=len(found), **options)
            found += getattr(page, entries)
            if not getattr(page, entries) or len(found) >= page.total_entries:
                return found

    def find(self, ask: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - as above
        """As ``call``; None for what is not there."""
        try:
            return self.call(ask, *arguments)
        except NotFoundException:
            return None

    def _new_token(self, seconds: float) -> str:
        user = {"username": self._settings.username, "password": self._settings.password}
        try:
            answer = httpx.post(f"{self.address}/auth/token", json=user, timeout=seconds)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ConfigurationError(f"AIRFLOW_API_URL: expected http(s)://host; found {self.address!r}") from error
        except httpx.HTTPError as error:
            raise PassingFault(f"{self.address}/auth/token: {error or type(error).__name__}") from error
        if answer.status_code in {401, 403}:
            raise ConfigurationError(self._refusal())
        try:
            answer.raise_for_status()
            return str(answer.json()["access_token"])
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError) as error:
            hint = "check AIRFLOW_API_URL; an Airflow that gives tokens elsewhere needs AIRFLOW_TOKEN"
            raise PassingFault(f"{self.address}/auth/token gave no token ({answer.status_code}): {hint}") from error

    def _refusal(self) -> str:
        if self._settings.token:
            return f"Airflow at {self.address} refuses AIRFLOW_TOKEN: it may have expired; make a new one"
        user = f"the user {self._settings.username!r}"
        return f"Airflow at {self.address} refuses {user}: check AIRFLOW_USERNAME and AIRFLOW_PASSWORD"


def message_of(error: ApiException) -> str:
    """Status and Airflow's own words, without the headers that the client's own text contains."""
    detail: Any = error.body or ""
    try:
        detail = json.loads(detail)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = ""
    return " ".join(f"{error.status} {error.reason or ''} {detail}".split())[:DETAIL_CHARACTERS]


def _credentials_refused(error: ApiException) -> bool:
    """Airflow answers 401 to a token that has expired, and 403 to one that another secret has signed."""
    return bool(error.status == 401 or (error.status == 403 and "Invalid JWT" in (error.body or "")))
