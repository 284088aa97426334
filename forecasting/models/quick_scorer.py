"""One row through all trees of all horizons at once, by looking up bit masks instead of walking down each tree.

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
from forecasting.models.trees import Tree, TreeEnsemble

FloatArray = npt.NDArray[np.float64]

MOST_LEAVES = 32
MOST_BYTES = 64 << 20
_ALL = np.uint32(0xFFFFFFFF)
_DE_BRUIJN = np.uint32(0x077CB531)
"""A lone bit times this has the bit's number, scrambled, in its five highest bits."""
_SHIFT = np.uint32(27)


class Unsuitable(ValueError):
    """An ensemble with more leaves, other tests or more thresholds than this can hold."""


class QuickScorer:
    """Several ensembles over the columns of one shared row. Not for more than one thread at a time."""

    def __init__(
        self,
        ensembles: Sequence[TreeEnsemble],
        inputs: Sequence[Sequence[int]],
        references: Sequence[FeatureReference | None],
    ) -> None:
        """inputs: for each ensemble, which columns of the shared row are its features, in order.

        references: for each column of that row, what training saw; None for one that is not watched. Raises Unsuitable.
        """
        forests = [ensemble.trees() for ensemble in ensembles]
        most = max(map(len, forests))
        places = len(ensembles) * most
        self._count = len(ensembles)
        thresholds: list[set[float]] = [_limits(reference) for reference in references]
        for trees, columns in zip(forests, inputs, strict=True):
            for tree in trees:
                _require_suitable(tree)
                for feature, threshold in zip(tree.split_index, tree.threshold, strict=True):
                    if feature >= 0:
                        thresholds[columns[feature]].add(threshold)
        ordered = {
            column: sorted(found) for column, found in enumerate(thresholds) if found or references[column] is not None
        }
        first_of, rows = {}, 0
        for column, found in ordered.items():
            first_of[column] = rows
            rows += len(found) + 2  # before, between and after them, and for a missing value
        self._columns = _picker(list(ordered))
        self._thresholds = list(ordered.values())
        self._first = np.array(list(first_of.values()), dtype=np.intp)
        self._missing = [first_of[column] + len(found) + 1 for column, found in ordered.items()]
        if rows * places * 4 > MOST_BYTES:
            raise Unsuitable(f"{rows} thresholds of {places} trees would take more than {MOST_BYTES} bytes")
        self._numbers = list(ordered)
        self._outside = np.concatenate(
            [_outside(references[column], found) for column, found in ordered.items()] or [np.zeros(0, dtype=np.bool_)]
        )
        masks = np.full((places, rows), _ALL)
        leaves = np.zeros((places, MOST_LEAVES))
        for number, (trees, columns) in enumerate(zip(forests, inputs, strict=True)):
            for index, tree in enumerate(trees):
                place = number * most + index
                _enter(tree, columns, ordered, first_of, masks[place], leaves[place])
            leaves[number * most] += ensembles[number].base_score  # once, so with the first tree's
        scrambled = (np.uint32(1) << np.arange(MOST_LEAVES, dtype=np.uint32)) * _DE_BRUIJN >> _SHIFT
        by_product = np.zeros_like(leaves)
        by_product[:, scrambled] = leaves
        self._masks = np.ascontiguousarray(masks.T)
        self._leaves = by_product.ravel()
        self._offsets = np.arange(places, dtype=np.uint32) * np.uint32(MOST_LEAVES)
        self._picked = np.empty((len(ordered), places), dtype=np.uint32)
        self._standing = np.empty(places, dtype=np.uint32)

    def score(self, row: Sequence[float]) -> tuple[FloatArray, Sequence[int]]:
        """One number per ensemble, and the columns that lie outside what training saw. row: NaN when missing."""
        values = self._columns(row)
        looked_up = self._first + np.array(list(map(bisect_left, self._thresholds, values)), dtype=np.intp)
        if math.isnan(sum(values)):
            for place, value in enumerate(values):
                if value != value:  # noqa: PLR0124  # only NaN differs from itself
                    looked_up[place] = self._missing[place]
        standing = self._standing
        self._masks.take(looked_up, 0, self._picked, "clip")
        np.bitwise_and.reduce(self._picked, 0, None, standing)
        standing &= -standing
        standing *= _DE_BRUIJN
        standing >>= _SHIFT
        standing += self._offsets
        found: FloatArray = np.add.reduce(self._leaves.take(standing).reshape(self._count, -1), 1)
        outside = self._outside.take(looked_up)
        if not np.count_nonzero(outside):
            return found, ()
        return found, [self._numbers[place] for place in np.flatnonzero(outside).tolist()]


def _limits(reference: FeatureReference | None) -> set[float]:
    """Thresholds that tell a value outside what training saw: not above the first, or above the second."""
    if reference is None or reference.low is None or reference.high is None:
        return set()
    return {math.nextafter(reference.low, -math.inf), reference.high}


def _outside(reference: FeatureReference | None, thresholds: Sequence[float]) -> npt.NDArray[np.bool_]:
    """Of each row of a column's look-ups, the missing value's last, whether it lies outside what training saw."""
    if reference is None:
        return np.zeros(len(thresholds) + 2, dtype=np.bool_)
    # A value that is no threshold's equal lies outside with the threshold above it; the last row is above them all.
    examples = np.array([*thresholds, math.inf, math.nan])
    return out_of_distribution(reference, examples)


def _picker(places: list[int]) -> Callable[[Sequence[float]], tuple[float, ...]]:
    return itemgetter(*places) if len(places) > 1 else lambda row: tuple(row[place] for place in places)


def _require_suitable(tree: Tree) -> None:
    leaves = sum(feature < 0 for feature in tree.split_index)
    if leaves > MOST_LEAVES or not tree.only_at_most:
        raise Unsuitable(f"a tree of {leaves} leaves, or with other tests than x <= threshold")


def _enter(  # noqa: PLR0917 - from the tree, over what is known of the table, to what is written
    tree: Tree,
    columns: Sequence[int],
    ordered: dict[int, list[float]],
    first_of: dict[int, int],
    masks: npt.NDArray[np.uint32],
    leaves: FloatArray,
) -> None:
    """Write one tree's masks, over all rows of the table, and its leaves from left to right."""
    count = 0

    def below(node: int) -> int:
        """The bits of the leaves below a node."""
        nonlocal count
        feature = tree.split_index[node]
        if feature < 0:
            leaves[count] = tree.leaf_value[node]
            count += 1
            return 1 << (count - 1)
        left, right = below(tree.left[node]), below(tree.right[node])
        column = columns[feature]
        thresholds, first = ordered[column], first_of[column]
        passed = first + bisect_left(thresholds, tree.threshold[node]) + 1
        missing = first + len(thresholds) + 1
        masks[passed:missing] &= np.uint32(~left & 0xFFFFFFFF)
        masks[first:passed] &= np.uint32(~right & 0xFFFFFFFF)
        masks[missing] &= np.uint32(~(right if tree.missing_left[node] else left) & 0xFFFFFFFF)
        return left | right

    below(0)
