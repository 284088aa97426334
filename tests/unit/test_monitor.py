"""The signals against a straightforward computation from everything that was counted."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from forecasting.drift.distances import population_stability_index, stability_limit
from forecasting.features.definitions import Calendar
from forecasting.features.table import table_features
from forecasting.models.bundle import Bundle, read_bundle
from service.model.served import Model
from service.watch.monitor import FEWEST_ROWS, Monitor, Newest, Score
from service.watch.worker_counts import LATENCY_BOUNDS, STATUSES, AllCounts, Layout
from tests.serving import SPEC, recorded_table

WINDOW = 500
RANDOM = np.random.default_rng(5)


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return Model(read_bundle(bundle), "1")


@pytest.fixture(scope="module")
def recorded() -> np.ndarray:
    """Real rows, every hundredth, and some of them moved out of what training saw."""
    rows = table_features(SPEC, recorded_table())[::100].copy()
    rows[::7, 0] += 60.0
    return rows


def monitor_of(model: Model, directory: Path | None = None) -> Monitor:
    layout = Layout(len(model.columns), len(model.horizons), WINDOW, WINDOW, series=2)
    return Monitor(model, AllCounts(layout, directory))


def with_loss(model: Model, loss: str) -> Model:
    manifest = msgspec.structs.replace(model.bundle.manifest, loss=loss)
    return Model(Bundle(manifest, model.bundle.observations, model.bundle.models), "1")


def some_scores(model: Model, number: int) -> list[Score]:
    return [
        Score(place, 20.0, 20.0 - error, 20.0 - baseline, 4.0 + place, covered=abs(error) < 2.0)
        for each in range(number)
        for place in range(len(model.horizons))
        for error, baseline in [RANDOM.normal(0.1, [1.5 + place, 4.0])]
    ]


def test_drift_is_that_of_the_last_rows(model: Model, recorded: np.ndarray) -> None:
    rows = np.concatenate([recorded] * 3)
    monitor = monitor_of(model)
    unusual = model.predict(rows).unusual
    for row, flag in zip(rows[:40], unusual[:40], strict=True):
        monitor.row("stream", row, unusual=bool(flag))
    for start in range(40, len(rows), 37):
        monitor.rows("mlflow", rows[start : start + 37], unusual[start : start + 37])
    assert len(rows) > WINDOW
    signals, kept = monitor.signals(), rows[-WINDOW:]
    assert signals.rows == WINDOW
    assert 0.0 < unusual[-WINDOW:].mean() < 1.0
    assert signals.out_of_distribution_ratio == pytest.approx(unusual[-WINDOW:].mean())
    references = model.bundle.manifest.references
    assert {name: found.index for name, found in signals.population_stability.items()} == pytest.approx(
        {
            feature.name: population_stability_index(references[feature.name], kept[:, place])
            for place, feature in enumerate(SPEC.definitions)
            if not isinstance(feature, Calendar)
        }
    )
    for name, found in signals.population_stability.items():
        assert found.limit == stability_limit(references[name], WINDOW, 0.25)
    assert monitor.own.predicted.tolist() == [40, 0, 0, len(rows) - 40]
    assert monitor.own.unusual[0] == unusual.sum()


def test_more_rows_at_once_than_the_window_leave_the_last_of_them(model: Model) -> None:
    monitor = monitor_of(model)
    rows = np.arange(WINDOW * 2.5)[:, np.newaxis] + np.zeros(len(model.columns))
    monitor.rows("mlflow", rows[:123], np.zeros(123, dtype=bool))
    monitor.rows("mlflow", rows[123:], np.ones(len(rows) - 123, dtype=bool))
    assert sorted(monitor.own.recent_rows[:, 0]) == rows[-WINDOW:, 0].tolist()
    monitor.row("window", rows[0], unusual=False)
    assert sorted(monitor.own.recent_rows[:, 0]) == [0.0, *rows[-WINDOW + 1 :, 0].tolist()]


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error"])
def test_live_error_is_that_of_the_last_scores(model: Model, loss: str) -> None:
    model = with_loss(model, loss)
    monitor = monitor_of(model)
    scores = some_scores(model, WINDOW + 100)
    monitor.scored(scores[:1000])
    monitor.scored(scores[1000:])
    signals = monitor.signals()
    kept = scores[-WINDOW * len(model.horizons) :]

    def mean_error(errors: list[float]) -> float:
        return float(np.sqrt(np.mean(np.square(errors))) if loss == "squared_error" else np.mean(np.abs(errors)))

    folds = {horizon: model.bundle.manifest.errors[horizon]["error"] for horizon in model.horizons}
    shown = {(horizon,): live for horizon, live in signals.live_by_horizon.items()}
    assert signals.live is not None
    for horizons, live in {**shown, model.horizons: signals.live}.items():
        own = [score for score in kept if model.horizons[score.horizon_place] in horizons]
        error = mean_error([score.truth - score.forecast for score in own])
        assert live.scores == len(own)
        assert live.error == pytest.approx(error)
        assert live.coverage == pytest.approx(np.mean([score.covered for score in own]))
        expected = mean_error([folds[horizon] for horizon in horizons])
        assert live.error_ratio == pytest.approx(error / expected)
        usual = np.mean([model.bundle.manifest.errors[horizon]["width"] for horizon in horizons])
        assert live.width_ratio == pytest.approx(np.mean([score.width for score in own]) / usual)
        assert live.skill == pytest.approx(1 - error / mean_error([score.truth - score.baseline for score in own]))
    assert set(shown) == {(4,), (5,), (6,)}
    assert monitor.own.scored.tolist() == [WINDOW + 100] * 3


def test_forecasts_that_the_loss_is_not_defined_for_are_left_out(model: Model) -> None:
    """A forecast of no variance at all has no QLIKE."""
    monitor = monitor_of(with_loss(model, "qlike"))
    monitor.scored([Score(0, 2.0, 1.0, 4.0, 1.0, covered=True)] * FEWEST_ROWS)
    monitor.scored([Score(0, 2.0, 0.0, 4.0, 1.0, covered=False)] * 3)
    live = monitor.signals().live
    assert live is not None
    assert (live.scores, live.coverage) == (FEWEST_ROWS, 1.0)
    assert live.error == pytest.approx(2.0 - math.log(2.0) - 1.0)
    assert live.skill == pytest.approx(1.0 - (1.0 - math.log(2.0)) / (0.5 - math.log(0.5) - 1.0))


def test_too_little_tells_nothing(model: Model, recorded: np.ndarray) -> None:
    for number, shown in ((FEWEST_ROWS - 1, False), (FEWEST_ROWS, True)):
        monitor = monitor_of(model)
        monitor.rows("mlflow", recorded[:number], np.zeros(number, dtype=bool))
        monitor.scored(some_scores(model, number // len(model.horizons)))
        signals = monitor.signals()
        assert signals.rows == number
        assert (signals.out_of_distribution_ratio is not None) is shown
        assert (signals.live is not None) is shown
        assert signals.live_by_horizon == {}


def test_stability_is_reported_from_as_few_rows_as_training_was_measured_with(
    model: Model, recorded: np.ndarray
) -> None:
    fewest = min(min(each.usual_shift) for each in model.bundle.manifest.references.values())
    for number, shown in ((fewest - 1, False), (fewest, True)):
        monitor = monitor_of(model)
        monitor.rows("mlflow", recorded[:number], np.zeros(number, dtype=bool))
        assert bool(monitor.signals().population_stability) is shown


def test_a_model_whose_folds_are_not_measured_has_no_error_ratio(model: Model) -> None:
    manifest = msgspec.structs.replace(model.bundle.manifest, errors={})
    bare = Model(Bundle(manifest, model.bundle.observations, model.bundle.models), "1")
    monitor = monitor_of(bare)
    monitor.scored(some_scores(bare, FEWEST_ROWS))
    live = monitor.signals().live
    assert live is not None
    assert live.error > 0.0
    assert live.error_ratio is None


def test_all_workers_have_one_window_and_a_successor_goes_on(model: Model, recorded: np.ndarray, tmp_path) -> None:
    one, two = monitor_of(model, tmp_path), monitor_of(model, tmp_path)
    one.rows("mlflow", recorded[:50], np.ones(50, dtype=bool))
    two.rows("mlflow", recorded[50:100], np.zeros(50, dtype=bool))
    for monitor in (one, two):
        signals = monitor.signals()
        assert signals.rows == 100
        assert signals.out_of_distribution_ratio == 0.5
    layout = one.counts.layout
    del one, two, monitor
    heir = Monitor(model, AllCounts(layout, tmp_path))
    heir.row("stream", recorded[0], unusual=False)
    assert heir.signals().rows == 101


def test_the_newest_truth_of_a_series_is_the_one_of_the_latest_time_whichever_worker_took_it(
    model: Model, tmp_path: Path
) -> None:
    one, two = monitor_of(model, tmp_path), monitor_of(model, tmp_path)
    assert one.series == two.series == ("EWR", "JFK")
    assert one.newest() == {}
    later, earlier, corrected = (
        Newest(step, truth, (1.0, 2.0, math.inf), (0.5, truth, 0.0)) for step, truth in ((9, 2.0), (8, 1.0), (9, 3.0))
    )
    one.reached("EWR", later)
    two.reached("EWR", earlier)
    two.reached("JFK", earlier)
    two.reached("LGA", later)  # beyond what the layout has room for
    two.reached("made up", later)
    for monitor in (one, two):
        assert monitor.newest() == {"EWR": later, "JFK": earlier}
    two.reached("EWR", corrected)
    assert one.newest()["EWR"] == two.newest()["EWR"] == corrected


def test_requests_are_counted_by_status_and_time(model: Model) -> None:
    monitor = monitor_of(model)
    monitor.request(3, 200, 0.0004)
    monitor.request(3, 200, LATENCY_BOUNDS[2])
    monitor.request(3, 418, 99.0)
    own = monitor.own
    assert own.requests[3, STATUSES.index(200)] == 2
    assert own.requests[3, -1] == 1
    assert own.requests.sum() == 3
    assert own.latency[3].tolist() == [1, 0, 1, *[0] * (len(LATENCY_BOUNDS) - 3), 1]
    assert own.latency_sum[3] == pytest.approx(99.0004 + LATENCY_BOUNDS[2])
