"""What the exporter makes of what it knows: kept, left out, told once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from prometheus_client import generate_latest

from clients.errors import ConfigurationError, NoVerdict, PassingFault, RpsError
from monitoring.exporter.airflow_runs import DagRuns, EndedRun
from monitoring.exporter.mlflow_records import Records, reason_of
from monitoring.exporter.pipeline_metrics import Pipeline, registry_of
from monitoring.exporter.watched import Watched
from scripts.services import ROOT

RUNS = {
    "retrain_weather": DagRuns(
        last={"success": EndedRun("a", 1000.5, 40.0), "failed": EndedRun("b", 900.0, 3.0)},
        counts={"queued": 0, "running": 1, "success": 4, "failed": 2},
        task_seconds={"train": 12.5},
    )
}
RECORDS = {
    "weather": Records(
        retrainings={"schedule": 3, "drift": 1, "pull request": 0, "other": 0},
        errors={"candidate": 1.5, "baseline": 2.5},
        violations={"error": 0, "warning": 7},
        verdicts={"passed": 5, "blocked": 1, "pending": 0},
        production=4,
    )
}
HAPPENED = {
    'rps_dag_run_end_timestamp_seconds{dag_id="retrain_weather",state="success"}': 1000.5,
    'rps_dag_run_end_timestamp_seconds{dag_id="retrain_weather",state="failed"}': 900.0,
    'rps_dag_run_duration_seconds{dag_id="retrain_weather",state="success"}': 40.0,
    'rps_dag_run_duration_seconds{dag_id="retrain_weather",state="failed"}': 3.0,
    'rps_task_duration_seconds{dag_id="retrain_weather",task_id="train"}': 12.5,
    'rps_quality_violations{challenge="weather",severity="error"}': 0.0,
    'rps_quality_violations{challenge="weather",severity="warning"}': 7.0,
    'rps_gate_verdicts{challenge="weather",verdict="passed"}': 5.0,
    'rps_gate_verdicts{challenge="weather",verdict="blocked"}': 1.0,
    'rps_gate_verdicts{challenge="weather",verdict="pending"}': 0.0,
    'rps_candidate_error{challenge="weather",model="candidate"}': 1.5,
    'rps_candidate_error{challenge="weather",model="baseline"}': 2.5,
    'rps_production_version{challenge="weather"}': 4.0,
}
LATELY = {
    'rps_dag_runs{dag_id="retrain_weather",state="queued"}': 0.0,
    'rps_dag_runs{dag_id="retrain_weather",state="running"}': 1.0,
    'rps_dag_runs{dag_id="retrain_weather",state="success"}': 4.0,
    'rps_dag_runs{dag_id="retrain_weather",state="failed"}': 2.0,
    'rps_retrainings{challenge="weather",reason="schedule"}': 3.0,
    'rps_retrainings{challenge="weather",reason="drift"}': 1.0,
    'rps_retrainings{challenge="weather",reason="pull request"}': 0.0,
    'rps_retrainings{challenge="weather",reason="other"}': 0.0,
}


class Script:
    """A system's looks, one after the other: what each gives, or raises."""

    def __init__(self, *looks: object) -> None:
        self._looks = iter(looks)

    def __call__(self) -> object:
        found = next(self._looks)
        if isinstance(found, RpsError):
            raise found
        return found


def pipeline(airflow: Callable, mlflow: Callable, note: Callable[[str], None] = lambda _: None) -> Pipeline:
    return Pipeline(Watched("Airflow", airflow, note), Watched("MLflow", mlflow, note))


def samples(of: Pipeline) -> dict[str, float]:
    """What is reported, but for the process's own numbers and the times of the looks."""
    lines = [line for line in generate_latest(registry_of(of)).decode().splitlines() if line.startswith("rps_")]
    found = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
    return {name: value for name, value in found.items() if "_look_timestamp" not in name}


def up(airflow: float, mlflow: float) -> dict[str, float]:
    return {'rps_pipeline_up{system="airflow"}': airflow, 'rps_pipeline_up{system="mlflow"}': mlflow}


def test_before_the_first_look_nothing_is_reported() -> None:
    assert samples(pipeline(Script(), Script())) == {}


def test_all_that_both_systems_know_is_reported() -> None:
    shown = pipeline(Script(RUNS), Script(RECORDS))
    shown.airflow.once()
    shown.mlflow.once()
    assert samples(shown) == HAPPENED | LATELY | up(1.0, 1.0)


def test_while_a_system_is_away_what_happened_stays_and_what_goes_stale_is_left_out() -> None:
    shown = pipeline(Script(RUNS, PassingFault("away"), RUNS), Script(RECORDS, NoVerdict("away"), RECORDS))
    for watched in (shown.airflow, shown.mlflow):
        watched.once()
    looked_at = shown.airflow.looked_at
    for watched in (shown.airflow, shown.mlflow):
        watched.once()
    assert samples(shown) == HAPPENED | up(0.0, 0.0)
    assert shown.airflow.looked_at == looked_at
    shown.mlflow.once()
    assert samples(shown).keys() == (HAPPENED | up(0, 0)).keys() | {name for name in LATELY if "retrainings" in name}


def test_a_system_that_was_never_there_is_reported_as_down_and_no_more() -> None:
    shown = pipeline(Script(PassingFault("away")), Script(RECORDS))
    shown.airflow.once()
    assert samples(shown) == {'rps_pipeline_up{system="airflow"}': 0.0}


def test_an_outage_is_reported_once_and_once_more_when_it_is_a_setting() -> None:
    notes: list[str] = []
    looks = (
        PassingFault("away at 0x1"), PassingFault("away at 0x2"), ConfigurationError("wrong password"),
        ConfigurationError("wrong password"), RUNS, RUNS, NoVerdict("away again"),
    )  # fmt: skip
    shown = pipeline(Script(*looks), Script(), notes.append)
    for _ in looks:
        shown.airflow.once()
    ending = " (asked again until it answers)"
    assert notes == [
        f"away at 0x1{ending}", f"wrong password{ending}", "Airflow answers again", f"away again{ending}",
    ]  # fmt: skip


def test_a_bug_in_a_look_is_not_taken_for_an_outage() -> None:
    def look() -> dict[str, DagRuns]:
        raise RuntimeError

    watched = Watched("Airflow", look, print)
    with pytest.raises(RuntimeError):
        watched.once()


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        ("schedule", "schedule"),
        ("drift", "drift"),
        ("drift: ConceptDrift", "drift"),
        ("pull request", "pull request"),
        ("pull-request 7", "pull request"),
        ("Schedule ", "schedule"),
        ("by hand", "other"),
        ("", "other"),
        ('x"} 1\nrps_made_up{a="b', "other"),
    ],
)
def test_reasons_are_of_a_closed_set(tag: str, reason: str) -> None:
    assert reason_of(tag) == reason


def refused(*options: str, **environment: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "monitoring.exporter", *options]
    done = subprocess.run(
        command, cwd=ROOT, env={"PATH": "", **environment}, capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout


SETTINGS = {"AIRFLOW_API_URL": "http://127.0.0.1:9", "AIRFLOW_TOKEN": "x", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("options", "changes", "shown"),
    [
        ((), {"AIRFLOW_API_URL": ""}, "set AIRFLOW_API_URL in the environment"),
        ((), {"MLFLOW_TRACKING_URI": ""}, "set MLFLOW_TRACKING_URI in the environment"),
        (
            (),
            {"MLFLOW_TRACKING_URI": "http://ana:hunter2@127.0.0.1:9"},
            "MLFLOW_TRACKING_URI: expected an address without user and password",
        ),
        (("--challenges", "docs"), {}, "--challenges docs: expected 1 to 20 challenge files; found 0"),
    ],
)
def test_a_wrong_setting_is_reported_before_anything_is_asked(
    options: tuple[str, ...], changes: dict[str, str], shown: str
) -> None:
    code, said = refused(*options, **(SETTINGS | changes))
    assert (code, shown in said, "hunter2" in said) == (64, True, False), said


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("127.0.0.1", 99999)])
def test_an_address_that_cannot_be_had_is_reported(host: str, port: int) -> None:
    code, said = refused("--host", host, "--port", str(port), **SETTINGS)
    assert (code, f"--host {host} --port {port}: cannot listen there: " in said) == (64, True), said


def test_the_documentation_names_every_metric_and_no_other() -> None:
    page = (ROOT / "docs" / "reference" / "pipeline-metrics.md").read_text(encoding="utf-8")
    table = {
        name
        for line in page.splitlines()
        if line.startswith("| `rps_")
        for name in line.split("|")[1].replace("`", "").replace(",", " ").split()
    }
    shown = pipeline(Script(RUNS), Script(RECORDS))
    shown.airflow.once()
    shown.mlflow.once()
    exposition = generate_latest(registry_of(shown)).decode()
    assert table == {line.split()[2] for line in exposition.splitlines() if line.startswith("# TYPE rps_")}
