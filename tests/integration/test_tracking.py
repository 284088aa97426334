from __future__ import annotations

import math
import socket
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from mlflow.tracking import MlflowClient

from clients.errors import ConfigurationError, PassingFault
from doubles.connection import answering
from pipelines.carrier.tracked_run import RunAddress, open_tracking
from pipelines.run import Run
from tests.runs import ROOT, make_run


def new_run(root: Path) -> Run:
    return make_run(root, f"scheduled__2013-12-30T12:00:00+00:00__{uuid4().hex}")


def test_every_stage_of_a_run_gets_the_same_mlflow_run(tracking_env: str, tmp_path: Path) -> None:
    run = new_run(tmp_path)
    first, second = open_tracking(run), open_tracking(run)
    assert first.run_id == second.run_id
    stored = msgspec.json.decode(run.files.tracking.read_bytes(), type=RunAddress)
    assert (stored.mlflow_run_id, stored.url) == (first.run_id, first.run_url)
    tags = MlflowClient(tracking_env).get_run(first.run_id).data.tags
    assert {name: value for name, value in tags.items() if name.startswith("rps.")} == {
        "rps.run_id": run.identity.run_id,
        "rps.git_sha": run.identity.git_sha,
        "rps.pull_request": "7",
        "rps.reason": "test",
    }


@pytest.mark.usefixtures("tracking_env")
def test_the_run_is_found_by_its_tag_when_the_workspace_forgot_it(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    first = open_tracking(run)
    run.files.tracking.unlink()
    assert open_tracking(run).run_id == first.run_id
    run.files.tracking.write_text("{ damaged")
    assert open_tracking(run).run_id == first.run_id


@pytest.mark.usefixtures("tracking_env")
def test_another_run_in_the_same_workspace_gets_its_own(tmp_path: Path) -> None:
    first, second = open_tracking(new_run(tmp_path)), open_tracking(new_run(tmp_path))
    assert first.run_id != second.run_id


@pytest.mark.usefixtures("tracking_env")
def test_a_run_that_was_deleted_is_made_anew(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    first = open_tracking(run)
    first.client.delete_run(first.run_id)
    assert open_tracking(run).run_id != first.run_id


def test_stages_that_start_at_the_same_time_make_one_run(tracking_env: str, tmp_path: Path) -> None:
    run = new_run(tmp_path)
    program = (
        "from pipelines.run import open_run; from pipelines.carrier.tracked_run import open_tracking\n"
        "print(open_tracking(open_run('weather', starts=False)).run_id)"
    )
    stages = [
        subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    assert len({stage.communicate(timeout=120)[0].splitlines()[-1] for stage in stages}) == 1
    client = MlflowClient(tracking_env)
    (experiment,) = [found for found in client.search_experiments() if found.name == "weather"]
    filtered = f"tags.`rps.run_id` = '{run.identity.run_id}'"
    assert len(client.search_runs([experiment.experiment_id], filtered)) == 1


def test_what_is_logged_arrives(tracking_env: str, tmp_path: Path) -> None:
    tracking = open_tracking(new_run(tmp_path))
    tracking.log_metrics({"rmse_h4": 1.5, **{f"m{number}": number for number in range(150)}})
    tracking.log_params({"max_iter": 200, **{f"p{number}": number for number in range(150)}})
    tracking.set_tags({"rps.dataset_md5": "x.dir"})
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "page.html").write_text("<p>")
    tracking.log_artifacts(tmp_path / "some", "profile")
    tracking.log_artifacts(tmp_path / "some" / "page.html", "alone")
    tracking.finish()
    client = MlflowClient(tracking_env)
    found = client.get_run(tracking.run_id)
    assert math.isclose(found.data.metrics["rmse_h4"], 1.5)
    assert len(found.data.metrics) == len(found.data.params) == 151
    assert found.data.params["max_iter"] == "200"
    assert found.data.tags["rps.dataset_md5"] == "x.dir"
    assert found.info.status == "FINISHED"
    assert [each.path for each in client.list_artifacts(tracking.run_id, "profile")] == ["profile/page.html"]
    assert [each.path for each in client.list_artifacts(tracking.run_id, "alone")] == ["alone/page.html"]


def test_a_missing_address_is_reported_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigurationError, match="MLFLOW_TRACKING_URI"):
        open_tracking(new_run(tmp_path))


@pytest.mark.parametrize("credentials", ["someone:hunter2", "hunter2"])
def test_a_password_in_the_address_is_refused_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, credentials: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{credentials}@127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="MLFLOW_TRACKING_PASSWORD") as shown:
        open_tracking(new_run(tmp_path))
    assert "hunter2" not in str(shown.value)


@pytest.mark.parametrize("address", ["foo", "http://", "http://[", "ftp://127.0.0.1"])
def test_an_address_that_is_none_is_reported_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(ConfigurationError, match="MLFLOW_TRACKING_URI"):
        open_tracking(new_run(tmp_path))


def test_a_database_without_its_driver_is_reported_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://127.0.0.1:9/mlflow")
    with pytest.raises(ConfigurationError, match="Check MLFLOW_TRACKING_URI"):
        open_tracking(new_run(tmp_path))


def test_a_server_that_is_down_is_a_passing_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, and nobody listens
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{held.getsockname()[1]}")
        with pytest.raises(PassingFault, match="Is it up"):
            open_tracking(new_run(tmp_path))


@pytest.mark.parametrize(
    ("status", "fault", "shown"),
    [
        (401, ConfigurationError, "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (403, ConfigurationError, "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (404, ConfigurationError, "MLFLOW_TRACKING_URI"),
        (503, PassingFault, "Is it up"),
    ],
)
def test_a_refusal_is_reported_as_what_it_is(
    status: int, fault: type[Exception], shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(status) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        with pytest.raises(fault, match=shown):
            open_tracking(new_run(tmp_path))
