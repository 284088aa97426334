"""What of `losses.parquet` can be compared, and what is refused, by column."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecasting.judging.panel import COLUMNS, PanelError, codes, read_panel


def columns(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """EWR and JFK at two origins, horizons 4 and 5: eight rows, all compared."""
    truth = np.arange(8.0)
    made: dict[str, np.ndarray] = {
        "unique_id": np.array(["EWR"] * 4 + ["JFK"] * 4, dtype=object),
        "ds": np.tile(np.array(["2013-12-02T13", "2013-12-02T13", "2013-12-02T14", "2013-12-02T14"], "M8[ns]"), 2),
        "horizon": np.tile([4, 5], 4),
        "truth": truth,
        "baseline": np.repeat([3.0, 4.0, 5.0, 6.0], 2),
        "opponent.last": np.repeat([3.5, 4.5, 5.5, 6.5], 2),
        "candidate": truth + 0.5,
        "candidate_lower": truth - 1.0,
        "candidate_upper": truth + 1.0,
        "production": truth - 0.5,
        "production_lower": truth - 2.0,
        "production_upper": truth + 2.0,
        "compared": np.ones(8, dtype=bool),
    }
    return made | changes


def with_value(name: str, row: int, value: object) -> dict[str, np.ndarray]:
    changed = columns()[name].copy()
    changed[row] = value
    return columns(**{name: changed})


def test_a_panel_is_read_from_the_file_that_evaluate_writes(tmp_path) -> None:
    table = pa.table({name: pa.array(values, from_pandas=True) for name, values in columns().items()})
    ds = table.column("ds").cast(pa.timestamp("ns", tz="UTC"))
    pq.write_table(table.set_column(table.column_names.index("ds"), "ds", ds), tmp_path / "losses.parquet")
    read = pq.read_table(tmp_path / "losses.parquet")
    panel = read_panel({name: read[name].to_numpy() for name in read.column_names})
    assert panel.unique_id.tolist() == ["EWR"] * 4 + ["JFK"] * 4
    assert panel.origin[2] == np.datetime64("2013-12-02T14:00:00", "s")
    assert panel.origin.dtype == np.dtype("datetime64[s]")
    assert panel.candidate.tolist() == columns()["candidate"].tolist()
    assert panel.production is not None


def test_only_compared_rows_are_kept_and_the_others_may_hold_anything() -> None:
    compared = np.array([True] * 6 + [False] * 2)
    production = columns()["production"].copy()
    production[6:] = np.nan
    panel = read_panel(columns(compared=compared, production=production))
    assert len(panel.truth) == 6
    assert panel.horizon.tolist() == [4, 5, 4, 5, 4, 5]


def test_without_any_prediction_of_production_there_is_no_production() -> None:
    nothing = np.full(8, np.nan)
    panel = read_panel(columns(production=nothing, production_lower=nothing, production_upper=nothing))
    assert panel.production is None


@pytest.mark.parametrize("name", COLUMNS)
def test_a_missing_column_is_named(name: str) -> None:
    made = columns()
    del made[name]
    with pytest.raises(PanelError, match=rf"^{name}: expected such a column"):
        read_panel(made)


@pytest.mark.parametrize(
    "name",
    [
        "truth",
        "baseline",
        "opponent.last",
        "candidate",
        "candidate_lower",
        "candidate_upper",
        "production_lower",
        "production",
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
def test_what_is_no_number_is_refused_by_column(name: str, value: float) -> None:
    with pytest.raises(PanelError, match=rf"^{name}: expected a number in every compared row; 1 of 8"):
        read_panel(with_value(name, 3, value))


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("unique_id", np.arange(8), "text"),
        ("unique_id", np.array(["EWR", None] * 4, dtype=object), "4 others"),
        ("ds", np.arange(8), "points in time"),
        ("horizon", np.full(8, 4.0), "whole numbers"),
        ("horizon", np.tile([0, 1], 4), "1 or more"),
        ("truth", np.array(["warm"] * 8), "numbers"),
        ("production", np.array(["warm"] * 8), "numbers"),
        ("compared", np.ones(8), "true or false"),
        ("compared", np.zeros(8, dtype=bool), "none among 8"),
        ("truth", np.ones(7), "one value per row"),
    ],
)
def test_a_wrong_column_is_reported_with_what_was_expected(name: str, values: np.ndarray, expected: str) -> None:
    with pytest.raises(PanelError, match=rf"^{name}: .*{expected}"):
        read_panel(columns(**{name: values}))


def test_an_unknown_time_is_refused() -> None:
    with pytest.raises(PanelError, match=r"^ds: .* 1 have none"):
        read_panel(with_value("ds", 3, np.datetime64("NaT")))


@pytest.mark.parametrize("model", ["candidate", "production"])
def test_an_interval_whose_ends_are_crossed_is_refused(model: str) -> None:
    with pytest.raises(PanelError, match=rf"^{model}_lower: expected no more than {model}_upper; found more in 1 rows"):
        read_panel(with_value(f"{model}_lower", 3, 99.0))


def test_a_row_that_is_there_twice_is_refused_with_an_example() -> None:
    with pytest.raises(
        PanelError, match=r"each combination once; found 1 rows .* EWR at 2013-12-02T13:00:00Z, horizon 4"
    ):
        read_panel(columns(horizon=np.array([4, 4, 4, 5, 4, 5, 4, 5])))


def test_a_row_that_is_there_twice_is_found_in_any_order() -> None:
    made = columns(horizon=np.array([4, 4, 4, 5, 4, 5, 4, 5]))
    shuffled = np.random.default_rng(0).permutation(8)
    with pytest.raises(PanelError, match="each combination once; found 1 rows"):
        read_panel({name: values[shuffled] for name, values in made.items()})


def test_a_baseline_may_differ_by_horizon() -> None:
    assert read_panel(with_value("baseline", 1, 3.5)).baseline[1] == 3.5


def test_further_opponents_are_read_by_their_columns() -> None:
    ((name, values),) = read_panel(columns()).opponents.items()
    assert (name, values.tolist()) == ("opponent.last", columns()["opponent.last"].tolist())


def test_codes_are_those_of_numpy_whatever_the_order() -> None:
    random = np.random.default_rng(0)
    labels = random.choice(np.array(["JFK", "EWR", "LGA"]), size=100)
    for ordered in (labels, np.sort(labels)):
        distinct, code = codes(ordered)
        expected, expected_code = np.unique(ordered, return_inverse=True)
        assert distinct.tolist() == expected.tolist()
        assert code.tolist() == expected_code.tolist()
