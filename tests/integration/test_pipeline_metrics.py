"""`python -m monitoring.exporter` between a real Airflow and a real MLflow, which fail, lose runs, and come back."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import msgspec
import pytest
from mlflow.tracking import MlflowClient

from clients.dag_run import Airflow, DagRun
from clients.errors import ConfigurationError, NoVerdict, PassingFault
from clients.settings import MlflowSettings
from doubles import dagshub
from doubles.airflow_faults import AirflowFaults, airflow_behind_faults
from monitoring.exporter.airflow_runs import AirflowRuns
from monitoring.exporter.mlflow_records import PAGE, MlflowRecords, Records
from records.quality import QualityReport, Severity, Violation
from scripts.services import ROOT, free_ports, running
from tests.conftest import wait_while
from tests.integration.airflow_server import DAGS, AirflowServer

WAIT_SECONDS = 120
DAG_SECONDS = 120.0
OPERATOR = DAGS.partition("steps = ")[0]


@pytest.fixture(scope="module")
def challenge() -> str:
    """A name that nothing else in the session's MLflow has."""
    return f"watched_{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def server(challenge: str, airflow_server: AirflowServer) -> AirflowServer:
    airflow_server.add_dags("watched", f'{OPERATOR}\nwatched = dag("retrain_{challenge}")\n')
    return airflow_server


@pytest.fixture(scope="module")
def runs(server: AirflowServer, challenge: str) -> Iterator[dict[str, DagRun]]:
    """One that ended well, one that failed, and one that is at work."""
    airflow = Airflow(server.settings)
    given = {"well": {"code": "0"}, "badly": {"code": "64"}, "held": {"hold": "3600"}}
    made = {name: airflow.attach_or_start(f"retrain_{challenge}", name, given[name]) for name in given}
    for name in ("well", "badly"):
        list(made[name].changes(DAG_SECONDS))
    assert (made["well"].state, made["badly"].state) == ("success", "failed")
    assert wait_while(lambda: airflow_state(server, made["held"])["state"] != "running", seconds=WAIT_SECONDS)
    yield made
    made["held"].cancel()


def airflow_state(server: AirflowServer, run: DagRun) -> dict[str, str]:
    """A run as Airflow's API shows it."""
    settings = server.settings
    user = {"username": settings.username, "password": settings.password}
    token = httpx.post(f"{settings.url}/auth/token", json=user).json()["access_token"]
    address = f"{settings.url}/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}"
    return httpx.get(address, headers={"authorization": f"Bearer {token}"}).json()


@dataclass(frozen=True)
class Made:
    """What `leave` has put into MLflow."""

    client: MlflowClient
    challenge: str
    experiment: str
    runs: dict[str, str]


def quality_report(*severities: Severity) -> bytes:
    """What `validate` writes of rules broken as severely as that."""
    violations = tuple(
        Violation(rule="gap", severity=severity, found=31, limit=12, count=31, message="31 hours are missing")
        for severity in severities
    )
    report = QualityReport(
        challenge="weather",
        as_of=datetime(2013, 12, 30, tzinfo=UTC),
        rows=8705,
        series={"EWR": 8705},
        passed="error" not in severities,
        violations=violations,
    )
    return msgspec.json.encode(report)


def leave(uri: str, challenge: str, directory: Path) -> Made:
    """Runs as a day leaves them: two that finished, one rejected by the data gate, one at work, one of last week."""
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment(challenge)
    now = time.time_ns() // 1_000_000
    starts = {"old": 7 * 86_400, "first": 3000, "second": 2000, "rejected": 1000, "at work": 10}
    reasons = {"first": "schedule", "second": "drift", "rejected": "pull request", "at work": "by hand"}
    made = {
        name: client.create_run(
            experiment, start_time=now - seconds * 1000, tags={"rps.reason": reasons.get(name, "schedule")}
        ).info.run_id
        for name, seconds in starts.items()
    }
    for name, error in (("old", 9.0), ("first", 2.0), ("second", 1.5)):
        client.log_param(made[name], "target.loss", "squared_error")
        client.log_metric(made[name], "rmse", error)
        client.log_metric(made[name], "baseline.rmse", 3.0)
        client.set_terminated(made[name], "FINISHED", end_time=now - starts[name] * 1000 + 500_000)
    client.log_metric(made["second"], "production.rmse", 1.75)
    (directory / "quality.json").write_bytes(quality_report("error", "warning", "warning"))
    client.log_artifact(made["rejected"], str(directory / "quality.json"), "profile")
    client.set_terminated(made["rejected"], "FAILED")
    client.create_registered_model(challenge)
    for gate in ("passed", "blocked", "passed", "pending"):
        client.create_model_version(
            challenge, "s3://none/bundle", made["first"], tags={"gate": gate}, await_creation_for=0
        )
    client.set_registered_model_alias(challenge, "production", "3")
    return Made(client, challenge, experiment, made)


LEFT = Records(
    retrainings={"schedule": 1, "drift": 1, "pull request": 1, "other": 1},
    errors={"candidate": 1.5, "production": 1.75, "baseline": 3.0},
    violations={"error": 1, "warning": 2},
    verdicts={"passed": 2, "blocked": 1, "pending": 1},
    production=3,
)
NOTHING = Records(
    retrainings=dict.fromkeys(LEFT.retrainings, 0), errors={}, violations={}, verdicts=dict.fromkeys(LEFT.verdicts, 0),
    production=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def left(mlflow_server: str, challenge: str, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return leave(mlflow_server, challenge, tmp_path_factory.mktemp("left"))


def records(uri: str, challenge: str) -> MlflowRecords:
    return MlflowRecords(MlflowSettings(uri), [challenge])


@pytest.fixture
def airflow_faults(server: AirflowServer) -> Iterator[AirflowFaults]:
    with airflow_behind_faults(server.settings.url) as proxy:
        yield proxy


@pytest.fixture
def mlflow_faults(mlflow_server: str) -> Iterator[AirflowFaults]:
    with airflow_behind_faults(mlflow_server) as proxy:
        yield proxy


class Told:
    """`python -m monitoring.exporter`, running."""

    def __init__(self, directory: Path, challenge: str, environment: dict[str, str]) -> None:
        (directory / "challenges").mkdir(exist_ok=True)
        (directory / "challenges" / f"{challenge}.toml").touch()
        self.log = directory / uuid.uuid4().hex
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "MLFLOW"))}
        command = [sys.executable, "-m", "monitoring.exporter", "--port", "0", "--every", "0.2"]
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*command, "--challenges", str(directory / "challenges")],
                cwd=ROOT, env={**inherited, **environment}, stdout=log, stderr=log,
            )  # fmt: skip
        assert wait_while(lambda: self.address is None and self.process.poll() is None, seconds=WAIT_SECONDS)
        assert self.process.poll() is None, self.said

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    @property
    def address(self) -> str | None:
        found = re.search(r"pipeline metrics are at (\S+)/metrics", self.said)
        return found[1] if found else None

    def samples(self) -> dict[str, float]:
        lines = httpx.get(f"{self.address}/metrics", timeout=30).text.splitlines()
        return {
            name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith("rps_"))
        }

    def up(self) -> tuple[float | None, float | None]:
        """Whether the last look at Airflow, and at MLflow, was a good one; None before it has ended."""
        found = self.samples()
        airflow, mlflow = (found.get(f'rps_pipeline_up{{system="{system}"}}') for system in ("airflow", "mlflow"))
        return airflow, mlflow

    def wait_for(self, airflow: float, mlflow: float) -> dict[str, float]:
        """What it tells once both are as they should be."""
        assert wait_while(lambda: self.up() != (airflow, mlflow), seconds=WAIT_SECONDS), f"{self.up()}\n{self.said}"
        return self.samples()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=WAIT_SECONDS)


@contextlib.contextmanager
def telling(
    directory: Path, challenge: str, server: AirflowServer, mlflow: str, *, airflow: str = "", password: str = ""
) -> Iterator[Told]:
    settings = server.settings
    environment = {
        "AIRFLOW_API_URL": airflow or settings.url,
        "AIRFLOW_USERNAME": settings.username,
        "AIRFLOW_PASSWORD": password or settings.password,
        "MLFLOW_TRACKING_URI": mlflow,
    }
    shown = Told(directory, challenge, environment)
    try:
        yield shown
    finally:
        shown.process.kill()
        shown.process.wait()


def of_metric(samples: dict[str, float], *names: str) -> dict[str, float]:
    return {name: value for name, value in samples.items() if name.partition("{")[0] in names}


STALE = ("rps_dag_runs", "rps_retrainings")
OF_LOOKS = ("rps_pipeline_up", "rps_pipeline_look_timestamp_seconds")


def test_the_course_of_a_pipeline_is_reported_through_outages_and_a_restart(
    server: AirflowServer,
    runs: dict[str, DagRun],
    left: Made,
    airflow_faults: AirflowFaults,
    mlflow_faults: AirflowFaults,
    tmp_path: Path,
) -> None:
    dag = f'dag_id="retrain_{left.challenge}"'
    with telling(tmp_path, left.challenge, server, mlflow_faults.url, airflow=airflow_faults.url) as shown:
        before = shown.wait_for(1.0, 1.0)
        ends = {name: airflow_state(server, run) for name, run in runs.items()}
        last = ends["well"]
        assert before[f'rps_dag_run_end_timestamp_seconds{{{dag},state="success"}}'] == seconds(last["end_date"])
        assert before[f'rps_dag_run_end_timestamp_seconds{{{dag},state="failed"}}'] == seconds(
            ends["badly"]["end_date"]
        )
        took = before[f'rps_dag_run_duration_seconds{{{dag},state="success"}}']
        assert took == pytest.approx(seconds(last["end_date"]) - seconds(last["start_date"]), abs=1e-3)
        counts = {"queued": 0.0, "running": 1.0, "success": 1.0, "failed": 1.0}
        assert of_metric(before, "rps_dag_runs") == {
            f'rps_dag_runs{{{dag},state="{state}"}}': number for state, number in counts.items()
        }
        tasks = of_metric(before, "rps_task_duration_seconds")
        assert tasks.keys() == {f'rps_task_duration_seconds{{{dag},task_id="{task}"}}' for task in ("work", "end")}
        assert 0 < min(tasks.values()) <= max(tasks.values()) <= took
        assert before[f'rps_production_version{{challenge="{left.challenge}"}}'] == 3.0

        airflow_faults.switch_on(status=503)
        mlflow_faults.switch_on(cut="before")
        away = shown.wait_for(0.0, 0.0)
        remembered = {name: before[name] for name in before if name.partition("{")[0] not in (*STALE, *OF_LOOKS)}
        assert {name: away[name] for name in away if name.partition("{")[0] not in OF_LOOKS} == remembered

        airflow_faults.switch_off()
        mlflow_faults.switch_off()
        back = shown.wait_for(1.0, 1.0)
        assert back.keys() == before.keys()
        for name in ("Airflow at", "MLflow at", "Airflow answers again", "MLflow answers again"):
            assert shown.said.count(name) == 1, shown.said
        assert shown.stop() == 0

        with telling(tmp_path, left.challenge, server, mlflow_faults.url, airflow=airflow_faults.url) as restarted:
            again = restarted.wait_for(1.0, 1.0)
            assert {name: again[name] for name in remembered} == remembered


def seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


@pytest.mark.usefixtures("runs")
def test_a_wrong_password_is_reported_once_and_the_rest_goes_on(
    server: AirflowServer, left: Made, mlflow_server: str, tmp_path: Path
) -> None:
    with telling(tmp_path, left.challenge, server, mlflow_server, password="guessed-wrong") as shown:
        found = shown.wait_for(0.0, 1.0)
        looked = found['rps_pipeline_look_timestamp_seconds{system="mlflow"}']
        name = 'rps_pipeline_look_timestamp_seconds{system="mlflow"}'
        assert wait_while(lambda: shown.samples()[name] == looked, seconds=WAIT_SECONDS)
        assert shown.up() == (0.0, 1.0)
        assert shown.said.count("refuses the user 'rps': check AIRFLOW_USERNAME and AIRFLOW_PASSWORD") == 1
        assert "guessed-wrong" not in shown.said
        assert of_metric(shown.samples(), "rps_dag_runs", "rps_dag_run_end_timestamp_seconds") == {}
        assert of_metric(shown.samples(), "rps_gate_verdicts")
        assert shown.stop() == 0


def test_it_starts_before_the_systems_and_a_slow_one_keeps_no_scrape_waiting(
    server: AirflowServer, left: Made, airflow_faults: AirflowFaults, mlflow_faults: AirflowFaults, tmp_path: Path
) -> None:
    airflow_faults.switch_on(delay_seconds=600.0, status=503)
    mlflow_faults.switch_on(status=401)
    with telling(tmp_path, left.challenge, server, mlflow_faults.url, airflow=airflow_faults.url) as shown:
        assert wait_while(lambda: not airflow_faults.asked or shown.up()[1] is None, seconds=WAIT_SECONDS)
        assert shown.up()[0] != 1.0
        assert shown.up()[1] == 0.0
        assert "Check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in shown.said
        assert httpx.get(f"{shown.address}/health").status_code == 200
        mlflow_faults.switch_off()
        assert wait_while(lambda: shown.up()[1] != 1.0, seconds=WAIT_SECONDS)
        assert shown.stop() == 0, "a look that hangs does not hold up the end"


# What a look makes of what it finds


def test_airflow_without_the_dag_has_nothing_to_tell(server: AirflowServer) -> None:
    assert AirflowRuns(server.settings, ["nobody"]).look() == {}


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 200, "body": "<html>log in</html>"},
        {"status": 200, "body": "null"},
        {"status": 200, "body": "[]"},
        {"status": 404, "body": "no such host here"},
        {"status": 422, "body": "{}"},
        {"cut": "after"},
    ],
)
def test_an_answer_that_is_not_airflows_is_an_outage(
    server: AirflowServer, challenge: str, airflow_faults: AirflowFaults, fault: dict[str, object]
) -> None:
    airflow_faults.switch_on(path="dagRuns", **fault)
    look = AirflowRuns(replace(server.settings, url=airflow_faults.url), [challenge]).look
    with pytest.raises(PassingFault, match="gives no good answer"):
        look()


def test_a_user_who_may_not_read_is_reported(
    server: AirflowServer, challenge: str, airflow_faults: AirflowFaults
) -> None:
    airflow_faults.switch_on(path="dagRuns", status=403, body='{"detail": "Forbidden"}')
    look = AirflowRuns(replace(server.settings, url=airflow_faults.url), [challenge]).look
    with pytest.raises(ConfigurationError, match="It must be able to read DAG runs"):
        look()


@pytest.mark.usefixtures("runs")
def test_tasks_are_asked_for_once_for_each_run(
    server: AirflowServer, challenge: str, airflow_faults: AirflowFaults
) -> None:
    watched = AirflowRuns(replace(server.settings, url=airflow_faults.url), [challenge])
    first = watched.look()
    assert any("taskInstances" in asked for asked in airflow_faults.asked)
    airflow_faults.switch_off()
    assert watched.look() == first
    assert len(airflow_faults.asked) == 6
    assert not any("taskInstances" in asked for asked in airflow_faults.asked)


def test_mlflow_without_the_challenge_counts_nothing(mlflow_server: str) -> None:
    assert records(mlflow_server, "nobody").look() == {"nobody": NOTHING}


def test_what_a_day_left_in_mlflow_is_reported_and_what_is_deleted_no_longer(
    mlflow_server: str, tmp_path: Path
) -> None:
    made = leave(mlflow_server, f"deleting_{uuid.uuid4().hex[:8]}", tmp_path)
    watched = records(mlflow_server, made.challenge)
    assert watched.look() == {made.challenge: LEFT}
    made.client.delete_run(made.runs["second"])
    made.client.delete_run(made.runs["rejected"])
    made.client.delete_model_version(made.challenge, "3")
    made.client.set_model_version_tag(made.challenge, "4", "gate", "blocked")
    assert watched.look()[made.challenge] == Records(
        retrainings={"schedule": 1, "drift": 0, "pull request": 0, "other": 1},
        errors={"candidate": 2.0, "baseline": 3.0},
        violations={},
        verdicts={"passed": 1, "blocked": 2, "pending": 0},
        production=None,
    )
    made.client.delete_experiment(made.experiment)
    made.client.delete_registered_model(made.challenge)
    assert watched.look() == {made.challenge: NOTHING}


def test_the_newest_report_is_reported_though_the_newest_run_has_none_yet(mlflow_server: str, tmp_path: Path) -> None:
    made = leave(mlflow_server, f"reports_{uuid.uuid4().hex[:8]}", tmp_path)
    watched = records(mlflow_server, made.challenge)
    assert watched.look()[made.challenge].violations == {"error": 1, "warning": 2}
    (tmp_path / "quality.json").write_bytes(quality_report("warning"))
    made.client.log_artifact(made.runs["at work"], str(tmp_path / "quality.json"), "profile")
    assert watched.look()[made.challenge].violations == {"error": 0, "warning": 1}
    (tmp_path / "quality.json").write_bytes(quality_report("warning").replace(b'"warning"', b'"catastrophe"'))
    made.client.log_artifact(made.runs["at work"], str(tmp_path / "quality.json"), "profile")
    assert watched.look()[made.challenge].violations == {"error": 1, "warning": 2}, "what is garbage is no report"


def test_versions_beyond_a_page_are_counted_and_only_the_newest_page_is_asked_for_again(
    mlflow_server: str, mlflow_faults: AirflowFaults
) -> None:
    client, name = MlflowClient(mlflow_server, mlflow_server), f"many_{uuid.uuid4().hex[:8]}"
    client.create_registered_model(name)
    gates = itertools.cycle(("passed", "blocked"))

    def add(number: int) -> None:
        for _ in range(number):
            client.create_model_version(name, "s3://none/bundle", tags={"gate": next(gates)}, await_creation_for=0)

    add(PAGE + 4)
    watched = records(mlflow_faults.url, name)
    assert watched.look()[name].verdicts == {"passed": 52, "blocked": 52, "pending": 0}
    add(2)
    client.set_model_version_tag(name, str(PAGE), "gate", "pending")
    client.delete_model_version(name, str(PAGE + 1))
    mlflow_faults.switch_off()
    assert watched.look()[name].verdicts == {"passed": 52, "blocked": 52, "pending": 1}
    assert sum("model-versions/search" in asked for asked in mlflow_faults.asked) == 1


@pytest.mark.parametrize("fault", [{"status": 200, "body": "<html>log in</html>"}, {"status": 502}, {"cut": "after"}])
def test_an_answer_that_is_not_mlflows_is_an_outage(
    mlflow_faults: AirflowFaults, left: Made, fault: dict[str, object], tmp_path: Path
) -> None:
    mlflow_faults.switch_on(**fault)
    watched = records(mlflow_faults.url, left.challenge)
    with pytest.raises(NoVerdict, match="MLflow at"):
        watched.look()
    mlflow_faults.switch_off()
    assert watched.look()[left.challenge].verdicts == LEFT.verdicts


def test_mlflow_2_7_tells_the_same(tmp_path: Path) -> None:
    try:
        python = dagshub.old_mlflow()
    except dagshub.NotOnThisMachine as missing:
        pytest.skip(str(missing))
    with running(dagshub.mlflow_service(python, tmp_path, free_ports(1)), tmp_path) as old:
        made = leave(old.address, "weather", tmp_path)
        assert records(old.address, made.challenge).look() == {"weather": LEFT}
        assert records(old.address, "nobody").look() == {"nobody": NOTHING}
