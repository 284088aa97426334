"""The whole pipeline through a real Airflow, MLflow and S3, on recorded weather served over HTTP."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import boto3
import httpx
import msgspec
import psutil
import pytest

from clients.dag_run import Airflow, TaskState
from clients.errors import ConfigurationError, RpsError
from clients.settings import airflow_settings
from records.stages import STEPS
from scripts.processes import Started, members
from scripts.services import ROOT
from tests.conftest import wait_while
from tests.e2e.conftest import Laptop, python

LEAVES = 7
"""Of the run beside the demo's; the challenge's model has more."""


@dataclass(frozen=True)
class Beside:
    """A run that went on while the demo's did."""

    sha: str
    run_id: str
    tasks: dict[str, TaskState]


@dataclass(frozen=True)
class Shown:
    """What the demo has printed, as a newcomer's log shows it, and the run beside its own."""

    output: str
    beside: Beside

    @property
    def run_id(self) -> str:
        """Of the demo's own run."""
        found = re.search(r"runs/(gate__weather__\S+)", self.output)
        assert found
        return found[1]


def mlflow_run(laptop: Laptop, run_id: str):
    client = laptop.mlflow
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
def demo(laptop: Laptop) -> Shown:
    """The demo on HEAD, and at the same time a run of another commit; leaves a first registered version of each."""
    head = laptop.git("rev-parse", "HEAD")
    fewer = {"challenges/weather.toml": ("max_leaf_nodes = ", f"max_leaf_nodes = {LEAVES} # was ")}
    sha = laptop.commit(f"leaves-{LEAVES}", fewer)
    beside = laptop.start(git_sha=sha)
    done = python("-m", "scripts.demo", "--sha", head, environment=laptop.environment, directory=ROOT)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return Shown(done.stdout, Beside(sha, beside.run_id, laptop.wait(beside)))


def test_the_demo_shows_each_task_and_ends_with_the_gates_report(demo: Shown) -> None:
    for stage in ["workspace", *STEPS]:
        assert re.search(rf"{stage}\s+done in \d", demo.output)
    assert re.search(r"profile\s+running", demo.output)  # the longest; a short one may begin and end between two looks
    errors = ("no production model yet", "RMSE", "climatology (28 days)", "persistence", "covered")
    for shown in (*errors, "Drift", "MLflow run", "profile"):
        assert shown in demo.output
    assert "pass: passed: RMSE" in demo.output


def test_the_demo_ends_with_its_model_served_and_observations_streaming_in(demo: Shown, laptop: Laptop) -> None:
    address = laptop.stack.online("weather", "")[0].address
    assert f"See it live: {address}/" in demo.output
    health = httpx.get(f"{address}/health").raise_for_status().json()
    assert health["git_sha"] == mlflow_run(laptop, demo.run_id).data.tags["rps.git_sha"]
    assert f"on version {health['model_version']} of weather" in demo.output
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


def test_the_tasks_of_airflow_did_the_work(demo: Shown, laptop: Laptop) -> None:
    run_id = demo.run_id
    logs = laptop.stack.home / "airflow" / "logs" / "dag_id=retrain_weather" / f"run_id={run_id}"
    for stage in STEPS:
        text = "".join(path.read_text() for path in (logs / f"task_id={stage}").glob("*.log"))
        assert f"{stage}: carried in" in text


def test_mlflow_holds_the_run_with_all_metrics_profile_bundle_and_a_judged_version(demo: Shown, laptop: Laptop) -> None:
    run_id = demo.run_id
    run, client = mlflow_run(laptop, run_id), laptop.mlflow
    for tag in ("run_id", "git_sha", "pull_request", "reason", "dataset_md5", "dataset_rev"):
        assert f"rps.{tag}" in run.data.tags
    assert run.data.tags["rps.git_sha"] == laptop.git("rev-parse", "HEAD")
    for model in ("", "baseline.", "opponent.persistence."):
        for measure in ("rmse", "r2"):
            assert {f"{model}{measure}{horizon}" for horizon in ("", "_h4", "_h5", "_h6")} <= set(run.data.metrics)
    assert run.data.metrics["rmse"] < run.data.metrics["baseline.rmse"]
    folds = client.get_metric_history(run.info.run_id, "rmse_fold")
    assert [fold.step for fold in folds] == list(range(1, 13))
    assert 0.85 <= run.data.metrics["coverage_90"] <= 0.95
    assert run.info.status == "FINISHED"
    for path, name in (
        ("profile", "profile/profile.html"),
        ("bundle", "bundle/manifest.json"),
        ("plots", "plots/error_by_month.csv"),
    ):
        assert name in {artifact.path for artifact in client.list_artifacts(run.info.run_id, path)}
    (version,) = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    assert version.tags["gate"] == "passed"
    assert version.tags["git_sha"] == run.data.tags["rps.git_sha"]
    assert not client.get_registered_model("weather").aliases


def test_s3_holds_the_raw_answers_with_their_collection_time_and_the_dataset(demo: Shown, laptop: Laptop) -> None:
    raw = objects(laptop, "raw/weather/")
    assert raw
    for key in raw:
        assert re.fullmatch(r"raw/weather/\d{4}/\d\d/\d\d/\d{4}-\d\d-\d\dT[\d:.]+Z\.json\.gz", key)
    assert objects(laptop, "dvc/")


def test_the_dataset_comes_back_by_its_revision_with_the_same_hash(demo: Shown, laptop: Laptop, tmp_path: Path) -> None:
    tags = mlflow_run(laptop, demo.run_id).data.tags
    assert tags["rps.dataset_rev"] in laptop.git("log", "--format=%H", "data/weather").split()
    dvc = Path(sys.executable).with_name("dvc")
    command = [dvc, "get", str(laptop.repository), "dataset", "--rev", tags["rps.dataset_rev"], "--out", "dataset"]
    subprocess.run(command, cwd=tmp_path, env=laptop.environment, check=True, capture_output=True)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    for arguments in (["init", "--quiet"], ["add", "--quiet", "dataset"]):
        subprocess.run([dvc, *arguments], cwd=tmp_path, env=laptop.environment, check=True, capture_output=True)
    assert f"md5: {tags['rps.dataset_md5']}" in (tmp_path / "dataset.dvc").read_text()


def test_the_branch_that_is_built_is_not_touched(demo: Shown, laptop: Laptop) -> None:
    assert laptop.git("status", "--porcelain") == ""
    assert laptop.git("rev-parse", "HEAD") == mlflow_run(laptop, demo.run_id).data.tags["rps.git_sha"]


def test_two_runs_at_once_on_different_commits_do_not_touch_each_other(demo: Shown, laptop: Laptop) -> None:
    assert {task.state for task in demo.beside.tasks.values()} == {"success"}
    mine, other = mlflow_run(laptop, demo.run_id).data, mlflow_run(laptop, demo.beside.run_id).data
    assert mine.tags["rps.git_sha"] == laptop.git("rev-parse", "HEAD")
    assert other.tags["rps.git_sha"] == demo.beside.sha
    leaves = "learner.parameters.hist_gradient_boosting.max_leaf_nodes"
    assert other.params[leaves] == str(LEAVES)
    assert int(mine.params[leaves]) > LEAVES
    revisions = {run.tags["rps.dataset_rev"] for run in (mine, other)}
    assert len(revisions) == 2
    assert revisions <= set(laptop.git("log", "--format=%H", "data/weather").split())


def test_a_commit_that_does_not_exist_fails_at_once(laptop: Laptop) -> None:
    run = laptop.start(git_sha="0" * 40)
    tasks = laptop.wait(run)
    assert (tasks["workspace"].state, tasks["workspace"].attempt) == ("failed", 1)
    assert tasks["ingest"].state == "upstream_failed"
    assert any("is on no branch" in line for line in run.log(tasks["workspace"]))


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


def test_raw_answers_are_kept_as_they_came(demo: Shown, laptop: Laptop) -> None:
    key = objects(laptop, "raw/weather/")[0]
    envelope = json.loads(gzip.decompress(bucket_of(laptop).Object(key).get()["Body"].read()))
    assert envelope["collected_at"] in key
    assert json.loads(envelope["body"])[0]["hourly"]["temperature_2m"]


def test_a_dag_that_airflow_does_not_know_is_reported_by_name(laptop: Laptop) -> None:
    airflow = Airflow(airflow_settings(laptop.stack.addresses), new_dag_seconds=1.0)
    with pytest.raises(ConfigurationError, match="has no DAG 'retrain_tarot'"):
        airflow.start("retrain_tarot", "test__tarot", {})


def test_an_airflow_that_is_down_or_refuses_the_user_is_reported_with_its_address(laptop: Laptop) -> None:
    for changed in ({"AIRFLOW_API_URL": "http://127.0.0.1:9"}, {"AIRFLOW_PASSWORD": "wrong"}):
        addresses = {**laptop.stack.addresses, **changed}
        airflow = Airflow(airflow_settings(addresses), grace_seconds=1.0)
        with pytest.raises(RpsError, match=addresses["AIRFLOW_API_URL"]):
            airflow.start("retrain_weather", "test__refused", {})


def test_a_challenge_that_is_not_committed_is_reported_before_anything_starts(laptop: Laptop) -> None:
    done = python("-m", "scripts.demo", "--challenge", "tarot", environment=laptop.environment, directory=ROOT)
    assert done.returncode == 1
    assert "one of weather; found 'tarot'" in done.stderr
    assert "Laptop stack" not in done.stdout
