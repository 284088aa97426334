"""The learner: parameters that exist, and trees that predict what the training library does."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from pipelines.learner import as_trees, fit_change, new_model
from tests.runs import ROOT, weather

PATH = ROOT / "challenges" / "weather.toml"


def table(rows: int = 2000) -> tuple[pd.DataFrame, np.ndarray]:
    random = np.random.default_rng(3)
    features = pd.DataFrame(random.normal(size=(rows, 6)), columns=list("abcdef"))
    change = features["a"] * features["b"] + np.sin(features["c"]) + random.normal(0, 0.1, rows)
    return features.mask(random.random((rows, 6)) < 0.05), change.to_numpy()


def test_trees_predict_what_the_training_library_does_with_values_missing():
    features, change = table()
    model = fit_change(new_model(weather(), PATH), features, change, PATH)
    trees = as_trees(model, features)
    assert trees.num_feature == 6
    assert trees.input_type == "float64"


def test_trees_that_differ_are_refused():
    class OffByALittle(HistGradientBoostingRegressor):
        def predict(self, features):
            return super().predict(features) + 2e-9

    features, change = table()
    model = OffByALittle(max_iter=5).fit(features, change)
    with pytest.raises(RuntimeError, match="differ by 2"):
        as_trees(model, features)


def test_the_whole_of_max_iter_is_fitted_on_any_number_of_rows():
    features, _ = table(rows=12_000)  # from 10,000 rows on, scikit-learn would stop early by itself
    change = np.random.default_rng(4).normal(size=12_000)  # nothing to learn: it would stop at once
    model = fit_change(new_model(weather(), PATH), features, change, PATH)
    assert model.n_iter_ == weather().learner.parameters["max_iter"]


def test_the_same_seed_gives_the_same_model_on_any_number_of_cores():
    features, change = table()
    predictions = []
    for cores in (1, 2):
        with threadpool_limits(cores, user_api="openmp"):
            model = fit_change(new_model(weather(), PATH), features, change, PATH)
            predictions.append(model.predict(features))
    assert (predictions[0] == predictions[1]).all()


@pytest.mark.parametrize("known", [0, 1])
def test_a_column_with_hardly_a_value_in_training_is_left_alone(known: int):
    features, change = table()
    features["d"] = np.where(np.arange(len(features)) < known, 1.0, np.nan)
    model = fit_change(new_model(weather(), PATH), features, change, PATH)
    trees = as_trees(model, features)
    assert trees.num_feature == 6
    if not known:
        assert (model.predict(features) == model.predict(features.assign(d=7.0))).all()
