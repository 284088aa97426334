"""The served model gives what its bundle gives, one row or many, whichever way it takes through the trees."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from forecasting.drift.distances import out_of_distribution
from forecasting.features.definitions import Calendar
from forecasting.features.table import table_features
from forecasting.models.bundle import Bundle, read_bundle
from forecasting.models.manifest import BundleError
from pipelines.learners.hist_gradient_boosting import HistGradientBoosting
from pipelines.learners.learner import Learner
from pipelines.learners.mean import Mean
from pipelines.learners.ridge import Ridge
from service.model.bundle_source import load_model
from service.model.served import Model, check_example
from service.service_settings import Settings
from tests.serving import SPEC, START, make_bundle, recorded_table

TREES, LARGE_TREES = (HistGradientBoosting(max_iter=5, max_leaf_nodes=leaves) for leaves in (31, 40))
LINE = Ridge(products=("hour_of_day",))


@pytest.mark.parametrize(
    ("learner", "walked"),
    [
        (TREES, False),
        (LARGE_TREES, True),
        (LINE, False),
        (Mean({"ridge": LINE, "hist_gradient_boosting": TREES}), False),
        (Mean({"ridge": LINE, "hist_gradient_boosting": LARGE_TREES}), True),
    ],
    ids=["trees", "large trees", "a line", "both", "a line and large trees"],
)
def test_rows_alone_and_together_are_forecast_as_the_bundle_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, learner: Learner, walked: bool
) -> None:
    months = (START, START + timedelta(days=90))
    bundle = read_bundle(make_bundle(tmp_path / "bundle", *months, learner=learner))
    with caplog.at_level(logging.INFO, "service.model"):
        model = Model(bundle, "1")
    assert bool(caplog.records) is walked  # trees of more leaves than the masks have bits
    rows = table_features(SPEC, recorded_table(*months))[::120].copy()
    rows = rows[~np.isnan(rows[:, SPEC.origin_column])]
    rows[::5, 0] += 80.0
    columns = {each: [SPEC.columns.index(name) for name in SPEC.columns_for(each)] for each in SPEC.horizons}
    expected = np.stack([bundle.predict(each, rows[:, columns[each]]) for each in SPEC.horizons], axis=1)
    outside = np.stack(
        [
            out_of_distribution(bundle.manifest.references[feature.name], rows[:, place])
            & (not isinstance(feature, Calendar))
            for place, feature in enumerate(SPEC.definitions)
        ],
        axis=1,
    )
    assert 0 < outside.any(axis=1).sum() < len(rows)

    together = model.predict(rows)
    np.testing.assert_allclose(together.forecast, expected, rtol=0, atol=1e-9)
    assert together.unusual.tolist() == outside.any(axis=1).tolist()
    scored = [model.score(row.tolist()) for row in rows]
    np.testing.assert_allclose([each.values for each in scored], expected, rtol=0, atol=1e-9)
    assert [list(each.unusual) for each in scored] == [np.flatnonzero(row).tolist() for row in outside]
    alone = model.predict(rows[:1])
    np.testing.assert_allclose(alone.forecast, expected[:1], rtol=0, atol=1e-9)
    assert (alone.lower < alone.forecast).all()
    assert (alone.forecast < alone.upper).all()


@pytest.mark.parametrize("leaves", [31, 40])
def test_a_bundle_that_gives_its_example_is_loaded(tmp_path: Path, leaves: int) -> None:
    months = (START, START + timedelta(days=30))
    directory = make_bundle(tmp_path / "bundle", *months, trees=5, leaves=leaves)
    model = load_model(Settings(bundle=str(directory), model_version="7"))
    assert (model.name, model.version) == ("weather", "7")


@pytest.mark.parametrize(("thresholds", "way"), [("_thresholds", "as a single row"), ("_sorted", "in a batch")])
def test_a_model_that_forecasts_single_rows_and_batches_differently_is_refused(
    bundle: Path, thresholds: str, way: str
) -> None:
    model = Model(read_bundle(bundle), "1")
    check_example(model)
    setattr(model._scorer, thresholds, [np.full(len(found), -1e300) for found in model._scorer._thresholds])
    with pytest.raises(BundleError, match=rf"example\.forecasts: expected .*; {way} the models give"):
        check_example(model)


def test_a_bundle_that_computes_something_else_than_its_example_is_refused(tmp_path: Path) -> None:
    whole = read_bundle(make_bundle(tmp_path / "bundle", START, START + timedelta(days=30), trees=1))
    first, *others = whole.manifest.example.forecasts
    for changed in (
        msgspec.structs.replace(first, value=first.value + 1e-6),
        msgspec.structs.replace(first, upper=first.upper + 1e-6),
        msgspec.structs.replace(first, ds=first.ds + timedelta(hours=1)),
    ):
        example = msgspec.structs.replace(whole.manifest.example, forecasts=(changed, *others))
        manifest = msgspec.structs.replace(whole.manifest, example=example)
        with pytest.raises(BundleError, match=r"example\.forecasts: expected "):
            check_example(Model(Bundle(manifest, whole.observations, whole.models), "1"))
