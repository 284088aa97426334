"""The whole pipeline and a release's models against what DagsHub serves: an old MLflow, addresses with paths, a token.

`tests/e2e` runs the same against the newest MLflow.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import mlflow
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from ci.gate.evidence import Evidence, fetch_evidence, rejected_data
from ci.release.registered import open_models
from clients.errors import NoVerdict
from clients.settings import mlflow_settings
from clients.store import open_store
from clients.tracking import connect
from doubles import dagshub
from doubles.releasing import register
from forecasting.models.bundle import read_bundle
from scripts.services import S3_PORTS, free_ports, running
from tests.integration.conftest import ROOT, Pipeline
from tests.integration.stages_here import PipelineHere, made_smaller
from tests.replay_fixture import Replay

METRICS = ("rmse", "r2", "coverage_90", "rmse_h4", "rmse_h5", "rmse_h6", "rmse_fold", "baseline.rmse", "skill")


@pytest.fixture(scope="module")
def dagshub_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dagshub.Address]:
    """MLflow 2.7.1 and S3 behind nginx, at DagsHub's paths; left out where a part is not to be had."""
    try:
        python = dagshub.old_mlflow()
        dagshub.require_nginx()
    except dagshub.NotOnThisMachine as missing:
        pytest.skip(str(missing))
    home = tmp_path_factory.mktemp("dagshub")
    first = free_ports(S3_PORTS + 2)
    with contextlib.ExitStack() as services:
        served = services.enter_context(running(dagshub.mlflow_service(python, home, first), home))
        store = services.enter_context(running(dagshub.s3_service(home, first + 1), home))
        port = first + 1 + S3_PORTS
        services.enter_context(running(dagshub.proxy_service(home, port, served.address, store.address), home))
        yield dagshub.Address(port)


@pytest.fixture
def on_dagshub(dagshub_address: dagshub.Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names it."""
    for name, value in dagshub_address.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["dagshub", "newest"])
def services(request: pytest.FixtureRequest) -> str:
    """The environment names one of the two; which one."""
    request.getfixturevalue("on_dagshub" if request.param == "dagshub" else "tracking_env")
    return request.param


@pytest.fixture
def clone(tmp_path: Path, on_dagshub: None, replay: Replay) -> PipelineHere:
    """A workspace as a DAG run makes it: a clone of HEAD, whose data branch goes to a repository of the test's own."""
    workspace, repository = tmp_path / "workspace", tmp_path / "repository.git"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(workspace)], check=True)
    subprocess.run(["git", "init", "--quiet", "--bare", str(repository)], check=True)
    environment = {
        **os.environ,
        "RPS_REPOSITORY": str(repository),
        "RPS_RUN_ID": f"dagshub__{tmp_path.name}",
        "RPS_REASON": "test",
    }
    return made_smaller(Pipeline(workspace, environment))


def test_the_whole_pipeline_ends_with_a_pending_version(clone: PipelineHere, tmp_path: Path) -> None:
    clone.run_all()
    registered = json.loads((clone.data / "registered.json").read_text())
    client = MlflowClient()
    version = client.get_model_version("weather", registered["version"])
    assert version.tags["gate"] == "pending"
    assert version.status == "READY"

    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["rps.run_id"] == clone.environment["RPS_RUN_ID"]
    assert set(METRICS) <= set(run.data.metrics)
    assert run.data.metrics["rmse"] < run.data.metrics["baseline.rmse"]
    dataset = json.loads((clone.data / "dataset.json").read_text())
    assert (run.data.tags["rps.dataset_md5"], run.data.tags["rps.dataset_rev"]) == (dataset["md5"], dataset["rev"])

    source = client.get_model_version_download_uri("weather", registered["version"])
    fetched = Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(tmp_path / "fetched")))
    bundle = read_bundle(fetched)
    bundle.check_example()
    assert bundle.manifest.dataset_md5 == dataset["md5"]
    assert open_store().keys("raw/weather/")
    assert any(key.endswith(f"{dataset['md5'][2:]}") for key in open_store().keys("dvc/"))
    assert len(clone.commits()) > 0

    evidence = judged_on(clone)
    assert (evidence.model_version, evidence.data.dataset_md5) == (registered["version"], dataset["md5"])

    # The next run meets it as production: the registry's alias, fetched from the same server.
    client.set_registered_model_alias("weather", "production", registered["version"])
    clone.environment["RPS_RUN_ID"] += "__next"
    clone.run_all()
    evaluation = json.loads((clone.data / "evaluation.json").read_text())
    assert evaluation["production_version"] == registered["version"]
    assert evaluation["fair"], evaluation["reasons"]
    assert evaluation["production"]["measured"] == evaluation["candidate"]["measured"]
    evidence = judged_on(clone)
    assert evidence.model_version != registered["version"]
    assert evidence.panel.production is not None


def judged_on(clone: PipelineHere) -> Evidence:
    """What the run left in MLflow: the gate's evidence, if it is asked for by its right names."""
    head = ["git", "-C", str(clone.workspace), "rev-parse", "HEAD"]
    sha = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
    settings, run_id = mlflow_settings(clone.environment), clone.environment["RPS_RUN_ID"]
    evidence = fetch_evidence(settings, "weather", run_id, sha)
    assert evidence.evaluation.production_version == connect(settings, 60.0).production("weather")
    observations = pd.read_parquet(clone.data / "observations.parquet")
    assert (evidence.data.first, evidence.data.last) == (observations["ds"].min(), observations["ds"].max())
    assert (evidence.data.rows, evidence.data.errors) == (len(observations), 0)
    assert rejected_data(settings, "weather", run_id) == ()
    with pytest.raises(NoVerdict, match=r"rps\.git_sha"):
        fetch_evidence(settings, "weather", run_id, "f" * 40)
    with pytest.raises(NoVerdict, match="found none"):
        fetch_evidence(settings, "weather", f"{run_id}__other", sha)
    return evidence


def test_a_wrong_token_is_a_configuration_error_and_is_not_shown(clone: PipelineHere) -> None:
    code, output = clone.run("ingest", AWS_SECRET_ACCESS_KEY="wrong")
    assert (code, "AWS_SECRET_ACCESS_KEY" in output, "Traceback" in output) == (64, True, False), output
    clone.run_all(("ingest", "merge", "validate", "transform"))
    code, output = clone.run("profile", MLFLOW_TRACKING_PASSWORD="wrong")
    assert (code, "MLFLOW_TRACKING_PASSWORD" in output, "Traceback" in output) == (64, True, False), output
    assert dagshub.TOKEN not in output


def test_the_stand_in_asks_for_the_token(dagshub_address: dagshub.Address) -> None:
    uri = dagshub_address.environment["MLFLOW_TRACKING_URI"]
    assert httpx.get(f"{uri}/version").status_code == 401
    assert httpx.get(f"{uri}/version", auth=(dagshub.USER, dagshub.TOKEN)).text == "2.7.1"


def test_a_release_finds_fetches_and_promotes_a_version(services: str, bundle: Path, tmp_path: Path) -> None:
    challenge = f"weather_{tmp_path.parent.name.replace('-', '_')}_{services}"
    client = MlflowClient()
    sha = "c" * 40
    models = open_models(mlflow_settings(os.environ), challenge, patience_seconds=30.0)
    assert models.production() is None
    assert models.versions() == ()
    first = register(client, challenge, bundle, 0.8, sha=sha)
    second = register(client, challenge, bundle, 0.9, against=first, sha=sha)
    blocked = register(client, challenge, bundle, 1.5, against=first, sha=sha, gate="blocked")
    found = models.versions()
    assert [(each.version, each.gate, each.opponent) for each in found] == [
        (blocked, "blocked", None), (second, "passed", first), (first, "passed", None),
    ]  # fmt: skip
    assert found[1].metrics["production.rmse"] == 1.0

    manifest = models.fetch(found[1], tmp_path / "bundle")
    assert manifest.mlflow_run == found[1].mlflow_run
    assert read_bundle(tmp_path / "bundle").manifest == manifest

    models.promote(second)
    assert models.production() == second
    models.withdraw(range(second, second + 1), "rolled back")
    models.promote(first)
    assert models.production() == first
    assert {each.version: each.withdrawn for each in models.versions()} == {
        first: "", second: "rolled back", blocked: "",
    }  # fmt: skip
    models.promote(second)
    assert {each.withdrawn for each in models.versions()} == {""}, "what was asked for is chosen again from then on"
