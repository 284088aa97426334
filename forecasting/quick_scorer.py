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

from forecasting.trees import Tree, TreeEnsemble

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

    def __init__(self, ensembles: Sequence[TreeEnsemble], inputs: Sequence[Sequence[int]], width: int) -> None:
        """inputs: for each ensemble, which columns of the shared row are its features, in order; width: of that row.

        Raises Unsuitable.
        """
        forests = [ensemble.trees() for ensemble in ensembles]
        most = max(map(len, forests))
        places = len(ensembles) * most
        self._count = len(ensembles)
        self._base = np.array([ensemble.base_score for ensemble in ensembles])
        thresholds: list[set[float]] = [set() for _ in range(width)]
        for trees, columns in zip(forests, inputs, strict=True):
            for tree in trees:
                _require_suitable(tree)
                for feature, threshold in zip(tree.split_index, tree.threshold, strict=True):
                    if feature >= 0:
                        thresholds[columns[feature]].add(threshold)
        ordered = {column: sorted(found) for column, found in enumerate(thresholds) if found}
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
        masks = np.full((places, rows), _ALL)
        leaves = np.zeros((places, MOST_LEAVES))
        for number, (trees, columns) in enumerate(zip(forests, inputs, strict=True)):
            for index, tree in enumerate(trees):
                place = number * most + index
                _enter(tree, columns, ordered, first_of, masks[place], leaves[place])
        scrambled = (np.uint32(1) << np.arange(MOST_LEAVES, dtype=np.uint32)) * _DE_BRUIJN >> _SHIFT
        by_product = np.zeros_like(leaves)
        by_product[:, scrambled] = leaves
        self._masks = np.ascontiguousarray(masks.T)
        self._leaves = by_product.ravel()
        self._offsets = np.arange(places, dtype=np.uint32) * np.uint32(MOST_LEAVES)
        self._picked = np.empty((len(ordered), places), dtype=np.uint32)
        self._standing = np.empty(places, dtype=np.uint32)

    def predict(self, row: Sequence[float]) -> FloatArray:
        """One number per ensemble. row: (width,), NaN when missing."""
        values = self._columns(row)
        ranks = np.array(list(map(bisect_left, self._thresholds, values)), dtype=np.intp)
        looked_up = self._first + ranks
        if math.isnan(sum(values)):
            for place, value in enumerate(values):
                if value != value:  # noqa: PLR0124
                    looked_up[place] = self._missing[place]
        standing = self._standing
        self._masks.take(looked_up, 0, self._picked, "clip")
        np.bitwise_and.reduce(self._picked, 0, None, standing)
        standing &= -standing
        standing *= _DE_BRUIJN
        standing >>= _SHIFT
        standing += self._offsets
        found: FloatArray = np.add.reduce(self._leaves.take(standing).reshape(self._count, -1), 1)
        found += self._base
        return found


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
