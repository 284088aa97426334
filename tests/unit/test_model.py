"""The served model gives what its bundle gives, one row or many, whichever way it takes through the trees."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from forecasting.bundle import read_bundle
from forecasting.drift import out_of_distribution
from forecasting.features import Calendar
from forecasting.table_features import table_features
from service.model import Model
from tests.serving import SPEC, make_bundle, recorded_table


@pytest.mark.parametrize(("leaves", "walked"), [(31, False), (40, True)])
def test_rows_alone_and_together_are_forecast_as_the_bundle_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, leaves: int, walked: bool
) -> None:
    bundle = read_bundle(make_bundle(tmp_path / "bundle", trees=5, leaves=leaves))
    with caplog.at_level(logging.INFO, "service.model"):
        model = Model(bundle, "1")
    assert bool(caplog.records) is walked  # trees of more leaves than the masks have bits
    rows = table_features(SPEC, recorded_table())[::500].copy()
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
