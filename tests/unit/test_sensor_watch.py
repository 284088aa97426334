"""The detectors on the stream: from observations in the store to the metric."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest

from forecasting.drift.sensor_faults import SensorGrid, relative_humidity, usual_differences
from forecasting.models.bundle import Bundle, read_bundle
from forecasting.models.manifest import BundleError, check_description
from service.model.served import Model
from service.state.redis_store import RedisStore
from service.state.stores import MemoryStore
from service.state.stream import follow
from service.watch import sensors
from service.watch.exposition import Exposition
from service.watch.monitor import Monitor
from service.watch.sensors import SensorWatch
from service.watch.worker_counts import AllCounts, Layout
from tests.serving import CHALLENGE

START = int(datetime(2013, 5, 1, tzinfo=UTC).timestamp()) // 3600
HOURS = 100


def weather(hours: int = HOURS) -> dict[str, np.ndarray]:
    """By variable, the values of three series: (3, hours)."""
    random = np.random.default_rng(2)
    temperature = 15.0 + random.normal(0.0, 1.0, (3, hours))
    dew_point = temperature - 6.0
    return {
        "temperature": temperature,
        "dew_point": dew_point,
        "humidity": relative_humidity(temperature, dew_point),
        "wind_speed": random.uniform(1.0, 9.0, (3, hours)),
    }


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    read = read_bundle(bundle)
    clean, clock = weather(24 * 60), np.arange(24 * 60) % 24
    usual = usual_differences(SensorGrid(read.manifest.series, clock, clean), "temperature")
    detectors = CHALLENGE.detectors
    manifest = msgspec.structs.replace(read.manifest, detectors=detectors, usual_differences={"temperature": usual})
    return Model(Bundle(manifest, read.observations, read.models), "1")


def monitor_of(model: Model) -> Monitor:
    return Monitor(model, AllCounts(Layout(len(model.columns), len(model.horizons), 10, 10, series=3), None))


def send(model: Model, store: MemoryStore, values: dict[str, np.ndarray], behind: int = 0) -> None:
    """Every observation into the store, as the stream takes them; the last series lacks the newest ``behind``."""

    async def sending() -> None:
        series = model.bundle.manifest.series
        for place, unique_id in enumerate(series):
            until = HOURS - (behind if place == len(series) - 1 else 0)
            rows = [
                (
                    START + hour,
                    [float(values[name][place, hour]) if name in values else 1.0 for name in model.spec.variables],
                )
                for hour in range(until)
            ]
            await store.change(unique_id, lambda state, rows=rows: follow(model, state, rows))

    asyncio.run(sending())


def shown(model: Model, monitor: Monitor) -> dict[tuple[str, str, str], float]:
    (metric,) = [
        each for each in Exposition(model, monitor, one_worker=False).collect() if each.name == "rps_sensor_fault"
    ]
    return {
        (each.labels["unique_id"], each.labels["detector"], each.labels["variable"]): each.value
        for each in metric.samples
    }


def seen(model: Model, values: dict[str, np.ndarray], behind: int = 0) -> set[tuple[str, str, str]]:
    """What the metric says is faulty, after these observations."""
    store, monitor = MemoryStore(model), monitor_of(model)
    send(model, store, values, behind)
    asyncio.run(SensorWatch(model, store, monitor).look())
    samples = shown(model, monitor)
    assert len(samples) == 3 * len(CHALLENGE.detectors)
    return {labels for labels, value in samples.items() if value == 1.0}


def test_clean_observations_show_every_sensor_as_sound(model: Model) -> None:
    assert seen(model, weather()) == set()


def test_each_detector_finds_its_fault_on_the_stream(model: Model) -> None:
    series = model.bundle.manifest.series
    faulty = weather()
    faulty["humidity"][0, -6:] += 10.0
    faulty["temperature"][1, -40:] += 8.0
    faulty["dew_point"][1, -40:] += 8.0
    faulty["humidity"][1] = relative_humidity(faulty["temperature"][1], faulty["dew_point"][1])
    faulty["wind_speed"][2, -12:] = 4.0
    assert seen(model, faulty) == {
        (series[0], "physics", "humidity"),
        (series[1], "neighbours", "temperature"),
        (series[2], "runs", "wind_speed"),
    }


def test_a_series_that_is_hours_behind_is_compared_at_the_same_times(model: Model) -> None:
    stepping = weather()
    stepping["temperature"] = stepping["temperature"] + np.where(np.arange(HOURS) % 2, 20.0, -20.0)
    stepping["humidity"] = relative_humidity(stepping["temperature"], stepping["dew_point"])
    assert seen(model, stepping, behind=1) == set()


def test_a_repaired_sensor_is_sound_again(model: Model) -> None:
    repaired = weather()
    repaired["humidity"][0, -20:-6] += 10.0
    assert seen(model, repaired) == set()


def test_it_looks_again_after_a_second(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    store, monitor = MemoryStore(model), monitor_of(model)
    watch = SensorWatch(model, store, monitor)
    asyncio.run(watch.look())
    assert shown(model, monitor) == {}
    faulty = weather()
    faulty["humidity"] += 10.0
    send(model, store, faulty)
    asyncio.run(watch.look())
    assert shown(model, monitor) == {}
    monkeypatch.setattr(sensors, "KEPT_SECONDS", 0.0)
    asyncio.run(watch.look())
    assert sum(shown(model, monitor).values()) == 3.0


def test_while_the_store_is_away_nothing_is_claimed(model: Model) -> None:
    store, monitor = MemoryStore(model), monitor_of(model)
    send(model, store, weather())
    asyncio.run(SensorWatch(model, store, monitor).look())
    assert len(shown(model, monitor)) == 9
    nowhere = RedisStore(model, "redis://127.0.0.1:1/0")
    asyncio.run(SensorWatch(model, nowhere, monitor).look())
    assert shown(model, monitor) == {}


def test_a_bundle_whose_detectors_need_what_is_not_kept_is_refused(model: Model) -> None:
    manifest = model.bundle.manifest
    longer = msgspec.structs.replace(manifest.detectors[0], steps=manifest.features.lookback + 2)
    other = msgspec.structs.replace(manifest.detectors[2], variable="precipitation")
    for detector in (longer, other):
        with pytest.raises(BundleError, match="detectors: expected variables and steps that are kept"):
            check_description(msgspec.structs.replace(manifest, detectors=(detector,)))
