"""DAG runs that end as they are told to, and what they would have left in MLflow, made beforehand by the real stages.

The pipeline itself is run by the end-to-end tests; so every way for a gate to end is tried in seconds.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from mlflow.tracking import MlflowClient

from ci.__main__ import main
from doubles.github.fixture import Double
from pipelines.carrier.registry import Registered
from pipelines.carrier.tracked_run import open_tracking
from pipelines.data_rules import judge
from pipelines.files import write_json
from pipelines.history import Collection
from pipelines.run import Run
from scripts.services import ROOT
from tests.integration.airflow_server import AirflowServer
from tests.modelling import featured_run, registered
from tests.runs import AS_OF, made_up_weather, rejection, write_observations


def scripted_dags(stem: str, count: int) -> str:
    """A DAG file with `retrain_<stem>_0` …, of two tasks each, which do what `ScriptedRuns.task` says."""
    return f'''
import sys
from pathlib import Path

from airflow.sdk import DAG, Param

sys.path.insert(0, {str(ROOT / "dags")!r})
from retrain import PARAMS, CommandOperator


class Scripted(CommandOperator):
    """Ends as the file that is named after its DAG and itself says: a shell command."""

    def execute(self, context):
        script = Path(__file__).parent.parent / "scripts" / f"{{self.dag_id}}.{{self.task_id}}"
        self.run_command(["sh", "-c", script.read_text() if script.exists() else "echo done"], Path.cwd(), {{}})


for number in range({count}):
    params = {{key: Param(value, type="string") for key, (value, _) in PARAMS.items()}}
    with DAG(f"retrain_{stem}_{{number}}", schedule=None, params=params) as dag:
        Scripted(task_id="validate") >> Scripted(task_id="register")
    globals()[dag.dag_id] = dag
'''


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    returncode: int
    out: str


class Told(io.StringIO):
    """What a command tells; when it tells ``until``, the first time, ``then`` happens, before it goes on."""

    def __init__(self, until: str, then: Callable[[], object]) -> None:
        super().__init__()
        self._until = until
        self._then: Callable[[], object] | None = then if until else None

    def write(self, text: str) -> int:
        written = super().write(text)
        if self._then and self._until in self.getvalue():
            then, self._then = self._then, None
            then()
        return written


@dataclass(frozen=True)
class ScriptedRuns:
    """The runs of one challenge, on one commit, and the services that they meet."""

    challenge: str
    sha: str
    double: Double
    airflow: AirflowServer
    tracking: str
    root: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**self.without_github, **self.double.environment()}

    @property
    def without_github(self) -> dict[str, str]:
        settings = self.airflow.settings
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")},
            "AIRFLOW_API_URL": settings.url,
            "AIRFLOW_USERNAME": settings.username,
            "AIRFLOW_PASSWORD": settings.password,
            "MLFLOW_TRACKING_URI": self.tracking,
            "PYTHONPATH": str(ROOT),
        }

    def ci(
        self,
        *arguments: str,
        until: str = "",
        then: Callable[[], object] = lambda: None,
        github: bool = True,
        **environment: str,
    ) -> Done:
        """`python -m ci` with these arguments, but in this process: another one is seconds at work before it begins.

        until, then: what happens in the middle of it, and when. github: whether the environment names one.
        """
        given = {**(self.environment if github else self.without_github), **environment}
        with (
            mock.patch.dict(os.environ, given, clear=True),
            contextlib.chdir(self.root),
            contextlib.redirect_stdout(Told(until, then)) as shown,
        ):
            return Done(main(list(arguments)), shown.getvalue())

    @property
    def mlflow(self) -> MlflowClient:
        return MlflowClient(self.tracking, self.tracking)

    def task(self, name: str, script: str) -> None:
        """What a task of the DAG does from now on."""
        scripts = self.airflow.home / "scripts"
        scripts.mkdir(exist_ok=True)
        (scripts / f"retrain_{self.challenge}.{name}").write_text(script, encoding="utf-8")

    def left_candidate(self, run_id: str, sha: str = "", **edits: str) -> Registered:
        """The stages leave a candidate in MLflow, as the DAG run of this name would have."""
        run = self._made(run_id, sha or self.sha, edits)
        weather = made_up_weather()
        write_json(run.files.quality, judge(weather[weather["ds"] <= AS_OF], run.challenge, AS_OF))
        tracking = open_tracking(run)
        tracking.log_artifacts(run.files.quality, "profile")
        tracking.set_tags({"rps.dataset_md5": "0" * 32 + ".dir", "rps.dataset_rev": "b" * 40})
        return registered(run)

    def left_rejected(self, run_id: str) -> None:
        """The data gate of the DAG run of this name finds missing values."""
        run = self._made(run_id, self.sha, {})
        observations = made_up_weather()
        observations.loc[observations.index[-200:], "temperature"] = None
        write_observations(run, observations[observations["ds"] <= AS_OF])
        collection = Collection(
            run_id=run_id, as_of=AS_OF, requested_since=AS_OF, requested_until=AS_OF, fingerprint="f", raw_keys=(),
            rows_received=len(observations), rows_new=0, repeats=0, conflicting_repeats=0, out_of_order=0, raw_folded=0,
            raw_unreadable=(), rows=len(observations), rows_by_series={},
        )  # fmt: skip
        write_json(run.files.collection, collection)
        rejection(run)

    def release(self, version: str) -> None:
        self.mlflow.set_registered_model_alias(self.challenge, "production", version)

    def version_tags(self, version: str) -> dict[str, str]:
        return dict(self.mlflow.get_model_version(self.challenge, version).tags)

    def _made(self, run_id: str, sha: str, edits: dict[str, str]) -> Run:
        folder = self.root / re.sub(r"\W", "_", run_id)
        return featured_run(folder, self.challenge, run_id, git_sha=sha, edits=edits)
