"""A model as plain arrays: worked by hand, exact as JSON, and refused whenever its arrays do not fit together."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.models import portable
from forecasting.models.portable import (
    Linear,
    LinearParts,
    Portable,
    PortableError,
    Trees,
    decoded_model,
    encoded_model,
    shifted,
    weighted_sum,
)

NAN = math.nan
LINEAR = Linear(
    center=(10.0, 1.0, 0.0), scale=(2.0, 0.5, 1.0), first=(0, 1, 0), second=(-1, -1, 1), weight=(3.0, -1.0, 0.5),
    intercept=7.0,
)  # fmt: skip
"""7 + 3 z0 - z1 + z0 z1 / 2."""
TREES = Trees(
    roots=(0, 5),
    feature=(0, -1, 2, -1, -1, 1, -1, -1),
    threshold=(4.0, 0.0, 0.5, 0.0, 0.0, None, 0.0, 0.0),
    left=(1, -1, 3, -1, -1, 6, -1, -1),
    right=(2, -1, 4, -1, -1, 7, -1, -1),
    missing_left=(False, False, True, False, False, False, False, False),
    value=(0.0, 100.0, 0.0, 200.0, 300.0, 0.0, 10.0, 20.0),
    base=1.0,
)
"""x0 <= 4: 100; else x2 <= 0.5 or missing: 200, else 300. And 10 where x1 is known, 20 where it is missing."""
BOTH = Portable(3, LINEAR, TREES)
NO_TREES = dict.fromkeys(("roots", "feature", "threshold", "left", "right", "missing_left", "value"), ())
ROWS = np.array(
    [
        [12.0, 2.0, 0.0],  # z = 1, 2: 7 + 3 - 2 + 1 = 9; 200 + 10
        [12.0, NAN, 0.6],  # z = 1, 0: 7 + 3; 300 + 20
        [NAN, 2.0, NAN],  # z = 0, 2: 7 - 2; 200 + 10
        [4.0, 1.0, 9.0],  # z = -3, 0: 7 - 9; 100 + 10
        [math.nextafter(4.0, 5.0), 1e308, 0.5],
    ]
)
BY_LINE = [9.0, 10.0, 5.0, -2.0]
BY_TREES = [211.0, 321.0, 211.0, 111.0, 211.0]


def test_a_linear_part_is_worked_by_hand_with_a_product_and_missing_values() -> None:
    assert Portable(3, LINEAR, None).predict(ROWS[:4]).tolist() == BY_LINE


def test_trees_are_walked_by_hand() -> None:
    assert Portable(3, None, TREES).predict(ROWS).tolist() == BY_TREES


def test_both_parts_are_added_and_the_size_of_the_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = np.add(BY_LINE, BY_TREES[:4]).tolist()
    assert BOTH.predict(ROWS[:4]).tolist() == expected
    monkeypatch.setattr(portable, "CELLS", 1)
    monkeypatch.setattr(portable, "MULTIPLICATIONS", 1)
    assert BOTH.predict(ROWS[:4]).tolist() == expected
    assert BOTH.predict(ROWS[:0]).shape == (0,)


def test_linear_parts_of_several_models_are_computed_over_one_row() -> None:
    other = Linear((1.0,), (2.0,), (0, 0), (-1, 0), (1.0, 4.0), 0.5)  # 0.5 + z + 4 z z
    empty = Linear((0.0,), (1.0,), (), (), (), 2.5)
    parts = LinearParts([LINEAR, None, other, empty], [(0, 1, 2), (0,), (3,), (1,)])
    rows = np.column_stack([ROWS[:4], [3.0, NAN, 1.0, 0.0]])
    expected = [BY_LINE, [0.0] * 4, [5.5, 0.5, 0.5, 1.0], [2.5] * 4]
    assert parts.predict(rows).T.tolist() == expected
    assert LinearParts([empty], [(0,)]).predict(rows).tolist() == [[2.5]] * 4
    for row, values in zip(rows.tolist(), np.transpose(expected), strict=True):
        assert parts.predict_row(row) == pytest.approx(values, rel=1e-13)
        assert parts.predict_row((*row, NAN, 4.0)) == pytest.approx(values, rel=1e-13)  # columns of others follow
    assert LinearParts([empty], [(0,)]).predict_row([NAN]).tolist() == [2.5]


@given(st.lists(st.one_of(st.just(NAN), st.floats(-1e3, 1e3)), min_size=3, max_size=3))
def test_a_single_row_gives_what_it_gives_among_others(row: list[float]) -> None:
    parts = LinearParts([LINEAR, LINEAR], [(0, 1, 2), (2, 0, 1)])
    assert parts.predict_row(row) == pytest.approx(parts.predict(np.array([row] * 3))[1], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("center", [1e3, 1e9])
def test_a_single_row_loses_no_digits_far_from_zero(center: float) -> None:
    part = Linear((center, 0.0), (1e-3, 1.0), (0, 0), (-1, 1), (2.0, 1.0), 0.0)
    parts, row = LinearParts([part], [(0, 1)]), [center + 5e-4, 3.0]
    assert parts.predict_row(row) == pytest.approx(parts.predict(np.array([row]))[0], rel=1e-13)


def test_a_shifted_model_predicts_so_much_more_whatever_it_is_made_of() -> None:
    for model in (BOTH, Portable(3, LINEAR, None), Portable(3, None, TREES)):
        assert shifted(model, 0.5).predict(ROWS[:4]).tolist() == (model.predict(ROWS[:4]) + 0.5).tolist()


def test_a_model_comes_back_from_json_to_the_bit() -> None:
    odd = msgspec.structs.replace(LINEAR, weight=(0.1 + 0.2, -5e-324, 1.7976931348623157e308))
    model = Portable(3, odd, TREES)
    assert decoded_model(encoded_model(model)) == model
    assert encoded_model(decoded_model(encoded_model(model))) == encoded_model(model)


def test_a_weighted_sum_is_one_model_of_one_line_and_one_set_of_trees() -> None:
    line, trees = Portable(3, LINEAR, None), Portable(3, None, TREES)
    summed = weighted_sum([line, trees, BOTH], [0.5, 0.25, 2.0])
    expected = 2.5 * np.array(BY_LINE) + 2.25 * np.array(BY_TREES[:4])
    np.testing.assert_allclose(summed.predict(ROWS[:4]), expected, rtol=1e-12)
    assert len(summed.linear.weight) == len(LINEAR.weight)
    assert len(summed.trees.roots) == 2 * len(TREES.roots)


def test_models_that_make_no_weighted_sum_are_refused() -> None:
    with pytest.raises(ValueError, match=r"models: expected one width; found \[2, 3\]"):
        weighted_sum([Portable(3, LINEAR, None), Portable(2, None, msgspec.structs.replace(TREES, **NO_TREES))], [1, 1])
    moved = Portable(3, msgspec.structs.replace(LINEAR, center=(0.0, 0.0, 0.0)), None)
    with pytest.raises(ValueError, match="expected the same center and scale; found 2"):
        weighted_sum([Portable(3, LINEAR, None), moved], [1, 1])


@pytest.mark.parametrize("shape", [(2, 4), (3,), (0, 2)])
def test_a_matrix_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"matrix: expected \(n, 3\); found"):
        BOTH.predict(np.zeros(shape))


TAMPERED = [
    ({"width": 2}, "linear.center: expected 2 of them; found 3"),
    ({"width": -1}, "width: expected a number of features; found -1"),
    ({"linear": None, "trees": None}, "linear, trees: expected at least one of them; found neither"),
    ({"linear.scale": [2.0, 0.5]}, "linear.scale: expected 3 of them; found 2"),
    ({"linear.scale": [2.0, 0.0, 1.0]}, "linear.scale: expected positive numbers; found 0.0 at 1"),
    ({"linear.scale": [2.0, -1.0, 1.0]}, "linear.scale: expected positive numbers; found -1.0 at 1"),
    ({"linear.first": [0, 1, 3]}, "linear.first: expected features from 0 to below 3; found 3 at 2"),
    ({"linear.first": [0, -1, 0]}, "linear.first: expected features from 0 to below 3; found -1 at 1"),
    ({"linear.second": [-1, -1, 3]}, "linear.second: expected features from -1 to below 3; found 3 at 2"),
    ({"linear.second": [-1, -1]}, "linear.second: expected 3 of them; found 2"),
    ({"linear.weight": [1.0] * 4}, "linear.weight: expected 3 of them; found 4"),
    ({"linear.weight": [1.0, None, 1.0]}, r"Expected `float`, got `null` - at `\$.linear.weight"),
    ({"linear.first": [0, 1, -2]}, "Expected `int` >= -1"),
    ({"linear.first": [0, 1, 1 << 40]}, "Expected `int` <"),
    ({"trees.value": [0.0] * 7}, "trees.value: expected 8 of them; found 7"),
    ({"trees.left": [1]}, "trees.left: expected 8 of them; found 1"),
    ({"trees.feature": [0, -1, 3, -1, -1, 1, -1, -1]}, "trees.feature: expected features from -1 to below 3; found 3"),
    ({"trees.left": [8, -1, 3, -1, -1, 6, -1, -1]}, "trees.left: expected .* below 8; found 8 at 0"),
    (
        {"trees.right": [2, -1, 0, -1, -1, 7, -1, -1]},
        "trees.right: expected .* a node after its parent.*; found 0 at 2",
    ),
    (
        {"trees.right": [2, -1, 2, -1, -1, 7, -1, -1]},
        "trees.right: expected .* a node after its parent.*; found 2 at 2",
    ),
    ({"trees.right": [2, -1, -1, -1, -1, 7, -1, -1]}, "trees.right: expected .* found -1 at 2"),
    ({"trees.left": [1, 2, 3, -1, -1, 6, -1, -1]}, "trees.left: expected -1 of a leaf.*; found 2 at 1"),
    (
        {"trees.right": [2, -1, 3, -1, -1, 7, -1, -1]},
        "trees: expected each node to be one root or one child; found 2 at",
    ),
    ({"trees.roots": [0, 0]}, "trees: expected each node to be one root or one child; found 2 at 0"),
    ({"trees.roots": [0]}, "trees: expected each node to be one root or one child; found 0 at 5"),
    ({"trees.roots": [0, 8]}, "trees.roots: expected nodes from 0 to below 8; found 8 at 1"),
    ({"trees.roots": [-1, 5]}, "trees.roots: expected nodes from 0 to below 8; found -1 at 0"),
    ({"trees.missing_left": [1] * 8}, "Expected `bool`, got `int`"),
    ({"trees.missing_left": []}, "trees.missing_left: expected 8 of them; found 0"),
    ({"trees.threshold": []}, "trees.threshold: expected 8 of them; found 0"),
    ({"trees.base": "1"}, r"Expected `float`, got `str` - at `\$.trees.base"),
    ({"trees.value": [[1.0, 2.0]] * 8}, "Expected `float`, got `array`"),  # of two outputs
    ({"surprise": 1}, "unknown field `surprise`"),
    ({"trees.surprise": 1}, "unknown field `surprise`"),
]


def tampered(changes: dict[str, object]) -> bytes:
    plain = json.loads(encoded_model(BOTH))
    for key, value in changes.items():
        *parts, last = key.split(".")
        place = plain
        for part in parts:
            place = place[part]
        place[last] = value
    return json.dumps(plain).encode()


@pytest.mark.parametrize(("changes", "shown"), TAMPERED, ids=[shown[:60] for _, shown in TAMPERED])
def test_what_is_tampered_with_is_refused(changes: dict[str, object], shown: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=shown):
        decoded_model(tampered(changes))


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999", b"1" + b"0" * 400])
def test_what_is_no_finite_number_is_refused(number: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decoded_model(encoded_model(BOTH).replace(b'"base":1.0', b'"base":' + number))


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("linear", "center"), ("linear", "scale"), ("linear", "weight"), ("linear", "intercept"),
        ("trees", "threshold"), ("trees", "value"), ("trees", "base"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("number", [NAN, math.inf, -math.inf])
def test_a_fit_that_is_not_finite_makes_no_model(part: str, key: str, number: float) -> None:
    parts = {"linear": LINEAR, "trees": TREES}
    old = getattr(parts[part], key)
    changed = (number, *old[1:]) if isinstance(old, tuple) else number
    parts[part] = msgspec.structs.replace(parts[part], **{key: changed})
    with pytest.raises(PortableError, match=rf"{part}\.{key}: expected finite numbers; found"):
        Portable(3, **parts)


def test_any_arrays_of_places_that_are_accepted_are_walked_without_a_fault() -> None:
    """Every way to send a child somewhere else: what is not refused predicts, and never leaves the arrays."""
    matrix = np.random.default_rng(0).normal(0.0, 3.0, (50, 3))
    accepted = 0
    for key in ("left", "right", "feature"):
        for node in range(8):
            for place in range(-1, 9):
                column = list(getattr(TREES, key))
                column[node] = place
                try:
                    model = decoded_model(tampered({f"trees.{key}": column}))
                except msgspec.ValidationError:
                    continue
                accepted += 1
                assert np.isfinite(model.predict(matrix)).all()
    assert accepted > 24
