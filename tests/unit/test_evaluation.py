"""The errors of a model, sliced; and the metrics that MLflow is given."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import numpy as np
import pandas as pd
import pytest

from clients.errors import DataRejected
from forecasting.judging.evaluation import BaselineEvaluation, Evaluation, ModelErrors, ModelEvaluation, Window
from forecasting.judging.losses import LossName
from pipelines.comparison import PanelFrame
from pipelines.evaluate import run_metrics
from pipelines.files import read_json, write_json

NOW = datetime(2013, 12, 30, tzinfo=UTC)
HOURS = pd.to_timedelta([0, 1, 2, 3], unit="h")


def panel(**changes: object) -> PanelFrame:
    """EWR and JFK, horizons 4 and 5; the candidate's errors are 1, 2, 3, 4 in that order. There is no production."""
    rows = pd.DataFrame(
        {
            "unique_id": ["EWR", "EWR", "JFK", "JFK"],
            "ds": pd.Timestamp(NOW),
            "horizon": [4, 5, 4, 5],
            "truth": [10.0, 20.0, 30.0, 40.0],
            "baseline": [9.0, 9.0, 29.0, 29.0],
            "opponent.last": [10.0, 21.0, 30.0, 41.0],
            "candidate": [11.0, 22.0, 33.0, 44.0],
            "candidate_lower": [9.0, 21.0, 29.0, 39.0],
            "candidate_upper": [12.0, 23.0, 34.0, 45.0],
            "production": np.nan,
            "production_lower": np.nan,
            "production_upper": np.nan,
            "compared": True,
        }
    )
    return PanelFrame(rows.assign(**changes), None, ())


def candidate_errors(loss: LossName = "squared_error", **changes: object) -> ModelErrors:
    return panel(**changes).errors(loss)["candidate"]


def evaluation(measured: ModelErrors, **changes: object) -> Evaluation:
    candidate = ModelEvaluation(
        version="", mlflow_run="r", git_sha="s", dataset_md5="m", train_end=NOW, bundle_bytes=7,
        prediction_seconds_per_row=0.5, measured=measured,
    )  # fmt: skip
    baseline = BaselineEvaluation(kind="last", title="last", measured=measured)
    made = Evaluation(
        challenge="weather", run_id="manual__1", as_of=NOW, unit="°C", loss="squared_error", interval=0.9,
        window=Window(start=NOW, end=NOW, origins=1, rows=4), fair=True, reasons=(), candidate=candidate,
        production=None, production_version="", baseline=baseline,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def test_errors_are_given_whole_by_horizon_and_by_series():
    errors = candidate_errors()
    assert errors.overall.loss == (1 + 4 + 9 + 16) / 4
    assert errors.overall.error == pytest.approx(7.5**0.5)
    assert errors.horizons[4].loss == 5.0
    assert errors.series["JFK"].loss == 12.5
    assert (errors.overall.coverage, errors.horizons[4].coverage) == (0.75, 1.0)
    assert (errors.overall.width, errors.series["JFK"].width) == (4.0, 5.5)


def test_series_that_do_not_stand_together_are_distinguished():
    errors = candidate_errors(unique_id=["JFK", "EWR", "EWR", "JFK"], ds=pd.Timestamp(NOW) + HOURS)
    assert (errors.series["EWR"].loss, errors.series["JFK"].loss) == (6.5, 8.5)
    assert list(errors.series) == ["EWR", "JFK"]


def test_the_loss_is_the_challenges_own():
    assert candidate_errors("absolute_error").overall.loss == 2.5


def test_rows_that_not_every_model_predicts_do_not_count():
    errors = candidate_errors(compared=[True, True, False, True])
    assert (errors.overall.rows, errors.horizons[4].rows, errors.series["JFK"].rows) == (3, 1, 1)
    assert errors.horizons[4].error == 1.0


def test_a_horizon_that_no_other_model_predicts_is_measured_on_its_own():
    errors = candidate_errors(compared=[False, True, False, True])
    assert (errors.overall.rows, errors.horizons[4].rows) == (2, 2)
    assert errors.horizons[4].loss == 5.0
    assert list(errors.horizons) == [4, 5]


def test_metrics_are_in_the_measure_of_the_challenges_loss():
    names = {name for name, _ in run_metrics(evaluation(candidate_errors("qlike"), loss="qlike"))}
    assert {"qlike", "qlike_h4", "baseline.qlike"} <= names
    assert not any("rmse" in name for name in names)


def test_a_loss_that_is_not_defined_on_the_folds_is_an_error():
    with pytest.raises(DataRejected, match="QLIKE: expected positive truths and predictions; 1 of 4 pairs are not"):
        candidate_errors("qlike", candidate=[11.0, 22.0, 0.0, 44.0])


def test_nothing_compared_is_an_error():
    with pytest.raises(DataRejected, match="expected rows that every model predicts"):
        candidate_errors(compared=False)


def test_a_model_without_intervals_has_no_coverage_and_no_width():
    errors = panel().errors("squared_error")["baseline"].overall
    assert (errors.coverage, errors.width) == (None, None)


def test_a_further_opponent_is_measured_by_its_column():
    assert panel().errors("squared_error")["opponent.last"].overall.loss == 0.5


def test_production_is_measured_on_its_own_predictions_and_intervals():
    errors = panel(
        production=[10.0, 20.0, 30.0, 41.0], production_lower=[11.0] * 4, production_upper=[50.0] * 4
    ).errors("squared_error")
    assert errors["production"].overall.loss == 0.25
    assert errors["production"].overall.coverage == 0.75
    assert "production" not in panel().errors("squared_error")


def test_metric_names_are_those_that_every_mlflow_takes():
    measured = candidate_errors(unique_id=["BTC:USD", "BTC:USD", "h4", "h4"])
    made = evaluation(measured, opponents=(BaselineEvaluation(kind="last", title="last", measured=measured),))
    metrics = list(run_metrics(made))
    names = [name for name, _ in metrics]
    assert {
        "rmse",
        "r2",
        "coverage_90",
        "interval_width",
        "rmse_h4",
        "coverage_90_h5",
        "baseline.rmse",
        "skill",
    } <= set(names)
    assert "opponent.last.rmse_h4" in names
    assert "opponent.last.skill" not in names
    assert {"rmse_BTC USD", "rmse_series h4"} <= set(names)
    assert len(set(names)) == len(names)
    assert all(character.isalnum() or character in "_-. /" for name in names for character in name)
    assert "production.rmse" not in names


def test_production_has_its_own_figures():
    own = candidate_errors()
    better = candidate_errors(candidate=[10.0, 20.0, 30.0, 41.0])
    made = evaluation(own)
    production = msgspec.structs.replace(made.candidate, measured=better, bundle_bytes=9)
    metrics = dict(run_metrics(msgspec.structs.replace(made, production=production)))
    assert metrics["production.rmse"] == 0.5
    assert metrics["production.skill"] == pytest.approx(1 - 0.25 / 7.5)
    assert (metrics["bundle_bytes"], metrics["production.bundle_bytes"]) == (7.0, 9.0)


def test_skill_is_left_out_when_the_baseline_is_perfect():
    perfect = candidate_errors(candidate=[10.0, 20.0, 30.0, 40.0])
    names = [name for name, _ in run_metrics(evaluation(perfect))]
    assert "skill" not in names


def test_the_record_comes_back_as_it_was_written(tmp_path):
    made = evaluation(candidate_errors(), reasons=("too short",), fair=False)
    write_json(tmp_path / "evaluation.json", made)
    assert read_json(tmp_path / "evaluation.json", Evaluation, made_by="evaluate") == made
