"""`ingest`: request new data from the source, and write each answer unchanged; `merge` reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import msgspec

from clients.disk import write_whole
from clients.live_api import Limits, fetch, paced
from forecasting.challenge.schema import Challenge
from pipelines.files import write_json
from pipelines.history import Asked, History, accepted_history
from pipelines.raw import answer_file, pack
from pipelines.run import Run, utc_now
from pipelines.sources import make_source
from pipelines.sources.source import Answer


def run(run: Run) -> None:
    """Write the answers of this run, in place of any earlier ones, and what was asked for."""
    challenge, files, as_of = run.challenge, run.files, run.identity.as_of
    source = make_source(challenge)
    since = _since(accepted_history(run), challenge, as_of)
    files.asked.unlink(missing_ok=True)
    files.raw.mkdir(parents=True, exist_ok=True)
    for path in files.raw.iterdir():  # what a killed attempt has half written, too
        path.unlink()
    settings = challenge.source
    limits, now = Limits(settings.timeout_seconds, settings.attempts), utc_now()
    print(f"asking {settings.kind} for {_minute(since)} to {_minute(as_of)}", flush=True)
    newest = datetime.min.replace(tzinfo=UTC)
    count = size = 0
    with httpx.Client() as client:
        for request in paced(source.requests(since, min(as_of, now), now), source.pause_seconds):
            response = fetch(client, request, limits)
            newest = max(datetime.now(UTC), newest + timedelta(microseconds=1))
            answer = Answer(collected_at=newest, as_of=as_of, **msgspec.structs.asdict(response))
            write_whole(answer_file(files.raw, newest), pack(answer))
            answer.require_whole()
            count, size = count + 1, size + len(answer.body)
    write_json(files.asked, Asked(run_id=run.identity.run_id, since=since, until=as_of))
    print(f"received {count} answers, {size:,} bytes", flush=True)


def _since(accepted: History, challenge: Challenge, as_of: datetime) -> datetime:
    """The oldest hour to request: new and possibly revised hours, and the whole history at the first time."""
    start = as_of - timedelta(days=challenge.source.history_days)
    watermark = accepted.watermark(challenge, as_of)
    if watermark is None or accepted.covered_from is None or accepted.covered_from > start:
        return start
    return max(watermark - timedelta(hours=challenge.source.revision_hours), start)


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%MZ}"
