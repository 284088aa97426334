"""The observation history: a fold over the raw answers in which the last collection of an hour wins.

Order and repeats of the answers do not matter.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clients.errors import DataRejected, PassingFault
from forecasting.challenge.schema import Challenge
from pipelines.files import read_parquet, reading
from pipelines.run import Run
from pipelines.sources.source import Answer, Source

KEY = ["unique_id", "ds"]
FORMAT = 1
_METADATA = b"rps.history"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """`asked.json`: which hours this run's ingest asked for, both ends included."""

    run_id: str
    since: datetime
    until: datetime


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """`collection.json`: what this run's ingest requested and received, and what was made of it."""

    run_id: str
    as_of: datetime
    requested_since: datetime
    requested_until: datetime
    fingerprint: str
    raw_keys: tuple[str, ...]
    """Those of this run's answers."""
    rows_received: int
    rows_new: int
    """Hours of the window that were unknown before."""
    repeats: int
    """Rows whose hour came earlier in the same ingest."""
    conflicting_repeats: int
    """Hours that came more than once with different values."""
    out_of_order: int
    """Rows older than the row before them."""
    raw_folded: int
    """Older answers that the accepted history lacked, and that were folded again."""
    raw_unreadable: tuple[str, ...]
    """Older answers that today's parser refuses; they stay where they are."""
    rows: int
    rows_by_series: dict[str, int]


class _Contents(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    raw_keys: tuple[str, ...]
    covered_from: datetime | None
    run_id: str


@dataclass(frozen=True)
class History:
    """Rows with the moment of their collection, the raw keys behind them, and how far back the requests went.

    rows: unique_id, ds, collected_at, then one float column per variable; sorted by unique_id, ds; the key is unique.
    raw_keys: includes those of unreadable answers, and of answers that brought nothing new.
    """

    rows: pd.DataFrame
    raw_keys: frozenset[str] = field(default_factory=frozenset)
    covered_from: datetime | None = None

    def merged(self, other: History) -> History:
        """Both, the later collection of an hour winning; commutative and idempotent."""
        starts = [start for start in (self.covered_from, other.covered_from) if start is not None]
        return History(fold([self.rows, other.rows]), self.raw_keys | other.raw_keys, min(starts, default=None))

    def window(self, as_of: datetime, days: int) -> pd.DataFrame:
        """The observations in (as_of - days, as_of], as `observations.parquet` holds them."""
        inside = (self.rows["ds"] > as_of - timedelta(days=days)) & (self.rows["ds"] <= as_of)
        return self.rows.loc[inside].drop(columns="collected_at").reset_index(drop=True)

    def watermark(self, challenge: Challenge, as_of: datetime) -> datetime | None:
        """The newest hour that every series reaches by ``as_of``; None when one of them has none."""
        newest = self.rows.loc[self.rows["ds"] <= as_of].groupby("unique_id")["ds"].max()
        if not set(challenge.series_ids) <= set(newest.index):
            return None
        oldest: datetime = newest.loc[list(challenge.series_ids)].min().to_pydatetime()
        return oldest


def empty_history(challenge: Challenge) -> History:
    columns = {"unique_id": "object", **dict.fromkeys(["ds", "collected_at"], "datetime64[us, UTC]")}
    columns |= dict.fromkeys(challenge.columns, "float64")
    return History(pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()}))


def concatenated(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The rows of tables of the same columns, which an empty one among them could change the types of."""
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def fold(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """One row per series and hour: of the last collection, and within one answer the last row."""
    # A stable sort keeps an answer's own order where the moment of collection is the same.
    rows = concatenated(tables).sort_values([*KEY, "collected_at"], kind="stable")
    return rows.drop_duplicates(KEY, keep="last").reset_index(drop=True)


def read_answer(source: Source, answer: Answer) -> pd.DataFrame:
    """The rows of one answer that were observations when it was collected, with that moment beside them."""
    rows = source.parse(answer)
    rows.insert(2, "collected_at", pd.Timestamp(answer.collected_at).as_unit("us"))
    return rows.loc[rows["ds"] <= answer.as_of]


class Refolded(NamedTuple):
    """A history with stored answers folded in, their number, and the keys of those that could not be read."""

    history: History
    folded: int
    unreadable: tuple[str, ...]


def fold_answers(
    history: History, source: Source, stored: Iterable[tuple[str, Answer | None]], as_of: datetime
) -> Refolded:
    """Fold stored answers into the history, but those of runs as of later than ``as_of``: unknown at that moment.

    stored: with their raw keys, in the order of their collection; None for a damaged one.
    """
    tables: dict[str, pd.DataFrame] = {}
    unreadable: list[str] = []
    for key, answer in stored:
        if answer is None:
            unreadable.append(key)
        elif answer.as_of <= as_of:
            try:
                tables[key] = read_answer(source, answer)
            except (DataRejected, PassingFault):
                unreadable.append(key)
    rows, raw_keys = fold([history.rows, *tables.values()]), history.raw_keys.union(tables, unreadable)
    return Refolded(History(rows, raw_keys, history.covered_from), len(tables), tuple(unreadable))


def fingerprint(challenge: Challenge) -> str:
    """What a snapshot depends on: the challenge's source and rules, and the code that reads and judges answers.

    Each variant has its own history, folded from the raw answers, and cannot spoil another's.
    """
    tables = {"source": challenge.source, "quality": challenge.quality}
    digest = hashlib.sha256(msgspec.json.encode(tables, order="deterministic"))
    here = Path(__file__).parent
    sources = sorted((here / "sources").glob("*.py"))
    for path in (*sources, here / "raw.py", here / "history.py", here / "data_rules.py"):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:32]


def accepted_history(run: Run) -> History:
    """The history that passed the quality gate before, if it lies beside the run's files; else an empty one."""
    if not run.files.accepted.exists():
        return empty_history(run.challenge)
    with reading(run.files.accepted, made_by="ingest"):
        return unpack_history(run.files.accepted.read_bytes(), run.challenge)[0]


def pack_history(history: History, run_id: str) -> bytes:
    """A history and the run that wrote it, as the bytes of a Parquet file."""
    keys = tuple(sorted(history.raw_keys))
    contents = _Contents(format=FORMAT, raw_keys=keys, covered_from=history.covered_from, run_id=run_id)
    table = pa.Table.from_pandas(history.rows, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _METADATA: msgspec.json.encode(contents)})
    packed = io.BytesIO()
    pq.write_table(table, packed, compression="zstd")
    return packed.getvalue()


def unpack_history(packed: bytes, challenge: Challenge) -> tuple[History, str]:
    """The inverse of ``pack_history``. Raises ValueError when the bytes are damaged or of another format."""
    try:
        table = read_parquet(packed)
        contents = msgspec.json.decode(table.schema.metadata[_METADATA], type=_Contents)
        rows = table.to_pandas(use_threads=False)
    except (pa.ArrowException, OSError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    expected = list(empty_history(challenge).rows.columns)
    if contents.format != FORMAT or list(rows.columns) != expected:
        raise ValueError(f"expected format {FORMAT} with {expected}; found {contents.format} with {list(rows.columns)}")
    return History(rows, frozenset(contents.raw_keys), contents.covered_from), contents.run_id
