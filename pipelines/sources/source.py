"""What a source of observations is: the pages it asks for, and how it reads an answer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qs, urlsplit

import msgspec

from clients.live_api import Request

if TYPE_CHECKING:
    import pandas as pd


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
