"""Writes the files of a run whole or not at all, and reads them back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from clients.disk import whole_file, write_whole
from clients.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

T = TypeVar("T")


def write_text(path: Path, text: str) -> None:
    write_whole(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Write a msgspec-encodable value as indented JSON."""
    plain = msgspec.to_builtins(value, str_keys=True)  # msgspec cannot sort keys that are numbers
    write_whole(path, msgspec.json.format(msgspec.json.encode(plain, order="deterministic"), indent=2) + b"\n")


def write_table(path: Path, table: pd.DataFrame) -> None:
    with whole_file(path) as scratch:
        table.to_parquet(scratch, index=False)


@contextmanager
def reading(path: Path, *, made_by: str) -> Iterator[None]:
    """Around reading an earlier stage's file: if it is missing or damaged, a ConfigurationError names that stage."""
    try:
        yield
    except FileNotFoundError:
        raise _missing(path, made_by) from None
    except (msgspec.DecodeError, OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read ({error}): run the stage {made_by!r} again.") from error


def read_json(path: Path, kind: type[T], *, made_by: str) -> T:
    with reading(path, made_by=made_by):
        return msgspec.json.decode(path.read_bytes(), type=kind)


def read_table(path: Path, columns: list[str] | None = None, *, made_by: str) -> pd.DataFrame:
    with reading(path, made_by=made_by):
        return read_parquet(path, columns).to_pandas(use_threads=False)


def read_parquet(source: Path | bytes, columns: list[str] | None = None) -> pa.Table:
    """The table in a file, or in a file's bytes; ``columns``: only these, in this order.

    Raises OSError. Starts no thread: `pandas.read_parquet` and `pyarrow.parquet.read_table` let threads read a Python
    object. Such a thread may release it after the call returns, and then abort a process that is ending (SIGABRT,
    "terminate called without an active exception", https://github.com/apache/arrow/issues/34314), or block its end.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    opened = pa.BufferReader(source) if isinstance(source, bytes) else source
    try:
        with pq.ParquetFile(opened, pre_buffer=False) as file:
            table = file.read(columns=columns, use_threads=False)
    except pa.ArrowException as error:
        raise OSError(str(error)) from error
    return table.select(columns) if columns else table  # the file has its own order


def require_files(made_by: Mapping[Path, str]) -> None:
    """Raises ConfigurationError when a file is missing; it names the stage that writes it."""
    for path, stage in made_by.items():
        if not path.exists():
            raise _missing(path, stage)


def _missing(path: Path, made_by: str) -> ConfigurationError:
    return ConfigurationError(f"{path} is missing: run the stage {made_by!r} first.")
