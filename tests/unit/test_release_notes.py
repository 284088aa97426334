"""The notes of a release: what they say of model, code and image, whatever people have written in subjects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ci.release.choose import choose
from ci.release.code_history import Commit
from ci.release.notes import COMMITS_SHOWN, Released, render
from ci.release.numbering import Named
from ci.release.plan import ModelVersion, Number, Plan
from forecasting.models.bundle import read_bundle

SHA, MODEL_SHA = "c" * 40, "d" * 40
IMAGE = f"registry.example/ana/weather@sha256:{'0' * 64}"
METRICS = {
    "rmse": 1.953, "skill": 0.401, "coverage_90": 0.915, "rmse_h4": 1.68, "rmse_h6": 2.17,
    "production.rmse": 2.09, "production.rmse_h4": 1.8, "baseline.rmse": 2.52, "fair": 1.0,
}  # fmt: skip


@pytest.fixture
def released(bundle: Path) -> Released:
    model = ModelVersion(
        name="weather", version=2, gate="passed", git_sha=MODEL_SHA, run_id="gate__weather__1", mlflow_run="e" * 32,
        source="", metrics=METRICS, tags={"rps.production_version": "1"},
    )  # fmt: skip
    before = Named(Number(1, 0, 0), "weather", "b" * 40, 1, released=True)
    return Released(
        plan=Plan(
            challenge="weather", title="Temperature", number=Number(1, 1, 0), sha=SHA, model=model, withdraws=None
        ),
        choice=choose([model], production=None, measure="rmse", in_history=lambda _: True),
        manifest=read_bundle(bundle).manifest,
        before=before,
        since=before,
        commits=[Commit("1" * 40, "grow more trees", "feature"), Commit("2" * 40, "Tidy up", "other")],
        image=IMAGE,
        repository_url="https://github.example/ana/weather",
        model_url="https://mlflow.example/#/models/weather/versions/2",
    )


def test_the_model_is_shown_beside_the_one_before_and_the_baseline(released: Released) -> None:
    notes = render(released)
    assert "| on its folds | version 2 | production then (1) | climatology (28 days) |" in notes
    assert "| RMSE, °C | 1.95 | 2.09 | 2.52 |" in notes
    assert "| coverage of the 90 % interval | 91.5 % | – | – |" in notes
    assert "| RMSE, 4 steps ahead | 1.68 | 1.80 | – |" in notes
    assert "v1.0.0 had version 1" in notes
    assert f"https://github.example/ana/weather/commit/{MODEL_SHA}" in notes


def test_the_command_that_pulls_the_image_can_be_copied(released: Released) -> None:
    assert f"```sh\ndocker pull {IMAGE}\n```" in render(released)
    assert "`registry.example/ana/weather:v1.1.0`" in render(released)


def test_commits_stand_under_their_kind(released: Released) -> None:
    notes = render(released)
    assert "### Features\n\n- grow more trees (1111111)" in notes
    assert "### Other changes\n\n- Tidy up (2222222)" in notes
    assert "### Fixes" not in notes


def test_many_commits_are_cut_off_with_their_number(released: Released) -> None:
    commits = [Commit(f"{place:040d}", "Tidy up", "other") for place in range(COMMITS_SHOWN + 7)]
    assert "- and 7 more" in render(replace(released, commits=commits))


def test_the_first_release_does_not_list_the_whole_history(released: Released) -> None:
    notes = render(replace(released, before=None, since=None))
    assert "The first release." in notes
    assert "It holds 2 commits." in notes
    assert "grow more trees" not in notes


def test_a_roll_back_says_what_it_withdraws(released: Released) -> None:
    back = replace(released.plan, model=replace(released.plan.model, version=1), withdraws=3)
    before = Named(Number(1, 0, 9), "weather", "b" * 40, 3, released=True)
    assert "**A roll-back**: versions 2 to 3 will not be chosen again" in render(
        replace(released, plan=back, before=before)
    )


def test_the_same_model_again_is_reported_as_such(released: Released) -> None:
    before = Named(Number(1, 0, 0), "weather", "b" * 40, 2, released=True)
    assert "only the code has changed" in render(replace(released, before=before))


def test_a_subject_cannot_call_anybody_or_end_the_list(released: Released) -> None:
    hostile = Commit("3" * 40, "@everyone </details> <img src=x> | ``` [x](javascript:alert(1))", "fix")
    notes = render(replace(released, commits=[hostile]))
    assert "@everyone" not in notes
    assert "<img" not in notes
    assert "</details> " not in notes.partition("## Code")[2]


def test_a_run_without_metrics_is_reported_without_a_table(released: Released) -> None:
    bare = replace(released.plan, model=replace(released.plan.model, metrics={}))
    notes = render(replace(released, plan=bare))
    assert "| on its folds" not in notes
    assert f"{released.manifest.train_end:%Y-%m-%d}" in notes
