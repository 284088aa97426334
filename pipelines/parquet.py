"""Reading Parquet in processes that end soon afterwards, as a stage does."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(source: Path | bytes, columns: list[str] | None = None) -> pa.Table:
    """The table in a file, or in a file's bytes; ``columns``: only these, in this order.

    Raises OSError or pyarrow.ArrowException.
    `pandas.read_parquet` and `pyarrow.parquet.read_table` let threads read an object of Python. Those may still let go
    of it when the call has returned, and then abort a process that is ending (SIGABRT, "terminate called without an
    active exception", https://github.com/apache/arrow/issues/34314), or keep it from ending. Here no thread is started.
    """
    opened = pa.BufferReader(source) if isinstance(source, bytes) else source
    with pq.ParquetFile(opened, pre_buffer=False) as file:
        table = file.read(columns=columns, use_threads=False)
    return table.select(columns) if columns else table  # the file's order is another
