"""The chart of errors by horizon: what Mermaid's grammar takes, and which line is which."""

from __future__ import annotations

import math
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci.gate.chart import MOST_POINTS, error_chart
from forecasting.judging.verdict import Verdict
from tests.judgements import contest, verdict, without_production

NUMBER = r"[+-]?\d+(?:\.\d+)?"
STRING = r'"[^"`#;<>{}\[\]\\\n]+"'
"""Less than the grammar of xychart (mermaid 11) allows: nothing that any of its stages reads in a way of its own."""
GRAMMAR = re.compile(
    r"```mermaid\n"
    r'%%\{init: \{"themeVariables": \{"xyChart": \{"plotColorPalette": "[#0-9A-F, ]+"\}\}\}\}%%\n'
    r"xychart-beta\n"
    rf" +x-axis {STRING} \[{STRING}(?:, {STRING})*\]\n"
    rf" +y-axis {STRING} ({NUMBER}) --> ({NUMBER})\n"
    rf"((?: +line \[{NUMBER}(?:, {NUMBER})*\]\n)+)"
    r"```"
)


def drawn(made: Verdict) -> tuple[float, float, list[list[float]]]:
    """The range of the y axis, and the points of each line; the chart must be of the grammar."""
    found = GRAMMAR.fullmatch(error_chart(made).partition("\n\n")[2])
    assert found
    lines = [[float(value) for value in line.split(", ")] for line in re.findall(r"\[(.*)\]", found[3])]
    return float(found[1]), float(found[2]), lines


def at_horizons(*errors: float) -> Verdict:
    horizons = [contest(f"horizon {i}", 0.0, error, 2 * error) for i, error in enumerate(errors, 1)]
    return verdict(horizons=tuple(horizons))


def test_each_model_is_a_line_of_its_errors_by_horizon():
    _, _, lines = drawn(verdict())
    assert lines == [[1.674, 1.938, 2.193], [1.71, 1.98, 2.24], [2.21, 2.63, 3.02]]


def test_the_text_names_the_lines_colours_in_their_order():
    chart = error_chart(verdict())
    assert chart.startswith("Lower is better: blue is candidate, orange is production, grey is climatology (28 days).")
    assert '"plotColorPalette": "#0072B2, #E69F00, #888888"' in chart


def test_without_production_there_are_two_lines_in_the_same_colours():
    chart = error_chart(without_production(verdict()))
    assert chart.startswith("Lower is better: blue is candidate, grey is climatology (28 days).")
    assert '"plotColorPalette": "#0072B2, #888888"' in chart
    assert len(drawn(without_production(verdict()))[2]) == 2


@pytest.mark.parametrize("errors", [(1.0, 2.0), (1e-9, 3e-9), (1e11, 2e11), (0.0, 0.0), (7.0, 7.0), (0.0, 5.0)])
def test_every_point_is_inside_the_axis(errors):
    low, high, lines = drawn(at_horizons(*errors))
    assert 0.0 <= low < high
    assert all(low <= value <= high for line in lines for value in line)


def test_points_keep_four_digits_at_any_scale():
    assert drawn(at_horizons(1.23456e-7, 2e-7))[2][1][0] == pytest.approx(1.23456e-7, rel=1e-3)
    assert drawn(at_horizons(123456.0, 2e5))[2][1][0] == 123456.0


def test_an_axis_that_does_not_start_at_zero_is_reported():
    assert "The axis does not start at 0." in error_chart(at_horizons(5.0, 6.0))
    assert "does not start" not in error_chart(at_horizons(0.0, 6.0))


@pytest.mark.parametrize("error", [math.nan, math.inf, 1e300])
def test_errors_that_cannot_be_drawn_are_reported_instead(error):
    assert error_chart(at_horizons(1.0, error)) == "No chart: an error is not a number that can be drawn."


def test_a_single_horizon_has_no_line():
    assert error_chart(at_horizons(1.0)) == ""
    assert error_chart(at_horizons()) == ""


def test_many_horizons_are_cut_and_counted():
    chart = at_horizons(*range(1, 101))
    assert [len(line) for line in drawn(chart)[2]] == [MOST_POINTS] * 3
    assert f"The first {MOST_POINTS} of 100 horizons." in error_chart(chart)


pieces = st.sampled_from(
    ['"', "\n", "```", "%%", '%%{init: {"securityLevel": "loose"}}%%', "]", "[", "#quot;", "`", "-->", "\\", "line [1]"]
)


@settings(max_examples=60, deadline=None)
@given(words=st.lists(pieces | st.text(max_size=8), max_size=5).map("".join))
def test_no_unit_and_no_horizon_leaves_its_string(words):
    named = contest(f"horizon {words}", 0.0, 1.0, 2.0)
    made = msgspec.structs.replace(verdict(), unit=words, horizons=(named, contest("horizon 5", 0.0, 1.0, 2.0)))
    drawn(made)
    assert error_chart(made).count("%%") == 2


@pytest.mark.parametrize("unit", ["°C", "µg/m³", "€/MWh", "%", "km/h"])
def test_a_common_unit_is_kept(unit):
    assert f'y-axis "RMSE, {unit}"' in error_chart(verdict(unit=unit))
