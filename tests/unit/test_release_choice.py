"""Which model version a release takes, and what it says of those that it considered."""

from __future__ import annotations

import pytest

from ci.release.choose import choose
from ci.release.plan import ModelVersion
from clients.errors import ConfigurationError, NotReleased

PARTS = {"a" * 40, "b" * 40}
"""The commits of the history that is released."""


def version(number: int, rmse: float | None = None, against: int | None = None, **other) -> ModelVersion:
    """against: the version that was production; its error, and the baseline's, are 1.0 on this version's folds."""
    metrics = {"baseline.rmse": 1.0} | ({"rmse": rmse} if rmse is not None else {})
    if against is not None:
        metrics["production.rmse"] = 1.0
    values = {"gate": "passed", "git_sha": "a" * 40, "withdrawn": ""} | other
    return ModelVersion(
        name="weather",
        version=number,
        run_id=f"run{number}",
        mlflow_run=f"{number:032x}",
        source=f"mlflow-artifacts:/{number}",
        metrics=metrics,
        tags={"rps.production_version": "" if against is None else str(against)},
        **values,
    )


def chosen(*versions: ModelVersion, production: int | None = None, pinned: int | None = None, measure: str = "rmse"):
    return choose(versions, production=production, measure=measure, in_history=PARTS.__contains__, pinned=pinned)


def test_the_best_by_relative_skill_is_chosen_not_the_newest():
    choice = chosen(version(1, 0.8), version(2, 0.90, 1), version(3, 0.95, 1), production=1)
    assert choice.version.version == 2
    assert [(one.version.version, round(one.skill, 3)) for one in choice.considered] == [(2, 0.1), (3, 0.05), (1, 0.0)]
    assert "best of 3" in choice.reason
    assert "production, version 1" in choice.reason


def test_a_tie_goes_to_the_newer():
    choice = chosen(version(1, 0.8), version(2, 0.90, 1), version(3, 0.90, 1), production=1)
    assert choice.version.version == 3
    assert "tie" in choice.reason


def test_without_a_production_model_the_baseline_stands_in_for_an_opponent_that_is_unknown():
    choice = chosen(version(5, 0.9, 3), version(6, 0.8, 3))
    assert choice.version.version == 6
    assert choice.considered[0].skill == pytest.approx(0.2)


def test_the_first_release_is_measured_against_the_baseline():
    choice = chosen(version(1, 0.8), version(2, 0.7))
    assert choice.version.version == 2
    assert choice.considered[0].skill == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        ({"gate": "blocked"}, "blocked by the gate"),
        ({"gate": "pending"}, "has not judged it"),
        ({"gate": ""}, "its tag gate is ''"),
        ({"git_sha": "c" * 40}, "not in the history"),
        ({"git_sha": ""}, "not in the history"),
    ],
)
def test_a_version_that_is_not_gated_or_not_of_this_history_is_never_released(other, shown):
    better = version(2, 0.5, 1, **other)
    assert chosen(version(1, 0.8), better, production=1).version.version == 1
    with pytest.raises(NotReleased, match=shown):
        chosen(better)
    with pytest.raises(NotReleased, match=shown):
        chosen(version(1, 0.8), better, production=1, pinned=2)


def test_production_stays_when_nothing_is_better():
    choice = chosen(version(1, 0.8), version(2, 1.02, 1), production=1)
    assert choice.version.version == 1
    assert "production already" in choice.reason


def test_a_version_that_met_an_earlier_production_is_linked_through_the_one_that_replaced_it():
    # 3 was 5 % better than 1, 2 was 10 % better than 1 and is production: 3 is 5.6 % worse than production.
    choice = chosen(version(1, 0.8), version(2, 0.90, 1), version(3, 0.95, 1), production=2)
    assert choice.version.version == 2
    skills = {one.version.version: one.skill for one in choice.considered}
    assert skills[3] == pytest.approx(1 - 0.95 / 0.90)
    assert skills[1] == pytest.approx(1 - 1 / 0.90)
    # And 4, which met 2, is the better one of both.
    assert chosen(version(1, 0.8), version(2, 0.90, 1), version(4, 0.99, 2), production=2).version.version == 4


def test_a_version_whose_opponent_is_unknown_is_not_compared():
    choice = chosen(version(5, 0.8, 1), version(6, 0.99, 5), production=5)
    assert choice.version.version == 6
    choice = chosen(version(5, 0.5), version(7, 0.1, 3), production=5)
    assert choice.version.version == 5
    assert {one.version.version: one.skill for one in choice.considered}[7] is None
    with pytest.raises(NotReleased, match="no version can be compared with production"):
        chosen(version(7, 0.1, 3), production=5)


def test_a_production_that_cannot_be_measured_is_still_what_others_are_measured_against():
    bare = version(5, None, gate="pending")
    choice = chosen(bare, version(1, 0.2), version(6, 0.97, 5), production=5)
    assert choice.version.version == 6
    assert {one.version.version: one.skill for one in choice.considered}[1] is None


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_an_error_that_is_none_makes_no_skill(wrong):
    assert chosen(version(1, 0.8), version(2, wrong, 1), production=1).version.version == 1


def test_absolute_loss_is_ranked_by_mae():
    one, two = version(1, 0.8), version(2, 0.9, 1)
    with pytest.raises(NotReleased, match="compared"):
        chosen(one, two, measure="mae")
    swapped = ModelVersion(**{**vars(two), "metrics": {"mae": 0.5, "production.mae": 1.0}})
    assert chosen(one, swapped, production=1, measure="mae").version.version == 2


def test_what_was_rolled_back_from_is_not_chosen_by_itself_but_can_be_asked_for():
    withdrawn = version(2, 0.5, 1, withdrawn="rolled back to version 1 by v1.0.2")
    choice = chosen(version(1, 0.8), withdrawn, production=1)
    assert choice.version.version == 1
    assert any("withdrawn: rolled back to version 1" in one.summary for one in choice.considered)
    assert chosen(version(1, 0.8), withdrawn, production=1, pinned=2).version.version == 2


def test_a_pinned_version_need_not_be_the_best_but_must_be_there():
    assert chosen(version(1, 0.8), version(2, 0.5, 1), production=2, pinned=1).version.version == 1
    with pytest.raises(ConfigurationError, match=r"\(1, 2\); found 9"):
        chosen(version(2, 0.5, 1), version(1, 0.8), pinned=9)


def test_an_empty_registry_is_reported_as_such():
    with pytest.raises(NotReleased, match="no version in the model registry"):
        chosen()


def test_many_refused_versions_are_reported_in_short():
    with pytest.raises(NotReleased, match="and 95 more"):
        chosen(*(version(number, 0.5, gate="blocked") for number in range(1, 101)))
