"""A season like the training data leaves the drift signals alone, and one that the model never saw drives them up.

The model is fitted on four of every six days of January to March; the fifth tells its error out of sample, the sixth
is for the replay alone. Two replays of that winter go through HTTP: the whole of it, a third of which was never fitted,
and the sixth days on their own, of which the model has seen nothing.

The service's windows are as long as the season here. What moves with the weather, such as the mean temperature of the
last 24 hours, has some ten independent values in four weeks, and ten values in ten bins lie far from any season's; the
bundle's limits for that are measured over windows of training that are whole, which these, with two days of six left
out, are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from forecasting.drift.distances import feature_references
from forecasting.features.table import Table, table_features, table_targets
from forecasting.models.bundle import recent_windows, write_bundle
from forecasting.models.intervals import Scaling, calibrate
from forecasting.models.manifest import Description
from pipelines.learners.hist_gradient_boosting import HistGradientBoosting
from pipelines.train import variable_ranges
from tests.integration.recorded_year import possible_table
from tests.serving import CHALLENGE, SPEC, Running, observations, running

WINTER = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 4, 1, tzinfo=UTC)
JULY = datetime(2013, 7, 1, tzinfo=UTC), datetime(2013, 8, 1, tzinfo=UTC)
CYCLE_DAYS = 6
FITTED_DAYS, MEASURED_DAY, REPLAYED_DAY = (0, 1, 2, 3), 4, 5
SEASON_ROWS = 7000
"""More than the forecasts of a winter of three stations, and so all of them."""
BATCH = 1000
LIMITS = CHALLENGE.drift


@dataclass(frozen=True)
class Drift:
    """What the metrics say: the share out of distribution; the largest ratio of a feature's stability index to its
    limit, and the number of features beyond theirs; and the error ratio of all horizons.
    """

    out_of_distribution: float
    stability: float
    shifted: int
    error: float

    @property
    def within_limits(self) -> bool:
        return (
            self.out_of_distribution <= LIMITS.max_out_of_distribution_ratio
            and self.stability <= 1.0
            and self.error <= LIMITS.max_live_error_ratio
        )


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
    known = np.flatnonzero(fitted & ~np.isnan(origin))
    in_time = known[np.argsort(table.ds[known], kind="stable")]
    models, offsets, scaled, usual, errors = {}, {}, {}, {}, {}
    for horizon, target in zip(SPEC.horizons, targets.T, strict=True):
        inputs = matrix[:, [SPEC.columns.index(name) for name in SPEC.columns_for(horizon)]]
        change = target - origin
        fit, measure = fitted & ~np.isnan(change), measured & ~np.isnan(change)
        learner = HistGradientBoosting(max_iter=20, min_samples_leaf=40)
        with threadpool_limits(1, user_api="openmp"):  # threads would wait for one another, busily
            models[horizon] = learner.fit(pd.DataFrame(inputs[fit]), change[fit], "squared_error", seed=0).portable
        residuals = change[measure] - models[horizon].predict(inputs[measure])
        offsets[horizon] = calibrate(residuals, 0.9)
        usual[horizon] = float(np.abs(residuals).mean())
        scaled[horizon] = calibrate(residuals / usual[horizon], 0.9)
        errors[horizon] = {"error": float(np.sqrt(np.mean(residuals**2)))}
    description = Description(
        challenge=CHALLENGE.name,
        unit=CHALLENGE.target.unit,
        features=SPEC,
        series=table.unique_ids,
        train_start=WINTER[0],
        train_end=WINTER[1] - timedelta(hours=1),
        newest_row=WINTER[1] - timedelta(hours=1 + min(SPEC.horizons)),
        rows={"train": int(fitted.sum()), "judged": int(measured.sum())},
        dataset_md5="0" * 32 + ".dir",
        git_sha="a" * 40,
        mlflow_run="b" * 32,
        interval=0.9,
        offsets=offsets,
        scaling=Scaling(half_life=72.0, offsets=scaled, usual=usual, series={}),
        references=feature_references(SPEC.columns, matrix[in_time], LIMITS.window_rows),
        title=CHALLENGE.title,
        variables=variable_ranges(CHALLENGE, SPEC),
        drift=LIMITS,
        errors=errors,
    )
    directory = tmp_path_factory.mktemp("winter") / "bundle"
    write_bundle(directory, description, models, recent_windows(SPEC, table))
    return directory


@pytest.fixture
def winter_service(winter_bundle: Path, tmp_path: Path) -> Iterator[Running]:
    windows = {"RPS_DRIFT_WINDOW": str(SEASON_ROWS), "RPS_LIVE_WINDOW": str(SEASON_ROWS)}
    with running(winter_bundle, tmp_path / "log", windows) as found:
        yield found


def replay(service: Running, season: tuple[datetime, datetime]) -> Drift:
    """The season's observations in order of time, as series of their own."""
    table = possible_table(*season)
    records = [record for name in table.unique_ids for record in observations(table, name)]
    records.sort(key=itemgetter("ds"))
    for start in range(0, len(records), BATCH):
        batch = records[start : start + BATCH]
        service.send([record | {"unique_id": f"season-{record['unique_id']}"} for record in batch])
    return drift(service)


def replay_unseen_days(service: Running) -> Drift:
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
            service.send([record | {"unique_id": f"{name}-{start}"} for record in [*reversed(before), *after]])
    return drift(service)


def drift(service: Running) -> Drift:
    metrics = service.metrics()
    assert metrics["rps_drift_window_rows"] == metrics['rps_predictions_total{source="stream"}']
    name = "rps_population_stability_{}{{"
    indices = [value for sample, value in metrics.items() if sample.startswith(name.format("index"))]
    limits = [value for sample, value in metrics.items() if sample.startswith(name.format("limit"))]
    ratios = np.array(indices) / np.array(limits)
    return Drift(
        metrics["rps_out_of_distribution_ratio"],
        float(ratios.max()),
        int((ratios > 1.0).sum()),
        metrics['rps_live_error_ratio{horizon="all"}'],
    )


def test_a_season_like_the_training_data_stays_within_the_limits(winter_service: Running) -> None:
    found = replay(winter_service, WINTER)
    assert winter_service.metrics()["rps_drift_window_rows"] > 6000
    assert found.within_limits, found


def test_days_of_that_season_that_the_model_never_saw_stay_within_the_limits(winter_service: Running) -> None:
    found = replay_unseen_days(winter_service)
    assert winter_service.metrics()["rps_drift_window_rows"] > 1000
    assert found.out_of_distribution > 0.0  # or the rows may have been those of training
    assert found.within_limits, found


def test_a_season_that_the_model_never_saw_drives_every_signal_beyond_its_limit(winter_service: Running) -> None:
    found = replay(winter_service, JULY)
    assert found.out_of_distribution > LIMITS.max_out_of_distribution_ratio
    assert found.stability > 1.0
    assert found.shifted > 10
    assert found.error > LIMITS.max_live_error_ratio
