"""Trees called directly predict what treelite's own Python and scikit-learn do, and what is no model is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import treelite
from sklearn.ensemble import HistGradientBoostingRegressor

from forecasting.models.bundle import read_bundle
from forecasting.models.manifest import BundleError
from forecasting.models.trees import TreeEnsemble, TreesError
from tests.serving import ROOT

RANDOM = np.random.default_rng(11)
TRUNCATED = """
import sys
from forecasting.models.trees import TreeEnsemble, TreesError
whole = sys.stdin.buffer.read()
for length in {0, 1, 8, *range(11, 400, 7), *range(400, len(whole), len(whole) // 50), len(whole) - 1}:
    try:
        TreeEnsemble(whole[:length])
    except TreesError:
        continue
    print(f"{length} of {len(whole)} bytes were taken for a model")
print("done")
"""


def rows(number: int) -> np.ndarray:
    matrix = RANDOM.normal(size=(number, 6))
    matrix[RANDOM.random(matrix.shape) < 0.15] = np.nan
    return matrix


@pytest.fixture(scope="module")
def fitted() -> HistGradientBoostingRegressor:
    matrix = rows(3000)
    known = np.nan_to_num(matrix)
    target = known[:, 0] * 2 + known[:, 1] ** 2 + np.isnan(matrix[:, 2])
    return HistGradientBoostingRegressor(max_iter=30, random_state=0).fit(matrix, target)


@pytest.fixture(scope="module")
def serialized(fitted: HistGradientBoostingRegressor) -> bytes:
    return treelite.sklearn.import_model(fitted).serialize_bytes()


def test_predictions_are_those_of_treelite_and_of_the_training_library(fitted, serialized) -> None:
    trees, matrix = TreeEnsemble(serialized), rows(500)
    found = trees.predict(matrix)
    reference = treelite.gtil.predict(treelite.Model.deserialize_bytes(serialized), matrix).ravel()
    assert np.array_equal(found, reference)
    assert np.allclose(found, fitted.predict(matrix), rtol=1e-9, atol=1e-9)
    assert (trees.width, trees.input_type) == (6, "float64")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, 1e308, 5e-324])
def test_odd_values_take_the_way_that_the_training_library_takes(fitted, serialized, value: float) -> None:
    matrix = np.full((1, 6), value)
    assert TreeEnsemble(serialized).predict(matrix) == pytest.approx(fitted.predict(matrix), abs=1e-9)


@pytest.mark.parametrize(
    "matrix",
    [np.zeros((2, 5)), np.zeros(6), np.zeros((2, 6), dtype=np.float32), np.zeros((2, 6), order="F")],
)
def test_arrays_that_do_not_fit_are_refused(serialized, matrix) -> None:
    with pytest.raises(ValueError, match="expected"):
        TreeEnsemble(serialized).predict(matrix)


@pytest.mark.parametrize("rubbish", [b"", b"\0", b"junk", b"{}" * 100, b"\xff" * 64])
def test_what_is_no_model_is_refused(rubbish: bytes) -> None:
    with pytest.raises(TreesError):
        TreeEnsemble(rubbish)


def test_a_model_that_is_cut_short_is_refused_and_the_process_lives(serialized) -> None:
    command = [sys.executable, "-c", TRUNCATED]
    done = subprocess.run(command, input=serialized, capture_output=True, cwd=ROOT, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"done\n"), done.stderr


def test_a_bit_that_turned_is_found_before_the_bytes_reach_treelite(bundle: Path, tmp_path: Path) -> None:
    # Treelite itself can die of them: it trusts the sizes and places that it reads.
    damaged = tmp_path / "bundle"
    shutil.copytree(bundle, damaged)
    path = damaged / "h4.treelite"
    whole = path.read_bytes()
    for place in RANDOM.integers(0, len(whole), 40).tolist():
        turned = bytearray(whole)
        turned[place] ^= 1 << (place % 8)
        path.write_bytes(turned)
        with pytest.raises(BundleError, match=r"h4\.treelite: expected SHA-256"):
            read_bundle(damaged)
