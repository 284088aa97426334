"""The DAGs: the order of the stages, their parameters, and what an exit code makes Airflow do."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("pandas", "numpy", "mlflow", "dvc", "sklearn", "ydata_profiling", "pandera", "pipelines", "forecasting")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the DAG file defines, read in an interpreter of its own as Airflow does."""
    script = """
import json, sys, runpy
before = set(sys.modules)
import airflow.sdk
by_airflow = set(sys.modules)
dag = runpy.run_path("dags/retrain.py")["retrain_weather"]
print(json.dumps({
    "tasks": {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks},
    "retries": {task.task_id: task.retries for task in dag.tasks},
    "timeouts": {task.task_id: task.execution_timeout.total_seconds() for task in dag.tasks},
    "params": sorted(dag.params),
    "schedule": dag.schedule,
    "catchup": dag.catchup,
    "imported": sorted({name.partition(".")[0] for name in set(sys.modules) - by_airflow}),
}))
"""
    home = tmp_path_factory.mktemp("airflow")
    environment = {**os.environ, "AIRFLOW_HOME": str(home), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    import json

    return json.loads(done.stdout.splitlines()[-1])


def test_the_stages_follow_each_other_and_the_profile_stands_aside(loaded: dict[str, object]) -> None:
    assert loaded["tasks"] == {
        "workspace": [],
        "ingest": ["workspace"],
        "validate": ["ingest"],
        "transform": ["validate"],
        "profile": ["transform"],
        "version": ["transform"],
        "train": ["version"],
        "evaluate": ["train"],
        "register": ["evaluate", "profile"],
    }


def test_schedule_retries_and_time_limits_are_the_challenges(loaded: dict[str, object]) -> None:
    schedule = tomllib.loads((ROOT / "challenges" / "weather.toml").read_text(encoding="utf-8"))["schedule"]
    assert loaded["schedule"] == schedule["cron"]
    assert loaded["catchup"] is False
    assert set(loaded["retries"].values()) == {schedule["retries"]}
    assert set(loaded["timeouts"].values()) == {schedule["stage_timeout_minutes"] * 60.0}


def test_a_run_takes_the_parameters_of_the_design(loaded: dict[str, object]) -> None:
    assert loaded["params"] == ["as_of", "git_sha", "pull_request", "reason", "run_id"]


def test_reading_the_dags_imports_nothing_heavy_and_nothing_of_ours(loaded: dict[str, object]) -> None:
    assert not set(HEAVY) & set(loaded["imported"])


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory):
    os.environ.setdefault("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
    import runpy

    return runpy.run_path(str(ROOT / "dags" / "retrain.py"))["CommandOperator"](task_id="command")


@pytest.mark.parametrize(
    ("code", "retried"), [(64, False), (65, False), (75, True), (1, False), (70, False), (-9, True)]
)
def test_an_exit_code_decides_between_retry_and_failure(operator, tmp_path: Path, code: int, retried: bool) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    leave = f"os.kill(os.getpid(), {-code})" if code < 0 else f"sys.exit({code})"
    command = [sys.executable, "-c", f"import os, sys; print('the last words', flush=True); {leave}"]
    with pytest.raises(AirflowException, match="the last words") as caught:
        operator.run_command(command, tmp_path, {})
    assert isinstance(caught.value, AirflowFailException) is not retried


def test_a_command_that_ends_well_returns_its_last_line(operator, tmp_path: Path) -> None:
    assert operator.run_command([sys.executable, "-c", "print('one'); print('two')"], tmp_path, {}) == "two"


def test_a_killed_task_ends_its_command_and_that_commands_children(operator, tmp_path: Path) -> None:
    import threading
    import time

    import psutil

    children = tmp_path / "children"
    script = (
        "import os, subprocess, sys, time; child = subprocess.Popen(['sleep', '600']);"
        f"open({str(children)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}'); time.sleep(600)"
    )
    raised: list[BaseException] = []

    def work() -> None:
        try:
            operator.run_command([sys.executable, "-c", script], tmp_path, {})
        except Exception as error:  # noqa: BLE001 - handed to the test's own thread
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(200):
        if children.exists() and len(children.read_text().split()) == 2:
            break
        time.sleep(0.05)
    pids = [int(text) for text in children.read_text().split()]
    operator.on_kill()
    thread.join(timeout=30)
    assert raised
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)
