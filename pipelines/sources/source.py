"""What a source of observations is, and what sources share: places, and the reading of an answer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import parse_qs, urlsplit

import msgspec

from clients.errors import ConfigurationError, DataRejected, PassingFault
from clients.live_api import Request, Response
from forecasting.challenge.schema import Challenge

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


class Answer(Response, frozen=True, kw_only=True):
    """One answer, unchanged, with all that reading it again years later takes."""

    collected_at: datetime
    """When it was collected, by the system's clock (UTC, microseconds); unique within a challenge."""
    as_of: datetime
    """The moment of the run that asked; later hours are no observations yet (UTC)."""

    @property
    def address(self) -> str:
        """The URL without the query."""
        return urlsplit(self.url)._replace(query="").geturl()

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the request, without any key."""
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.url).query).items()}

    def decoded(self, kind: type[T]) -> T:
        """The JSON of the body as ``kind``. Raises DataRejected (another form) or PassingFault (it breaks off)."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except msgspec.ValidationError as error:
            raise self.rejected(f"the answer has not the documented form: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            found = f"{self.address}: the answer is no complete JSON ({error}); it is stored"
            raise PassingFault(f"{found}. Run the stage again.") from error

    def require_whole(self) -> None:
        """Raises PassingFault when the body breaks off."""
        self.decoded(msgspec.Raw)

    def rejected(self, problem: str) -> DataRejected:
        return DataRejected(f"{self.address}: {problem}. The answer is stored unchanged; nothing of it was used.")


class Source(Protocol):
    """What `ingest` and `merge` need to know of an API."""

    environment: tuple[str, ...]
    """The variables of its addresses and its key, which `ingest` alone is given."""
    pause_seconds: float
    """At least this long between two requests: the API's rate limit."""

    def requests(self, since: datetime, until: datetime, now: datetime) -> Iterator[Request]:
        """The pages from ``since`` to ``until``, both included (UTC); some APIs keep the hours before ``now`` apart."""

    def parse(self, answer: Answer) -> pd.DataFrame:
        """The rows of one answer in its own order, repeats included, without places that the challenge does not have.

        Columns: unique_id, ds (UTC), then one float column per variable.
        Raises DataRejected for names, units or a form that were not requested, and PassingFault for a cut-off text.
        """


def series_by_coordinates(challenge: Challenge) -> dict[tuple[str, str], str]:
    """(latitude, longitude) as written in a query, to unique_id. Raises ConfigurationError naming the series."""
    found: dict[tuple[str, str], str] = {}
    for series in challenge.source.series:
        key = f"challenges/{challenge.name}.toml: source.series {series.unique_id}"
        for name, limit in (("latitude", 90), ("longitude", 180)):
            value = series.query.get(name)
            if not isinstance(value, int | float) or not abs(value) <= limit:
                expected = f"expected degrees from -{limit} to {limit}; found {value!r}"
                raise ConfigurationError(f"{key}: query.{name}: {expected}")
        place = str(series.query["latitude"]), str(series.query["longitude"])
        if place in found:
            raise ConfigurationError(f"{key}: expected a place of its own; found that of {found[place]}")
        found[place] = series.unique_id
    return found
