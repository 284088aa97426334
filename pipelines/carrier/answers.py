"""Raw answers between a workspace and object storage: stored before anything parses them, each under its own moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import msgspec

from clients.disk import whole_directory, write_whole
from clients.errors import PassingFault
from clients.store import Store
from pipelines.raw import answer_file, answer_files, collected_at_of, is_stamped, pack, raw_key, unpack
from pipelines.run import Run
from pipelines.sources.source import Answer

CLOCK_TOLERANCE = timedelta(minutes=5)
FARTHEST_AHEAD = timedelta(days=1)
"""No clock is off by more: an answer that is dated later was not collected then, and must not stop the later ones."""
_PARALLEL = 8


def raw_keys(store: Store, challenge: str) -> list[str]:
    """The keys of the challenge's raw answers, in the order of their collection; other objects do not count."""
    return sorted(filter(is_stamped, store.keys(f"raw/{challenge}/")), key=collected_at_of)


def believed(keys: list[str]) -> list[str]:
    """The raw keys without those that are dated too far ahead."""
    latest = datetime.now(UTC) + FARTHEST_AHEAD
    return [key for key in keys if collected_at_of(key) <= latest]


def check_clock(store: Store, challenge: str) -> None:
    """Raises PassingFault when an answer was collected in the future: then the clock went back.

    Answers that are dated too far ahead are reported.
    """
    stored, now = raw_keys(store, challenge), datetime.now(UTC)
    keys = believed(stored)
    ahead = stored[len(keys) :]
    if ahead:
        such = f"{len(ahead)} stored answers that are dated more than a day ahead, the first {ahead[0]}"
        print(f"ignored {such}: rename or remove them in the store", flush=True)
    if keys and now < collected_at_of(keys[-1]) - CLOCK_TOLERANCE:
        message = f"it is {now:%Y-%m-%dT%H:%MZ}, but {keys[-1]} was collected later"
        raise PassingFault(f"the clock went back: {message}. Set this machine's clock, then run the stage again.")


def deliver_answers(run: Run, store: Store) -> None:
    """Store the answers of the workspace under moments that are free and later than those of any stored one.

    A moment that had to change is changed in the workspace, too. What is stored already stays as it is.
    """
    keys = believed(raw_keys(store, run.challenge.name))
    newest = collected_at_of(keys[-1]) if keys else None
    for path in answer_files(run.files.raw):
        content = path.read_bytes()
        if store.get(raw_key(run.challenge.name, collected_at_of(path.name))) == content:
            continue
        try:
            answer = unpack(content)
        except ValueError as error:
            print(f"{path} is not stored: {error}", flush=True)
            continue
        # A clock that went back a little must not make this answer older than a stored one.
        if newest is not None and answer.collected_at <= newest:
            answer = msgspec.structs.replace(answer, collected_at=newest + timedelta(microseconds=1))
        _, answer = store_raw(store, run.challenge.name, answer)
        newest = answer.collected_at
        stored = answer_file(run.files.raw, newest)
        if stored != path:
            write_whole(stored, pack(answer))
            path.unlink()


def store_raw(store: Store, challenge: str, answer: Answer) -> tuple[str, Answer]:
    """Store an answer under the first free microsecond from its moment on; its key, and the answer with that moment."""
    while True:
        key = raw_key(challenge, answer.collected_at)
        if store.put_new(key, pack(answer)):
            return key, answer
        answer = msgspec.structs.replace(answer, collected_at=answer.collected_at + timedelta(microseconds=1))


def fetch_answers(run: Run, store: Store, known: frozenset[str]) -> None:
    """Put the stored answers that neither the accepted history (``known``) nor this run's ingest has beside them."""
    here = known.union(raw_key(run.challenge.name, collected_at_of(path.name)) for path in answer_files(run.files.raw))
    wanted = [key for key in believed(raw_keys(store, run.challenge.name)) if key not in here]
    with whole_directory(run.files.stored) as directory:
        for key, content in _loaded(store, wanted):
            if content is not None:
                answer_file(directory, collected_at_of(key)).write_bytes(content)


def _loaded(store: Store, keys: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
    """The objects under these keys, in their order, several fetched at once."""
    with ThreadPoolExecutor(_PARALLEL) as pool:
        yield from pool.map(lambda key: (key, store.get(key)), keys)
