"""The accuracy benchmark's own parts: its baselines by hand, what it compares, and the peers' way of filling gaps."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from bench.accuracy import climatology, hourly, moments, ridge
from bench.accuracy_peers import filled
from bench.accuracy_places import as_challenge
from bench.accuracy_report import (
    ahead,
    by_horizon,
    by_month,
    every_hour_section,
    folds_section,
    months_chart,
    months_table,
)
from forecasting.features.spec import feature_spec, target_column

START = datetime(2013, 1, 1, tzinfo=UTC)


def observed(values: list[float], unique_id: str = "EWR") -> pd.DataFrame:
    hours = pd.date_range(START, periods=len(values), freq="h", name="ds")
    return pd.DataFrame({unique_id: values}, index=hours).rename_axis(columns="unique_id")


def test_climatology_adds_the_mean_change_at_that_time_of_the_last_days() -> None:
    values = np.zeros(72 + 5)
    values[[4, 28]] = 2.0, 4.0  # four hours after midnight it was 2 and 4 degrees warmer; the mean is 3
    values[48] = 10.0
    assert climatology(observed(list(values)), 4, days=2)["EWR"].iloc[48] == pytest.approx(10.0 + 3.0)


def test_climatology_uses_nothing_after_the_origin() -> None:
    values = np.random.default_rng(1).normal(size=200)
    before = climatology(observed(list(values)), 6)
    values[101:] += 50.0
    pd.testing.assert_frame_equal(climatology(observed(list(values)), 6).iloc[:101], before.iloc[:101])


def test_climatology_leaves_out_days_that_were_not_observed() -> None:
    values = np.zeros(72 + 5)
    values[[4, 28]] = np.nan, 4.0
    assert climatology(observed(list(values)), 4, days=2)["EWR"].iloc[48] == pytest.approx(4.0)


def test_a_moment_has_its_origin_and_its_truth_observed() -> None:
    values = [float(hour) for hour in range(100)]
    values[60], values[70] = np.nan, np.nan
    rows = moments(observed(values), (4, 5))
    assert set(rows["horizon"]) == {4, 5}
    assert (rows["truth"] == rows["persistence"] + rows["horizon"]).all()
    four = rows.loc[rows["horizon"] == 4, "persistence"]
    assert sorted(set(range(48, 96)) - set(four)) == [56, 60, 66, 70]


def test_an_hour_without_a_row_is_a_gap_in_the_series() -> None:
    rows = observed([1.0, 2.0, 3.0]).melt(ignore_index=False, value_name="temperature").reset_index()
    found = hourly(rows.drop(index=1), "temperature")
    assert found["EWR"].isna().tolist() == [False, True, False]


def test_peers_see_the_last_value_where_one_is_missing() -> None:
    rows = observed([1.0, 2.0, 3.0, 4.0]).melt(ignore_index=False, value_name="y").reset_index()
    assert filled(rows.drop(index=[1, 2]))["y"].tolist() == [1.0, 1.0, 1.0, 4.0]


def forecasts(**errors: float) -> pd.DataFrame:
    """Errors of that size, their sign at random, over two months of one horizon."""
    rows = pd.DataFrame({"ds": pd.date_range(START, periods=59, freq="D"), "horizon": 4, "truth": 0.0})
    sign = np.random.default_rng(2).uniform(0.5, 1.5, len(rows))
    return rows.assign(**{name: error * sign for name, error in errors.items()})


def test_errors_are_by_model_horizon_and_month() -> None:
    rows = forecasts(ours=1.0, MSTL=2.0)
    both = pd.concat([rows, rows.assign(horizon=5, ours=3.0)])
    errors = by_horizon(both, ["ours", "MSTL"])
    assert errors.loc["ours", 5] == pytest.approx(3.0)
    assert errors.loc["ours", "all"] ** 2 == pytest.approx((errors.loc["ours", 4] ** 2 + 9.0) / 2)
    months = by_month(rows, ["ours", "MSTL"])
    assert (months.loc["MSTL"] / months.loc["ours"]).tolist() == pytest.approx([2.0, 2.0])


def test_the_paired_test_finds_the_model_that_is_worse() -> None:
    rows = forecasts(ours=1.0, MSTL=2.0)
    assert ahead(rows, "MSTL") < 0.001
    assert ahead(rows.rename(columns={"ours": "MSTL", "MSTL": "ours"}), "MSTL") > 0.999


def cells(lines: list[str], start: str) -> list[str]:
    (line,) = [line for line in lines if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_months_are_relative_to_the_model_that_is_named() -> None:
    months = by_month(forecasts(ours=1.0, climatology=2.0, persistence=4.0), ["ours", "climatology", "persistence"])
    assert cells(list(months_table(months, "climatology")), "**ours")[1:] == ["0.50", "0.50"]
    assert cells(list(months_table(months, "persistence")), "**ours")[1:] == ["0.25", "0.25"]


@pytest.mark.parametrize(
    ("ours", "climatology", "persistence", "missed"),
    [(1.0, 2.0, 2.0, 0), (2.0, 4.0, 4.0, 1), (1.0, 1.1, 2.0, 1), (1.0, 2.0, 0.9, 1), (3.0, 2.0, 2.0, 4)],
)
def test_goals_are_of_the_error_the_share_and_every_month(
    ours: float, climatology: float, persistence: float, missed: int
) -> None:
    rows = forecasts(ours=ours, climatology=climatology, persistence=persistence)
    assert "\n".join(every_hour_section(rows, goals=True)).count("not met") == missed
    assert "Goals" not in "\n".join(every_hour_section(rows, goals=False))


def test_folds_have_their_own_errors_and_coverage() -> None:
    rows = forecasts(ours=1.0, persistence=2.0).assign(ours=1.0, fold=1, lower=-1.0, upper=1.0)
    rows.loc[30:, ["fold", "ours", "lower"]] = 2, 3.0, 0.5
    lines = list(folds_section(rows))
    first, second = (cells(lines, number) for number in ("1", "2"))
    assert (first[2:4], first[-1]) == (["30", "1.00"], "100.0%")
    assert (second[2:4], second[-1]) == (["29", "3.00"], "0.0%")
    assert cells(lines, "**all**")[3] == f"{((30 + 29 * 9) / 59) ** 0.5:.2f}"


def test_ridge_learns_the_change_of_the_target_and_stands_a_missing_value() -> None:
    spec = feature_spec(as_challenge({"GSO"}, {"temperature"}))
    random = np.random.default_rng(3)
    rows = pd.DataFrame(random.normal(size=(4000, len(spec.columns))), columns=list(spec.columns))
    rows = rows.assign(y=5.0, **{target_column(4): 5.0 + 2.0 * rows["temperature_lag_0"]})
    rows.loc[:99, target_column(4)] = np.nan
    predict = ridge(spec)(rows, 4)
    asked = rows[list(spec.columns_for(4))].head(3).assign(temperature_lag_1=np.nan)
    assert predict(asked) == pytest.approx(2.0 * asked["temperature_lag_0"].to_numpy(), abs=0.01)


def test_the_chart_is_relative_to_persistence() -> None:
    lines = list(
        months_chart(
            by_month(forecasts(ours=1.0, climatology=2.0, persistence=4.0), ["ours", "climatology", "persistence"])
        )
    )
    assert [line.strip() for line in lines if "line [" in line] == [
        "line [0.250, 0.250]",
        "line [0.500, 0.500]",
        "line [1.000, 1.000]",
    ]


def test_another_places_challenge_asks_for_what_it_has() -> None:
    challenge = as_challenge({"GSO"}, {"temperature", "pressure"})
    assert challenge.series_ids == ("GSO",)
    assert feature_spec(challenge).variables == ("temperature", "pressure")
    assert challenge.quality.key_columns == ("temperature",)
    assert set(challenge.quality.ranges) == {"temperature", "pressure"}
