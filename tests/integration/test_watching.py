"""The watching as a whole: a service is scraped, its drift is told to a webhook, and a new model ends it."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from scripts.processes import Started
from scripts.services import ROOT, StackError
from scripts.watching import Prometheus, alertmanager, prometheus
from tests.integration.prometheus_server import (
    Inbox,
    need_programs,
    running_alertmanager,
    running_inbox,
    running_prometheus,
    wait_until,
)
from tests.integration.recorded_year import possible_table
from tests.serving import Running, make_bundle, observations, running

SECRET = "the-secret-of-the-test"
PACE = 7200.0
"""Two hours of data a second."""
WINTER = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 3, 1, tzinfo=UTC)
JULY = datetime(2013, 7, 1, tzinfo=UTC), datetime(2013, 8, 1, tzinfo=UTC)
HOURS_AT_ONCE = 12


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with running_inbox() as found:
        yield found


@pytest.fixture
def own_alertmanager(inbox: Inbox, tmp_path: Path) -> Iterator[str]:
    with running_alertmanager(tmp_path / "alertmanager", inbox.url, SECRET, pace=3600.0) as address:
        yield address


def alert(name: str, **labels: str) -> dict[str, Any]:
    return {
        "labels": {"alertname": name, **labels},
        "annotations": {"summary": f"{name} of the test"},
        "startsAt": datetime.now(UTC).isoformat(),
        "endsAt": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
    }


def post(address: str, *alerts: dict[str, Any]) -> None:
    httpx.post(f"http://{address}/api/v2/alerts", json=list(alerts), timeout=30, verify=False).raise_for_status()


def states(address: str) -> dict[str, str]:
    """Of each alert that Alertmanager knows: active or suppressed."""
    found = httpx.get(f"http://{address}/api/v2/alerts", timeout=30, verify=False).raise_for_status().json()
    named = ((each["labels"], each["status"]["state"]) for each in found)
    return {f"{labels['alertname']} {labels.get('instance', '')}": state for labels, state in named}


def test_all_that_drifts_in_a_challenge_comes_in_one_message_with_the_secret(
    own_alertmanager: str, inbox: Inbox
) -> None:
    drifting = [alert(name, drift=what, challenge="weather") for name, what in (("One", "inputs"), ("Two", "concept"))]
    post(own_alertmanager, *drifting, alert("Three", drift="inputs", challenge="crypto"))
    wait_until(lambda: len(inbox.shown("firing")) >= 3, "three alerts at the webhook")
    headers, body = next(each for each in inbox.messages if each[1]["groupLabels"] == {"challenge": "weather"})
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert body["version"] == "4"
    assert {each["labels"]["alertname"] for each in body["alerts"]} == {"One", "Two"}
    assert body["alerts"][0]["annotations"]["summary"].endswith("of the test")

    post(own_alertmanager, *({**each, "endsAt": datetime.now(UTC).isoformat()} for each in drifting))
    wait_until(lambda: len(inbox.shown("resolved")) >= 2, "two alerts resolved")


def test_what_is_down_is_reported_once(own_alertmanager: str) -> None:
    slow = [alert("SlowRequests", area="service", instance=instance) for instance in ("a:8000", "b:8000")]
    late = [alert("NoRun", area="pipeline"), alert("RunFailed", area="pipeline")]
    post(own_alertmanager, *slow, *late, alert("PipelineUnknown", area="pipeline", system="mlflow"))
    post(own_alertmanager, alert("ServiceDown", area="service", instance="a:8000"))
    expected = {
        "ServiceDown a:8000": "active",
        "SlowRequests a:8000": "suppressed",
        "SlowRequests b:8000": "active",
        "NoRun ": "active",
        "RunFailed ": "active",
        "PipelineUnknown ": "active",
    }
    wait_until(lambda: states(own_alertmanager) == expected, f"{expected}; found {states(own_alertmanager)}")
    post(own_alertmanager, alert("PipelineUnknown", area="pipeline", system="airflow"))
    wait_until(
        lambda: {states(own_alertmanager).get(each) for each in ("NoRun ", "RunFailed ")} == {"suppressed"},
        "no alert of runs while Airflow cannot be read",
    )


def stream(service: Running, first: datetime, last: datetime) -> Iterator[None]:
    """Send some hours of three stations each time, of new stations when the hours are over."""
    table = possible_table(first, last)
    series = [list(observations(table, unique_id)) for unique_id in table.unique_ids]
    for turn in itertools.count():
        for start in range(0, max(map(len, series)), HOURS_AT_ONCE):
            records = [record for each in series for record in each[start : start + HOURS_AT_ONCE]]
            service.send([{**each, "unique_id": f"{each['unique_id']}:{turn}"} for each in records])
            yield


def stream_until(
    condition: Callable[[], bool], expected: str, service: Running, found: Callable[[], object] | None = None
) -> None:
    sending = stream(service, *JULY)

    def holds() -> bool:
        next(sending)
        return condition()

    wait_until(holds, expected, found=found, pause=0.5)


def drifting(found: Prometheus) -> set[str]:
    """The model versions of which an alert of drift fires."""
    return {each["metric"]["version"] for each in found.query('ALERTS{alertstate="firing", drift=~".+"}')}


def test_drift_is_reported_and_ends_with_a_model_that_knows_the_season(
    inbox: Inbox, bundle: Path, tmp_path: Path
) -> None:
    winter = make_bundle(tmp_path / "winter", *WINTER)
    options = {"pace": PACE, "runbooks": "https://example.org/runbooks"}
    with ExitStack() as held:
        shown = held.enter_context(running_alertmanager(tmp_path / "alertmanager", inbox.url, SECRET, pace=PACE))
        with running(winter, tmp_path / "winter.log", {"RPS_MODEL_VERSION": "1"}) as service:
            found = held.enter_context(
                running_prometheus(
                    tmp_path / "prometheus", {"service": [host(service)]}, alertmanagers=[shown], **options
                )
            )
            stream_until(lambda: bool(drifted(inbox, "firing")), "an alert of drift at the webhook", service)
        first = drifted(inbox, "firing")[0]
        assert first["labels"]["challenge"] == "weather"
        assert first["labels"]["version"] == "1"
        assert "runbooks" not in first["labels"]
        assert first["annotations"]["runbook_url"] == f"https://example.org/runbooks/{first['labels']['alertname']}.md"

        with running(bundle, tmp_path / "year.log", {"RPS_MODEL_VERSION": "2"}) as service:
            found.look_at({"service": [host(service)]})
            signals = (
                "rps:out_of_distribution:ratio and on (instance) rps_model_info offset 12s",
                "rps_population_stability_index",
            )
            stream_until(
                lambda: names(inbox, "resolved") == names(inbox, "firing") and all(map(found.query, signals)),
                "each alert resolved, and the new model's own signals",
                service,
                lambda: (names(inbox, "firing"), names(inbox, "resolved"), drifting(found), *map(found.query, signals)),
            )
            assert drifting(found) == set()


def host(service: Running) -> str:
    return service.url.removeprefix("http://")


def drifted(inbox: Inbox, status: str) -> list[dict[str, Any]]:
    return [each for each in inbox.shown(status) if "drift" in each["labels"]]


def names(inbox: Inbox, status: str) -> set[str]:
    return {each["labels"]["alertname"] for each in drifted(inbox, status)}


@pytest.mark.parametrize("start", [prometheus, alertmanager])
def test_a_port_that_is_taken_is_reported(start: Callable[..., Any], inbox: Inbox, tmp_path: Path) -> None:
    need_programs()
    port = int(inbox.url.split(":")[2].split("/")[0])
    given = ({},) if start is prometheus else (inbox.url, SECRET)
    with pytest.raises(StackError, match=f"port {port} is held by"), start(tmp_path, *given, port=port):
        pass


def test_what_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    need_programs()
    with pytest.raises(StackError, match="did not come up"), prometheus(tmp_path, {"two words": ["no address/"]}):
        pass
    assert not (tmp_path / "prometheus.process.json").exists()


def test_what_a_killed_caller_left_is_ended_first(tmp_path: Path) -> None:
    need_programs()
    script = "from pathlib import Path; from scripts.watching import *; import os; os.chdir('/')\n"
    script += f"with prometheus(Path({str(tmp_path)!r}), {{}}): os._exit(9)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert done.returncode == 9
    left = msgspec.json.decode((tmp_path / "prometheus.process.json").read_bytes(), type=Started)
    assert left.alive
    with prometheus(tmp_path, {}) as found:
        assert not left.alive
        assert found.query("vector(1)")[0]["value"][1] == "1"


def test_a_program_that_is_missing_is_reported_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match="prometheus is missing: apt-get install prometheus"), prometheus(tmp_path, {}):
        pass
