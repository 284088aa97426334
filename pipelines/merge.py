"""`merge`: fold the answers of this run, and those that were stored since, into the accepted history."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pandas as pd

from clients.disk import write_whole
from clients.errors import DataRejected
from pipelines.files import read_json, write_json, write_table
from pipelines.history import (
    KEY,
    Asked,
    Collection,
    History,
    Refolded,
    accepted_history,
    concatenated,
    empty_history,
    fingerprint,
    fold_answers,
    pack_history,
    read_answer,
)
from pipelines.raw import answer_files, collected_at_of, raw_key, unpack
from pipelines.run import Run
from pipelines.sources import make_source
from pipelines.sources.source import Answer


def run(run: Run) -> None:
    """Write the history, the observations of its newest days, and what was received."""
    challenge, files, as_of = run.challenge, run.files, run.identity.as_of
    # Should this fail, what an earlier one left here must not pass for its own.
    for output in (files.observations, files.collection, files.history):
        output.unlink(missing_ok=True)
    asked = read_json(files.asked, Asked, made_by="ingest")
    run.require_own(files.asked, asked.run_id, made_by="ingest")
    source, accepted = make_source(challenge), accepted_history(run)
    stored = _answers(files.stored, challenge.name)
    lacking = ((key, answer) for key, answer in stored if key not in accepted.raw_keys)
    known = fold_answers(accepted, source, lacking, as_of)
    if known.folded or known.unreadable:
        unread = f"; {len(known.unreadable)} cannot be read by this parser and stay" if known.unreadable else ""
        print(f"folded {known.folded} stored answers that the accepted history lacks{unread}", flush=True)
    own = dict(_answers(files.raw, challenge.name))
    tables = [read_answer(source, _whole(key, answer)) for key, answer in own.items()]
    rows = concatenated([empty_history(challenge).rows, *tables])
    merged = known.history.merged(History(rows, frozenset(own), asked.since))
    observations = merged.window(as_of, challenge.source.history_days)
    if observations.empty:
        gave = f"{challenge.source.kind} gave no observations from {_minute(asked.since)} to {_minute(as_of)}"
        raise DataRejected(f"{gave}, and none are known. The answers are stored; check the challenge's [source].")
    collection = _counted(run, asked, tuple(own), rows, known=known, observations=observations)
    write_whole(files.history, pack_history(merged, run.identity.run_id))
    write_json(files.collection, collection)
    write_table(files.observations, observations)
    message = f"received {collection.rows_received:,} rows in {len(own)} answers, {collection.rows_new:,} new"
    print(f"{message}; {collection.rows:,} observations of {len(collection.rows_by_series)} series", flush=True)


def _answers(directory: Path, challenge: str) -> Iterator[tuple[str, Answer | None]]:
    """The answers in a directory with their raw keys, in the order of their collection; None for a damaged one."""
    for path in answer_files(directory):
        answer = None
        with suppress(ValueError):
            answer = unpack(path.read_bytes())
        yield raw_key(challenge, collected_at_of(path.name)), answer


def _whole(key: str, answer: Answer | None) -> Answer:
    if answer is None:
        raise DataRejected(f"the answer {key} of this run is damaged in the workspace: run the stage 'ingest' again.")
    return answer


def _counted(
    run: Run,
    asked: Asked,
    raw_keys: tuple[str, ...],
    rows: pd.DataFrame,
    *,
    known: Refolded,
    observations: pd.DataFrame,
) -> Collection:
    different = rows.drop(columns="collected_at").drop_duplicates()
    conflicting = different.loc[different.duplicated(KEY), KEY].drop_duplicates()
    before = pd.MultiIndex.from_frame(known.history.rows[KEY])
    earlier = rows.groupby("unique_id", sort=False)["ds"].diff() < pd.Timedelta(0)
    return Collection(
        run_id=run.identity.run_id,
        as_of=run.identity.as_of,
        requested_since=asked.since,
        requested_until=asked.until,
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
    return f"{moment:%Y-%m-%dT%H:%MZ}"
