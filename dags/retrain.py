"""The DAG of a challenge: the stages in order, their retries, and the schedule. The stages do the work.

Each challenge has its own DAG file, `retrain_<name>.py`: Airflow stops every DAG of a file that it cannot import, and a
mistake in one challenge must not stop the others.

A run belongs to a commit. Its first task makes a workspace of that commit; every later task runs a stage command there,
in the environment that the commit's own requirements define. This module imports none of that code.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, BaseOperator, Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTimetableInvalid

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # Airflow puts only the folder of the DAGs there

from forecasting.challenge.schema import ChallengeError, load_challenge  # noqa: E402 - found by the line above

if TYPE_CHECKING:
    from airflow.sdk import Context

PASSING_FAULT = 75
ENDED = {64: "wrong use or configuration", 65: "the data failed the quality gate"}
PATIENCE_SECONDS = 10
MAX_RETRY_DELAY = timedelta(minutes=10)

ORDER = {
    "ingest": ("workspace",),
    "merge": ("ingest",),
    "validate": ("merge",),
    "transform": ("validate",),
    # The model does not need the profile, which runs beside versioning and training.
    "profile": ("transform",),
    "version": ("transform",),
    "train": ("version",),
    "evaluate": ("train",),
    "register": ("evaluate", "profile"),
}
"""Every stage, and the tasks that it waits for."""

PARAMS = {
    "git_sha": ("HEAD", "The commit whose code is run: 7 to 40 hexadecimal digits of a branch's commit, or HEAD."),
    "run_id": ("", "The name of this run everywhere; empty: the DAG run's own id."),
    "as_of": ("", "No observation after this moment is used (ISO 8601, UTC); empty: now."),
    "reason": ("schedule", "Why this run was started."),
    "pull_request": ("", "The number of the pull request that this run judges, if any."),
}


class CommandOperator(BaseOperator):
    """Runs a command, its output in the task's log; its exit code decides between success, failure and retry."""

    _process: subprocess.Popen[str] | None = None

    def run_command(self, command: list[str], directory: Path, environment: dict[str, str]) -> str:
        """Run to the end; the last line of output. Raises the exception that makes Airflow retry, or not."""
        last = ""
        self._process = subprocess.Popen(
            command, cwd=directory, env={**os.environ, **environment}, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        try:
            for line in self._process.stdout or ():
                last = line.rstrip()
                self.log.info("%s", last)
            code = self._process.wait()
        finally:
            self.on_kill()
        if code == 0:
            return last
        if code in ENDED:
            raise AirflowFailException(f"exit code {code}, {ENDED[code]}: {last}")
        if code == PASSING_FAULT or code < 0:
            raise AirflowException(f"exit code {code}, a passing fault: {last}")
        raise AirflowFailException(f"exit code {code}, a bug; its trace is above: {last}")

    def on_kill(self) -> None:
        """End the command and all that it started: on a time-out, a cancelled run, or when it is done."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class WorkspaceOperator(CommandOperator):
    """Makes the run's workspace; returns its directory, interpreter and commit to the later tasks."""

    def execute(self, context: Context) -> dict[str, str]:
        options = ["--sha", context["params"]["git_sha"] or "HEAD", "--run-id", _run_id(context)]
        printed = self.run_command([sys.executable, "-m", "pipelines.workspace", *options], ROOT, {})
        return dict[str, str](json.loads(printed))


class StageOperator(CommandOperator):
    """Runs one stage of the pipeline in the run's workspace."""

    def __init__(self, *, stage: str, challenge: str, **arguments: Any) -> None:  # noqa: ANN401 - Airflow's own
        super().__init__(task_id=stage, on_failure_callback=self.failed, **arguments)
        self.stage = stage
        self.challenge = challenge

    def execute(self, context: Context) -> None:
        self.carry(self.stage, context, context["ti"].xcom_pull(task_ids="workspace"))

    def carry(self, step: str, context: Context, workspace: dict[str, str]) -> None:
        environment = {
            **{f"RPS_{name.upper()}": context["params"][name] for name in ("as_of", "reason", "pull_request")},
            "RPS_RUN_ID": _run_id(context),
            "RPS_GIT_SHA": workspace["sha"],
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": "",
            "PYTHONDONTWRITEBYTECODE": "",  # the first run fills the environment's byte code
        }
        command = [workspace["python"], "-m", "pipelines.carrier", step, "--challenge", self.challenge]
        self.run_command(command, Path(workspace["directory"]), environment)

    def failed(self, context: Context) -> None:
        """No later task will end the run in MLflow. Airflow logs what this raises, and the task stays failed."""
        workspace = context["ti"].xcom_pull(task_ids="workspace")
        if workspace:
            self.carry("fail", context, workspace)


def _run_id(context: Context) -> str:
    return str(context["params"]["run_id"] or context["run_id"])


def retrain(dag_file: str) -> DAG:
    """The DAG of the challenge that ``dag_file``, `dags/retrain_<name>.py`, is named after.

    Raises ChallengeError, which Airflow shows as that file's import error.
    """
    path = ROOT / "challenges" / f"{Path(dag_file).stem.removeprefix('retrain_')}.toml"
    challenge = load_challenge(path)
    schedule = challenge.schedule
    retries = {
        "retries": schedule.retries,
        "retry_delay": timedelta(seconds=schedule.retry_delay_seconds),
        "retry_exponential_backoff": True,
        "max_retry_delay": MAX_RETRY_DELAY,
        "execution_timeout": timedelta(minutes=schedule.stage_timeout_minutes),
    }
    with DAG(
        f"retrain_{challenge.name}",
        description=challenge.title,
        schedule=schedule.cron,
        catchup=False,
        max_active_runs=4,
        default_args=retries,
        params={key: Param(value, type="string", description=what) for key, (value, what) in PARAMS.items()},
        tags=["rps", challenge.name],
        doc_md=__doc__,
    ) as dag:
        tasks: dict[str, BaseOperator] = {"workspace": WorkspaceOperator(task_id="workspace")}
        for stage, earlier in ORDER.items():
            tasks[stage] = StageOperator(stage=stage, challenge=challenge.name)
            tasks[stage].set_upstream([tasks[each] for each in earlier])
    try:
        dag.timetable.validate()
    except AirflowTimetableInvalid as error:
        key = f"{path}: schedule.cron: expected a cron expression"
        raise ChallengeError(f"{key}; found {schedule.cron!r} ({error})") from error
    return dag
