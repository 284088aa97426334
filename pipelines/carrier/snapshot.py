"""The accepted history in object storage, which saves folding all raw answers again.

Only data that passed the quality gate replaces it, and the next run folds any raw answer that it lacks, so that two
runs that write it at once lose nothing.
"""

from __future__ import annotations

from clients.disk import write_whole
from clients.store import Store
from forecasting.challenge.schema import Challenge
from pipelines.files import reading
from pipelines.history import History, fingerprint, pack_history, unpack_history
from pipelines.run import Run


def snapshot_key(challenge: Challenge) -> str:
    return f"history/{challenge.name}/{fingerprint(challenge)}.parquet"


def load_snapshot(store: Store, challenge: Challenge) -> History | None:
    """The accepted history; None when there is none, or a damaged one, which folding the raw answers again mends."""
    packed = store.get(snapshot_key(challenge))
    return _read(packed, challenge) if packed is not None else None


def fetch_snapshot(run: Run, store: Store) -> None:
    """Put the accepted history beside the run's files; without one, or with a damaged one, there is none."""
    packed = store.get(snapshot_key(run.challenge))
    if packed is not None and _read(packed, run.challenge) is not None:
        write_whole(run.files.accepted, packed)
    else:
        run.files.accepted.unlink(missing_ok=True)


def accept_history(run: Run, store: Store) -> None:
    """Make this run's history the snapshot, once its observations have passed the quality gate."""
    challenge, path = run.challenge, run.files.history
    with reading(path, made_by="merge"):
        history, run_id = unpack_history(path.read_bytes(), challenge)
    run.require_own(path, run_id, made_by="merge")
    # Another run may have been accepted since this one's ingest: neither may undo the other.
    known = load_snapshot(store, challenge)
    if known is not None:
        if history.raw_keys <= known.raw_keys:
            print("history: the accepted snapshot holds this run already", flush=True)
            return
        history = history.merged(known)
    store.put(snapshot_key(challenge), pack_history(history, run_id))
    print(f"history: accepted {len(history.rows):,} rows from {len(history.raw_keys):,} answers", flush=True)


def _read(packed: bytes, challenge: Challenge) -> History | None:
    try:
        return unpack_history(packed, challenge)[0]
    except ValueError as error:
        key = snapshot_key(challenge)
        print(f"snapshot {key} is damaged and ignored ({error}): folding the raw answers again", flush=True)
        return None
