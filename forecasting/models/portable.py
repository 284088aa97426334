"""A model as plain arrays: a linear part, trees, or both. A bundle holds nothing else of it, and serving reads it.

A model checks itself when it is made or read, before anything is computed from it, so no index can lead out of an
array and no walk through a tree can go in circles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]

Index = Annotated[int, Meta(ge=-1, lt=1 << 31)]
"""A place in an array; -1 is none."""
CELLS = 1 << 18
"""How many pairs of a row and a tree, or of a row and a feature, are worked on at a time: a few MB."""
MULTIPLICATIONS = 1 << 17
"""Of matrices at a time: few enough that OpenBLAS starts no threads, which on a busy machine wait for one another."""


FARTHEST_CENTER = 1e4
"""In scales from 0. From a feature farther away, its center is taken before anything else, or digits would be lost."""


class Linear(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """``intercept`` + Σ ``weight[k]`` · z[``first[k]``] · (z[``second[k]``], or 1 where ``second[k]`` is -1).

    z = (x - ``center``) / ``scale``, by feature; 0 where x is missing.
    """

    center: tuple[float, ...]
    scale: tuple[float, ...]
    first: tuple[Index, ...]
    second: tuple[Index, ...]
    weight: tuple[float, ...]
    intercept: float

    def predict(self, rows: FloatArray) -> FloatArray:
        """One number per row: (n,). rows: (n, width), NaN when missing."""
        return self._alone.predict(rows)[:, 0]

    @cached_property
    def _alone(self) -> LinearParts:
        return LinearParts([self], [range(len(self.center))])


class LinearParts:
    """The linear parts of several models over one shared row, computed together in a few operations of NumPy.

    Each part has its own standardised features; those of all parts are one row, and a matrix has a column of weights
    for each part and second factor. A single row without a missing value takes a shorter way: standardising is linear,
    so one matrix gives both factors of each column from the row as it is.
    """

    def __init__(self, parts: Sequence[Linear | None], inputs: Sequence[Sequence[int]]) -> None:
        """inputs: for each part, which columns of the shared row are its features, in order. A part of None gives 0."""
        present = [(place, part) for place, part in enumerate(parts) if part is not None]
        self._columns = np.array([column for place, _ in present for column in inputs[place]], dtype=np.intp)
        self._center = np.array([each for _, part in present for each in part.center])
        self._scale = np.array([each for _, part in present for each in part.scale])
        self._intercepts = np.array([part.intercept if part else 0.0 for part in parts])
        one = len(self._columns)
        self._factors = factors = max((len({-1, *part.second}) for _, part in present), default=1)
        self._weights = np.zeros((one, len(parts) * factors))
        self._seconds = np.full(len(parts) * factors, one)
        start = 0
        for place, part in present:
            columns = {-1: 0}
            for first, second, weight in zip(part.first, part.second, part.weight, strict=True):
                column = place * factors + columns.setdefault(second, len(columns))
                self._weights[start + first, column] += weight
                self._seconds[column] = start + second if second >= 0 else one
            start += len(part.center)
        self._width = 1 + int(self._columns.max(initial=-1))
        self._both_factors, self._by_part = self._single_row_form()
        self._moves_little = bool((np.abs(self._center) <= FARTHEST_CENTER * self._scale).all())

    def predict(self, rows: FloatArray) -> FloatArray:
        """One number per row and part: (n, parts). rows: (n, columns), NaN when missing."""
        most = max(1, MULTIPLICATIONS // max(1, self._weights.size))
        if len(rows) <= most:
            return self._predict(rows)
        return np.concatenate([self._predict(rows[start : start + most]) for start in range(0, len(rows), most)])

    def predict_row(self, row: Sequence[float]) -> FloatArray:
        """As ``predict`` of one row, which may be longer: (parts,)."""
        if not self._moves_little:
            return self._only(row)
        both = np.array([*row[: self._width], 1.0]).dot(self._both_factors)
        count = len(self._seconds)
        found: FloatArray = (both[:count] * both[count:]).dot(self._by_part)
        total = sum(found.tolist())
        if total != total:  # noqa: PLR0124 - only NaN differs from itself
            return self._only(row)
        return found

    def _only(self, row: Sequence[float]) -> FloatArray:
        found: FloatArray = self._predict(np.array([row]))[0]
        return found

    def _single_row_form(self) -> tuple[FloatArray, FloatArray]:
        """What gives the first and then the second factors of all columns, (width + 1, 2 · columns), and what sums
        their products, (columns, parts).

        The last of a row is 1, for what standardising takes away, and for the intercept of a part, which is in its
        first column, whose second factor is 1.
        """
        first, second = np.zeros((2, self._width + 1, len(self._seconds)))
        slopes = self._weights / self._scale[:, np.newaxis]
        np.add.at(first, self._columns, slopes)
        first[-1] = -self._center @ slopes
        first[-1, :: self._factors] += self._intercepts
        for column, place in enumerate(self._seconds.tolist()):
            if place == len(self._columns):
                second[-1, column] = 1.0
            else:
                second[self._columns[place], column] = 1.0 / self._scale[place]
                second[-1, column] = -self._center[place] / self._scale[place]
        by_part = np.repeat(np.eye(len(self._intercepts)), self._factors, axis=0)
        return np.concatenate([first, second], axis=1), by_part

    def _predict(self, rows: FloatArray) -> FloatArray:
        z = np.ones((len(rows), len(self._columns) + 1))  # the last stays 1: a term without a second factor
        features = z[:, :-1]
        np.subtract(rows.take(self._columns, 1), self._center, out=features)
        features /= self._scale
        np.copyto(features, 0.0, where=np.isnan(features))
        terms = features @ self._weights
        terms *= z.take(self._seconds, 1)
        by_part = terms.reshape(len(rows), len(self._intercepts), self._factors)
        found: FloatArray = by_part.sum(axis=2) + self._intercepts
        return found


class Nodes(NamedTuple):
    """The arrays of trees, by node; a threshold that is None is infinite here."""

    feature: IntArray
    threshold: FloatArray
    left: IntArray
    right: IntArray
    missing_left: BoolArray
    value: FloatArray


class Trees(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """``base`` + the sum of the leaves that a row reaches, one in each tree.

    By node, those of all trees in one sequence: a ``feature`` of -1 makes a leaf, which has a ``value`` and no
    children. Elsewhere, x <= ``threshold`` goes ``left``, a larger x ``right``, and a missing x where ``missing_left``
    says. A ``threshold`` of None sends every number left.
    """

    roots: tuple[Index, ...]
    feature: tuple[Index, ...]
    threshold: tuple[float | None, ...]
    left: tuple[Index, ...]
    right: tuple[Index, ...]
    missing_left: tuple[bool, ...]
    value: tuple[float, ...]
    base: float

    @cached_property
    def nodes(self) -> Nodes:
        return Nodes(
            feature=np.array(self.feature, dtype=np.intp),
            threshold=np.array([math.inf if each is None else each for each in self.threshold]),
            left=np.array(self.left, dtype=np.intp),
            right=np.array(self.right, dtype=np.intp),
            missing_left=np.array(self.missing_left, dtype=np.bool_),
            value=np.array(self.value),
        )

    def predict(self, rows: FloatArray) -> FloatArray:
        """One number per row: (n,). rows: (n, width), NaN when missing."""
        feature, threshold, left, right, missing_left, value = self.nodes
        node = np.tile(np.array(self.roots, dtype=np.intp), len(rows))
        row = np.repeat(np.arange(len(rows)), len(self.roots))
        walking = np.flatnonzero(feature[node] >= 0)
        while walking.size:  # a child lies behind its parent, so this ends
            at = node[walking]
            x = rows[row[walking], feature[at]]
            goes_left = (x <= threshold[at]) | (np.isnan(x) & missing_left[at])
            node[walking] = at = np.where(goes_left, left[at], right[at])
            walking = walking[feature[at] >= 0]
        found: FloatArray = np.sum(value[node].reshape(len(rows), len(self.roots)), axis=1) + self.base
        return found


class PortableError(ValueError):
    """The arrays of a model do not fit together; the message names key, expected and found."""


class Portable(Struct, frozen=True, forbid_unknown_fields=True):
    """The sum of a linear part and of trees over rows of ``width`` features; one of the two may be None.

    Making one raises PortableError when its arrays do not fit together; decoding one, msgspec's ValidationError.
    """

    width: Index
    linear: Linear | None
    trees: Trees | None

    def __post_init__(self) -> None:
        for key, expected, found in _faults(self):
            raise PortableError(f"{key}: expected {expected}; found {found}")

    def predict(self, matrix: FloatArray) -> FloatArray:
        """One number per row: (n,). matrix: (n, width) float64, NaN when missing. Raises ValueError for another."""
        if matrix.ndim != 2 or matrix.shape[1] != self.width:
            raise ValueError(f"matrix: expected (n, {self.width}); found {matrix.shape}")
        parts = [part for part in (self.linear, self.trees) if part is not None]
        rows = max(1, CELLS // max(self.width, len(self.trees.roots) if self.trees else 0, 1))
        found = np.zeros(len(matrix))
        for start in range(0, len(matrix), rows):
            chunk = slice(start, start + rows)
            for part in parts:
                found[chunk] += part.predict(matrix[chunk])
        return found


def shifted(model: Portable, by: float) -> Portable:
    """A model that predicts ``by`` more."""
    if model.trees is not None:
        trees = msgspec.structs.replace(model.trees, base=model.trees.base + by)
        return msgspec.structs.replace(model, trees=trees)
    if model.linear is not None:
        linear = msgspec.structs.replace(model.linear, intercept=model.linear.intercept + by)
        return msgspec.structs.replace(model, linear=linear)
    return model


def encoded_model(model: Portable) -> bytes:
    """The model as JSON, whose numbers are exact; the same model gives the same bytes."""
    return msgspec.json.encode(model)


def decoded_model(encoded: bytes) -> Portable:
    """Read and check a model. Raises msgspec.DecodeError, of which ValidationError is one."""
    return msgspec.json.decode(encoded, type=Portable)


def weighted_sum(models: Sequence[Portable], weights: Sequence[float]) -> Portable:
    """One model that predicts the weighted sum of what several predict, with one linear part and one set of trees.

    Raises ValueError when their widths differ, or their linear parts standardise differently: that is no linear part.
    """
    widths = {model.width for model in models}
    if len(widths) != 1:
        raise ValueError(f"models: expected one width; found {sorted(widths)}")
    pairs = list(zip(models, weights, strict=True))
    linear = [(model.linear, weight) for model, weight in pairs if model.linear is not None]
    trees = [(model.trees, weight) for model, weight in pairs if model.trees is not None]
    return Portable(widths.pop(), _linear_sum(linear), _union(trees))


def _linear_sum(parts: Sequence[tuple[Linear, float]]) -> Linear | None:
    if not parts:
        return None
    standardisations = {(part.center, part.scale) for part, _ in parts}
    if len(standardisations) != 1:
        raise ValueError(f"linear parts: expected the same center and scale; found {len(standardisations)} of them")
    terms: dict[tuple[int, int], float] = {}
    for part, share in parts:
        for first, second, weight in zip(part.first, part.second, part.weight, strict=True):
            terms[first, second] = terms.get((first, second), 0.0) + share * weight
    return Linear(
        *standardisations.pop(),
        first=tuple(first for first, _ in terms),
        second=tuple(second for _, second in terms),
        weight=tuple(terms.values()),
        intercept=sum(share * part.intercept for part, share in parts),
    )


def _union(parts: Sequence[tuple[Trees, float]]) -> Trees | None:
    if not parts:
        return None
    roots, left, right, before = [], [], [], 0
    for part, _ in parts:
        roots += [root + before for root in part.roots]
        left += [child if child < 0 else child + before for child in part.left]
        right += [child if child < 0 else child + before for child in part.right]
        before += len(part.feature)
    return Trees(
        roots=tuple(roots),
        feature=tuple(each for part, _ in parts for each in part.feature),
        threshold=tuple(each for part, _ in parts for each in part.threshold),
        left=tuple(left),
        right=tuple(right),
        missing_left=tuple(each for part, _ in parts for each in part.missing_left),
        value=tuple(share * each for part, share in parts for each in part.value),
        base=sum(share * part.base for part, share in parts),
    )


Fault = tuple[str, str, str]
"""Key, expected, found."""


def _faults(model: Portable) -> Iterator[Fault]:
    """What no single type can say, most basic first, each given that those before hold."""
    if model.width < 0:
        yield "width", "a number of features", str(model.width)
    if model.linear is None and model.trees is None:
        yield "linear, trees", "at least one of them", "neither"
    if model.linear is not None:
        yield from _linear_faults(model.linear, model.width)
    if model.trees is not None:
        yield from _tree_faults(model.trees, model.width)


def _linear_faults(linear: Linear, width: int) -> Iterator[Fault]:
    for key in ("center", "scale"):
        yield from _length_faults(f"linear.{key}", getattr(linear, key), width)
    for key in ("second", "weight"):
        yield from _length_faults(f"linear.{key}", getattr(linear, key), len(linear.first))
    for key in ("center", "scale", "weight"):
        yield from _number_faults(f"linear.{key}", getattr(linear, key))
    yield from _number_faults("linear.intercept", [linear.intercept])
    scale = np.array(linear.scale)
    yield from _item_faults("linear.scale", "positive numbers", scale, scale > 0.0)
    for key, lowest in (("first", 0), ("second", -1)):
        features = np.array(getattr(linear, key), dtype=np.intp)
        expected = f"features from {lowest} to below {width}"
        yield from _item_faults(f"linear.{key}", expected, features, (features >= lowest) & (features < width))


def _tree_faults(trees: Trees, width: int) -> Iterator[Fault]:
    for key in ("threshold", "left", "right", "missing_left", "value"):
        yield from _length_faults(f"trees.{key}", getattr(trees, key), len(trees.feature))
    yield from _number_faults("trees.threshold", [each for each in trees.threshold if each is not None])
    yield from _number_faults("trees.value", trees.value)
    yield from _number_faults("trees.base", [trees.base])
    feature, _, left, right, _, _ = trees.nodes
    count, numbers, leaf = len(feature), np.arange(len(feature)), feature < 0
    yield from _item_faults("trees.feature", f"features from -1 to below {width}", feature, feature < width)
    for key, child in (("left", left), ("right", right)):
        right_place = np.where(leaf, child == -1, (child > numbers) & (child < count))
        expected = f"-1 of a leaf, otherwise a node after its parent and below {count}"
        yield from _item_faults(f"trees.{key}", expected, child, right_place)
    roots = np.array(trees.roots, dtype=np.intp)
    yield from _item_faults("trees.roots", f"nodes from 0 to below {count}", roots, (roots >= 0) & (roots < count))
    reached = np.bincount(np.concatenate([roots, left[~leaf], right[~leaf]]), minlength=count)
    yield from _item_faults("trees", "each node to be one root or one child", reached, reached == 1)


def _length_faults(key: str, values: Sequence[object], length: int) -> Iterator[Fault]:
    if len(values) != length:
        yield key, f"{length} of them", str(len(values))


def _number_faults(key: str, values: Sequence[float]) -> Iterator[Fault]:
    numbers = np.array(values, dtype=np.float64)
    yield from _item_faults(key, "finite numbers", numbers, np.isfinite(numbers))


def _item_faults(key: str, expected: str, items: npt.NDArray[np.generic], good: BoolArray) -> Iterator[Fault]:
    if not good.all():
        place = int(np.argmin(good))
        yield key, expected, f"{items[place]} at {place}"
