"""Every learner: parameters that exist, and a portable form that predicts what scikit-learn does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cloudpickle
import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from threadpoolctl import threadpool_limits

from clients.errors import ConfigurationError
from forecasting.challenge.schema import Challenge, ChallengeError, load_challenge
from forecasting.models.portable import PortableError
from pipelines.learners import LEARNERS, make_learner
from pipelines.learners.elastic_net import ElasticNet
from pipelines.learners.hist_gradient_boosting import HistGradientBoosting
from pipelines.learners.learner import Fit, Learner
from pipelines.learners.linear import LinearLearner
from pipelines.learners.mean import Mean
from pipelines.learners.ridge import Ridge
from pipelines.learners.ridge_boosting import RidgeBoosting
from pipelines.run import open_run
from tests.runs import ROOT, weather

PATH = ROOT / "challenges" / "weather.toml"
COLUMNS = [*"abcd", "constant", "empty", "hour_of_day_sin_h4", "hour_of_day_cos_h4"]
RIDGE = Ridge(alpha=2.0, products=("hour_of_day",))
TREES = HistGradientBoosting(max_iter=30, min_samples_leaf=5)
EXAMPLES: dict[str, Learner] = {
    "elastic_net": ElasticNet(alpha=0.05, products=("hour_of_day",)),
    "hist_gradient_boosting": TREES,
    "mean": Mean({"ridge": RIDGE, "hist_gradient_boosting": TREES, "ridge_boosting": RidgeBoosting(RIDGE, TREES)}),
    "ridge": RIDGE,
    "ridge_boosting": RidgeBoosting(RIDGE, TREES),
}
LINEAR = {name: learner for name, learner in EXAMPLES.items() if isinstance(learner, LinearLearner)}


def table(rows: int = 2000) -> tuple[pd.DataFrame, np.ndarray]:
    """Features, each missing now and then, and a change that follows from them."""
    random = np.random.default_rng(3)
    hour = random.integers(0, 24, rows) / 24 * 2 * np.pi
    features = pd.DataFrame(random.normal(size=(rows, 4)) * [1, 10, 0.1, 1] + [0, 1000, 0, -5], columns=list("abcd"))
    change = features["a"] * np.cos(hour) + features["b"] / 10 + np.sin(features["d"]) + random.normal(0, 0.1, rows)
    features = features.mask(random.random((rows, 4)) < 0.05).assign(
        constant=0.1, empty=np.nan, hour_of_day_sin_h4=np.sin(hour), hour_of_day_cos_h4=np.cos(hour)
    )
    return features[COLUMNS], change.to_numpy()


def fit(learner: Learner, rows: int = 2000, loss: str = "squared_error") -> Fit:
    return learner.fit(*table(rows), loss, seed=1)


def test_every_learner_of_the_table_is_an_example_here() -> None:
    assert set(EXAMPLES) == set(LEARNERS)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error"])
@pytest.mark.parametrize("learner", EXAMPLES.values(), ids=EXAMPLES)
def test_the_portable_form_predicts_what_scikit_learn_does(learner: Learner, loss: str) -> None:
    features, change = table()
    found = fit(learner, loss=loss)
    others = features.sample(frac=1.0, random_state=0) * 1.5
    others["empty"], others["constant"] = 7.0, np.nan
    for rows in (features, others):
        expected = found.estimator.predict(rows)
        np.testing.assert_allclose(found.portable.predict(rows.to_numpy()), expected, rtol=0, atol=1e-9)
        assert found.predict(rows).shape == (len(rows),)
    assert np.std(change - found.predict(features)) < 0.7 * np.std(change)


@pytest.mark.parametrize("learner", EXAMPLES.values(), ids=EXAMPLES)
def test_a_model_for_mlflow_loads_without_our_code(learner: Learner, tmp_path: Path) -> None:
    features, _ = table(50)
    found = fit(learner, 300)
    features.to_pickle(tmp_path / "features")
    (tmp_path / "model").write_bytes(cloudpickle.dumps(found.estimator))
    program = """
import pickle, sys
import pandas as pd
print(*pickle.load(open("model", "rb")).predict(pd.read_pickle("features")).tolist())
print([name for name in sys.modules if name.split(".")[0] in {"pipelines", "forecasting"}])
"""
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    numbers, modules = done.stdout.splitlines() or [done.stderr, ""]
    np.testing.assert_allclose(np.array(numbers.split(), dtype=float), found.predict(features), rtol=0, atol=1e-9)
    assert modules == "[]"


@pytest.mark.parametrize("learner", EXAMPLES.values(), ids=EXAMPLES)
def test_the_same_seed_gives_the_same_model_on_any_number_of_cores(learner: Learner) -> None:
    models = []
    for cores in (1, 2):
        with threadpool_limits(cores, user_api="openmp"):
            models.append(fit(learner).portable)
    assert models[0] == models[1]


@pytest.mark.parametrize("kind", ["estimator", "not finite"])
def test_a_form_that_predicts_otherwise_is_refused(kind: str) -> None:
    class Other:
        def predict(self, features: pd.DataFrame) -> np.ndarray:
            return found.estimator.predict(features) + (2e-9 if kind == "estimator" else np.inf)

    found, (features, _) = fit(TREES), table()
    other = Fit(Other(), found.portable)
    if kind == "estimator":
        with pytest.raises(RuntimeError, match=r"differ by 2\S* on 2000 rows; at most 1e-09 is allowed"):
            other.predict(features)
    else:
        with pytest.raises(PortableError, match="predictions: expected finite numbers"):
            other.predict(features)


# Trees


def test_the_whole_of_max_iter_is_fitted_on_any_number_of_rows() -> None:
    features, _ = table(rows=12_000)  # from 10,000 rows on, scikit-learn would stop early by itself
    change = np.random.default_rng(4).normal(size=12_000)  # nothing to learn: it would stop at once
    found = HistGradientBoosting(max_iter=25).fit(features, change, "squared_error", seed=1)
    assert len(found.portable.trees.roots) == 25


@pytest.mark.parametrize("known", [0, 1])
def test_a_column_with_hardly_a_value_in_training_is_left_alone(known: int) -> None:
    features, change = table()
    features["d"] = np.where(np.arange(len(features)) < known, 1.0, np.nan)
    found = TREES.fit(features, change, "squared_error", seed=1)
    assert found.portable.width == len(COLUMNS)
    assert (found.predict(features) == found.predict(features.assign(d=7.0))).all()


def test_every_parameter_of_boosting_reaches_scikit_learn() -> None:
    parameters = {
        "max_iter": 3, "learning_rate": 0.5, "max_leaf_nodes": 5, "max_depth": 2, "min_samples_leaf": 7,
        "l2_regularization": 0.5, "max_features": 0.5, "max_bins": 16,
    }  # fmt: skip
    assert set(parameters) == set(HistGradientBoosting.__struct_fields__)
    estimator = fit(HistGradientBoosting(**parameters), loss="absolute_error").estimator
    expected = {**parameters, "loss": "absolute_error", "random_state": 1, "early_stopping": False}
    assert {name: estimator.get_params()[name] for name in expected} == expected


def test_parameters_that_are_not_given_are_scikit_learns_own() -> None:
    own = HistGradientBoostingRegressor().get_params()
    for name, value in msgspec.structs.asdict(HistGradientBoosting()).items():
        assert own[name] == value


# Lines


def test_ridge_is_worked_by_hand() -> None:
    """One standardised feature z of n rows, half of them 1 and half -1: the weight is Σ z y / (n + alpha)."""
    features = pd.DataFrame({"a": [3.0, 5.0] * 4, "empty": [np.nan] * 8, "constant": [2.5] * 8})
    change = np.array([1.0, 4.0] * 4)
    linear = Ridge(alpha=4.0).fit(features, change, "squared_error", seed=0).portable.linear
    assert (linear.center, linear.scale) == ((4.0, 0.0, 2.5), (1.0, 1.0, 1.0))
    assert (linear.first, linear.second) == ((0,), (-1,))
    assert linear.weight == pytest.approx([8 * 1.5 / (8 + 4)])
    assert linear.intercept == pytest.approx(2.5)


@pytest.mark.parametrize(("alpha", "ratio", "weight"), [(0.5, 0.6, 1.0), (2.0, 0.5, 0.25), (5.0, 1.0, None)])
def test_elastic_net_is_worked_by_hand(alpha: float, ratio: float, weight: float | None) -> None:
    """One standardised feature, whose products with the change have the mean 1.5.

    Friedman et al. (2010), equation 5: the weight is (1.5 - alpha ratio) / (1 + alpha (1 - ratio)), or 0 below it.
    """
    features, change = pd.DataFrame({"a": [3.0, 5.0] * 4}), np.array([1.0, 4.0] * 4)
    linear = ElasticNet(alpha=alpha, l1_ratio=ratio).fit(features, change, "squared_error", seed=0).portable.linear
    assert linear is not None
    assert linear.weight == (() if weight is None else pytest.approx((weight,)))
    assert linear.intercept == pytest.approx(2.5)


@pytest.mark.parametrize("learner", LINEAR.values(), ids=LINEAR)
def test_products_learn_a_weight_that_follows_the_hour(learner: LinearLearner) -> None:
    features, change = table()
    errors = [
        np.std(
            change - msgspec.structs.replace(learner, products=cycles).fit(features, change, "", 0).predict(features)
        )
        for cycles in ((), ("hour_of_day",))
    ]
    assert errors[1] < 0.8 * errors[0]


def test_each_product_is_a_term_once_with_the_calendar_second() -> None:
    linear = fit(RIDGE).portable.linear
    sin, cos = len(COLUMNS) - 2, len(COLUMNS) - 1
    terms = list(zip(linear.first, linear.second, strict=True))
    assert len(set(terms)) == len(terms)
    assert {(sin, sin), (cos, cos), (cos, sin), (0, sin), (0, cos)} <= set(terms)
    assert (sin, cos) not in terms
    assert set(linear.second) == {-1, sin, cos}


@pytest.mark.parametrize("learner", LINEAR.values(), ids=LINEAR)
def test_a_line_through_nothing_but_unusable_columns_is_the_mean(learner: LinearLearner) -> None:
    features, change = table(100)
    features = features[["constant", "empty"]]
    found = msgspec.structs.replace(learner, products=()).fit(features, change, "squared_error", seed=0)
    np.testing.assert_allclose(found.predict(features), change.mean(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.predict(features + 1.0), change.mean(), rtol=0, atol=1e-9)


# Both


def test_boosting_after_ridge_learns_what_ridge_leaves() -> None:
    features, change = table()
    line = RIDGE.fit(features, change, "squared_error", seed=1)
    trees = TREES.fit(features, change - line.predict(features), "squared_error", seed=1)
    found = RidgeBoosting(RIDGE, TREES).fit(features, change, "squared_error", seed=1)
    expected = line.predict(features) + trees.predict(features)
    np.testing.assert_allclose(found.predict(features), expected, rtol=0, atol=1e-9)


def test_the_mean_is_one_line_and_one_set_of_trees() -> None:
    features, _ = table()
    found = fit(Mean({"ridge": RIDGE, "ridge_boosting": RidgeBoosting(RIDGE, TREES)}))
    parts = [fit(RIDGE), fit(RidgeBoosting(RIDGE, TREES))]
    expected = np.mean([part.predict(features) for part in parts], axis=0)
    np.testing.assert_allclose(found.predict(features), expected, rtol=0, atol=1e-9)
    assert len(found.portable.linear.weight) == len(parts[0].portable.linear.weight)
    assert len(found.portable.trees.roots) == TREES.max_iter
    assert isinstance(found.estimator[-1], LinearRegression)


# Parameters


def challenge(kind: str, **parameters: object) -> Challenge:
    learner = msgspec.structs.replace(weather().learner, kind=kind, parameters=parameters)
    return msgspec.structs.replace(weather(), learner=learner)


def test_a_challenge_names_a_learner_with_its_parameters() -> None:
    products = ("hour_of_day", "day_of_year")
    assert make_learner(challenge("ridge", alpha=3, products=products), PATH) == Ridge(products, 3.0)
    tables = {"ridge": {"alpha": 0.5}, "hist_gradient_boosting": {"max_iter": 7}}
    line, trees = Ridge(alpha=0.5), HistGradientBoosting(max_iter=7)
    assert make_learner(challenge("ridge_boosting", **tables), PATH) == RidgeBoosting(line, trees)
    assert make_learner(challenge("ridge_boosting"), PATH) == RidgeBoosting()
    assert make_learner(challenge("mean", **tables, ridge_boosting={}), PATH) == Mean(
        {"ridge": line, "hist_gradient_boosting": trees, "ridge_boosting": RidgeBoosting()}
    )


def test_nested_parameters_are_read_from_a_challenge_file(tmp_path: Path) -> None:
    text = PATH.read_text(encoding="utf-8")
    before, _, after = text.partition("[learner.parameters.ridge]")
    tables = '[learner.parameters.ridge]\nproducts = ["hour_of_day"]\n[learner.parameters.hist_gradient_boosting]\n\n'
    text = before + tables + after[after.index("[folds]") :]
    (tmp_path / "weather.toml").write_text(text, encoding="utf-8")
    found = make_learner(load_challenge(tmp_path / "weather.toml"), tmp_path / "weather.toml")
    assert found == Mean({"ridge": Ridge(("hour_of_day",)), "hist_gradient_boosting": HistGradientBoosting()})


MISTAKES = [
    ("tarot", {}, "learner.kind: expected one of .*hist_gradient_boosting, mean, ridge.*; found 'tarot'"),
    ("hist_gradient_boosting", {"max_itre": 1}, "unknown field `max_itre`; expected the keys max_iter, .*max_itre"),
    ("hist_gradient_boosting", {"max_iter": -1}, r"\.max_iter: expected `int` >= 1; found -1"),
    ("hist_gradient_boosting", {"max_iter": 1.5}, r"\.max_iter: expected `int`, got `float`; found 1.5"),
    (
        "hist_gradient_boosting",
        {"learning_rate": "fast"},
        r"\.learning_rate: expected `float`, got `str`; found 'fast'",
    ),
    ("hist_gradient_boosting", {"max_bins": 256}, r"\.max_bins: expected `int` <= 255; found 256"),
    ("hist_gradient_boosting", {"loss": "poisson"}, "unknown field `loss`"),
    ("ridge", {"alpha": 0}, r"\.alpha: expected `float` > 0.0; found 0"),
    ("ridge", {"products": "hour_of_day"}, r"\.products: expected `array`, got `str`; found 'hour_of_day'"),
    ("ridge", {"products": ("noon",)}, r"\.products\[0\]: invalid enum value 'noon'"),
    (
        "ridge",
        {"products": ("day_of_week",)},
        r"\.products: expected cycles of features.calendar \(hour_of_day, .*'day",
    ),
    ("elastic_net", {"l1_ratio": 2}, r"\.l1_ratio: expected `float` <= 1.0; found 2"),
    ("ridge", {"max_iter": 1}, "unknown field `max_iter`; expected the keys products, alpha"),
    ("ridge_boosting", {"ridge": {"alpha": 0}}, r"\.ridge\.alpha: expected `float` > 0.0; found 0"),
    ("ridge_boosting", {"ridge": 1}, r"\.ridge: expected `object`, got `int`; found 1"),
    ("ridge_boosting", {"ridge": {"products": ("day_of_week",)}}, r"\.ridge\.products: expected cycles of"),
    ("ridge_boosting", {"alpha": 1.0}, "unknown field `alpha`; expected the keys ridge, hist_gradient_boosting"),
    ("mean", {}, "learner.parameters: expected tables of at least two learners; found none"),
    ("mean", {"ridge": {}}, "learner.parameters: expected tables of at least two learners; found ridge"),
    ("mean", {"ridge": {}, "mean": {}}, r"\.mean: expected a learner \(.*ridge, ridge_boosting\); found 'mean'"),
    ("mean", {"ridge": {}, "alpha": 1.0}, r"\.alpha: expected a learner \(.*\); found 'alpha'"),
    ("mean", {"ridge": {}, "ridge_boosting": 1}, r"\.ridge_boosting: expected a table of its parameters; found 1"),
    ("mean", {"ridge": {"alpha": 0}, "ridge_boosting": {}}, r"\.ridge\.alpha: expected `float` > 0.0; found 0"),
    ("mean", {"ridge": {"products": ("day_of_week",)}, "ridge_boosting": {}}, r"\.ridge\.products: expected cycles of"),
]


@pytest.mark.parametrize(("kind", "parameters", "shown"), MISTAKES, ids=[f"{m[0]} {m[1]}" for m in MISTAKES])
def test_a_wrong_parameter_is_reported_with_file_key_expected_and_found(
    kind: str, parameters: dict[str, object], shown: str
) -> None:
    with pytest.raises(ChallengeError, match=rf"weather\.toml: learner\..*{shown.removeprefix('learner.')}"):
        make_learner(challenge(kind, **parameters), PATH)


def test_a_wrong_parameter_stops_the_first_stage_before_it_does_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "challenges").mkdir()
    text = PATH.read_text(encoding="utf-8").replace("max_iter = ", "max_itre = ")
    (tmp_path / "challenges" / "weather.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    where = r"challenges/weather\.toml: learner\.parameters\.hist_gradient_boosting"
    with pytest.raises(ConfigurationError, match=f"{where}: .*`max_itre`"):
        open_run("weather", starts=True)
    assert not (tmp_path / "data").exists()
