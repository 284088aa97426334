"""The whole pipeline through a real Airflow, MLflow and S3, on recorded weather served over HTTP."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import boto3
import httpx
import msgspec
import psutil
import pytest
from mlflow.tracking import MlflowClient

from ci.dag_run import Airflow
from ci.errors import CiError, ConfigurationError
from ci.settings import airflow_settings
from scripts.processes import Started, members
from scripts.services import ROOT
from tests.conftest import wait_while
from tests.e2e.conftest import Laptop, python

STAGES = ["ingest", "validate", "transform", "profile", "version", "train", "evaluate", "register"]
AFTER_VALIDATE = STAGES[2:]


def mlflow_of(laptop: Laptop) -> MlflowClient:
    address = laptop.stack.addresses["MLFLOW_TRACKING_URI"]
    return MlflowClient(tracking_uri=address, registry_uri=address)


def mlflow_run(laptop: Laptop, run_id: str):
    client = mlflow_of(laptop)
    experiment = client.get_experiment_by_name("weather")
    runs = client.search_runs([experiment.experiment_id], f"tags.`rps.run_id` = '{run_id}'")
    assert len(runs) == 1
    return runs[0]


def bucket_of(laptop: Laptop):
    addresses = laptop.stack.addresses
    session = boto3.session.Session(
        addresses["AWS_ACCESS_KEY_ID"], addresses["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1"
    )
    return session.resource("s3", endpoint_url=addresses["AWS_ENDPOINT_URL"]).Bucket("rps")


def objects(laptop: Laptop, prefix: str) -> list[str]:
    return [found.key for found in bucket_of(laptop).objects.filter(Prefix=prefix)]


@pytest.fixture(scope="module")
def demo(laptop: Laptop) -> str:
    """The output of the demo, as a newcomer's log shows it; leaves a first registered version."""
    head = laptop.git("rev-parse", "HEAD")
    done = python("-m", "scripts.demo", "--sha", head, environment=laptop.environment, directory=ROOT)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def demo_run_id(demo: str) -> str:
    found = re.search(r"runs/(gate__weather__\S+)", demo)
    assert found
    return found[1]


def test_the_demo_shows_each_task_and_ends_with_the_gates_report(demo: str) -> None:
    for stage in ["workspace", *STAGES]:
        assert re.search(rf"{stage}\s+done in \d", demo)
    assert re.search(r"profile\s+running", demo)  # the longest; a short task may begin and end between two looks
    for told in ("no production model yet", "RMSE", "persistence", "covered", "Drift", "MLflow run", "profile"):
        assert told in demo
    assert "pass: passed: RMSE" in demo


def test_the_demo_ends_with_its_model_served_and_observations_streaming_in(demo: str, laptop: Laptop) -> None:
    address = laptop.stack.online("weather", "")[0].address
    assert f"See it live: {address}/" in demo
    health = httpx.get(f"{address}/health").raise_for_status().json()
    assert health["git_sha"] == mlflow_run(laptop, demo_run_id(demo)).data.tags["rps.git_sha"]
    assert f"on version {health['model_version']} of weather" in demo
    assert "<!doctype html>" in httpx.get(f"{address}/").text.lower()
    before = datetime.fromisoformat(httpx.get(f"{address}/v1/series/EWR").json()["newest"])

    clock = laptop.stack.addresses["RPS_CLOCK_URL"]
    later = before + timedelta(hours=2)
    httpx.put(clock, json={"now": later.isoformat(), "speed": 1.0}).raise_for_status()

    def waiting() -> bool:
        return datetime.fromisoformat(httpx.get(f"{address}/v1/forecasts/EWR").json()["origin"]) < later

    assert wait_while(waiting, seconds=60)
    forecast = httpx.get(f"{address}/v1/forecasts/EWR").json()
    assert [each["horizon"] for each in forecast["forecasts"]] == [4, 5, 6]
    assert datetime.fromisoformat(forecast["forecasts"][0]["ds"]) == later + timedelta(hours=4)


def test_the_tasks_of_airflow_did_the_work(demo: str, laptop: Laptop) -> None:
    run_id = demo_run_id(demo)
    logs = laptop.stack.home / "airflow" / "logs" / "dag_id=retrain_weather" / f"run_id={run_id}"
    for stage in STAGES:
        text = "".join(path.read_text() for path in (logs / f"task_id={stage}").glob("*.log"))
        assert f"{stage}: done in" in text


def test_mlflow_holds_the_run_with_all_metrics_profile_bundle_and_a_judged_version(demo: str, laptop: Laptop) -> None:
    run_id = demo_run_id(demo)
    run, client = mlflow_run(laptop, run_id), mlflow_of(laptop)
    for tag in ("run_id", "git_sha", "pull_request", "reason", "dataset_md5", "dataset_rev"):
        assert f"rps.{tag}" in run.data.tags
    assert run.data.tags["rps.git_sha"] == laptop.git("rev-parse", "HEAD")
    for model in ("", "persistence."):
        for measure in ("rmse", "mae", "r2"):
            assert {f"{model}{measure}{horizon}" for horizon in ("", "_h4", "_h5", "_h6")} <= set(run.data.metrics)
    assert run.data.metrics["rmse"] < run.data.metrics["persistence.rmse"]
    assert 0.85 <= run.data.metrics["coverage_90"] <= 0.95
    assert run.info.status == "FINISHED"
    for path, name in (("profile", "profile/profile.html"), ("bundle", "bundle/manifest.json")):
        assert name in {artifact.path for artifact in client.list_artifacts(run.info.run_id, path)}
    (version,) = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    assert version.tags["gate"] == "passed"
    assert version.tags["git_sha"] == run.data.tags["rps.git_sha"]
    assert not client.get_registered_model("weather").aliases


def test_s3_holds_the_raw_answers_with_their_collection_time_and_the_dataset(demo: str, laptop: Laptop) -> None:
    raw = objects(laptop, "raw/weather/")
    assert raw
    for key in raw:
        assert re.fullmatch(r"raw/weather/\d{4}/\d\d/\d\d/\d{4}-\d\d-\d\dT[\d:.]+Z\.json\.gz", key)
    assert objects(laptop, "dvc/")


def test_the_dataset_comes_back_by_its_revision_with_the_same_hash(demo: str, laptop: Laptop, tmp_path: Path) -> None:
    tags = mlflow_run(laptop, demo_run_id(demo)).data.tags
    assert tags["rps.dataset_rev"] in laptop.git("log", "--format=%H", "data/weather").split()
    dvc = Path(sys.executable).with_name("dvc")
    command = [dvc, "get", str(laptop.repository), "dataset", "--rev", tags["rps.dataset_rev"], "--out", "dataset"]
    subprocess.run(command, cwd=tmp_path, env=laptop.environment, check=True, capture_output=True)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    for arguments in (["init", "--quiet"], ["add", "--quiet", "dataset"]):
        subprocess.run([dvc, *arguments], cwd=tmp_path, env=laptop.environment, check=True, capture_output=True)
    assert f"md5: {tags['rps.dataset_md5']}" in (tmp_path / "dataset.dvc").read_text()


def test_the_branch_that_is_built_is_not_touched(demo: str, laptop: Laptop) -> None:
    assert laptop.git("status", "--porcelain") == ""
    assert laptop.git("rev-parse", "HEAD") == mlflow_run(laptop, demo_run_id(demo)).data.tags["rps.git_sha"]


def test_two_runs_at_once_on_different_commits_do_not_touch_each_other(demo: str, laptop: Laptop) -> None:
    commits = {
        leaves: laptop.commit(
            f"leaves-{leaves}", {"challenges/weather.toml": ("max_leaf_nodes = ", f"max_leaf_nodes = {leaves} # was ")}
        )
        for leaves in (7, 9)
    }
    runs = {leaves: laptop.start(git_sha=sha) for leaves, sha in commits.items()}
    for leaves, started in runs.items():
        _, tasks = laptop.wait(started)
        assert {task.state for task in tasks.values()} == {"success"}
        run = mlflow_run(laptop, started.run_id)
        assert run.data.tags["rps.git_sha"] == commits[leaves]
        assert run.data.params["learner.parameters.max_leaf_nodes"] == str(leaves)
    revisions = [mlflow_run(laptop, started.run_id).data.tags["rps.dataset_rev"] for started in runs.values()]
    assert len(set(revisions)) == 2
    assert set(revisions) <= set(laptop.git("log", "--format=%H", "data/weather").split())


def test_data_that_fails_the_quality_gate_stops_everything_after_it_without_a_retry(
    demo: str, laptop: Laptop, fault: Callable[..., None]
) -> None:
    fault("null_burst", hours=48)
    run, tasks = laptop.run()
    assert (tasks["validate"].state, tasks["validate"].attempt) == ("failed", 1)
    assert {tasks[stage].state for stage in AFTER_VALIDATE} == {"upstream_failed"}
    assert any("temperature" in line for line in run.log(tasks["validate"]))


def test_the_same_data_without_the_fault_passes_the_next_time(demo: str, laptop: Laptop) -> None:
    _, tasks = laptop.run()
    assert {task.state for task in tasks.values()} == {"success"}


def test_a_passing_fault_is_retried_until_it_has_passed(demo: str, laptop: Laptop, fault: Callable[..., None]) -> None:
    fault("server_error", times=5)
    _, tasks = laptop.run()
    assert tasks["ingest"].attempt == 2
    assert {task.state for task in tasks.values()} == {"success"}


def test_a_commit_that_does_not_exist_fails_at_once(laptop: Laptop) -> None:
    run, tasks = laptop.run(git_sha="0" * 40)
    assert (tasks["workspace"].state, tasks["workspace"].attempt) == ("failed", 1)
    assert tasks["ingest"].state == "upstream_failed"
    assert any("is on no branch" in line for line in run.log(tasks["workspace"]))


def test_a_cancelled_run_ends_the_stage_that_is_at_work(demo: str, laptop: Laptop, fault: Callable[..., None]) -> None:
    fault("slow", seconds=300)
    run = laptop.start()

    def stage_processes() -> list[psutil.Process]:
        mine = run.run_id.partition("__")[2]
        return [
            process
            for process in psutil.process_iter(["cmdline", "cwd"])
            if "ingest" in (process.info["cmdline"] or ()) and mine in (process.info["cwd"] or "")
        ]

    assert wait_while(lambda: not stage_processes(), seconds=120)
    assert run.cancel()
    assert wait_while(lambda: bool(stage_processes()), seconds=60)


def test_nothing_of_the_stack_listens_beyond_loopback(laptop: Laptop) -> None:
    records = (laptop.stack.home / "processes").glob("*.json")
    started = [msgspec.json.decode(path.read_bytes(), type=Started) for path in records]
    listening = [
        connection.laddr
        for process in members(started)
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert {port for service in laptop.stack.services for port in service.ports} <= {each.port for each in listening}


def test_raw_answers_are_kept_as_they_came(demo: str, laptop: Laptop) -> None:
    key = objects(laptop, "raw/weather/")[0]
    envelope = json.loads(gzip.decompress(bucket_of(laptop).Object(key).get()["Body"].read()))
    assert envelope["collected_at"] in key
    assert json.loads(envelope["body"])[0]["hourly"]["temperature_2m"]


def test_a_dag_that_airflow_does_not_know_is_told_by_name(laptop: Laptop) -> None:
    airflow = Airflow(airflow_settings(laptop.stack.addresses), new_dag_seconds=1.0)
    with pytest.raises(ConfigurationError, match="has no DAG 'retrain_tarot'"):
        airflow.start("retrain_tarot", "test__tarot", {})


def test_an_airflow_that_is_down_or_refuses_the_user_is_told_with_its_address(laptop: Laptop) -> None:
    for changed in ({"AIRFLOW_API_URL": "http://127.0.0.1:9"}, {"AIRFLOW_PASSWORD": "wrong"}):
        addresses = {**laptop.stack.addresses, **changed}
        airflow = Airflow(airflow_settings(addresses), grace_seconds=1.0)
        with pytest.raises(CiError, match=addresses["AIRFLOW_API_URL"]):
            airflow.start("retrain_weather", "test__refused", {})


def test_a_challenge_that_is_not_committed_is_told_before_anything_starts(laptop: Laptop) -> None:
    done = python("-m", "scripts.demo", "--challenge", "tarot", environment=laptop.environment, directory=ROOT)
    assert done.returncode == 1
    assert "one of weather; found 'tarot'" in done.stderr
    assert "Laptop stack" not in done.stdout
