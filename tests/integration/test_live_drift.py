"""A season like the training data leaves the drift signals alone, and one that the model never saw drives them up.

The model is fitted on four of every six days of January to March; the fifth tells its hold-out error, the sixth is for
the replay alone. Two replays of that winter go through HTTP: the whole of it, a third of which was never fitted, and
the sixth days on their own, of which the model has seen nothing.

The stability index is judged over the whole season only. A feature such as the mean temperature of the last 24 hours
moves with the weather, every few days: four weeks hold some ten independent values of it, and ten values in ten bins
lie far from any reference (0.4 for January 10 to February 10 against the January to March that holds them). So a
window that is to be compared with a season must be about as long as one: `RPS_DRIFT_WINDOW` is set to it here.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import treelite
from sklearn.ensemble import HistGradientBoostingRegressor

from forecasting.bundle import recent_windows, write_bundle
from forecasting.drift import feature_references
from forecasting.intervals import calibrate
from forecasting.manifest import Description
from forecasting.table_features import Table, table_features, table_targets
from pipelines.train import variable_ranges
from tests.integration.recorded_year import possible_table
from tests.serving import CHALLENGE, SPEC, Running, observations, running

WINTER = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 4, 1, tzinfo=UTC)
JULY = datetime(2013, 7, 1, tzinfo=UTC), datetime(2013, 8, 1, tzinfo=UTC)
CYCLE_DAYS = 6
FITTED_DAYS, MEASURED_DAY, REPLAYED_DAY = (0, 1, 2, 3), 4, 5
SEASON_ROWS = 7000
"""More than the forecasts of a winter of three stations, and so all of them."""
BATCH = 500
LIMITS = CHALLENGE.drift


def day_of_cycle(ds: np.ndarray) -> np.ndarray:
    """Which day of its six a time lies on."""
    return (ds.astype("datetime64[D]") - np.datetime64(WINTER[0].date())).astype(int) % CYCLE_DAYS


def reaching(table: Table, days: tuple[int, ...]) -> np.ndarray:
    """The rows whose origin lies on one of these days of the cycle, and so does all that is predicted from them."""
    farthest = max(SPEC.horizons)
    return np.all(
        [np.isin(day_of_cycle(table.ds + np.timedelta64(hours, "h")), days) for hours in range(farthest + 1)], axis=0
    )


@pytest.fixture(scope="module")
def winter_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that is fitted on four of six days of the winter and measured on the fifth."""
    table = possible_table(*WINTER)
    matrix, targets = table_features(SPEC, table), table_targets(SPEC, table)
    origin = table.variables[SPEC.target]
    fitted, measured = reaching(table, FITTED_DAYS), reaching(table, (MEASURED_DAY,))
    models, offsets, holdout = {}, {}, {}
    for horizon, target in zip(SPEC.horizons, targets.T, strict=True):
        inputs = matrix[:, [SPEC.columns.index(name) for name in SPEC.columns_for(horizon)]]
        change = target - origin
        fit, measure = fitted & ~np.isnan(change), measured & ~np.isnan(change)
        model = HistGradientBoostingRegressor(max_iter=20, min_samples_leaf=40, random_state=0)
        model.fit(inputs[fit], change[fit])
        residuals = change[measure] - model.predict(inputs[measure])
        models[horizon] = treelite.sklearn.import_model(model).serialize_bytes()
        offsets[horizon] = calibrate(residuals, 0.9)
        holdout[horizon] = {"rmse": float(np.sqrt(np.mean(residuals**2))), "mae": float(np.mean(np.abs(residuals)))}
    description = Description(
        challenge=CHALLENGE.name,
        unit=CHALLENGE.target.unit,
        features=SPEC,
        series=table.unique_ids,
        train_start=WINTER[0],
        train_end=WINTER[1] - timedelta(hours=1),
        rows={"train": int(fitted.sum()), "holdout": int(measured.sum())},
        dataset_md5="0" * 32 + ".dir",
        git_sha="a" * 40,
        mlflow_run="b" * 32,
        interval=0.9,
        offsets=offsets,
        references=feature_references(SPEC.columns, matrix[fitted & ~np.isnan(origin)]),
        title=CHALLENGE.title,
        variables=variable_ranges(CHALLENGE, SPEC),
        drift=LIMITS,
        holdout=holdout,
    )
    directory = tmp_path_factory.mktemp("winter") / "bundle"
    write_bundle(directory, description, models, recent_windows(SPEC, table))
    return directory


@pytest.fixture
def winter_service(winter_bundle: Path, tmp_path: Path) -> Iterator[Running]:
    windows = {"RPS_DRIFT_WINDOW": str(SEASON_ROWS), "RPS_LIVE_WINDOW": str(SEASON_ROWS)}
    with running(winter_bundle, tmp_path / "log", windows) as found:
        yield found


def send(service: Running, records: list[dict[str, Any]]) -> None:
    for start in range(0, len(records), BATCH):
        service.send(records[start : start + BATCH])


def replay(service: Running, season: tuple[datetime, datetime]) -> None:
    """The season's observations, station by station in order of time, as series of their own."""
    table = possible_table(*season)
    for name in table.unique_ids:
        send(service, [record | {"unique_id": f"season-{name}"} for record in observations(table, name)])


def replay_unseen_days(service: Running) -> None:
    """The days that are for the replay alone, each as a series of its own.

    What its features look back on is sent newest first: late observations fill the state and make no forecast.
    """
    table = possible_table(*WINTER)
    for name in table.unique_ids:
        records = list(observations(table, name))
        days = day_of_cycle(np.array([record["ds"].removesuffix("Z") for record in records], "datetime64[s]"))
        starts = [at for at in range(1, len(days)) if days[at] == REPLAYED_DAY and days[at - 1] != REPLAYED_DAY]
        for start in starts:
            before = records[max(start - SPEC.lookback, 0) : start]
            after = [record for record in records[start : start + 24] if record["ds"][:10] == records[start]["ds"][:10]]
            send(service, [record | {"unique_id": f"{name}-{start}"} for record in [*reversed(before), *after]])


def signals(service: Running) -> tuple[float, float, float]:
    """The share out of distribution, the largest stability index of a feature, and the error ratio of all horizons."""
    metrics = service.metrics()
    indices = [value for name, value in metrics.items() if name.startswith("rps_population_stability_index{")]
    assert metrics["rps_drift_window_rows"] == metrics['rps_predictions_total{source="stream"}']
    return metrics["rps_out_of_distribution_ratio"], max(indices), metrics['rps_live_error_ratio{horizon="all"}']


def test_a_season_like_the_training_data_stays_within_the_limits(winter_service: Running) -> None:
    replay(winter_service, WINTER)
    out_of_distribution, stability, error = signals(winter_service)
    print(f"winter: out of distribution {out_of_distribution:.3f}, stability {stability:.3f}, error {error:.3f}")
    assert out_of_distribution <= LIMITS.max_out_of_distribution_ratio
    assert stability <= LIMITS.max_population_stability_index
    assert error <= LIMITS.max_live_error_ratio


def test_days_of_that_season_that_the_model_never_saw_stay_within_the_limits(winter_service: Running) -> None:
    replay_unseen_days(winter_service)
    out_of_distribution, stability, error = signals(winter_service)
    print(f"unseen days: out of distribution {out_of_distribution:.3f}, stability {stability:.3f}, error {error:.3f}")
    assert winter_service.metrics()["rps_drift_window_rows"] > 1000
    assert 0.0 < out_of_distribution <= LIMITS.max_out_of_distribution_ratio
    assert error <= LIMITS.max_live_error_ratio


def test_a_season_that_the_model_never_saw_drives_every_signal_beyond_its_limit(winter_service: Running) -> None:
    replay(winter_service, JULY)
    out_of_distribution, stability, error = signals(winter_service)
    print(f"July: out of distribution {out_of_distribution:.3f}, stability {stability:.3f}, error {error:.3f}")
    assert out_of_distribution > LIMITS.max_out_of_distribution_ratio
    assert stability > LIMITS.max_population_stability_index
    assert error > LIMITS.max_live_error_ratio
