"""What a feature looked like in training, kept in the bundle, and how far what is seen now lies from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

FloatArray = npt.NDArray[np.float64]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]

BINS = 10
HEADROOM = 1.1
"""Of fifty features, one or another always lies a little farther from training than any window of it did."""
WINDOW_PARTS = (1, 4, 16)
"""A window that is not full yet is judged as what it has been measured to be."""
SHARE_FLOOR = 1e-4
"""A bin that is empty on one side counts as this share, so that one value cannot make the index infinite."""


class FeatureReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One feature over the training rows.

    edges: what divides the bins, ascending; bin i holds edges[i - 1] < x <= edges[i], the first and last are open.
    shares: of all rows, one per bin; missing: the share of rows without a value. Together they sum to 1.
    low, high: the smallest and largest value seen (None when there was none). A value beyond them is out of
    distribution. They are not quantiles: with fifty features, the 0.1 % tails alone would flag every tenth ordinary
    row, and values that cannot be true were taken out before training.
    """

    edges: tuple[float, ...]
    shares: tuple[Share, ...]
    missing: Share
    low: float | None
    high: float | None
    usual_shift: dict[int, float] = {}
    """By a window's number of rows, the largest index that such a window of the training rows had against all of them;
    {} when that is not known."""


def feature_reference(values: FloatArray) -> FeatureReference:
    """The reference of one feature. values: (n,), n > 0, NaN when missing. Bins hold equal shares where ties allow."""
    seen = values[~np.isnan(values)]
    if not seen.size:
        return FeatureReference(edges=(), shares=(0.0,), missing=1.0, low=None, high=None)
    quantiles = np.quantile(seen, np.arange(1, BINS) / BINS, method="inverted_cdf")
    edges = np.unique(quantiles)
    edges = edges[edges < seen.max()]  # nothing lies above the largest value
    shares, missing = _shares(edges, values)
    return FeatureReference(
        edges=tuple(edges.tolist()),
        shares=tuple(shares.tolist()),
        missing=missing,
        low=float(seen.min()),
        high=float(seen.max()),
    )


def feature_references(
    columns: Sequence[str], matrix: FloatArray, window_rows: int | None = None
) -> dict[str, FeatureReference]:
    """The reference of each column. matrix: (n, len(columns)), the rows that a model was fitted on.

    window_rows: how many rows drift will be measured over; with it, the rows must be in order of time, and each
    reference tells how far such a window of training, and shorter ones, lay from the whole.
    """
    references = {}
    for name, column in zip(columns, matrix.T, strict=True):
        reference = feature_reference(column)
        if window_rows is not None:
            reference = msgspec.structs.replace(reference, usual_shift=usual_shift(reference, column, window_rows))
        references[name] = reference
    return references


def usual_shift(reference: FeatureReference, values: FloatArray, window_rows: int) -> dict[int, float]:
    """The largest index of any so many successive values: of a whole window, of a quarter and of a sixteenth of one.

    values: (n,), those that the reference is of, in order of time; windows begin every 32nd of one, and the newest is
    among them. A month is not a year: four weeks of a feature that moves with the seasons lie far from twelve months of
    it, three days farther still, and that alone is no drift.
    """
    bins = np.searchsorted(np.array(reference.edges), values, side="left")
    missing = len(reference.edges) + 1
    bins[np.isnan(values)] = missing
    seen = np.zeros((len(values) + 1, missing + 1), dtype=np.int32)
    seen[np.arange(1, len(values) + 1), bins] = 1
    np.cumsum(seen, axis=0, out=seen)
    largest = {}
    for size in sorted({max(window_rows // part, 1) for part in WINDOW_PARTS}):
        rows = min(size, len(values))
        starts = np.append(np.arange(0, len(values) - rows, max(size // 32, 1)), len(values) - rows)
        largest[size] = float(_index(reference, (seen[starts + rows] - seen[starts]) / rows).max())
    return largest


def stability_limit(reference: FeatureReference, rows: int, limit: float) -> float | None:
    """From which index on ``rows`` recent rows have drifted: ``limit``, or what as many of training reached, if larger.

    What training reached counts with some headroom. None when there are fewer rows than training was measured with.
    """
    if not reference.usual_shift:
        return limit
    sizes = [size for size in reference.usual_shift if size <= rows]
    return max(limit, HEADROOM * reference.usual_shift[max(sizes)]) if sizes else None


def population_stability_index(reference: FeatureReference, values: FloatArray) -> float:
    """How far the values lie from the reference; 0 is not at all, 0.25 and more is commonly called a shift.

    values: (n,), n > 0, NaN when missing; missing values count as a bin of their own.
    Source: Siddiqi (2006), "Credit Risk Scorecards": the sum over bins of (now - then) · ln(now / then).
    """
    shares, missing = _shares(np.array(reference.edges), values)
    return float(_index(reference, np.array([*shares, missing])))


def out_of_distribution(reference: FeatureReference, values: FloatArray) -> npt.NDArray[np.bool_]:
    """Which values lie outside what training has seen: (n,). A missing value does when training missed none."""
    missing = np.isnan(values)
    if reference.low is None or reference.high is None:
        beyond = ~missing
    else:
        beyond = (values < reference.low) | (values > reference.high)
    return beyond | missing if reference.missing == 0.0 else beyond


def _shares(edges: FloatArray, values: FloatArray) -> tuple[FloatArray, float]:
    seen = values[~np.isnan(values)]
    counts = np.bincount(np.searchsorted(edges, seen, side="left"), minlength=len(edges) + 1)
    return counts / len(values), 1.0 - len(seen) / len(values)


def _index(reference: FeatureReference, shares: FloatArray) -> FloatArray:
    """The index of each window. shares: (…, bins + 1), the last of them the share that is missing. Returns (…)."""
    now = np.maximum(shares, SHARE_FLOOR)
    then = np.maximum([*reference.shares, reference.missing], SHARE_FLOOR)
    index: FloatArray = np.sum((now - then) * np.log(now / then), axis=-1)
    return index
