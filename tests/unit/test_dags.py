"""The DAGs: the order of the stages, their parameters, and what an exit code makes Airflow do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import psutil
import pytest

from forecasting.challenge.schema import Schedule
from records.stages import STEPS, dag_id
from tests.conftest import wait_while

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"pandas", "numpy", "mlflow", "dvc", "sklearn", "ydata_profiling", "pandera"}
WEATHER = (ROOT / "challenges" / "weather.toml").read_text(encoding="utf-8")


def in_airflow(home: Path, root: Path, script: str) -> Any:
    """What a script prints as JSON, in an interpreter of its own that finds the modules of ``root`` as Airflow does."""
    environment = {**os.environ, "AIRFLOW_HOME": str(home), "PYTHONPATH": str(root / "dags")}
    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the DAG file of the challenge weather defines."""
    script = """
import json, runpy, sys
import airflow.sdk
by_airflow = set(sys.modules)
dag = runpy.run_path("dags/retrain_weather.py")["dag"]
print(json.dumps({
    "tasks": {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks},
    "retries": {task.task_id: task.retries for task in dag.tasks},
    "timeouts": {task.task_id: task.execution_timeout.total_seconds() for task in dag.tasks},
    "ended": sorted(task.task_id for task in dag.tasks if task.on_failure_callback),
    "params": sorted(dag.params),
    "schedule": dag.schedule,
    "catchup": dag.catchup,
    "imported": sorted(set(sys.modules) - by_airflow),
}))
"""
    return in_airflow(tmp_path_factory.mktemp("airflow"), ROOT, script)


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Airflow's DAG processor reads from a folder in which some challenges are wrong."""
    home, root = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("root")
    shutil.copytree(ROOT / "forecasting", root / "forecasting")
    for folder in ("dags", "challenges"):
        (root / folder).mkdir()
    shutil.copy(ROOT / "dags" / "retrain.py", root / "dags")
    for name, (right, wrong) in CHALLENGES.items():
        assert right in WEATHER
        text = WEATHER.replace('name = "weather"', f'name = "{name}"', 1).replace(right, wrong, 1)
        (root / "challenges" / f"{name}.toml").write_text(text, encoding="utf-8")
        shutil.copy(ROOT / "dags" / "retrain_weather.py", root / "dags" / f"retrain_{name}.py")
    (root / "challenges" / "gone.toml").unlink()
    script = """
import json
from pathlib import Path
from airflow.dag_processing.dagbag import BundleDagBag
folder = Path("dags").resolve()
bag = BundleDagBag(dag_folder=str(folder), bundle_path=folder, bundle_name="rps")
print(json.dumps({
    "retries": {dag.dag_id: sorted({task.retries for task in dag.tasks}) for dag in bag.dags.values()},
    "files": {dag.dag_id: dag.relative_fileloc for dag in bag.dags.values()},
    "errors": bag.import_errors,
}))
"""
    return in_airflow(home, root, script)


CHALLENGES = {
    "weather": ("", ""),
    "without_retries": ("retries = 3\n", ""),
    "typing_error": ("retries = 3\n", "retires = 3\n"),
    "wrong_type": ("retries = 3\n", 'retries = "three"\n'),
    "wrong_hour": ('cron = "17 */6 * * *"', 'cron = "17 25 * * *"'),
    "no_toml": ("[schedule]", "[schedule"),
    "gone": ("", ""),
}
"""What is changed in the challenge weather, by the new challenge's name."""


def test_a_challenge_that_leaves_out_what_has_a_default_has_a_dag_with_it(bag: dict[str, Any]) -> None:
    assert bag["retries"]["retrain_without_retries"] == [Schedule(cron="").retries]


def test_a_wrong_challenge_stops_its_own_dag_and_no_other(bag: dict[str, Any]) -> None:
    right = ("weather", "without_retries")
    assert bag["files"] == {dag_id(name): f"retrain_{name}.py" for name in right}
    assert set(bag["errors"]) == {f"retrain_{name}.py" for name in set(CHALLENGES) - set(right)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "typing_error",
            r"schedule: .* unknown field `retires`; expected the keys cron, retries, .*; found the keys cron, retires",
        ),
        ("wrong_type", r"schedule\.retries: expected `int`, got `str`; found 'three'"),
        ("wrong_hour", r"schedule\.cron: expected a cron expression; found '17 25 \* \* \*'"),
        ("no_toml", r"not valid TOML: .*line"),
        ("gone", r"no such challenge; expected a TOML file there; found: no_toml, typing_error"),
    ],
)
def test_an_import_error_names_file_key_expected_and_found(bag: dict[str, Any], name: str, message: str) -> None:
    last = bag["errors"][f"retrain_{name}.py"].splitlines()[-1]
    assert re.search(rf"/challenges/{name}\.toml: {message}", last)


def test_every_challenge_has_its_dag_file_and_every_dag_file_its_challenge() -> None:
    challenges = {path.stem for path in (ROOT / "challenges").glob("*.toml")}
    assert {path.stem for path in (ROOT / "dags").glob("retrain_*.py")} == {f"retrain_{name}" for name in challenges}


def test_the_stages_follow_each_other_and_the_profile_stands_aside(loaded: dict[str, Any]) -> None:
    assert loaded["tasks"] == {
        "workspace": [],
        "ingest": ["workspace"],
        "merge": ["ingest"],
        "validate": ["merge"],
        "transform": ["validate"],
        "profile": ["transform"],
        "version": ["transform"],
        "train": ["version"],
        "evaluate": ["train"],
        "register": ["evaluate", "profile"],
    }


def test_the_dag_runs_every_stage_after_those_whose_files_it_reads(loaded: dict[str, Any]) -> None:
    earlier: dict[str, set[str]] = {}
    assert set(loaded["tasks"]) == {"workspace", *STEPS}
    for name in ("workspace", *STEPS):
        before = loaded["tasks"][name]
        earlier[name] = {*before, *(each for task in before for each in earlier[task])}
    for name, stage in STEPS.items():
        written = {path for task in earlier[name] - {"workspace"} for path in STEPS[task].writes}
        assert written.issuperset(stage.reads), name


def test_schedule_retries_and_time_limits_are_the_challenges(loaded: dict[str, Any]) -> None:
    schedule = tomllib.loads((ROOT / "challenges" / "weather.toml").read_text(encoding="utf-8"))["schedule"]
    assert loaded["schedule"] == schedule["cron"]
    assert loaded["catchup"] is False
    assert set(loaded["retries"].values()) == {schedule["retries"]}
    assert set(loaded["timeouts"].values()) == {schedule["stage_timeout_minutes"] * 60.0}


def test_every_step_that_fails_for_good_ends_the_run_in_mlflow(loaded: dict[str, Any]) -> None:
    assert loaded["ended"] == sorted(STEPS)


def test_a_run_takes_the_parameters_of_the_design(loaded: dict[str, Any]) -> None:
    assert loaded["params"] == ["as_of", "git_sha", "pull_request", "reason", "run_id"]


def test_reading_the_dags_imports_the_challenge_file_of_ours_and_nothing_heavy(loaded: dict[str, Any]) -> None:
    assert not HEAVY & {name.partition(".")[0] for name in loaded["imported"]}
    ours = {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert {name for name in loaded["imported"] if name.partition(".")[0] in ours} == {
        "forecasting",
        "forecasting.challenge",
        "forecasting.challenge.detectors",
        "forecasting.challenge.scales",
        "forecasting.challenge.schema",
        "forecasting.challenge.values",
        "forecasting.judging",
        "forecasting.judging.baselines",
        "forecasting.judging.losses",
    }


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


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_killed_task_ends_its_command_and_that_commands_children(operator, tmp_path: Path) -> None:
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
    assert wait_while(lambda: not children.exists() or len(children.read_text().split()) < 2, seconds=60)
    pids = [int(text) for text in children.read_text().split()]
    operator.on_kill()
    thread.join(timeout=30)
    assert raised
    assert wait_while(lambda: any(alive(pid) for pid in pids), seconds=60)
