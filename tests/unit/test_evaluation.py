"""The errors of a model, sliced; and the metrics that MLflow is given."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest

from forecasting.evaluation import Compared, Evaluation, Measured, Predictions, Window, measure
from forecasting.metrics import NoRows
from pipelines.evaluate import run_metrics
from pipelines.files import read_json, write_json

NOW = datetime(2013, 12, 30, tzinfo=UTC)


def predictions(**changes: object) -> Predictions:
    """EWR and JFK, horizons 4 and 5; errors 1, 2, 3, 4 in that order."""
    made = Predictions(
        unique_id=np.array(["EWR", "EWR", "JFK", "JFK"], dtype=object),
        horizon=np.array([4, 5, 4, 5]),
        compared=np.ones(4, dtype=bool),
        truth=np.array([10.0, 20.0, 30.0, 40.0]),
        value=np.array([11.0, 22.0, 33.0, 44.0]),
        lower=np.array([9.0, 21.0, 29.0, 39.0]),
        upper=np.array([12.0, 23.0, 34.0, 45.0]),
    )
    return msgspec.structs.replace(made, **changes)


def evaluation(measured: Measured, **changes: object) -> Evaluation:
    candidate = Compared(
        version="", mlflow_run="r", git_sha="s", dataset_md5="m", train_end=NOW, bundle_bytes=7,
        prediction_seconds_per_row=0.5, measured=measured,
    )  # fmt: skip
    made = Evaluation(
        challenge="weather", run_id="manual__1", as_of=NOW, unit="°C", loss="squared_error", interval=0.9,
        window=Window(start=NOW, end=NOW, origins=1, rows=4), fair=True, reasons=(), candidate=candidate,
        production=None, production_version="", persistence=measured,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def test_errors_are_given_whole_by_horizon_and_by_series():
    measured = measure(predictions(), "squared_error")
    assert measured.overall.loss == (1 + 4 + 9 + 16) / 4
    assert measured.overall.rmse == pytest.approx(7.5**0.5)
    assert measured.horizons[4].mae == 2.0
    assert measured.series["JFK"].mae == 3.5
    assert (measured.overall.coverage, measured.horizons[4].coverage) == (0.75, 1.0)


def test_the_loss_is_the_challenges_own():
    assert measure(predictions(), "absolute_error").overall.loss == 2.5


def test_rows_that_not_every_model_predicts_do_not_count():
    measured = measure(predictions(compared=np.array([True, True, False, True])), "squared_error")
    assert (measured.overall.rows, measured.horizons[4].rows, measured.series["JFK"].rows) == (3, 1, 1)
    assert measured.horizons[4].mae == 1.0


def test_a_horizon_that_no_other_model_predicts_is_measured_on_its_own():
    measured = measure(predictions(compared=np.array([True, False, True, False])), "squared_error")
    assert (measured.overall.rows, measured.horizons[5].rows) == (2, 2)
    assert measured.horizons[5].mae == 3.0


def test_nothing_compared_is_an_error():
    with pytest.raises(NoRows):
        measure(predictions(compared=np.zeros(4, dtype=bool)), "squared_error")


def test_a_model_without_intervals_has_no_coverage():
    assert measure(predictions(lower=None, upper=None), "squared_error").overall.coverage is None


def test_metric_names_are_those_that_every_mlflow_takes():
    uncommon = np.array(["BTC:USD", "BTC:USD", "h4", "h4"], dtype=object)
    made = evaluation(measure(predictions(unique_id=uncommon), "squared_error"))
    metrics = list(run_metrics(made))
    names = [name for name, _ in metrics]
    assert {"rmse", "mae", "r2", "coverage_90", "rmse_h4", "coverage_90_h5", "persistence.rmse", "skill"} <= set(names)
    assert {"rmse_BTC USD", "rmse_series h4"} <= set(names)
    assert len(set(names)) == len(names)
    assert all(character.isalnum() or character in "_-. /" for name in names for character in name)
    assert "production.rmse" not in names


def test_production_has_its_own_figures():
    own = measure(predictions(), "squared_error")
    better = measure(predictions(value=np.array([10.0, 20.0, 30.0, 41.0])), "squared_error")
    made = evaluation(own)
    production = msgspec.structs.replace(made.candidate, measured=better, bundle_bytes=9)
    metrics = dict(run_metrics(msgspec.structs.replace(made, production=production)))
    assert metrics["production.rmse"] == 0.5
    assert metrics["production.skill"] == pytest.approx(1 - 0.25 / 7.5)
    assert (metrics["bundle_bytes"], metrics["production.bundle_bytes"]) == (7.0, 9.0)


def test_skill_is_left_out_when_persistence_is_perfect():
    perfect = measure(predictions(value=np.array([10.0, 20.0, 30.0, 40.0])), "squared_error")
    names = [name for name, _ in run_metrics(evaluation(perfect))]
    assert "skill" not in names


def test_the_record_comes_back_as_it_was_written(tmp_path):
    made = evaluation(measure(predictions(), "squared_error"), reasons=("too short",), fair=False)
    write_json(tmp_path / "evaluation.json", made)
    assert read_json(tmp_path / "evaluation.json", Evaluation, made_by="evaluate") == made
