"""How the files of a run are written, whole or not at all, and read back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from clients.disk import write_whole
from clients.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


def write_text(path: Path, text: str) -> None:
    write_whole(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Write a msgspec-encodable value as indented JSON."""
    plain = msgspec.to_builtins(value, str_keys=True)  # keys that are numbers cannot be put in order
    write_whole(path, msgspec.json.format(msgspec.json.encode(plain, order="deterministic"), indent=2) + b"\n")


def read_json(path: Path, kind: type[T], *, made_by: str) -> T:
    """Read what an earlier stage wrote; ConfigurationError names that stage when it is missing or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise ConfigurationError(f"{path} is missing: run the stage {made_by!r} first.") from None
    except (msgspec.DecodeError, OSError) as error:
        raise ConfigurationError(f"{path} cannot be read ({error}): run the stage {made_by!r} again.") from error


def read_table(path: Path, *, made_by: str) -> pd.DataFrame:
    """As ``read_json``, for a Parquet file."""
    from pipelines.parquet import read_parquet

    try:
        return read_parquet(path).to_pandas(use_threads=False)
    except FileNotFoundError:
        raise ConfigurationError(f"{path} is missing: run the stage {made_by!r} first.") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise ConfigurationError(f"{path} cannot be read ({error}): run the stage {made_by!r} again.") from error
