"""The replay's own parts: its reading of the alert rules beside Prometheus', messages, limits, and what it counts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bench import loop_models
from bench.loop_changes import Served, _weekly
from bench.loop_models import history, judged, recorded_year, trained
from bench.loop_policies import FIRST, Policy, Retraining, _allowed, _Messages, scheduled, scored
from bench.loop_report import demo_section
from bench.loop_rules import Recorder, _hours_in, differing_hours
from bench.loop_service import DRIFT, Made, Observation, Service, Watch, hours_of, moment_at, step_of
from forecasting.challenge.schema import Drift
from forecasting.features.spec import target_column
from forecasting.models.bundle import Bundle, read_bundle
from service.watch.monitor import Score
from tests.integration.prometheus_server import promtool
from tests.serving import SPEC, recorded_table

START = datetime(2013, 7, 1, tzinfo=UTC)
HOURS = 60


@pytest.fixture(scope="module")
def loaded(bundle: Path) -> Bundle:
    """With no observation of its own, so that any hour may come first."""
    return replace(read_bundle(bundle), observations={})


def with_limits(bundle: Bundle, **limits: float) -> Bundle:
    return replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, drift=Drift(**limits)))


def hours(first: datetime, last: datetime) -> dict[int, list[Observation]]:
    return dict(hours_of(recorded_table(first, last), SPEC))


def test_the_service_forecasts_from_each_hour_and_scores_what_has_come(loaded: Bundle) -> None:
    found = hours(START, START + timedelta(hours=HOURS))
    service = Service(loaded, "1")
    made = [one for step in sorted(found) for one in service.take(found[step])]
    origins, errors = scored(made, found)
    counted = service.monitor.own
    assert {one.horizon for one in made} == {4, 5, 6}
    assert len(errors) == counted.scored.sum() > 0
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(service.fresh_monitor().signals().live.error)
    assert origins.min() > step_of(START)


@pytest.mark.parametrize("limits", [{"max_out_of_distribution_ratio": 0.0}, {"max_live_error_ratio": 0.01}])
def test_what_fires_is_what_prometheus_says_over_a_change_of_the_model(
    loaded: Bundle, limits: dict[str, float]
) -> None:
    promtool("--version")
    bundle = with_limits(loaded, **limits)
    found = hours(START, START + timedelta(hours=2 * HOURS))
    for step, observations in found.items():  # rows outside training come and go
        if step % 40 > 25:
            found[step] = [one._replace(values=(one.values[0] + 40.0, *one.values[1:])) for one in observations]
    service, watch, recorder, firing = Service(bundle, "1"), Watch(), Recorder(), []
    for hour, step in enumerate(sorted(found)):
        if hour == HOURS:
            service = Service(bundle, "2")
        list(service.take(found[step]))
        if hour % HOURS == 50:  # enough of them at once, for the alerts that wait a week for them
            service.monitor.scored([Score(0, 10.0, 1.0, 9.0, 1.0, covered=False)] * 2000)
        firing.append(watch.look(hour, monitor := service.fresh_monitor()))
        recorder(monitor)
    fired = set().union(*firing)
    assert len(set(firing)) > 2, "too little happens for a comparison"
    assert fired & set(DRIFT)
    assert differing_hours(recorder, firing) == []
    wrong = [now ^ {"FeatureDrift"} if hour in {3, 70} else now for hour, now in enumerate(firing)]
    assert differing_hours(recorder, wrong) == [3, 70]


@pytest.mark.parametrize(("text", "expected"), [("120h0m0s", 120), ("0s", 0), ("1d2h", 26), ("1w", 168)])
def test_durations_are_read_as_they_are_written(text: str, expected: int) -> None:
    assert _hours_in(text) == expected


def test_a_change_sends_a_message_at_once_and_what_stays_one_after_twelve_hours() -> None:
    messages = _Messages()
    inputs, both = frozenset({"InputsOutOfDistribution"}), frozenset({"InputsOutOfDistribution", "ConceptDrift"})
    seen = [messages.sent(step, "1", inputs) for step in range(100, 126)]
    assert [step for step, sent in enumerate(seen) if sent] == [0, 12, 24]
    assert messages.sent(126, "1", both)
    assert not messages.sent(127, "1", both)
    assert messages.sent(128, "2", both), "another version's alerts are others"
    assert not messages.sent(129, "2", frozenset()), "all is well: nothing fires in that message"


def test_a_retraining_waits_for_the_cool_down_and_the_daily_limit() -> None:
    policy = Policy(name="", on_drift=True, cool_down_hours=6, daily_limit=2)
    done = [Retraining(moment_at(step), (), "blocked", ()) for step in (100, 106)]
    assert not _allowed(policy, 105, done[:1])
    assert _allowed(policy, 106, done[:1])
    assert not _allowed(policy, 123, done)
    assert _allowed(policy, 124, done), "the first is a day old"


def test_weekly_errors_are_those_of_the_forecasts_made_in_the_week() -> None:
    steps = list(range(500, 500 + 200))
    origins = np.array([500, 500, 600, 690])
    weekly = _weekly(origins, np.array([3.0, 4.0, 1.0, 7.0]), steps)
    assert weekly[500] == pytest.approx(np.sqrt((9 + 16 + 1) / 3))
    assert weekly[501] == pytest.approx(1.0)
    assert weekly[523] == pytest.approx(np.sqrt((1 + 49) / 2))
    assert max(weekly) == 532


def test_an_alert_that_fires_in_the_first_hour_has_begun_to_fire() -> None:
    fired = [frozenset({"a"}), frozenset(), frozenset({"a"}), frozenset({"a", "b"})]
    served = Served([1, 2, 3, 4], fired, 0.0, {}, 1.0)
    assert (served.starts("a"), served.starts("b"), served.starts("c")) == (2, 1, 0)
    assert (served.first("a"), served.first("a", 1), served.first("b"), served.first("c")) == (0, 2, 3, None)


def test_a_forecast_without_a_truth_is_not_scored() -> None:
    nothing = float("nan")
    truths = {7: [Observation("a", 7, (5.0, 0.0))], 8: [Observation("a", 8, (nothing, 0.0))]}
    made = [Made("a", 3, 4, 4.0), Made("a", 4, 4, 4.0), Made("b", 3, 4, 4.0)]
    origins, errors = scored(made, truths)
    assert (origins.tolist(), errors.tolist()) == ([3], [1.0])


def test_no_target_is_known_before_its_time() -> None:
    past = recorded_year()
    rows = past.rows[past.rows["ds"] < datetime(2013, 1, 20, tzinfo=UTC)]
    as_of = datetime(2013, 1, 12, 5, tzinfo=UTC)
    found = history("short", rows, past.challenge).features_at(as_of)
    cut = history("cut", rows[rows["ds"] <= as_of], past.challenge).features
    assert len(found) == len(cut) > 0
    for horizon in past.challenge.target.horizons:
        name = target_column(horizon)
        assert found[name].isna().sum() >= 3 * horizon
        assert np.array_equal(found[name].to_numpy(), cut[name].to_numpy(), equal_nan=True)


def test_a_model_knows_the_last_hour_and_is_judged_as_a_retraining_of_the_same_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_models, "CACHE", tmp_path)
    year = recorded_year()
    first, second = FIRST, FIRST + timedelta(days=1)
    strict = msgspec.structs.replace(year.challenge.gate, max_regression=0.0, negligible_regression=0.0, strict=True)
    quick = msgspec.structs.replace(
        year.challenge.learner, kind="hist_gradient_boosting", parameters={"max_iter": 2, "learning_rate": 0.5}
    )
    past = replace(year, challenge=msgspec.structs.replace(year.challenge, gate=strict, learner=quick))
    manifest = read_bundle(trained(past, second)).manifest
    assert manifest.train_end == second
    assert set(manifest.errors) == set(SPEC.horizons)
    assert all(errors["error"] > 0.5 for errors in manifest.errors.values())
    verdicts = [judged(past, second, first), judged(past, first, second)]
    assert {verdict.opponent for verdict in verdicts} == {"production"}
    changes = [verdict.overall.change for verdict in verdicts if verdict.overall.change is not None]
    assert max(changes) > 0.0, "one of them is worse, which a strict gate blocks when the recipe is judged"
    broken = {reason.rule for verdict in verdicts for reason in verdict.reasons}
    assert not broken & {"evidence", "freshness", "regression", "slice"}


def test_the_clock_trains_the_first_model_and_one_each_day() -> None:
    moments = list(scheduled(24))
    assert moments[1] - moments[0] == timedelta(days=1)
    assert len(moments) == 279


def test_the_demo_is_reported_with_its_goal(tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    assert "Not measured yet" in "\n".join(demo_section(path))
    path.write_text('{"alert_to_serving_seconds": 150.0, "seconds": {}}', encoding="utf-8")
    assert "**2.5 minutes**" in "\n".join(demo_section(path))
    assert "(goal met)" in " ".join(demo_section(path))
