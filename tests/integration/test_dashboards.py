"""Every query that Grafana makes is run on a Prometheus that looks at everything: no panel is empty, no rule is wrong.

A service gets recorded weather and some mistakes; Airflow has run a DAG well and then badly; MLflow knows a run, a
version and a verdict; the exporter and the relay report these. Grafana's own part, which cannot be had here, is to
fill in variables and intervals; that is done as its Prometheus data source does it.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from mlflow import MlflowClient

from clients.dag_run import Airflow
from monitoring.alerts import alerts
from monitoring.grafana_files import SCRAPE_INTERVAL, dashboards
from records.quality import QualityReport, Violation
from scripts.services import Stack, free_ports
from scripts.watching import Watching, watching
from tests import conftest, serving
from tests.conftest import wait_while
from tests.integration.airflow_server import AirflowServer
from tests.integration.prometheus_server import need_programs

SECONDS = 120
"""Until everything that was set up has been scraped, worked out and reported."""
SHOWN = timedelta(minutes=30)
"""Longer than all these tests take: what has come and gone can still be seen."""
STEP_SECONDS = 15
PACE = 3600.0
PAUSE_SECONDS = 0.5
SENT_ROWS = 24
"""Of observations at a time: they take many scrapes, or no counter would be seen to rise."""
SECRET = "the secret of the receiver"
REPLAYED = serving.START, serving.START + timedelta(days=20)
YEAR = np.timedelta64(serving.END - serving.START)
"""The bundle holds the whole recorded year, so its January is sent as the next year's."""
DAG = """
from airflow.sdk import DAG, Param, task

with DAG("retrain_weather", schedule=None, params={"good": Param("yes", type="string")}) as dag:

    @task
    def train():
        pass

    @task
    def register(params):
        if params["good"] != "yes":
            raise ValueError("this run fails")

    train() >> register()
"""
BOARDS = dashboards()


@dataclass(frozen=True)
class Asked:
    """One query of a dashboard, as it is written there."""

    board: str
    title: str
    expression: str
    now: bool = False


def asked() -> Iterator[Asked]:
    for name, board in BOARDS.items():
        for panel in board.panels or ():
            for target in getattr(panel, "targets", None) or ():
                yield Asked(name, str(panel.title), target.expr, now=bool(target.instant))


def marked() -> Iterator[Asked]:
    """Of the alerts' marks only one is sure to have something to show: the observations end."""
    for name, board in BOARDS.items():
        for mark in board.annotations.list_val or ():
            if mark.name == "Releases" or name == "model":
                yield Asked(name, mark.name, mark.expr)


class Grafana:
    """What Grafana does with a dashboard's queries before Prometheus gets them, and how it asks."""

    def __init__(self, prometheus: str) -> None:
        self._client = httpx.Client(base_url=f"{prometheus}/api/v1", timeout=30, verify=False)

    def ask(self, path: str, **parameters: Any) -> Any:
        answer = self._client.get(path, params=parameters)
        assert answer.status_code == 200, f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def variables(self, board: str) -> dict[str, str]:
        """Each variable with All chosen, in their order: a later one may use an earlier one."""
        chosen: dict[str, str] = {}
        for variable in BOARDS[board].templating.list_val or ():
            call = re.fullmatch(r"label_values\((.+), (\w+)\)", variable.query["query"])
            assert call, variable.query
            values = self.ask(f"/label/{call[2]}/values", **{"match[]": filled(call[1], chosen)})
            chosen[variable.name] = f"({'|'.join(map(escaped, values))})" if values else ""
        return chosen

    def values(self, query: Asked) -> list[float]:
        """Every number that the panel would show."""
        expression = filled(query.expression, self.variables(query.board))
        if query.now:
            found = self.ask("/query", query=expression)["result"]
            return [float(series["value"][1]) for series in found]
        end = time.time()
        start = end - SHOWN.total_seconds()
        found = self.ask("/query_range", query=expression, start=start, end=end, step=STEP_SECONDS)["result"]
        return [float(value) for series in found for _, value in series["values"]]


def escaped(value: str) -> str:
    """As a value stands in a regular expression in a PromQL string."""
    return re.sub(r"[\\^$*+?.()|{}\[\]/]", lambda found: f"\\\\{found[0]}", value)


def filled(expression: str, variables: Mapping[str, str]) -> str:
    """Variables and intervals put in; of the intervals, what Grafana takes for `$__rate_interval`."""
    scrape = int(SCRAPE_INTERVAL.removesuffix("s"))
    known = {**variables, "__rate_interval": f"{max(STEP_SECONDS + scrape, 4 * scrape)}s"}
    return re.sub(r"\$(\w+)", lambda found: known[found[1]], expression)


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    need_programs()


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Running]:
    """One that has seen nothing yet: its counters must rise while Prometheus looks."""
    with serving.running(bundle, tmp_path_factory.mktemp("service") / "log", {"RPS_MODEL_VERSION": "1"}) as running:
        yield running


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowServer]:
    """A good run of the DAG has ended, and then a bad one."""
    server = AirflowServer(tmp_path_factory.mktemp("airflow"))
    server.add_dags("weather", DAG)
    try:
        server.start()
        for name, good in (("good", "yes"), ("bad", "no")):
            for _ in Airflow(server.settings).attach_or_start("retrain_weather", name, {"good": good}).changes(SECONDS):
                pass
        yield server
    finally:
        server.end()


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A retraining whose model passed the gate and is in production. Its own server: others ask what production is."""
    home = tmp_path_factory.mktemp("mlflow")
    stack = Stack(home, {"RPS_MLFLOW_PORT": str(free_ports(1))})
    with conftest.running(conftest.service_named("mlflow", stack), home) as running:
        client = MlflowClient(running.address)
        run = client.create_run(client.create_experiment("weather"), tags={"rps.reason": "drift"})
        client.log_param(run.info.run_id, "target.loss", "squared_error")
        for metric, value in (("rmse", 1.9), ("production.rmse", 2.1), ("baseline.rmse", 2.6)):
            client.log_metric(run.info.run_id, metric, value)
        report = home / "quality.json"
        warning = Violation(rule="spread", severity="warning", found=0.0, limit=1.0, count=1, message="little spread")
        found = QualityReport(
            challenge="weather",
            as_of=datetime.now(UTC),
            rows=1,
            series={"north": 1},
            passed=True,
            violations=(warning,),
        )
        report.write_bytes(msgspec.json.encode(found))
        client.log_artifact(run.info.run_id, str(report), "profile")
        client.set_terminated(run.info.run_id)
        client.create_registered_model("weather")
        version = client.create_model_version(
            "weather", run.info.artifact_uri, run.info.run_id, tags={"gate": "passed"}
        )
        client.set_registered_model_alias("weather", "production", version.version)
        yield running.address


@pytest.fixture(scope="module")
def watched(
    service: serving.Running, airflow: AirflowServer, mlflow: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watching]:
    environment = {
        "AIRFLOW_API_URL": airflow.settings.url,
        "AIRFLOW_USERNAME": airflow.settings.username,
        "AIRFLOW_PASSWORD": airflow.settings.password,
        "MLFLOW_TRACKING_URI": mlflow,
        "RPS_ALERTS_SECRET": SECRET,
        "GITHUB_API_URL": "http://127.0.0.1:9",
        "GITHUB_REPOSITORY": "ana/weather",
        "GITHUB_TOKEN": "of nobody",
    }
    home = tmp_path_factory.mktemp("watching")
    with watching(home, service=f"127.0.0.1:{service.port}", environment=environment, pace=PACE) as found:
        grafana = Grafana(found.prometheus)
        scraped = wait_while(
            lambda: not grafana.ask("/query", query="rps_observations_total")["result"], seconds=SECONDS
        )
        assert scraped, "the service was not scraped before its traffic began"
        send_alert(found.alerts)
        enough = Event()
        with ThreadPoolExecutor(max_workers=1) as beside:
            traffic = beside.submit(send_traffic, service, enough)
            try:
                yield found
            finally:
                enough.set()
            traffic.result()
    assert not list(home.rglob("*.process.json"))


@pytest.fixture(scope="module")
def grafana(watched: Watching) -> Grafana:
    return Grafana(watched.prometheus)


def send_traffic(service: serving.Running, enough: Event) -> None:
    """Three weeks of observations, little by little; all the while, and afterwards, forecasts and wrong requests."""
    recorded = serving.recorded_table(*REPLAYED)
    table = replace(recorded, ds=recorded.ds + YEAR)
    waiting = [list(serving.observations(table, unique_id)) for unique_id in table.unique_ids]
    while not enough.is_set():
        for place, unique_id in enumerate(table.unique_ids):
            if waiting[place]:
                service.send(waiting[place][:SENT_ROWS])
                waiting[place] = waiting[place][SENT_ROWS:]
            assert service.get(f"/v1/forecasts/{unique_id}").status_code == 200
        assert service.post("/v1/observations", json={"observations": "none"}).status_code == 422
        enough.wait(PAUSE_SECONDS)


def send_alert(receiver: str) -> None:
    """As Grafana tells of drift."""
    labels = {"alertname": "FeatureDrift", "severity": "warning", "drift": "features", "challenge": "weather"}
    alert = {
        "status": "firing",
        "labels": {**labels, "version": "1"},
        "annotations": {"summary": "The features have moved away."},
        "startsAt": datetime.now(UTC).isoformat(),
        "endsAt": "0001-01-01T00:00:00Z",
        "fingerprint": "c0ffee",
    }
    body = {"receiver": "rps receiver", "status": "firing", "orgId": 1, "alerts": [alert], "version": "1"}
    headers = {"Authorization": f"Bearer {SECRET}"}
    answer = httpx.post(f"{receiver}/v1/alerts", json=body, headers=headers, timeout=30, verify=False)
    assert answer.is_success, answer.text


def test_everything_that_watches_sees_each_other(watched: Watching, grafana: Grafana) -> None:
    everything = {"service", "pipeline", "alerts", "alertmanager", "prometheus"}

    def up() -> set[str]:
        return {series["metric"]["job"] for series in grafana.ask("/query", query="up == 1")["result"]}

    assert wait_while(lambda: up() != everything, seconds=SECONDS), f"scraped: {up()}"
    assert "rps_pipeline_up" in httpx.get(f"{watched.metrics}/metrics", timeout=30, verify=False).text
    labels = {"alertname": "Test", "severity": "warning"}
    address = f"{watched.alertmanager}/api/v2/alerts"
    httpx.post(address, json=[{"labels": labels}], timeout=30, verify=False).raise_for_status()
    kept = watched.home / "alerts" / "state" / "alerts.jsonl"

    def received() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in kept.read_bytes().split(b"\n")[:-1]]
        return [line for line in lines if line["source"] == "alertmanager" and line["labels"]["alertname"] == "Test"]

    assert wait_while(lambda: not received(), seconds=SECONDS), "the alert has not come to the receiver"


def named(query: Asked) -> str:
    return f"{query.board}-{query.title}".replace(" ", "_")


@pytest.mark.parametrize("query", list(asked()), ids=named)
def test_every_query_of_every_panel_gives_data(grafana: Grafana, query: Asked) -> None:
    found = wait_while(lambda: not any(map(math.isfinite, grafana.values(query))), seconds=SECONDS)
    assert found, f"nothing to show: {filled(query.expression, grafana.variables(query.board))}"


@pytest.mark.parametrize("query", list(marked()), ids=named)
def test_releases_and_alerts_are_marked(grafana: Grafana, query: Asked) -> None:
    assert wait_while(lambda: not grafana.values(query), seconds=SECONDS), query.expression


@pytest.mark.parametrize("board", BOARDS)
def test_every_variable_has_values(grafana: Grafana, board: str) -> None:
    assert wait_while(lambda: not all(grafana.variables(board).values()), seconds=SECONDS), grafana.variables(board)


def test_one_value_of_each_variable_can_be_chosen(grafana: Grafana, service: serving.Running) -> None:
    chosen = {"instance": f"127.0.0.1:{service.port}", "unique_id": "EWR", "horizon": "5"}
    expressions = [query.expression for query in asked() if (query.board, query.title) == ("model", "$unique_id")]
    assert expressions
    for expression in expressions:
        query = filled(expression, chosen)
        assert wait_while(lambda: not grafana.ask("/query", query=query)["result"], seconds=SECONDS), query  # noqa: B023
        found = grafana.ask("/query", query=query)["result"]
        assert [series["metric"]["unique_id"] for series in found] == ["EWR"]


METRIC = re.compile(r"\b((?:rps|up|prometheus|alertmanager)(?:[:_]\w+)*)(\{[^}]*\})?")


@pytest.mark.parametrize("alert", alerts(PACE), ids=lambda alert: alert.name)
def test_every_rule_can_be_worked_out_and_looks_at_something(grafana: Grafana, alert: Any) -> None:
    """Grafana's condition asks for numbers; what an expression is made of must be there for it ever to give one."""
    assert all(
        math.isfinite(float(series["value"][1])) for series in grafana.ask("/query", query=alert.expression)["result"]
    )
    selectors = {f"{name}{labels}" for name, labels in METRIC.findall(alert.expression)}
    assert selectors
    for selector in selectors:
        query = f"last_over_time({selector}[10m])"
        there = wait_while(lambda: not grafana.ask("/query", query=query)["result"], seconds=SECONDS)  # noqa: B023
        assert there, f"{alert.name}: {selector} gives nothing"


def test_a_rule_gives_a_number_for_what_is_wrong(grafana: Grafana) -> None:
    """The DAG's last run has failed."""
    (rule,) = (alert for alert in alerts(PACE) if alert.name == "RunFailed")
    assert wait_while(lambda: not grafana.ask("/query", query=rule.expression)["result"], seconds=SECONDS)
    (series,) = grafana.ask("/query", query=rule.expression)["result"]
    assert series["metric"]["dag_id"] == "retrain_weather"
