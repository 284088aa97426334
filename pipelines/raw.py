"""A raw answer as a file or object, unchanged, under the moment of its collection."""

from __future__ import annotations

import base64
import gzip
import re
import zlib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pipelines.sources.source import Answer

_STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"
_SUFFIX = ".json.gz"
_STAMPED = re.compile(r"(^|/)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\.json\.gz$")


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
    return f"raw/{challenge}/{collected_at:%Y/%m/%d}/{collected_at.strftime(_STAMP)}{_SUFFIX}"


def answer_file(directory: Path, collected_at: datetime) -> Path:
    """`<collected_at>.json.gz`, as in the key."""
    return directory / f"{collected_at.strftime(_STAMP)}{_SUFFIX}"


def answer_files(directory: Path) -> list[Path]:
    """The answers in a directory, in the order of their collection, nothing else; none if it is not there."""
    names = (path for path in directory.glob(f"[!.]*{_SUFFIX}") if is_stamped(path.name))
    found = (path for path in names if path.is_file() and not path.is_symlink())  # reading a pipe would not end
    return sorted(found, key=lambda path: collected_at_of(path.name))


def is_stamped(name: str) -> bool:
    """Whether a key, or a file's name, ends in the moment of a collection."""
    with suppress(ValueError):  # digits that make no date
        return bool(_STAMPED.search(name) and collected_at_of(name))
    return False


def collected_at_of(key: str) -> datetime:
    """The moment in a key, or a file's name. Raises ValueError."""
    stamp = key.rsplit("/", 1)[-1].removesuffix(_SUFFIX)
    return datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)


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
