"""Rows through all trees of all horizons by looking up bit masks instead of walking down each tree.

A tree's leaves are bits. Where a feature lies among all thresholds that any tree has for it decides, for each tree,
which leaves its tests rule out; those masks are combined beforehand, so a feature costs one look-up, and the lowest bit
that every feature leaves standing is the leaf. Walking 300 trees touches memory all over; this reads one line per
feature.
Source: Lucchese et al. (2015), "QuickScorer: a fast algorithm to rank documents with additive ensembles of regression
trees", with the masks of a feature's passed thresholds multiplied out.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from forecasting.drift.distances import FeatureReference, out_of_distribution
from forecasting.models.portable import Trees

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]

MOST_LEAVES = 32
MOST_BYTES = 64 << 20
CHUNK_BYTES = 1 << 18
"""Of the masks of the rows that are worked on at a time; they stay in the processor's cache."""
_ALL = np.uint32(0xFFFFFFFF)
_DE_BRUIJN = np.uint32(0x077CB531)
"""A lone bit times this has the bit's number, scrambled, in its five highest bits."""
_SHIFT = np.uint32(27)


class Unsuitable(ValueError):
    """Trees with more leaves or more thresholds than this can hold."""


class QuickScorer:
    """The trees of several models over the columns of one shared row, and the drift limits of those columns.

    Not for more than one thread at a time.
    """

    def __init__(
        self,
        models: Sequence[Trees | None],
        inputs: Sequence[Sequence[int]],
        references: Sequence[FeatureReference | None],
    ) -> None:
        """inputs: for each model, which columns of the shared row are its features, in order. None predicts 0.

        references: for each column of that row, what training saw; None for one that is not watched. Raises Unsuitable.
        """
        present = [(number, trees) for number, trees in enumerate(models) if trees is not None]
        self._count = len(models)
        self._most = most = max((len(trees.roots) for _, trees in present), default=0)
        self._bases = np.array([trees.base if trees else 0.0 for trees in models])
        places = self._count * most
        thresholds: list[set[float]] = [_limits(reference) for reference in references]
        for number, trees in present:
            for feature, threshold in zip(trees.feature, trees.nodes.threshold.tolist(), strict=True):
                if feature >= 0:
                    thresholds[inputs[number][feature]].add(threshold)
        ordered = {
            column: sorted(found) for column, found in enumerate(thresholds) if found or references[column] is not None
        }
        first_of, rows = {}, 0
        for column, found in ordered.items():
            first_of[column] = rows
            rows += len(found) + 2  # before, between and after them, and for a missing value
        self._columns = _picker(list(ordered))
        self._thresholds = list(ordered.values())
        self._sorted = [np.array(found) for found in self._thresholds]
        self._first = np.array(list(first_of.values()), dtype=np.intp)
        self._missing = np.array([first_of[column] + len(found) + 1 for column, found in ordered.items()], np.intp)
        if rows * places * 4 > MOST_BYTES:
            raise Unsuitable(f"{rows} thresholds of {places} trees would take more than {MOST_BYTES} bytes")
        self._numbers = np.array(list(ordered), dtype=np.intp)
        self._outside = np.concatenate(
            [_outside(references[column], found) for column, found in ordered.items()] or [np.zeros(0, dtype=np.bool_)]
        )
        masks = np.full((places, rows), _ALL)
        leaves = np.zeros((places, MOST_LEAVES))
        for number, trees in present:
            for place, root in enumerate(trees.roots, start=number * most):
                _enter(trees, root, inputs[number], ordered, first_of, masks[place], leaves[place])
        scrambled = (np.uint32(1) << np.arange(MOST_LEAVES, dtype=np.uint32)) * _DE_BRUIJN >> _SHIFT
        by_product = np.zeros_like(leaves)
        by_product[:, scrambled] = leaves
        self._masks = np.ascontiguousarray(masks.T)
        self._leaves = by_product.ravel()
        self._offsets = np.arange(places, dtype=np.uint32) * np.uint32(MOST_LEAVES)
        self._picked = np.empty((len(ordered), places), dtype=np.uint32)
        self._standing = np.empty(places, dtype=np.uint32)

    def score(self, row: Sequence[float]) -> tuple[FloatArray, Sequence[int]]:
        """One number per model, and the columns that lie outside what training saw. row: NaN when missing."""
        values = self._columns(row)
        looked_up = self._first + np.fromiter(map(bisect_left, self._thresholds, values), np.intp, len(values))
        if math.isnan(sum(values)):
            for place, value in enumerate(values):
                if value != value:  # noqa: PLR0124  # only NaN differs from itself
                    looked_up[place] = self._missing[place]
        found = self._bases
        if self._most:
            standing = self._standing
            self._masks.take(looked_up, 0, self._picked, "clip")
            np.bitwise_and.reduce(self._picked, 0, None, standing)
            found = self._leaves_of(standing).reshape(self._count, self._most).sum(1) + found
        outside = self._outside.take(looked_up)
        if not np.count_nonzero(outside):
            return found, ()
        return found, self._numbers[outside].tolist()

    def score_rows(self, rows: FloatArray) -> tuple[FloatArray, BoolArray]:
        """The same of many rows: (n, models), and which rows have a column outside what training saw, (n,)."""
        size = max(1, CHUNK_BYTES // max(1, 4 * len(self._offsets)))
        chunks = [self._score_chunk(rows[start : start + size]) for start in range(0, max(1, len(rows)), size)]
        found, outside = zip(*chunks, strict=True)
        return np.concatenate(found), np.concatenate(outside)

    def _score_chunk(self, rows: FloatArray) -> tuple[FloatArray, BoolArray]:
        values = rows.T[self._numbers]
        looked_up = np.empty(values.shape, dtype=np.intp)
        for place, (thresholds, first) in enumerate(zip(self._sorted, self._first, strict=True)):
            np.add(thresholds.searchsorted(values[place]), first, out=looked_up[place])
        np.copyto(looked_up, self._missing[:, np.newaxis], where=np.isnan(values))
        found = np.broadcast_to(self._bases, (len(rows), self._count))
        if self._most:
            standing = np.full((len(rows), len(self._offsets)), _ALL)
            picked = np.empty_like(standing)
            for places in looked_up:
                self._masks.take(places, 0, picked, "clip")
                standing &= picked
            found = self._leaves_of(standing).reshape(len(rows), self._count, self._most).sum(2) + found
        return found, np.asarray(self._outside.take(looked_up).any(axis=0))

    def _leaves_of(self, standing: npt.NDArray[np.uint32]) -> FloatArray:
        """The value of each tree's leaf, of the leaves that are left standing, which are overwritten: (…, trees)."""
        standing &= -standing
        standing *= _DE_BRUIJN
        standing >>= _SHIFT
        standing += self._offsets
        return self._leaves.take(standing)


def _limits(reference: FeatureReference | None) -> set[float]:
    """Thresholds that tell a value outside what training saw: not above the first, or above the second."""
    if reference is None or reference.low is None or reference.high is None:
        return set()
    return {math.nextafter(reference.low, -math.inf), reference.high}


def _outside(reference: FeatureReference | None, thresholds: Sequence[float]) -> BoolArray:
    """Of each row of a column's look-ups, the missing value's last, whether it lies outside what training saw."""
    if reference is None:
        return np.zeros(len(thresholds) + 2, dtype=np.bool_)
    # A value that is no threshold's equal lies outside with the threshold above it; the last row is above them all.
    examples = np.array([*thresholds, math.inf, math.nan])
    return out_of_distribution(reference, examples)


def _picker(places: list[int]) -> Callable[[Sequence[float]], tuple[float, ...]]:
    return itemgetter(*places) if len(places) > 1 else lambda row: tuple(row[place] for place in places)


def _enter(  # noqa: PLR0917 - from the tree, over what is known of the table, to what is written
    trees: Trees,
    root: int,
    columns: Sequence[int],
    ordered: dict[int, list[float]],
    first_of: dict[int, int],
    masks: npt.NDArray[np.uint32],
    leaves: FloatArray,
) -> None:
    """Write one tree's masks, over all rows of the table, and its leaves from left to right. Raises Unsuitable."""
    below: dict[int, int] = {}  # the bits of the leaves below a node
    nodes, waiting, count = [], [root], 0
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        if trees.feature[node] >= 0:
            waiting += (trees.right[node], trees.left[node])
        elif count == MOST_LEAVES:
            raise Unsuitable(f"a tree has more than {MOST_LEAVES} leaves")
        else:
            leaves[count] = trees.value[node]
            below[node] = 1 << count
            count += 1
    for node in reversed(nodes):
        if trees.feature[node] < 0:
            continue
        left, right = below[trees.left[node]], below[trees.right[node]]
        below[node] = left | right
        column, threshold = columns[trees.feature[node]], trees.threshold[node]
        thresholds, first = ordered[column], first_of[column]
        passed = first + bisect_left(thresholds, math.inf if threshold is None else threshold) + 1
        missing = first + len(thresholds) + 1
        masks[passed:missing] &= np.uint32(~left & 0xFFFFFFFF)
        masks[first:passed] &= np.uint32(~right & 0xFFFFFFFF)
        masks[missing] &= np.uint32(~(right if trees.missing_left[node] else left) & 0xFFFFFFFF)
