"""Tree ensembles through treelite's C library, called directly: the serving side of `treelite`, without its Python.

The Python package imports SciPy, which a server has no other use for, and spends 30 µs on each call beside the 9 µs
that a row of 100 trees takes. The calls are those of treelite's published C interface (`treelite/c_api.h`).
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_FLOAT64 = ctypes.c_char_p(b"float64")
_ONE_THREAD = b'{"predict_type": "default", "nthread": 1}'
_NUMERICAL, _AT_MOST = 1, 3
"""treelite's numbers of a numerical test node, and of the operator <=."""
_LIBRARY_NAMES = {"darwin": "libtreelite.dylib", "win32": "treelite.dll"}


class TreesError(Exception):
    """The bytes are no ensemble that this treelite can use, or treelite is not there."""


class TreeEnsemble:
    """One ensemble of trees with a single output, over rows of ``width`` float64 features; NaN is a missing value."""

    def __init__(self, serialized: bytes) -> None:
        """serialized: what `treelite.Model.serialize_bytes` gave. Raises TreesError."""
        self._library = _library()
        self._handle = ctypes.c_void_p()
        _check(
            self._library.TreeliteDeserializeModelFromBytes(
                ctypes.c_char_p(serialized), ctypes.c_size_t(len(serialized)), ctypes.byref(self._handle)
            )
        )
        width, kind = ctypes.c_int(), ctypes.c_char_p()
        _check(self._library.TreeliteQueryNumFeature(self._handle, ctypes.byref(width)))
        _check(self._library.TreeliteGetInputType(self._handle, ctypes.byref(kind)))
        self.width = width.value
        self.input_type = (kind.value or b"").decode()
        self._config = ctypes.c_void_p()
        _check(self._library.TreeliteGTILParseConfig(ctypes.c_char_p(_ONE_THREAD), ctypes.byref(self._config)))

    def __del__(self) -> None:
        library = getattr(self, "_library", None)
        if library is not None and not sys.is_finalizing():
            library.TreeliteGTILDeleteConfig(getattr(self, "_config", None))
            library.TreeliteFreeModel(self._handle)

    @property
    def base_score(self) -> float:
        """What is added to the sum over the trees."""
        return float(self._field(self._library.TreeliteGetHeaderField, "base_scores", np.float64)[0])

    def trees(self) -> list[Tree]:
        """The structure of every tree."""
        count = ctypes.c_size_t()
        _check(self._library.TreeliteQueryNumTree(self._handle, ctypes.byref(count)))
        return [self._tree(number) for number in range(count.value)]

    def _tree(self, number: int) -> Tree:
        def field(name: str, kind: npt.DTypeLike) -> npt.NDArray[Any]:
            return self._field(self._library.TreeliteGetTreeField, name, kind, ctypes.c_uint64(number))

        left = field("cleft", np.int32)
        tests = left >= 0
        known = bool(np.all(field("node_type", np.int8)[tests] == _NUMERICAL)) and bool(
            np.all(field("cmp", np.int8)[tests] == _AT_MOST)
        )
        return Tree(
            split_index=np.where(tests, field("split_index", np.int32), -1).tolist(),
            threshold=field("threshold", np.float64).tolist(),
            left=left.tolist(),
            right=field("cright", np.int32).tolist(),
            missing_left=field("default_left", np.uint8).astype(bool).tolist(),
            leaf_value=field("leaf_value", np.float64).tolist(),
            only_at_most=known,
        )

    def _field(self, read: Any, name: str, kind: npt.DTypeLike, *which: object) -> npt.NDArray[Any]:  # noqa: ANN401
        frame = _Buffer()
        _check(read(self._handle, *which, ctypes.c_char_p(name.encode()), ctypes.byref(frame)))
        expected = np.dtype(kind)
        if frame.item_bytes != expected.itemsize:
            raise TreesError(f"{name}: expected {expected}; found {frame.item_bytes} bytes an item")
        if not frame.items:
            return np.zeros(0, expected)
        return np.frombuffer(ctypes.string_at(frame.address, frame.items * frame.item_bytes), dtype=expected)

    def predict(self, matrix: FloatArray) -> FloatArray:
        """One number per row: (n,). matrix: (n, width) float64, C-contiguous. Raises ValueError for any other."""
        if matrix.ndim != 2 or matrix.shape[1] != self.width:
            raise ValueError(f"expected (n, {self.width}); found {matrix.shape}")
        if matrix.dtype != np.float64 or not matrix.flags.c_contiguous:
            raise ValueError("expected float64, C-contiguous")
        found = np.zeros(len(matrix))
        _check(
            self._library.TreeliteGTILPredict(
                self._handle,
                ctypes.c_void_p(matrix.ctypes.data),
                _FLOAT64,
                ctypes.c_uint64(len(matrix)),
                ctypes.c_void_p(found.ctypes.data),
                self._config,
            )
        )
        return found


@dataclass(frozen=True)
class Tree:
    """The nodes of a tree, the root first. Of a leaf, ``split_index`` is -1; x <= ``threshold`` goes left."""

    split_index: list[int]
    threshold: list[float]
    left: list[int]
    right: list[int]
    missing_left: list[bool]
    leaf_value: list[float]
    only_at_most: bool
    """Whether every test is x <= threshold on a number."""


class _Buffer(ctypes.Structure):
    """How treelite shows a field: `TreelitePyBufferFrame`."""

    _fields_ = (
        ("address", ctypes.c_void_p),
        ("format", ctypes.c_char_p),
        ("item_bytes", ctypes.c_size_t),
        ("items", ctypes.c_size_t),
    )


@cache
def _library() -> ctypes.CDLL:
    found = importlib.util.find_spec("treelite")
    if found is None or not found.origin:
        raise TreesError("treelite is not installed; install requirements/service.txt")
    name = _LIBRARY_NAMES.get(sys.platform, "libtreelite.so")
    try:
        library = ctypes.CDLL(str(Path(found.origin).parent / "lib" / name))
    except OSError as error:
        raise TreesError(f"treelite's library cannot be loaded: {error}") from error
    library.TreeliteGetLastError.restype = ctypes.c_char_p
    return library


def _check(status: int) -> None:
    if status:
        message: bytes = _library().TreeliteGetLastError() or b""
        lines = message.decode(errors="replace").strip().splitlines()
        raise TreesError(lines[0] if lines else "treelite failed without a word")
