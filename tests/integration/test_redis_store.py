"""Where states live: both stores do the same, and the shared one bears replicas, kills, and a Redis that goes away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import msgspec
import numpy as np
import pytest

from doubles.connection import answering
from forecasting.challenge.detectors import Runs
from forecasting.features.ring_buffer import moment_of
from forecasting.models.bundle import Bundle, read_bundle
from service.model.served import Model
from service.state.redis_store import RedisStore
from service.state.series import SeriesState
from service.state.stores import MemoryStore, SeriesStore, StateUnreadable, StoreUnavailable
from service.state.stream import Followed, follow
from service.watch.monitor import Monitor, Sensor
from service.watch.sensors import SensorWatch
from service.watch.worker_counts import AllCounts, Layout
from tests.conftest import wait_while
from tests.integration.redis_server import RedisServer, running_redis
from tests.serving import Running, refused, running

T = TypeVar("T")

START = 380_000
BOUND_SECONDS = 10.0
"""By when a store that cannot be reached must have said so; it is meant to within two seconds a command."""
WAIT_SECONDS = 30
PASSWORD = "open-sesame-41"


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return Model(read_bundle(bundle), "1")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, to be stopped."""
    home = tmp_path / "redis"
    home.mkdir()
    with running_redis(home, durable=True) as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
def new_store(request: pytest.FixtureRequest, model: Model, redis: RedisServer) -> Callable[[], SeriesStore]:
    """Makes an empty store of each kind."""
    if request.param == "memory":
        return lambda: MemoryStore(model)
    with redis.client() as client:
        client.flushall()
    return lambda: RedisStore(model, redis.url)


def within(work: Callable[..., Awaitable[T]], *stores: SeriesStore) -> T:
    """What ``work`` gives of the stores, which are closed after it."""

    async def bounded() -> T:
        try:
            async with asyncio.timeout(60):
                return await work(*stores)
        finally:
            for store in stores:
                await store.close()

    return asyncio.run(bounded())


def row(model: Model, target: float) -> list[float]:
    return [target] + [1.0] * (len(model.spec.variables) - 1)


def taking(model: Model, step: int, target: float) -> Callable[[SeriesState], Followed]:
    return lambda state: follow(model, state, [(step, row(model, target))])


def shuffled_hours(model: Model, seed: int = 3) -> list[tuple[int, float]]:
    steps = START + np.random.default_rng(seed).permutation(model.spec.lookback + 1)
    return [(step, float(step % 17)) for step in steps.tolist()]


def expected_target(model: Model, hours: list[tuple[int, float]]) -> list[float]:
    state = SeriesState(model, "")
    for step, target in sorted(hours):
        state.take(step, row(model, target))
    return known_target(state)


def known_target(state: SeriesState) -> list[float]:
    """The target's values that have come, oldest first."""
    return [value for value in state.buffer.columns[0] if not math.isnan(value)]


# What every store does


def test_a_change_is_kept_and_gives_what_it_gave(model: Model, new_store: Callable[[], SeriesStore]) -> None:
    async def work(store: SeriesStore) -> None:
        assert await store.read("EWR") is None
        followed = await store.change("EWR", taking(model, START, 4.0))
        assert followed.arrivals == {"newest": 1}
        followed = await store.change("EWR", taking(model, START, 4.0))
        assert followed.arrivals == {"repeated": 1}
        state = await store.read("EWR")
        assert state is not None
        assert state.buffer.newest_step == START
        assert state.buffer.origin_value == 4.0
        await store.check()

    within(work, new_store())


def test_series_are_distinguished_counted_and_listed_in_order(
    model: Model, new_store: Callable[[], SeriesStore]
) -> None:
    names = ["b", "a", "ö/ä", "a b", "c:d", "日本", "a" * 200]

    async def work(store: SeriesStore) -> None:
        assert (await store.count(), await store.names(10)) == (0, [])
        assert await store.unknown({"a", "b"}) == {"a", "b"}
        assert await store.unknown(set()) == set()
        for place, name in enumerate(names):
            await store.change(name, taking(model, START, float(place)))
            await store.change(name, taking(model, START + 1, float(place)))
        assert await store.count() == len(names)
        assert await store.names(100) == sorted(names)
        assert await store.names(2) == sorted(names)[:2]
        assert await store.unknown({"a", "z", "ö/ä"}) == {"z"}
        for place, name in enumerate(names):
            state = await store.read(name)
            assert state is not None
            assert state.buffer.origin_value == place

    within(work, new_store())


def test_a_change_that_fails_keeps_no_series(model: Model, new_store: Callable[[], SeriesStore]) -> None:
    def fail(state: SeriesState) -> None:
        raise ZeroDivisionError

    async def work(store: SeriesStore) -> None:
        with pytest.raises(ZeroDivisionError):
            await store.change("EWR", fail)
        assert await store.read("EWR") is None
        assert await store.count() == 0
        await store.change("EWR", taking(model, START, 1.0))

    within(work, new_store())


def test_changes_at_once_lose_nothing(model: Model, new_store: Callable[[], SeriesStore]) -> None:
    hours = shuffled_hours(model)

    async def work(store: SeriesStore) -> list[float]:
        followed = await asyncio.gather(*(store.change("EWR", taking(model, *hour)) for hour in hours))
        assert sum(sum(each.arrivals.values()) for each in followed) == len(hours)
        state = await store.read("EWR")
        assert state is not None
        return known_target(state)

    assert within(work, new_store()) == expected_target(model, hours)


def test_forecasts_made_are_kept_and_scored_once(model: Model, new_store: Callable[[], SeriesStore]) -> None:
    async def work(store: SeriesStore) -> int:
        scores = 0
        for step in [*range(START, START + 40), *range(START + 30, START + 40)]:
            followed = await store.change("EWR", taking(model, step, math.sin(step)))
            scores += len(followed.scores)
        return scores

    origins = 40 - model.reach // 2 + 1
    assert within(work, new_store()) == sum(origins - horizon for horizon in model.horizons)


# Redis only


def test_two_stores_on_one_redis_see_one_state_and_writers_at_once_lose_nothing(
    model: Model, redis: RedisServer
) -> None:
    with redis.client() as client:
        client.flushall()
    hours = shuffled_hours(model)

    async def work(one: RedisStore, two: RedisStore) -> list[float]:
        writers = [
            store.change("EWR", taking(model, *hour))
            for place, hour in enumerate(hours)
            for store in [(one, two)[place % 2]]
        ]
        followed = await asyncio.gather(*writers)
        assert sum(sum(each.arrivals.values()) for each in followed) == len(hours)
        states = [await store.read("EWR") for store in (one, two)]
        assert states[0] is not None
        assert states[1] is not None
        assert states[0].encode() == states[1].encode()
        return known_target(states[0])

    found = within(work, RedisStore(model, redis.url), RedisStore(model, redis.url))
    assert found == expected_target(model, hours)


@contextlib.asynccontextmanager
async def losing_answers(port: int, lost: int) -> AsyncIterator[int]:
    """A way to a Redis on which the first ``lost`` writes arrive and are done, and their answers never come back."""
    left = lost

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        upstream, up = await asyncio.open_connection("127.0.0.1", port)
        lose = False

        async def back() -> None:
            while (data := await upstream.read(65536)) and not lose:
                writer.write(data)
            writer.close()

        returning = asyncio.create_task(back())
        while data := await reader.read(65536):
            if b"EVALSHA" in data and left:
                left -= 1
                lose = True
            up.write(data)
        up.close()
        await returning

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
        assert not left
    finally:
        server.close()


def test_a_write_whose_answer_was_lost_is_done_once(model: Model, redis: RedisServer) -> None:
    with redis.client() as client:
        client.flushall()

    async def work() -> None:
        direct = RedisStore(model, redis.url)
        await direct.change("EWR", taking(model, START, 1.0))  # the script is known from now on
        async with losing_answers(redis.port, lost=1) as port:
            store = RedisStore(model, f"redis://127.0.0.1:{port}/0")
            followed = await store.change("EWR", taking(model, START + 1, 2.0))
            assert followed.arrivals == {"newest": 1}
            followed = await store.change("EWR", taking(model, START + 1, 2.0))
            assert followed.arrivals == {"repeated": 1}
            await store.close()
        await direct.close()

    within(work)


def test_a_model_on_another_scale_begins_anew(model: Model, redis: RedisServer) -> None:
    features = msgspec.structs.replace(model.bundle.manifest.features, scale="log")
    manifest = msgspec.structs.replace(model.bundle.manifest, features=features)
    other = Model(Bundle(manifest, model.bundle.observations, model.bundle.models), "1")
    with redis.client() as client:
        client.flushall()

        async def work(store: RedisStore, of_other: RedisStore) -> None:
            assert (await store.change("EWR", taking(model, START, 1.0))).arrivals == {"newest": 1}
            assert await of_other.read("EWR") is None

        within(work, RedisStore(model, redis.url), RedisStore(other, redis.url))


def test_what_is_no_state_is_reported_with_its_key_and_leaves_other_series_alone(
    model: Model, redis: RedisServer
) -> None:
    with redis.client() as client:
        client.flushall()

        async def work(store: RedisStore) -> None:
            for name in ("rubbish", "text", "sound"):
                await store.change(name, taking(model, START, 1.0))
            keys = {key.rpartition(b":")[2].decode(): key.decode() for key in client.keys("*:series:*")}
            client.hset(keys["rubbish"], "state", "no state")
            client.delete(keys["text"])
            client.set(keys["text"], "a text")
            for name, message in (("rubbish", "expected .* bytes"), ("text", "expected a hash")):
                named = re.escape(repr(keys[name]))
                with pytest.raises(StateUnreadable, match=f"{named}: {message}"):
                    await store.read(name)
                with pytest.raises(StateUnreadable, match=f"{named}: {message}"):
                    await store.change(name, taking(model, START, 1.0))
            assert (await store.change("sound", taking(model, START, 1.0))).arrivals == {"repeated": 1}
            client.delete(keys["rubbish"])
            assert (await store.change("rubbish", taking(model, START, 1.0))).arrivals == {"newest": 1}

        within(work, RedisStore(model, redis.url))


def test_replicas_find_the_same_faulty_sensors_and_a_state_that_is_none_hides_no_other(
    model: Model, redis: RedisServer
) -> None:
    detectors = (Runs(variable="wind_speed"),)
    manifest = msgspec.structs.replace(model.bundle.manifest, detectors=detectors)
    watched = Model(Bundle(manifest, model.bundle.observations, model.bundle.models), "1")
    layout = Layout(len(model.columns), len(model.horizons), 10, 10, series=len(manifest.series))
    monitors = [Monitor(watched, AllCounts(layout, None)) for _ in range(2)]
    with redis.client() as client:
        client.flushall()

        async def work(*stores: RedisStore) -> None:
            for unique_id in manifest.series:
                for hour in range(12):  # `row` has the same wind each time
                    await stores[0].change(unique_id, taking(watched, START + hour, float(hour)))
            (broken,) = client.keys(f"*:series:{manifest.series[0]}")
            client.hset(broken, "state", "no state")
            for store, monitor in zip(stores, monitors, strict=True):
                await SensorWatch(watched, store, monitor).look()

        within(work, RedisStore(watched, redis.url), RedisStore(watched, redis.url))
    found = {Sensor(each, "runs", "wind_speed"): each != manifest.series[0] for each in manifest.series}
    assert [monitor.sensor_faults for monitor in monitors] == [found, found]


def shown_by(model: Model, address: str) -> str:
    """What a store says that cannot use this address."""

    async def work(store: RedisStore) -> str:
        message = set()
        for ask in (store.check, lambda: store.read("EWR"), lambda: store.change("EWR", taking(model, START, 1.0))):
            with pytest.raises(StoreUnavailable) as found:
                await asyncio.wait_for(ask(), BOUND_SECONDS)
            message.add(str(found.value))
        assert len(message) == 1
        return message.pop()

    return within(work, RedisStore(model, address))


def test_an_address_that_cannot_be_used_is_reported_without_its_password(model: Model, tmp_path: Path) -> None:
    with running_redis(tmp_path, password=PASSWORD) as server:
        wrong = f"redis://:wrong-{PASSWORD}@127.0.0.1:{server.port}/0"
        for address in (wrong, f"redis://127.0.0.1:{server.port}/0"):
            assert shown_by(model, address) == "Redis refuses the user or password that RPS_STATE names, or wants one"
        within(lambda store: store.check(), RedisStore(model, server.url))
    assert shown_by(model, server.url) == "Redis, which holds the state, does not answer: ConnectionError"
    with answering(200) as url:
        port = url.rpartition(":")[2]
        message = shown_by(model, f"redis://:{PASSWORD}@127.0.0.1:{port}/0")
        assert "Redis" in message
        assert PASSWORD not in message


def test_a_redis_that_takes_no_writes_is_reported_by_its_reason(model: Model, tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, server.client() as client:

        async def work(store: RedisStore) -> None:
            await store.change("EWR", taking(model, START, 1.0))
            client.config_set("maxmemory", 1)
            with pytest.raises(StoreUnavailable, match="Redis, which holds the state, refuses: O"):
                await store.change("EWR", taking(model, START + 1, 1.0))
            client.config_set("maxmemory", 0)
            assert (await store.change("EWR", taking(model, START + 1, 1.0))).arrivals == {"newest": 1}

        within(work, RedisStore(model, server.url))


def test_a_redis_that_stops_or_hangs_is_reported_in_time_and_used_again_when_it_is_back(
    model: Model, own_redis: RedisServer
) -> None:
    async def refused_in_time(store: RedisStore) -> None:
        asked = [store.change("EWR", taking(model, START, 9.0)), store.check(), store.names(3), store.read("EWR")]
        found = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), BOUND_SECONDS)
        assert [type(each) for each in found] == [StoreUnavailable] * 4

    async def work(store: RedisStore) -> None:
        await asyncio.gather(*(store.change(f"s{each}", taking(model, START, 1.0)) for each in range(20)))
        own_redis.stop()
        await refused_in_time(store)
        own_redis.start()
        assert await store.count() == 20
        own_redis.hang()
        await refused_in_time(store)
        own_redis.go_on()
        assert await store.count() in {20, 21}  # a write that was sent may have been done
        assert (await store.change("s3", taking(model, START, 1.0))).arrivals == {"repeated": 1}

    within(work, RedisStore(model, own_redis.url))


# The service on Redis


def hours_of(unique_id: str, number: int, model: Model, first: int = START) -> list[dict[str, Any]]:
    return [
        {"unique_id": unique_id, "ds": f"{moment_of(step, model.spec):%Y-%m-%dT%H:%M:%SZ}", "temperature": step % 13.0}
        for step in range(first, first + number)
    ]


@contextlib.contextmanager
def replica(bundle: Path, log: Path, address: str) -> Iterator[Running]:
    with running(bundle, log, {"RPS_STATE": address}) as found:
        yield found


def test_replicas_share_what_they_are_sent_and_lose_nothing_that_threads_send_at_once(
    bundle: Path, model: Model, redis: RedisServer, tmp_path: Path
) -> None:
    with replica(bundle, tmp_path / "a", redis.url) as a, replica(bundle, tmp_path / "b", redis.url) as b:
        a.send(hours_of("shared", 60, model))
        one, two = a.get("/v1/forecasts/shared"), b.get("/v1/forecasts/shared")
        assert one.status_code == 200
        assert one.json() == two.json()
        assert b.get("/v1/series/shared").json() == a.get("/v1/series/shared").json()

        records = hours_of("contended", model.spec.lookback + 1, model)
        order = np.random.default_rng(0).permutation(len(records)).tolist()
        start = threading.Barrier(8)

        def write(writer: int) -> int:
            start.wait()
            with httpx.Client(base_url=(a, b)[writer % 2].url, timeout=30) as client:
                for place in order[writer::8]:
                    answer = client.post("/v1/observations", json={"observations": [records[place]]})
                    assert answer.status_code == 200, answer.text
            return len(order[writer::8])

        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(write, range(8))) == len(records)
        shown = a.get("/v1/series/contended").json()
        assert [each["value"] for each in shown["observations"]] == [each["temperature"] for each in records]
        arrived = [replica.metrics() for replica in (a, b)]
        total = sum(value for each in arrived for name, value in each.items() if name.startswith("rps_observations_"))
        assert total == 60 + len(records)


def test_a_killed_replica_has_everything_that_was_acknowledged_and_its_forecasts_are_still_scored(
    bundle: Path, model: Model, redis: RedisServer, tmp_path: Path
) -> None:
    records = hours_of("killed", 60, model)
    with replica(bundle, tmp_path / "one", redis.url) as service:
        for each in range(0, 54, 6):
            service.send(records[each : each + 6])
        service.process.send_signal(signal.SIGKILL)
        service.process.wait()
    with replica(bundle, tmp_path / "two", redis.url) as service:
        shown = service.get("/v1/series/killed").json()
        assert [each["value"] for each in shown["observations"]] == [
            each["temperature"] for each in records[54 - len(shown["observations"]) : 54]
        ]
        assert len(shown["observations"]) == min(54, model.spec.lookback + 1)
        before = service.metrics()
        assert sum(value for name, value in before.items() if name.startswith("rps_forecasts_scored")) == 0
        service.send(records[54:])
        scored = {
            name: value for name, value in service.metrics().items() if name.startswith("rps_forecasts_scored_total")
        }
        # the first origins are long past, so each of the six hours is the truth for one forecast of each horizon
        assert list(scored.values()) == [6.0] * len(model.horizons)


def problem_of(answer: httpx.Response) -> str:
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert "retry-after" in answer.headers
    return str(answer.json()["detail"])


def assert_away(service: Running, model: Model) -> None:
    """Everything that needs the state says so in time; the rest goes on."""
    for ask in (
        lambda client: client.post("/v1/observations", json={"observations": hours_of("away", 1, model)}),
        lambda client: client.get("/v1/forecasts/kept"),
        lambda client: client.get("/v1/series"),
        lambda client: client.get("/health"),
        lambda client: client.get("/v2/health/ready"),
    ):
        with httpx.Client(base_url=service.url, timeout=BOUND_SECONDS) as client:
            assert re.search("Redis|the state did not answer", problem_of(ask(client)))
    assert service.get("/v2/health/live").status_code == 200
    assert service.get("/metrics").status_code == 200
    assert service.process.poll() is None


class Events:
    """The page's events, read as they come."""

    def __init__(self, service: Running) -> None:
        self.problems: list[str | None] = []
        self._url = f"{service.url}/events?series=kept"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    def _read(self) -> None:
        with httpx.stream("GET", self._url, timeout=30) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    self.problems.append(json.loads(line[6:])["problem"])
                if self._stop.is_set():
                    return


def test_the_service_outlives_its_redis_and_goes_on_with_it(
    bundle: Path, model: Model, own_redis: RedisServer, tmp_path: Path
) -> None:
    with replica(bundle, tmp_path / "log", own_redis.url) as service, Events(service) as events:
        service.send(hours_of("kept", 60, model))
        forecast = service.get("/v1/forecasts/kept").json()
        for away, back in ((own_redis.stop, own_redis.start), (own_redis.hang, own_redis.go_on)):
            assert wait_while(lambda: not events.problems or events.problems[-1] is not None, seconds=WAIT_SECONDS)
            away()
            assert_away(service, model)
            assert wait_while(lambda: "Redis" not in str(events.problems[-1]), seconds=WAIT_SECONDS)
            back()
            assert wait_while(lambda: service.get("/health").status_code != 200, seconds=WAIT_SECONDS)
            assert service.get("/v1/forecasts/kept").json() == forecast
            service.send(hours_of("kept", 1, model, START + 59))
        assert wait_while(lambda: events.problems[-1] is not None, seconds=WAIT_SECONDS)


def test_a_state_that_is_none_is_told_over_http_with_its_key(
    bundle: Path, model: Model, redis: RedisServer, tmp_path: Path
) -> None:
    with replica(bundle, tmp_path / "log", redis.url) as service, redis.client() as client:
        service.send(hours_of("spoilt", 60, model))
        service.send(hours_of("sound", 60, model))
        (key,) = client.keys("*:series:spoilt")
        client.hset(key, "state", b"rubbish")
        for answer in (
            service.get("/v1/forecasts/spoilt"),
            service.get("/v1/series/spoilt"),
            service.post("/v1/observations", json={"observations": hours_of("spoilt", 1, model, START + 60)}),
        ):
            assert key.decode() in problem_of(answer)
        assert service.get("/v1/forecasts/sound").status_code == 200
        assert service.get("/health").status_code == 200
        client.delete(key)
        service.send(hours_of("spoilt", 60, model))
        assert service.get("/v1/forecasts/spoilt").status_code == 200


def test_the_password_is_nowhere_to_be_read(bundle: Path, model: Model, tmp_path: Path) -> None:
    home = tmp_path / "redis"
    home.mkdir()
    with running_redis(home, password=PASSWORD) as server:
        with replica(bundle, tmp_path / "log", server.url) as service:
            answers = [service.get(path).text for path in ("/health", "/metrics", "/schema", "/v1/series")]
            server.stop()
            answers += [service.get(path).text for path in ("/health", "/v1/series", "/v1/forecasts/EWR")]
            answers.append(service.post("/v1/observations", json={"observations": hours_of("x", 1, model)}).text)
        for message in (*answers, (tmp_path / "log").read_text()):
            assert PASSWORD not in message


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("fault", "expected"), [("away", "Redis, which holds the state, does not answer"), ("password", "Redis refuses")]
)
def test_a_service_that_starts_without_its_redis_ends_and_says_why(
    bundle: Path, tmp_path: Path, fault: str, expected: str, workers: str
) -> None:
    with running_redis(tmp_path, password=PASSWORD) as server:
        if fault == "away":
            server.stop()
        address = server.url.replace(PASSWORD, f"wrong-{PASSWORD}")
        code, message = refused(bundle, {"RPS_STATE": address, "RPS_WORKERS": workers})
    assert code == 75
    assert f"service: {expected}" in message
    assert PASSWORD not in message


def test_a_service_waits_for_a_redis_that_comes_up_after_it(bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    log.touch()

    def start_once_missed() -> None:
        wait_while(lambda: "does not answer" not in log.read_text(), seconds=30.0)
        server.start()

    with running_redis(tmp_path) as server:
        server.stop()
        starting = threading.Thread(target=start_once_missed)
        starting.start()
        with replica(bundle, log, server.url) as service:
            assert service.get("/health").status_code == 200
        starting.join()
    assert "does not answer" in log.read_text()


def test_a_bundled_series_whose_state_is_none_keeps_no_service_from_starting(
    bundle: Path, redis: RedisServer, tmp_path: Path
) -> None:
    with redis.client() as client:
        client.flushall()
        with replica(bundle, tmp_path / "first", redis.url) as service:
            assert service.get("/v1/forecasts/EWR").status_code == 200
        (key,) = client.keys("*:series:EWR")
        client.hset(key, "state", b"rubbish")
        with replica(bundle, tmp_path / "second", redis.url) as service:
            assert key.decode() in problem_of(service.get("/v1/forecasts/EWR"))
            assert service.get("/v1/forecasts/JFK").status_code == 200
        assert key.decode() in (tmp_path / "second").read_text()
        client.delete(key)
