"""What surrounds a stage: a process that holds none of our keys, and what becomes of its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from clients.errors import PassingFault
from pipelines.carrier.process import run_stage, stage_environment
from pipelines.carrier.tracked_run import open_tracking
from tests.integration.conftest import Pipeline
from tests.runs import ROOT, carried, make_run

SECRETS = {
    "AIRFLOW__CORE__FERNET_KEY": "fernet-1",
    "AIRFLOW__API_AUTH__JWT_SECRET": "jwt-1",
    "AIRFLOW_PASSWORD": "airflow-1",
    "AWS_ACCESS_KEY_ID": "access-1",
    "AWS_SECRET_ACCESS_KEY": "secret-1",
    "GITHUB_TOKEN": "token-1",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-1",
    "OPENWEATHERMAP_API_KEY": "another source's",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    "RPS_REPOSITORY": "https://bot:password-1@host/x.git",
    "RPS_STORE": "s3://rps",
}
SOURCE = {"OPEN_METEO_URL": "http://127.0.0.1:9", "HTTPS_PROXY": "http://proxy:1"}
SPY = """
import json, os, pathlib, sys
name = "carrier" if "pipelines.carrier" in sys.orig_argv else "stage"
pathlib.Path(f"{name}.json").write_text(json.dumps(dict(os.environ)))
"""


@pytest.mark.parametrize("stage", ["ingest", "merge", "train"])
def test_a_stage_knows_no_key_but_ingest_that_of_its_source(tmp_path: Path, stage: str) -> None:
    run = make_run(tmp_path, "run-1")
    known = stage_environment(stage, run, {**SECRETS, **SOURCE, "PATH": "/bin", "LC_ALL": "C.UTF-8", "SURPRISE": "1"})
    expected = {"PATH": "/bin", "LC_ALL": "C.UTF-8", "RPS_RUN_ID": "run-1"}
    assert known == expected | (SOURCE if stage == "ingest" else {})


def test_the_process_of_a_stage_is_started_without_the_keys_that_the_carrier_has(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    spy = tmp_path / "spy"
    spy.mkdir()
    (spy / "sitecustomize.py").write_text(SPY)
    code, output = pipeline.run("ingest", PYTHONPATH=f"{spy}{os.pathsep}{ROOT}")
    assert code == 0, output
    carrier, stage = (json.loads((pipeline.workspace / f"{name}.json").read_text()) for name in ("carrier", "stage"))
    assert carrier["AWS_SECRET_ACCESS_KEY"] == pipeline.environment["AWS_SECRET_ACCESS_KEY"]
    assert not {name for name in stage if name.startswith(("AWS_", "MLFLOW_", "AIRFLOW", "GITHUB_", "RPS_STORE"))}
    assert stage["OPEN_METEO_URL"] == pipeline.environment["OPEN_METEO_URL"]


def test_a_stage_that_is_killed_is_a_passing_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "workspace")
    (tmp_path / "sitecustomize.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.chdir(tmp_path / "workspace")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(PassingFault, match=f"killed by signal {int(signal.SIGKILL)}: .* memory"):
        run_stage("merge", run)


def test_a_run_that_fails_is_ended_in_mlflow(
    tmp_path: Path, tracking_env: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, client = make_run(tmp_path, f"fail-{tmp_path.name}"), MlflowClient(tracking_env)
    carried("fail", run)  # nothing has begun in MLflow
    tracking = open_tracking(run)
    carried("fail", run)
    assert client.get_run(tracking.run_id).info.status == "FAILED"
    assert tracking.run_url in capsys.readouterr().out
    tracking.finish()
    carried("fail", run)
    assert client.get_run(tracking.run_id).info.status == "FINISHED"


@pytest.fixture
def attacked(pipeline: Pipeline, tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Runs code as a stage would run it; what it has found, by name."""

    def attack(code: str) -> dict[str, str]:
        spy = tmp_path / "attack"
        spy.mkdir()
        (spy / "sitecustomize.py").write_text(textwrap.dedent(ATTACK).format(code=textwrap.indent(code, "        ")))
        (tmp_path / "rps-home").mkdir()
        (tmp_path / "rps-home" / "stack.env").write_text("AIRFLOW_PASSWORD=hunter2")
        settings = {"PYTHONPATH": f"{spy}{os.pathsep}{ROOT}", "RPS_HOME": str(tmp_path / "rps-home")}
        make_run(pipeline.workspace, pipeline.environment["RPS_RUN_ID"])
        pipeline.run("transform", HOME=str(tmp_path), **settings)
        return json.loads((pipeline.workspace / "found.json").read_text())

    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    return attack


ATTACK = """
import json, os, pathlib, subprocess, socket, sys, urllib.request
def tried(name, act):
    try:
        found[name] = str(act())
    except Exception as error:
        found[name] = f"{{type(error).__name__}}"
found = {{}}
if "pipelines.carrier" not in sys.orig_argv:
    if True:
{code}
    pathlib.Path("found.json").write_text(json.dumps(found))
"""


def test_a_stage_in_the_sandbox_writes_its_workspace_alone_and_reads_no_secret(
    attacked: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    found = attacked(
        f"""
tried("environment of the carrier", lambda: pathlib.Path(f"/proc/{{os.getppid()}}/environ").read_bytes().count(b"AWS_"))
tried("secrets of the stack", lambda: pathlib.Path({str(tmp_path)!r}, "rps-home", "stack.env").read_text())
tried("code", lambda: pathlib.Path({str(ROOT)!r}, "pipelines", "evil.py").write_text("1"))
tried("environment", lambda: pathlib.Path(sys.prefix, "evil.pth").write_text("1"))
tried("system", lambda: pathlib.Path("/usr/evil").write_text("1"))
tried("home", lambda: pathlib.Path({str(tmp_path)!r}, "evil").write_text("1"))
"""
    )
    assert found.pop("home") == "1"  # into a place of its own
    assert found.pop("environment of the carrier") in {"0", "FileNotFoundError", "PermissionError"}
    assert found == {
        "secrets of the stack": "FileNotFoundError",
        "code": "OSError",
        "environment": "OSError",
        "system": "OSError",
    }
    assert not (tmp_path / "evil").exists()


def test_a_stage_in_the_sandbox_reaches_no_network_and_leaves_no_process(
    attacked: Callable[[str], dict[str, str]], pipeline: Pipeline
) -> None:
    mark = f"sleep {100_000 + os.getpid()}"
    found = attacked(
        f"""
tried("store", lambda: urllib.request.urlopen({pipeline.environment["AWS_ENDPOINT_URL"]!r}, timeout=5).status)
tried("background", lambda: subprocess.Popen({mark.split()!r}, start_new_session=True).pid > 0)
tried("processes", lambda: max(int(each) for each in os.listdir("/proc") if each.isdigit()) < 50)
"""
    )
    assert found == {"store": "URLError", "background": "True", "processes": "True"}
    running = subprocess.run(["pgrep", "-f", mark], capture_output=True, text=True, check=False)
    assert running.stdout == ""


@pytest.mark.parametrize(
    "code",
    [
        "os.symlink('/etc/passwd', 'data/weather/features.parquet')",
        "os.makedirs('data/weather/raw'); os.symlink('/etc', 'data/weather/raw/etc')",
        "os.mkfifo('data/weather/quality.json')",
        "os.rename('data', 'elsewhere'); os.symlink('elsewhere', 'data')",
    ],
)
def test_a_stage_that_leaves_a_link_has_nothing_delivered(pipeline: Pipeline, tmp_path: Path, code: str) -> None:
    spy = tmp_path / "attack"
    spy.mkdir()
    once = "import os, sys\nif 'pipelines.carrier' not in sys.orig_argv and not os.path.exists('done'):\n"
    (spy / "sitecustomize.py").write_text(f"{once}    open('done', 'w').close(); {code}; os._exit(0)\n")
    make_run(pipeline.workspace, pipeline.environment["RPS_RUN_ID"])
    ended, output = pipeline.run("transform", PYTHONPATH=f"{spy}{os.pathsep}{ROOT}")
    assert ended == 64, output
    assert "found a link" in output


@pytest.mark.parametrize(("asked", "shown"), [("required", "RPS_SANDBOX=required, but"), ("maybe", "found 'maybe'")])
def test_a_machine_without_a_sandbox_refuses_when_one_is_required(
    pipeline: Pipeline, tmp_path: Path, asked: str, shown: str
) -> None:
    (tmp_path / "no-programs").mkdir()
    make_run(pipeline.workspace, pipeline.environment["RPS_RUN_ID"])
    code, output = pipeline.run("transform", PATH=str(tmp_path / "no-programs"), RPS_SANDBOX=asked)
    assert code == 64
    assert shown in output
