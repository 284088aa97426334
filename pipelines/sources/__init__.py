"""Live APIs as sources of observations: which pages to ask for, and what an answer says. One module per API."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qs, urlsplit

import msgspec

from forecasting.challenge import Challenge
from pipelines.errors import ConfigurationError
from pipelines.http import Request

if TYPE_CHECKING:
    import pandas as pd

HOURLY_MINUTES = 60
"""The step of what both APIs tell; a finer grid would be full of holes, and a coarser one has no room for it."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer as it came, with what is needed to read it again years later."""

    collected_at: datetime
    """When it was collected, by the system's clock (UTC, microseconds); unique within a challenge."""
    as_of: datetime
    """The moment of the run that asked; hours after it are no observations yet (UTC)."""
    url: str
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def address(self) -> str:
        """Where it came from, without the query."""
        return urlsplit(self.url)._replace(query="").geturl()

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    @property
    def query(self) -> dict[str, str]:
        """What was asked for; without any key."""
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.url).query).items()}


class Source(Protocol):
    """What `ingest` needs to know of an API."""

    pause_seconds: float
    """At least this long between two requests: the API's rate limit."""

    def requests(self, since: datetime, until: datetime, now: datetime) -> Iterator[Request]:
        """The pages that cover the hours from ``since`` to ``until``, both included (UTC).

        ``now`` is not before ``until``; some APIs keep recent hours elsewhere than old ones.
        """

    def parse(self, answer: Answer) -> pd.DataFrame:
        """The rows of one answer in its own order, repeats included.

        Columns: unique_id, ds (UTC), then one float column per variable.

        Places that the challenge does not have are left out.
        Raises DataRejected when names, units or form are not those that were asked for, and PassingFault when the text
        breaks off.
        """


def make_source(challenge: Challenge) -> Source:
    """The source that the challenge names. Raises ConfigurationError when its settings do not fit the API."""
    if challenge.target.step_minutes != HOURLY_MINUTES:
        key = f"challenges/{challenge.name}.toml: target.step_minutes"
        expected = f"{HOURLY_MINUTES}, as {challenge.source.kind} tells of full hours"
        raise ConfigurationError(f"{key}: expected {expected}; found {challenge.target.step_minutes}")
    if challenge.source.kind == "open-meteo":
        from pipelines.sources.open_meteo import OpenMeteo

        return OpenMeteo(challenge)
    from pipelines.sources.openweathermap import OpenWeatherMap

    return OpenWeatherMap(challenge)
