"""Several worker processes are one service: one sum of all counts, no counter that goes back, one graceful end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from forecasting.models.bundle import read_bundle
from tests.conftest import wait_while
from tests.integration.redis_server import RedisServer, running_redis
from tests.serving import Running, observations, recorded_table, refused, running

WORKERS = 2
WAIT_SECONDS = 60
CLIENTS, MOST_CLIENTS = 24, 2000
"""Connections, each new: the kernel gives them to either worker, as it likes."""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def service(bundle: Path, redis: RedisServer, tmp_path: Path) -> Iterator[Running]:
    with redis.client() as client:
        client.flushall()
    environment = {"RPS_STATE": redis.url, "RPS_WORKERS": str(WORKERS)}
    with running(bundle, tmp_path / "log", environment) as found:
        assert wait_while(lambda: len(workers(found)) < WORKERS, seconds=WAIT_SECONDS)
        yield found


def workers(service: Running) -> list[int]:
    """The processes that serve: those children of the service that listen."""
    return [child for child in children(service.process.pid) if listens(child, service.port)]


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def listens(pid: int, port: int) -> bool:
    """Whether a process holds a socket that listens on ``port``."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{line[9]}]" for line in lines if line[3] == "0A" and int(line[1].split(":")[1], 16) == port}
    with contextlib.suppress(OSError):
        return any(_link(each) in inodes for each in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _link(path: Path) -> str:
    with contextlib.suppress(OSError):
        return str(path.readlink())
    return ""


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def counted(metrics: dict[str, float], name: str) -> float:
    """The sum of a counter over its labels, the scrapes themselves left out."""
    return sum(
        value for sample, value in metrics.items() if sample.partition("{")[0] == name and "/metrics" not in sample
    )


def answers_of_all(service: Running, path: str) -> list[httpx.Response]:
    """Answers to the same question from new connections, at least one of every worker."""
    found: list[httpx.Response] = []
    while len(found) < CLIENTS or len({worker(answer) for answer in found}) < WORKERS:
        assert len(found) < MOST_CLIENTS, "one worker answers everything"
        found.append(service.get(path))
        assert found[-1].status_code == 200, found[-1].text
    return found


def worker(answer: httpx.Response) -> str:
    """Which worker gave an answer: each numbers its requests after a prefix of its own."""
    return str(answer.headers["x-request-id"]).rpartition("-")[0]


def samples(answer: httpx.Response) -> dict[str, float]:
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def replayed(service: Running, hours: int) -> None:
    records = list(observations(recorded_table(), "EWR"))[:hours]
    for each in range(0, hours, 5):
        service.send([record | {"unique_id": "replayed"} for record in records[each : each + 5]])


def test_the_counts_are_one_sum_whoever_answers(service: Running) -> None:
    replayed(service, 100)
    asked = len(answers_of_all(service, "/v1/forecasts/replayed"))

    def message() -> float:
        counts = service.metrics()
        return sum(value for name, value in counts.items() if "_requests_total" in name and "/v1/forecasts" in name)

    assert wait_while(lambda: message() < asked, seconds=WAIT_SECONDS)  # an answer is counted once it is sent
    before = service.metrics()
    assert message() == asked
    made = counted(before, "rps_predictions_total")
    assert made > 80
    assert before["rps_drift_window_rows"] == made
    assert counted(before, "rps_observations_total") == 100
    for answer in answers_of_all(service, "/metrics"):
        found = samples(answer)
        for name in (
            "rps_requests_total",
            "rps_predictions_total",
            "rps_observations_total",
            "rps_forecasts_scored_total",
        ):
            assert counted(found, name) == counted(before, name), name
        for name in ("rps_drift_window_rows", 'rps_live_error{horizon="all"}'):
            assert found[name] == pytest.approx(before[name]), name


def test_every_worker_tells_the_same_newest_truth_and_what_was_forecast_for_it(service: Running, bundle: Path) -> None:
    assert not [name for name in service.metrics() if name.startswith(("rps_target_value{", "rps_forecast_value{"))]
    records = list(observations(recorded_table(datetime(2013, 6, 1, tzinfo=UTC)), "EWR"))[:100]
    table = [record | {"ds": f"2014-{record['ds'][5:]}"} for record in records]  # after what is in the bundle
    for each in range(0, 100, 5):
        service.send(table[each : each + 5])
    service.send([record | {"unique_id": "made-up"} for record in table])
    shown = service.get("/v1/series/EWR").json()
    newest = table[-1]["ds"]
    assert shown["newest"] == newest
    expected = {'rps_target_value{unique_id="EWR"}': shown["observations"][-1]["value"]} | {
        f'rps_forecast_value{{horizon="{made["horizon"]}",unique_id="EWR"}}': made["value"]
        for made in shown["made"]
        if made["ds"] == newest
    }
    assert len(expected) == 4
    for answer in answers_of_all(service, "/metrics"):
        found = samples(answer)
        message = {name: found[name] for name in found if name.startswith(("rps_target_value", "rps_forecast_value"))}
        assert message == expected
        scaling = read_bundle(bundle).manifest.scaling
        for forecast in shown["next"]:
            scale = found[f'rps_interval_scale{{horizon="{forecast["horizon"]}",unique_id="EWR"}}']
            assert scale != pytest.approx(scaling.usual[forecast["horizon"]])
            upper = scale * scaling.offsets[forecast["horizon"]].upper
            assert forecast["upper"] - forecast["value"] == pytest.approx(upper)


def test_no_counter_goes_back_when_a_worker_is_killed_and_another_takes_its_place(service: Running) -> None:
    replayed(service, 100)
    before = service.metrics()
    first = workers(service)
    os.kill(first[0], signal.SIGKILL)
    assert wait_while(lambda: len(set(workers(service)) - {first[0]}) < WORKERS, seconds=WAIT_SECONDS), (
        "no worker took the place of the one that was killed"
    )
    assert first[1] in workers(service)

    def answers() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return service.get("/health").status_code == 200
        return False

    assert wait_while(lambda: not answers(), seconds=WAIT_SECONDS)
    for answer in answers_of_all(service, "/metrics"):
        after = samples(answer)
        back = {
            name: (value, after.get(name))
            for name, value in before.items()
            if name.partition("{")[0].endswith(("_total", "_count", "_bucket", "_sum"))
            and not name.startswith(("process_", "python_"))
            and after.get(name, -1.0) < value
        }
        assert not back
    assert counted(after, "rps_predictions_total") == counted(before, "rps_predictions_total")
    assert after["rps_drift_window_rows"] == before["rps_drift_window_rows"]
    replayed(service, 110)
    assert counted(service.metrics(), "rps_predictions_total") == counted(before, "rps_predictions_total") + 10


def test_a_graceful_stop_ends_all_processes(service: Running) -> None:
    pids = [service.process.pid, *children(service.process.pid)]
    assert len(pids) > WORKERS
    assert service.stop() == 0
    assert wait_while(lambda: any(map(alive, pids)), seconds=WAIT_SECONDS)


def test_several_workers_without_a_shared_state_are_refused(bundle: Path) -> None:
    code, message = refused(bundle, {"RPS_WORKERS": "2"})
    assert code == 64
    assert "RPS_WORKERS=2: several workers need a state that they share; set RPS_STATE=redis://…" in message
