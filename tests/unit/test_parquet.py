"""Reading Parquet starts no threads: those of Arrow abort a process that ends while they let go of what they read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from forecasting.features.spec import feature_spec, target_column
from pipelines.files import read_parquet, read_table
from pipelines.transform import read_features
from tests.runs import ROOT, weather

READ = """
import os, sys
import numpy, pandas, pyarrow
from pathlib import Path
from forecasting.features.spec import feature_spec
from pipelines.transform import read_features
from pipelines.files import read_table
from pipelines.files import read_parquet
from tests.runs import weather

def threads():
    return len(os.listdir("/proc/self/task"))

path, before = Path(sys.argv[1]), threads()
read_parquet(path.read_bytes()).to_pandas(use_threads=False)
read_table(path, made_by="ingest")
read_features(path, feature_spec(weather()))
print(threads() - before)
"""


@pytest.fixture
def table(tmp_path: Path) -> tuple[Path, pd.DataFrame]:
    spec = feature_spec(weather())
    moments = pd.date_range("2013-01-01", periods=50, freq="h", tz="UTC")
    numbers = ["y", *map(target_column, reversed(spec.horizons)), *reversed(spec.columns)]
    frame = pd.DataFrame({"ds": moments, "unique_id": "EWR", **dict.fromkeys(numbers, 1.5)})
    frame.to_parquet(tmp_path / "table.parquet", index=False)
    return tmp_path / "table.parquet", frame


def test_no_thread_is_left_that_could_abort_the_process_at_its_end(table: tuple[Path, pd.DataFrame]) -> None:
    command = [sys.executable, "-c", READ, str(table[0])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


def test_what_was_written_is_read_from_a_file_and_from_bytes(table: tuple[Path, pd.DataFrame]) -> None:
    path, frame = table
    pd.testing.assert_frame_equal(read_table(path, made_by="ingest"), frame)
    pd.testing.assert_frame_equal(read_parquet(path.read_bytes()).to_pandas(), frame)


def test_features_come_in_the_order_of_the_specification(table: tuple[Path, pd.DataFrame]) -> None:
    spec = feature_spec(weather())
    assert list(read_features(table[0], spec).columns)[3 : 3 + len(spec.columns)] == list(spec.columns)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PAR1rubbishPAR1"])
def test_damaged_bytes_raise_what_arrow_raises(content: bytes) -> None:
    with pytest.raises((OSError, pa.ArrowException)):
        read_parquet(content)
