"""`ingest`: request new data from the source, store every answer unchanged, and merge it into the history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import httpx
import msgspec
import pandas as pd

from clients.disk import write_whole
from clients.errors import DataRejected, PassingFault
from clients.live_api import Limits, fetch, paced
from clients.store import Store, open_store
from forecasting.challenge.schema import Challenge
from pipelines.files import write_json, write_table
from pipelines.history import (
    KEY,
    Collection,
    History,
    Refolded,
    concatenated,
    empty_history,
    fingerprint,
    fold_raws,
    load_snapshot,
    pack_history,
    read_answer,
)
from pipelines.raw import collected_at_of, raw_keys, store_raw
from pipelines.run import Run, utc_now
from pipelines.sources import make_source
from pipelines.sources.source import Answer, Source

CLOCK_TOLERANCE = timedelta(minutes=5)
FARTHEST_AHEAD = timedelta(days=1)
"""No clock is off by more: an answer that is dated later was not collected then, and must not stop the later ones."""


class _Received(NamedTuple):
    """The answers of this ingest: their keys, and their rows in the order in which they came."""

    keys: tuple[str, ...]
    rows: pd.DataFrame


def run(run: Run) -> None:
    challenge, files, as_of = run.challenge, run.files, run.identity.as_of
    source = make_source(challenge)
    store = open_store()
    store.check()
    # Should this ingest fail, what an earlier one left here must not pass for its own.
    for output in (files.observations, files.collection, files.history):
        output.unlink(missing_ok=True)
    keys = _believable(raw_keys(store, challenge.name))
    newest = _newest_collection(keys)
    accepted = load_snapshot(store, challenge) or empty_history(challenge)
    known = fold_raws(accepted, source, store, (key for key in keys if key not in accepted.raw_keys), as_of)
    if known.folded or known.unreadable:
        unread = f"; {len(known.unreadable)} cannot be read by this parser and stay" if known.unreadable else ""
        print(f"folded {known.folded} stored answers that the accepted history lacks{unread}", flush=True)
    since = _since(accepted, challenge, as_of)
    received = _collect(run, source, store, since, newest)
    # This ingest's own answers are still in memory: no need to fetch them again.
    merged = known.history.merged(History(received.rows, frozenset(received.keys), since))
    observations = merged.window(as_of, challenge.source.history_days)
    if observations.empty:
        asked = f"{challenge.source.kind} gave no observations from {_minute(since)} to {_minute(as_of)}"
        raise DataRejected(f"{asked}, and none are known. The answers are stored; check the challenge's [source].")
    collection = _counted(run, since, known, received, observations)
    write_whole(files.history, pack_history(merged, run.identity.run_id))
    write_json(files.collection, collection)
    write_table(files.observations, observations)
    message = f"received {collection.rows_received:,} rows in {len(received.keys)} answers, {collection.rows_new:,} new"
    print(f"{message}; {collection.rows:,} observations of {len(collection.rows_by_series)} series", flush=True)


def _believable(keys: list[str]) -> list[str]:
    """The keys without those that are dated too far ahead, which are reported. keys: in the order of their moments."""
    latest = datetime.now(UTC) + FARTHEST_AHEAD
    believed = [key for key in keys if collected_at_of(key) <= latest]
    ahead = keys[len(believed) :]
    if ahead:
        such = f"{len(ahead)} stored answers that are dated more than a day ahead, the first {ahead[0]}"
        print(f"ignored {such}: rename or remove them in the store", flush=True)
    return believed


def _newest_collection(keys: list[str]) -> datetime | None:
    """When the newest answer was collected. Raises PassingFault when that is in the future: the clock went back."""
    if not keys:
        return None
    newest = collected_at_of(keys[-1])
    now = datetime.now(UTC)
    if now < newest - CLOCK_TOLERANCE:
        message = f"it is {_minute(now)}, but {keys[-1]} was collected later"
        raise PassingFault(f"the clock went back: {message}. Set this machine's clock, then run the stage again.")
    return newest


def _since(accepted: History, challenge: Challenge, as_of: datetime) -> datetime:
    """The oldest hour to request: new and possibly revised hours, and the whole history at the first time."""
    start = as_of - timedelta(days=challenge.source.history_days)
    watermark = accepted.watermark(challenge, as_of)
    if watermark is None or accepted.covered_from is None or accepted.covered_from > start:
        return start
    return max(watermark - timedelta(hours=challenge.source.revision_hours), start)


def _collect(run: Run, source: Source, store: Store, since: datetime, newest: datetime | None) -> _Received:
    """Request page by page, and store each answer before reading it."""
    settings, as_of, name = run.challenge.source, run.identity.as_of, run.challenge.name
    limits = Limits(settings.timeout_seconds, settings.attempts)
    now = utc_now()
    keys: list[str] = []
    tables = [empty_history(run.challenge).rows]
    print(f"asking {settings.kind} for {_minute(since)} to {_minute(as_of)}", flush=True)
    with httpx.Client() as client:
        for request in paced(source.requests(since, min(as_of, now), now), source.pause_seconds):
            response = fetch(client, request, limits)
            # A clock that went back a little must not make this answer older than a stored one.
            moment = datetime.now(UTC)
            moment = moment if newest is None or moment > newest else newest + timedelta(microseconds=1)
            answer = Answer(collected_at=moment, as_of=as_of, **msgspec.structs.asdict(response))
            key, answer = store_raw(store, name, answer)
            newest = answer.collected_at
            keys.append(key)
            tables.append(read_answer(source, answer))
    return _Received(tuple(keys), concatenated(tables))


def _counted(run: Run, since: datetime, known: Refolded, received: _Received, observations: pd.DataFrame) -> Collection:
    raw_keys, rows = received
    different = rows.drop(columns="collected_at").drop_duplicates()
    conflicting = different.loc[different.duplicated(KEY), KEY].drop_duplicates()
    before = pd.MultiIndex.from_frame(known.history.rows[KEY])
    earlier = rows.groupby("unique_id", sort=False)["ds"].diff() < pd.Timedelta(0)
    return Collection(
        run_id=run.identity.run_id,
        as_of=run.identity.as_of,
        requested_since=since,
        requested_until=run.identity.as_of,
        fingerprint=fingerprint(run.challenge),
        raw_keys=raw_keys,
        rows_received=len(rows),
        rows_new=int((~pd.MultiIndex.from_frame(observations[KEY]).isin(before)).sum()),
        repeats=int(rows.duplicated(KEY).sum()),
        conflicting_repeats=len(conflicting),
        out_of_order=int(earlier.sum()),
        raw_folded=known.folded,
        raw_unreadable=known.unreadable,
        rows=len(observations),
        rows_by_series=observations["unique_id"].value_counts(sort=False).to_dict(),
    )


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%MZ}"
