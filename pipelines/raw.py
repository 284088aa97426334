"""Raw answers in object storage, exactly as they came, each under the moment of its collection."""

from __future__ import annotations

import base64
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import msgspec

from clients.store import Store
from pipelines.sources.source import Answer

_PARALLEL = 8
_KEY = re.compile(r"/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\.json\.gz$")


class RawDamaged(Exception):
    """A stored raw object is gone or cannot be unpacked."""


class _Envelope(msgspec.Struct, kw_only=True, omit_defaults=True):
    collected_at: datetime
    as_of: datetime
    url: str
    status: int
    headers: dict[str, str]
    body: str
    body_is_base64: bool = False


def raw_prefix(challenge: str) -> str:
    return f"raw/{challenge}/"


def raw_key(challenge: str, collected_at: datetime) -> str:
    """`raw/<challenge>/<YYYY>/<MM>/<DD>/<collected_at>.json.gz`; keys sort as their moments do."""
    return f"{raw_prefix(challenge)}{collected_at:%Y/%m/%d}/{collected_at:%Y-%m-%dT%H:%M:%S.%f}Z.json.gz"


def raw_keys(store: Store, challenge: str) -> list[str]:
    """The keys of every raw answer of the challenge, in the order of their collection; other objects are left out."""
    keys = store.keys(raw_prefix(challenge))
    return sorted((key for key in keys if _KEY.search(key)), key=collected_at_of)


def collected_at_of(key: str) -> datetime:
    """The moment in a raw key."""
    stamp = key.rsplit("/", 1)[-1].removesuffix(".json.gz")
    return datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def store_raw(store: Store, challenge: str, answer: Answer) -> tuple[str, Answer]:
    """Store an answer under a key of its own; where its moment is taken, under the next free microsecond.

    Returns the key and the answer with the moment under which it lies. Raises what the store raises.
    """
    while True:
        key = raw_key(challenge, answer.collected_at)
        if store.put_new(key, pack(answer)):
            return key, answer
        answer = msgspec.structs.replace(answer, collected_at=answer.collected_at + timedelta(microseconds=1))


def load_raws(store: Store, keys: Iterable[str]) -> Iterator[tuple[str, Answer | RawDamaged]]:
    """The answers under these keys, in their order, several fetched at once."""

    def load(key: str) -> tuple[str, Answer | RawDamaged]:
        packed = store.get(key)
        if packed is None:
            return key, RawDamaged(f"{key} is gone")
        try:
            return key, unpack(packed)
        except RawDamaged as error:
            return key, error

    with ThreadPoolExecutor(_PARALLEL) as pool:
        yield from pool.map(load, keys)


def pack(answer: Answer) -> bytes:
    """Gzipped JSON, the body as text where it is UTF-8, so that a person can read it with `zcat`."""
    try:
        body, is_base64 = answer.body.decode("utf-8"), False
    except UnicodeDecodeError:
        body, is_base64 = base64.b64encode(answer.body).decode("ascii"), True
    envelope = _Envelope(
        collected_at=answer.collected_at,
        as_of=answer.as_of,
        url=answer.url,
        status=answer.status,
        headers=answer.headers,
        body=body,
        body_is_base64=is_base64,
    )
    return gzip.compress(msgspec.json.encode(envelope), compresslevel=6, mtime=0)


def unpack(packed: bytes) -> Answer:
    """The inverse of ``pack``. Raises RawDamaged."""
    try:
        envelope = msgspec.json.decode(gzip.decompress(packed), type=_Envelope)
        body = base64.b64decode(envelope.body) if envelope.body_is_base64 else envelope.body.encode("utf-8")
    except (OSError, EOFError, zlib.error, msgspec.DecodeError, ValueError) as error:
        raise RawDamaged(f"a raw object cannot be unpacked: {error}") from error
    return Answer(
        collected_at=envelope.collected_at,
        as_of=envelope.as_of,
        url=envelope.url,
        status=envelope.status,
        headers=envelope.headers,
        body=body,
    )
