"""One DAG per challenge file: the stages in order, their retries, and the schedule. The stages do the work.

A run is of a commit. Its first task makes a workspace of that commit; every later task runs a stage command there, with
the environment that the commit's own requirements name. Nothing of that code is imported here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, BaseOperator, Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException

if TYPE_CHECKING:
    from airflow.sdk import Context

ROOT = Path(__file__).resolve().parent.parent
PASSING_FAULT = 75
ENDED = {64: "wrong use or configuration", 65: "the data failed the quality gate"}
PATIENCE_SECONDS = 10
MAX_RETRY_DELAY = timedelta(minutes=10)

PARAMS = {
    "git_sha": ("HEAD", "The commit whose code is run: 7 to 40 hexadecimal digits of a branch's commit, or HEAD."),
    "run_id": ("", "The name of this run everywhere; empty: the DAG run's own id."),
    "as_of": ("", "No observation after this moment is used (ISO 8601, UTC); empty: now."),
    "reason": ("schedule", "Why this run was started."),
    "pull_request": ("", "The number of the pull request that this run judges, if any."),
}


class CommandOperator(BaseOperator):
    """Runs a command, its output in the task's log; its exit code decides between success, failure and retry."""

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401 - what BaseOperator takes is Airflow's to say
        super().__init__(**arguments)
        self._process: subprocess.Popen[str] | None = None

    def run_command(self, command: list[str], directory: Path, environment: dict[str, str]) -> str:
        """Run to the end; the last line of output. Raises the exception that makes Airflow retry, or not."""
        last = ""
        self._process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
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
    """Makes the run's workspace; tells the later tasks where it is and which interpreter is its own."""

    def execute(self, context: Context) -> dict[str, str]:
        command = [sys.executable, "-P", str(ROOT / "pipelines" / "workspace.py")]
        command += ["--sha", context["params"]["git_sha"] or "HEAD", "--run-id", _run_id(context)]
        made: dict[str, str] = json.loads(self.run_command(command, ROOT, {}))
        return made


class StageOperator(CommandOperator):
    """Runs one stage of the pipeline in the run's workspace."""

    def __init__(self, *, stage: str, challenge: str, **arguments: Any) -> None:  # noqa: ANN401 - as above
        super().__init__(task_id=stage, **arguments)
        self.stage = stage
        self.challenge = challenge

    def execute(self, context: Context) -> None:
        workspace = context["ti"].xcom_pull(task_ids="workspace")
        environment = {
            "RPS_RUN_ID": _run_id(context),
            "RPS_GIT_SHA": workspace["sha"],
            "RPS_AS_OF": context["params"]["as_of"],
            "RPS_REASON": context["params"]["reason"],
            "RPS_PULL_REQUEST": context["params"]["pull_request"],
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": "",
        }
        command = [workspace["python"], "-m", "pipelines", self.stage, "--challenge", self.challenge]
        self.run_command(command, Path(workspace["directory"]), environment)


def _run_id(context: Context) -> str:
    return str(context["params"]["run_id"] or context["run_id"])


def retrain(path: Path) -> DAG:
    """The DAG of one challenge file."""
    challenge = tomllib.loads(path.read_text(encoding="utf-8"))
    name, schedule = challenge["name"], challenge["schedule"]
    retries = {
        "retries": schedule["retries"],
        "retry_delay": timedelta(seconds=schedule["retry_delay_seconds"]),
        "retry_exponential_backoff": True,
        "max_retry_delay": MAX_RETRY_DELAY,
        "execution_timeout": timedelta(minutes=schedule["stage_timeout_minutes"]),
    }
    with DAG(
        f"retrain_{name}",
        description=challenge["title"],
        schedule=schedule["cron"],
        catchup=False,
        max_active_runs=4,
        default_args=retries,
        params={key: Param(value, type="string", description=what) for key, (value, what) in PARAMS.items()},
        tags=["rps", name],
        doc_md=__doc__,
    ) as dag:
        stage = {
            each: StageOperator(stage=each, challenge=name)
            for each in ("ingest", "validate", "transform", "profile", "version", "train", "evaluate", "register")
        }
        start = WorkspaceOperator(task_id="workspace")
        start >> stage["ingest"] >> stage["validate"] >> stage["transform"]
        # The profile takes no part in the model, so it is drawn while the dataset is versioned and the model trained.
        stage["transform"] >> stage["profile"] >> stage["register"]
        stage["transform"] >> stage["version"] >> stage["train"] >> stage["evaluate"] >> stage["register"]
    return dag


for _path in sorted((ROOT / "challenges").glob("*.toml")):
    globals()[f"retrain_{_path.stem}"] = retrain(_path)
