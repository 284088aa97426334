"""What one worker counts, as plain numbers in memory that other workers can read.

They are a file of fixed size: counters that only grow; two rings, of the rows predicted last and of the forecasts
scored last; and the newest truth of a few series. Nothing is locked: one worker writes each number, whole, and a reader
that meets a half-written row is wrong by that row until its next look. A restarted worker takes over the counts of the
one that died, so no counter goes back.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

STATUSES = (200, 204, 304, 400, 401, 404, 405, 408, 409, 411, 413, 415, 422, 431, 499, 500, 503)
MOST_ROUTES = 32
OTHER_STATUS = len(STATUSES)
LATENCY_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""In seconds; what takes longer than the last is counted beyond them."""
PREDICTED_BY = ("stream", "window", "open_inference", "mlflow")
ARRIVALS = ("newest", "late", "repeated", "corrected", "too_old", "rejected")
SCORE = ("horizon", "truth", "forecast", "baseline", "width", "covered")
"""A forecast that was met by its truth: which horizon, the truth, the forecast, the baseline's, how wide the
interval was, and whether it held the truth."""
NEWEST = ("step", "written", "truth")
"""Of a series: the step of the grid, when it was written (seconds), the truth; then the forecast of each horizon,
and the scale of each."""
MOST_SERIES = 20
"""The most series whose values Prometheus gets."""


@dataclass(frozen=True)
class Layout:
    """How large each part of the counts is; the same for all workers of one service."""

    features: int
    horizons: int
    drift_window: int
    live_window: int
    series: int = 0

    @property
    def parts(self) -> dict[str, tuple[int, ...]]:
        return {
            "requests": (MOST_ROUTES, len(STATUSES) + 1),
            "latency": (MOST_ROUTES, len(LATENCY_BOUNDS) + 1),
            "latency_sum": (MOST_ROUTES,),
            "predicted": (len(PREDICTED_BY),),
            "unusual": (1,),
            "arrivals": (len(ARRIVALS),),
            "scored": (self.horizons,),
            "in_flight": (1,),
            "shed": (1,),
            "started": (1,),
            "rows": (self.drift_window, self.features + 1),
            "scores": (self.live_window * self.horizons, len(SCORE)),
            "newest": (self.series, len(NEWEST) + 2 * self.horizons),
        }

    @property
    def bytes(self) -> int:
        return 8 * sum(math.prod(shape) for shape in self.parts.values())


class WorkerCounts:
    """The numbers of one worker, as arrays over one buffer. The last column of ``rows`` says which were unusual."""

    def __init__(self, layout: Layout, buffer: bytearray | mmap.mmap) -> None:
        self.layout = layout
        whole = np.frombuffer(buffer, dtype=np.float64)
        start = 0
        for name, shape in layout.parts.items():
            size = math.prod(shape)
            setattr(self, name, whole[start : start + size].reshape(shape))
            start += size

    requests: FloatArray
    latency: FloatArray
    latency_sum: FloatArray
    predicted: FloatArray
    unusual: FloatArray
    arrivals: FloatArray
    scored: FloatArray
    in_flight: FloatArray
    shed: FloatArray
    started: FloatArray
    rows: FloatArray
    scores: FloatArray
    newest: FloatArray

    @property
    def recent_rows(self) -> FloatArray:
        """The rows that were predicted last, in no order: (≤ drift_window, features + 1)."""
        return self.rows[: min(int(self.predicted.sum()), self.layout.drift_window)]

    @property
    def recent_scores(self) -> FloatArray:
        """The forecasts that were last met by their truth, in no order: (≤ live_window · horizons, len(SCORE))."""
        return self.scores[: min(int(self.scored.sum()), len(self.scores))]


class AllCounts:
    """The worker's own counts, and the view of all of them."""

    def __init__(self, layout: Layout, directory: Path | None) -> None:
        """directory: where the workers of one service meet; None for a single worker, which counts in memory."""
        self.layout = layout
        self._directory = directory
        self._others: dict[Path, WorkerCounts] = {}
        if directory is None:
            self.own = WorkerCounts(layout, bytearray(layout.bytes))
        else:
            self._path = self._take(directory)
            self.own = self._opened(self._path)
            self.own.in_flight[0] = 0.0
        self.own.started[0] = time.time()

    def __iter__(self) -> Iterator[WorkerCounts]:
        yield self.own
        if self._directory is None:
            return
        for path in sorted(self._directory.glob("*.counts")):
            if path == self._path or path.stat().st_size != self.layout.bytes:
                continue
            if path not in self._others:
                self._others[path] = self._opened(path)
            yield self._others[path]

    def total(self, part: str) -> FloatArray:
        """One part of the counts, such as ``requests``, over all workers."""
        return np.asarray(np.sum([getattr(worker, part) for worker in self], axis=0))

    def _take(self, directory: Path) -> Path:
        """The first file that no living worker holds; its lock ends with the process."""
        numbers = count()
        while True:
            path = directory / f"{next(numbers)}.counts"
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                continue
            size = os.fstat(file).st_size
            if size in {0, self.layout.bytes}:
                os.ftruncate(file, self.layout.bytes)
                return path
            os.close(file)  # of another layout: to cut it would take memory from under those who read it

    def _opened(self, path: Path) -> WorkerCounts:
        with path.open("r+b") as file:
            return WorkerCounts(self.layout, mmap.mmap(file.fileno(), self.layout.bytes))
