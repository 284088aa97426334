"""Streams a challenge's live observations into the service.

At intervals it asks the challenge's own source for the hours since the last that the service knows, and sends what is
new. It waits for a source or a service that is away; nothing is lost, since it then asks both anew. So it does after
one refusal: the range of hours that a source allows moves on with the clock, and may do so between two requests.

Exit codes: 64 when the service refuses for good, or the source twice in a row; 130 after an interrupt.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pandas as pd

from clients.errors import ConfigurationError, RpsError
from clients.live_api import Limits, fetch, paced
from forecasting.challenge.schema import Challenge, ChallengeError, load_challenge
from forecasting.features.spec import feature_spec
from pipelines.run import utc_now
from pipelines.sources import make_source
from pipelines.sources.source import Answer, Source

AT_ONCE = 1000
PAUSE_SECONDS = 2.0
TIMEOUT_SECONDS = 30.0

Record = dict[str, Any]


class Refused(Exception):
    """The service refuses the observations for good; the message quotes it."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m monitoring.feed", description=__doc__)
    parser.add_argument("--challenge", default="weather", help="default: %(default)s")
    parser.add_argument("--service", default="http://127.0.0.1:8000", help="its address (default: %(default)s)")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two looks (default: %(default)g)")
    options = parser.parse_args()
    try:
        challenge = load_challenge(Path("challenges") / f"{options.challenge}.toml")
        feed(challenge, options.service, options.every)
    except (ChallengeError, ConfigurationError, Refused) as error:
        print(f"feed: {error}", file=sys.stderr)
        return 64
    except KeyboardInterrupt:
        return 130
    return 0


def feed(challenge: Challenge, service: str, every_seconds: float) -> None:
    """Stream until interrupted. Raises Refused, and ConfigurationError at the second of two refusals in a row."""
    source = make_source(challenge)
    reach = timedelta(minutes=challenge.target.step_minutes) * (feature_spec(challenge).lookback + 1)
    sent: dict[tuple[str, str], Record] = {}
    headers = {"X-API-Key": key} if (key := os.environ.get("RPS_API_KEY")) else {}
    refused = False
    with httpx.Client(base_url=service, timeout=TIMEOUT_SECONDS, headers=headers) as client:
        while True:
            try:
                now = utc_now()
                found = _records(challenge, _asked(challenge, source, max(_since(client, challenge), now - reach), now))
                new = [record for record in found if sent.get((record["unique_id"], record["ds"])) != record]
                _send(client, new)
                sent = {(record["unique_id"], record["ds"]): record for record in found}
                if new:
                    print(f"sent {len(new)} observations up to {max(record['ds'] for record in new)}", flush=True)
                refused = False
            except (RpsError, httpx.HTTPError) as error:
                if refused and isinstance(error, ConfigurationError):
                    raise
                refused = isinstance(error, ConfigurationError)
                print(f"waiting: {error or type(error).__name__}", flush=True)
                time.sleep(PAUSE_SECONDS)
            time.sleep(every_seconds)


def _since(client: httpx.Client, challenge: Challenge) -> datetime:
    """The oldest of the series' newest observations; revisions of what came before it are the pipeline's business."""
    newest = []
    for unique_id in challenge.series_ids:
        answer = client.get(f"/v1/series/{unique_id}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return datetime(1970, 1, 1, tzinfo=UTC)
        known = answer.raise_for_status().json()["newest"]
        newest.append(datetime.fromisoformat(known) if known else datetime(1970, 1, 1, tzinfo=UTC))
    return min(newest)


def _asked(challenge: Challenge, source: Source, since: datetime, now: datetime) -> pd.DataFrame:
    limits = Limits(challenge.source.timeout_seconds, challenge.source.attempts)
    tables = []
    with httpx.Client() as client:
        for request in paced(source.requests(since, now, now), source.pause_seconds):
            response = fetch(client, request, limits)
            answer = Answer(collected_at=datetime.now(UTC), as_of=now, **msgspec.structs.asdict(response))
            tables.append(source.parse(answer))
    found = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["unique_id", "ds"])
    return found[(found["ds"] >= since) & (found["ds"] <= now)]


def _records(challenge: Challenge, table: pd.DataFrame) -> list[Record]:
    """As `/v1/observations` takes them, oldest first; a value that is missing or out of its range is left out."""
    ranges = challenge.quality.ranges
    variables = feature_spec(challenge).variables
    records = []
    for row in table.sort_values("ds", kind="stable").to_dict("records"):
        record: Record = {"unique_id": row["unique_id"], "ds": f"{row['ds']:%Y-%m-%dT%H:%M:%SZ}"}
        for variable in variables:
            value = float(row[variable])
            low, high = ranges.get(variable, (-math.inf, math.inf))
            if low <= value <= high:
                record[variable] = value
        if len(record) > 2:
            records.append(record)
    return records


def _send(client: httpx.Client, records: list[Record]) -> None:
    for start in range(0, len(records), AT_ONCE):
        answer = client.post("/v1/observations", json={"observations": records[start : start + AT_ONCE]})
        if answer.is_client_error and answer.status_code not in {408, 429}:
            raise Refused(f"the service answers {answer.status_code}: {answer.text[:500]}")
        answer.raise_for_status()


if __name__ == "__main__":
    sys.exit(main())
