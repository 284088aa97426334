"""One line per status, and one status for all challenges."""

from __future__ import annotations

import pytest

from ci.gate.statuses import conclusion, status_line
from clients.github import STATUS_DESCRIPTION_LENGTH, Status
from records.judgement import Failure

PASSED = Status("success", "passed: RMSE 1.9 °C, 2.0% better than production", "http://comment/1")
BLOCKED = Status("failure", "blocked by regression: RMSE 2.2 °C, 9.0% worse than production", "http://comment/2")
BROKEN = Status("error", "no verdict: the task train failed", "http://comment/3")
LINK = "http://workflow/1"


def test_a_single_challenge_speaks_for_all():
    assert conclusion({"model-gate/weather": PASSED}, ["weather"], LINK) == PASSED


@pytest.mark.parametrize(("worst", "state"), [(BLOCKED, "failure"), (BROKEN, "error")])
def test_the_worst_challenge_decides_and_is_named(worst: Status, state: str):
    statuses = {"model-gate/weather": PASSED, "model-gate/crypto": worst}
    concluded = conclusion(statuses, ["weather", "crypto"], LINK)
    assert (concluded.state, concluded.target_url) == (state, worst.target_url)
    assert concluded.description.startswith("crypto: ")


def test_all_passed_is_success_and_names_them():
    concluded = conclusion({"model-gate/weather": PASSED, "model-gate/crypto": PASSED}, ["weather", "crypto"], LINK)
    assert (concluded.state, concluded.description) == ("success", "passed: weather, crypto")


@pytest.mark.parametrize("statuses", [{}, {"model-gate/weather": Status("pending", "waiting", "")}])
def test_a_challenge_without_a_verdict_is_an_error(statuses: dict[str, Status]):
    concluded = conclusion(statuses, ["weather"], LINK)
    assert (concluded.state, concluded.target_url) == ("error", LINK)


def test_nothing_to_judge_is_an_error():
    assert conclusion({}, [], LINK).state == "error"


def test_the_status_of_the_whole_is_not_taken_for_a_challenges():
    assert conclusion({"model-gate": PASSED}, ["weather"], LINK).state == "error"


def test_a_line_fits_a_status_and_is_one_line():
    line = status_line(None, Failure(reason="the task train failed:\n" + "x" * 500))
    assert len(line) == STATUS_DESCRIPTION_LENGTH
    assert "\n" not in line
    assert line.endswith("…")
