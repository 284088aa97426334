"""The receiver over HTTP: who may send, what is taken, and what is said about the rest."""

from __future__ import annotations

import base64
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.relay_process import NOBODY, ROOT, SECRET, Receiver, alert, alertmanagers, receiving

GRAFANAS = {
    "receiver": "rps", "status": "firing", "orgId": 1, "groupLabels": {"alertname": "FeatureDrift"},
    "commonLabels": {}, "commonAnnotations": {}, "externalURL": "https://grafana.example.org/", "version": "1",
    "groupKey": "{}/{}:{alertname=\"FeatureDrift\"}", "truncatedAlerts": 0, "title": "[FIRING:1] FeatureDrift",
    "state": "alerting", "message": "**Firing**",
    "alerts": [{
        "status": "firing",
        "labels": {"alertname": "FeatureDrift", "challenge": "weather", "drift": "features", "grafana_folder": "rps"},
        "annotations": {"summary": "The features have moved."},
        "startsAt": "2026-11-23T09:51:03.157076+02:00", "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "https://grafana.example.org/alerting/1afz29v7z/edit", "fingerprint": "bc97ff14869b13e3",
        "silenceURL": "https://grafana.example.org/alerting/silence/new", "dashboardURL": "", "panelURL": "",
        "imageURL": "", "values": {"B": 44.2, "C": 1}, "valueString": "[ var='B' value=44.2 ]",
    }],
}  # fmt: skip


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """Each test counts what is its own."""
    with receiving(tmp_path_factory.mktemp("alerts") / "home", NOBODY) as found:
        yield found


@pytest.mark.parametrize("authorization", [
    "", "Bearer", "Bearer wrong", f"Bearer {SECRET}x", f"Bearer {SECRET[:-1]}", f"Digest {SECRET}", "Basic !!!",
    f"Basic {base64.b64encode(SECRET.encode()).decode()}", "Basic " + base64.b64encode(b"rps:wrong").decode(),
])  # fmt: skip
def test_who_does_not_know_the_secret_is_refused_and_nothing_is_taken(receiver: Receiver, authorization: str) -> None:
    before = receiver.metrics()['rps_alerts_received_total{source="alertmanager",status="firing"}']
    answer = receiver.post(alertmanagers(alert()), authorization=authorization)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert "RPS_ALERTS_SECRET" in answer.json()["detail"]
    assert SECRET not in answer.text
    assert receiver.metrics()['rps_alerts_received_total{source="alertmanager",status="firing"}'] == before


def test_a_bearer_and_the_password_of_any_user_are_taken(receiver: Receiver) -> None:
    basic = base64.b64encode(f"grafana:{SECRET}".encode()).decode()
    for authorization in (f"Bearer {SECRET}", f"bearer {SECRET}", f"Basic {basic}"):
        assert receiver.post(alertmanagers(), authorization=authorization).json() == {"alerts": []}


@pytest.mark.parametrize(("body", "headers", "status", "shown"), [
    (b"alert!", {}, 400, "expected JSON"),
    (b'{"alerts":' + b"[" * 40_000 + b"]" * 40_000 + b"}", {}, 400, "nested too deeply"),
    (b"{}", {"content-type": "application/x-www-form-urlencoded"}, 415, "expected application/json"),
    (b"{}", {"content-encoding": "gzip"}, 415, "content-encoding"),
    (b'{"alerts": [{}]}', {}, 422, "/alerts/0: object missing required field"),
])  # fmt: skip
def test_what_is_malformed_is_refused_and_says_what_to_change(
    receiver: Receiver, body: bytes, headers: dict[str, str], status: int, shown: str
) -> None:
    answer = receiver.post(body, **headers)
    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert shown in answer.json()["detail"]


def test_a_request_with_one_wrong_alert_is_refused_whole(receiver: Receiver) -> None:
    count = len(receiver.lines())
    answer = receiver.post(alertmanagers(alert(drift="", case="whole"), {**alert(), "status": "maybe"}))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/alerts/1/status"
    assert receiver.take(alert(drift="", case="marker")) == ["kept"]
    assert receiver.lines()[-1]["labels"]["case"] == "marker"
    assert len(receiver.lines()) == count + 1


def test_a_body_that_is_too_large_is_not_read(receiver: Receiver) -> None:
    head = f"POST /v1/alerts HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRET}\r\n"
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=30) as connection:
        connection.sendall(f"{head}content-length: {16 * 1024 * 1024 + 1}\r\n\r\n".encode())  # and nothing of it
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()
    assert b"send fewer alerts at once" in answer


def test_without_the_secret_no_body_is_read(receiver: Receiver) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=30) as connection:
        connection.sendall(b"POST /v1/alerts HTTP/1.1\r\nhost: x\r\ncontent-length: 90000\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")


def test_an_alert_of_grafana_is_written_as_it_came(receiver: Receiver) -> None:
    answer = receiver.post(GRAFANAS)
    assert answer.status_code == 200
    (outcome,) = answer.json()["alerts"]
    assert outcome["fingerprint"] == "bc97ff14869b13e3"
    assert outcome["done"] in {"event", "joined"}  # another test may have been there before
    (line,) = [line for line in receiver.lines() if line["source"] == "grafana"]
    assert line.pop("received").endswith("Z")
    assert line == {
        "source": "grafana", "status": "firing", "labels": GRAFANAS["alerts"][0]["labels"],
        "annotations": {"summary": "The features have moved."}, "starts_at": "2026-11-23T07:51:03.157Z",
        "ends_at": None, "fingerprint": "bc97ff14869b13e3", "done": outcome["done"], "event": outcome["event"],
    }  # fmt: skip


@pytest.mark.parametrize(("labels", "done", "shown"), [
    ({"challenge": "transit"}, "unknown_challenge", "label challenge: expected one of weather; found 'transit'"),
    ({"challenge": ""}, "no_challenge", "needs that label"),
    ({"drift": "sideways"}, "no_drift", "label drift: expected one of inputs, features, concept"),
    ({"alertname": "DatasourceNoData"}, "no_drift", "no drift"),
    ({"alertname": "ServiceDown", "drift": "", "challenge": ""}, "kept", ""),
])  # fmt: skip
def test_what_starts_nothing_is_written_counted_and_reported(
    receiver: Receiver, labels: dict[str, str], done: str, shown: str
) -> None:
    before = receiver.metrics()
    assert receiver.take(alert(**labels)) == [done]
    line = receiver.lines()[-1]
    assert line["done"] == done
    assert line["labels"].items() >= {name: value for name, value in labels.items() if value}.items()
    after = receiver.metrics()
    assert after[f'rps_alerts_done_total{{done="{done}"}}'] == before[f'rps_alerts_done_total{{done="{done}"}}'] + 1
    started = 'rps_alert_events_total{challenge="weather",outcome="started"}'
    assert after.get(started, 0.0) == before.get(started, 0.0)
    assert shown in receiver.log.read_text()


def test_other_paths_and_methods_say_what_there_is(receiver: Receiver) -> None:
    for method, path, status in (("GET", "/v1/alerts", 405), ("GET", "/", 404), ("POST", "/health", 405)):
        answer = receiver.request(method, path)
        assert answer.status_code == answer.json()["status"] == status
        assert "POST /v1/alerts" in answer.json()["detail"]
    assert receiver.get("/health").json()["status"] == "ok"


def test_a_second_process_on_the_same_home_is_refused_by_name(receiver: Receiver) -> None:
    second = Receiver(receiver.home, receiver.environment)
    process = second.launch()
    assert process.wait(timeout=60) == 64
    assert receiver.process is not None
    assert f"is in use by another receiver (process {receiver.process.pid})" in receiver.log.read_text()


def test_metrics_are_what_prometheus_reads(receiver: Receiver) -> None:
    text = receiver.get("/metrics").text
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_wrong_settings_are_reported_by_name_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    wrong = {
        "RPS_ALERTS_SECRET": "short", "RPS_ALERTS_COOLDOWN_HOURS": "none", "GITHUB_REPOSITORY": "", "GITHUB_TOKEN": "x",
    }  # fmt: skip
    cases = [
        (wrong, ROOT / "challenges", ["RPS_ALERTS_SECRET", "RPS_ALERTS_COOLDOWN_HOURS", "GITHUB_REPOSITORY"]),
        (NOBODY, tmp_path / "empty", ["--challenges"]),
        ({**NOBODY, "RPS_ALERTS_HOME": "/proc/nowhere"}, ROOT / "challenges", ["RPS_ALERTS_HOME"]),
    ]
    for place, (environment, challenges, names) in enumerate(cases):
        receiver = Receiver(tmp_path / str(place), environment, challenges)
        assert receiver.launch().wait(timeout=60) == 64
        shown = receiver.log.read_text()
        assert all(name in shown for name in names), shown
        assert "Traceback" not in shown


def test_damaged_events_are_refused_with_what_to_do(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "home", NOBODY)
    receiver.home.mkdir()
    (receiver.home / "events.jsonl").write_bytes(b"no event\n")
    assert receiver.launch().wait(timeout=60) == 64
    assert "move it away" in receiver.log.read_text()


def test_a_line_ends_where_any_reader_takes_it_to_end(receiver: Receiver) -> None:
    odd = "odd\n\r\u0085\u2028\u2029\u0000end"
    assert receiver.take(alert(drift="", case=odd)) == ["kept"]
    assert receiver.lines()[-1]["labels"]["case"] == odd
    text = (receiver.home / "alerts.jsonl").read_text(encoding="utf-8")
    assert text.splitlines() == text.split("\n")[:-1]
