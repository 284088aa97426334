"""Raw answers in object storage, unchanged, each under the moment of its collection."""

from __future__ import annotations

import base64
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec

from clients.store import Store
from pipelines.sources.source import Answer

_PARALLEL = 8
_KEY = re.compile(r"/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\.json\.gz$")


class _Envelope(msgspec.Struct, kw_only=True):
    collected_at: datetime
    as_of: datetime
    url: str
    status: int
    headers: dict[str, str]
    body: str
    body_is_base64: bool = False


def raw_key(challenge: str, collected_at: datetime) -> str:
    """`raw/<challenge>/<YYYY>/<MM>/<DD>/<collected_at>.json.gz`; keys sort as their moments do."""
    return f"raw/{challenge}/{collected_at:%Y/%m/%d}/{collected_at:%Y-%m-%dT%H:%M:%S.%f}Z.json.gz"


def raw_keys(store: Store, challenge: str) -> list[str]:
    """The keys of the challenge's raw answers, in the order of their collection; other objects do not count."""
    return sorted(filter(_is_raw_key, store.keys(f"raw/{challenge}/")), key=collected_at_of)


def collected_at_of(key: str) -> datetime:
    """The moment in a raw key."""
    stamp = key.rsplit("/", 1)[-1].removesuffix(".json.gz")
    return datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def _is_raw_key(key: str) -> bool:
    with suppress(ValueError):  # digits that make no date
        return bool(_KEY.search(key) and collected_at_of(key))
    return False


def store_raw(store: Store, challenge: str, answer: Answer) -> tuple[str, Answer]:
    """Store an answer under the first free microsecond from its moment on; its key, and the answer with that moment."""
    while True:
        key = raw_key(challenge, answer.collected_at)
        if store.put_new(key, pack(answer)):
            return key, answer
        answer = msgspec.structs.replace(answer, collected_at=answer.collected_at + timedelta(microseconds=1))


def load_raws(store: Store, keys: Iterable[str]) -> Iterator[tuple[str, Answer | None]]:
    """The answers under these keys, in their order, several fetched at once; None for one that is gone or damaged."""

    def load(key: str) -> tuple[str, Answer | None]:
        packed = store.get(key)
        try:
            return key, None if packed is None else unpack(packed)
        except ValueError:
            return key, None

    with ThreadPoolExecutor(_PARALLEL) as pool:
        yield from pool.map(load, keys)


def pack(answer: Answer) -> bytes:
    """Gzipped JSON, the body as text where it is UTF-8, so that a person can read it with `zcat`."""
    fields = msgspec.structs.asdict(answer)
    try:
        fields["body"] = answer.body.decode("utf-8")
    except UnicodeDecodeError:
        fields |= {"body": base64.b64encode(answer.body).decode("ascii"), "body_is_base64": True}
    return gzip.compress(msgspec.json.encode(fields), compresslevel=6, mtime=0)


def unpack(packed: bytes) -> Answer:
    """The inverse of ``pack``. Raises ValueError."""
    try:
        envelope = msgspec.json.decode(gzip.decompress(packed), type=_Envelope)
        body = base64.b64decode(envelope.body) if envelope.body_is_base64 else envelope.body.encode("utf-8")
    except (OSError, EOFError, zlib.error, msgspec.DecodeError, ValueError) as error:
        raise ValueError(f"a raw object cannot be unpacked: {error}") from error
    return Answer(**{name: getattr(envelope, name) for name in Answer.__struct_fields__} | {"body": body})
