"""What workers count is one sum for all of them, and a worker that died takes nothing with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.watch.worker_counts import AllCounts, Layout, WorkerCounts

LAYOUT = Layout(features=3, horizons=2, drift_window=10, live_window=5, series=2)
WORKER = """
import sys, time
from pathlib import Path
from service.watch.worker_counts import AllCounts, Layout
counts = AllCounts(Layout(features=3, horizons=2, drift_window=10, live_window=5, series=2), Path(sys.argv[1]))
counts.own.predicted[0] += 5.0
counts.own.in_flight[0] = 1.0
print("counted", flush=True)
time.sleep(60)
"""


def predicted(counts: AllCounts) -> float:
    return sum(float(worker.predicted.sum()) for worker in counts)


def test_counts_of_one_directory_sum_up_whoever_looks(tmp_path: Path) -> None:
    one, two = AllCounts(LAYOUT, tmp_path), AllCounts(LAYOUT, tmp_path)
    one.own.predicted[0] += 3.0
    two.own.predicted[1] += 4.0
    assert predicted(one) == predicted(two) == 7.0
    two.own.predicted[1] += 1.0
    assert predicted(one) == predicted(two) == 8.0
    assert len(list(one)) == len(list(two)) == 2


def test_counts_in_memory_are_alone() -> None:
    one, two = AllCounts(LAYOUT, None), AllCounts(LAYOUT, None)
    one.own.predicted[0] += 3.0
    assert predicted(two) == 0.0
    assert list(one) == [one.own]


def test_a_killed_workers_counts_are_taken_over_and_no_counter_goes_back(tmp_path: Path) -> None:
    reader = AllCounts(LAYOUT, tmp_path)
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "counted\n"
    assert predicted(reader) == 5.0
    alive = AllCounts(LAYOUT, tmp_path)
    assert alive.own.predicted.sum() == 0.0, "a living worker's counts were taken"
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    assert predicted(reader) == 5.0
    heir = AllCounts(LAYOUT, tmp_path)
    assert heir.own.predicted[0] == 5.0
    assert heir.own.in_flight[0] == 0.0
    heir.own.predicted[0] += 1.0
    assert predicted(reader) == predicted(alive) == predicted(heir) == 6.0


def test_counts_of_another_size_are_neither_read_nor_taken(tmp_path: Path) -> None:
    foreign = tmp_path / "0.counts"
    foreign.write_bytes(b"\x01" * (LAYOUT.bytes + 8))
    counts = AllCounts(LAYOUT, tmp_path)
    assert list(counts) == [counts.own]
    assert predicted(counts) == 0.0
    assert foreign.read_bytes() == b"\x01" * (LAYOUT.bytes + 8)


def test_parts_share_no_number() -> None:
    counts = WorkerCounts(LAYOUT, bytearray(LAYOUT.bytes))
    for place, name in enumerate(LAYOUT.parts):
        getattr(counts, name)[...] = place
    for place, name in enumerate(LAYOUT.parts):
        assert (getattr(counts, name) == place).all(), name


@pytest.mark.parametrize(("times", "kept"), [(0, 0), (4, 4), (10, 10), (25, 10)])
def test_no_more_rows_are_recent_than_were_predicted(times: int, kept: int) -> None:
    counts = AllCounts(LAYOUT, None).own
    counts.predicted[0] = times
    counts.scored[1] = times
    assert len(counts.recent_rows) == kept
    assert len(counts.recent_scores) == min(times, 10)
