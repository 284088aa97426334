"""The pipeline run of one commit, and the verdict on its model: what the gate and a retraining have in common.

Nothing is reported here. What is known so far can be read at any moment, also by a caller that has to give up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from ci.gate.evidence import Evidence, ProductionMoved, fetch_evidence, record_verdict, rejected_data
from ci.gate.policy import Policy
from ci.gate.report import render
from ci.gate.statuses import status_line
from clients.dag_run import ENDED_RUN, Airflow, DagRun, TaskState, busy_seconds
from clients.errors import NoVerdict
from clients.progress import Log
from clients.settings import AirflowSettings, MlflowSettings, workflow_url
from forecasting.judging.verdict import Verdict, judge
from records.judgement import Failure, Judgement, Links, Outcome, PullRequest
from records.stages import dag_id

EXIT_CODES: Mapping[Outcome, int] = {"pass": 0, "block": 1, "error": 2}
LOG_TAIL = 30
"""Lines of a failed task's log that the report shows."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which commit is judged, and how."""

    challenge: str
    sha: str
    repository: Path
    """A checkout that holds the commit, and the branch whose policy judges."""
    reason: str
    pull_request: int | None = None
    as_of: str = ""
    """No observation after this moment is used (ISO 8601, UTC); empty: now."""
    deadline: timedelta
    max_age: timedelta | None = None
    """A finished run that is not older is judged, not run again; None: any that succeeded, however old."""
    output: Path
    airflow: AirflowSettings
    mlflow: MlflowSettings


@dataclass
class JudgedRun:
    """One run of the pipeline: started or attached to, watched until it ends, and judged."""

    order: Order
    stem: str
    """The DAG run's id without its attempt."""
    log: Log
    on_start: Callable[[DagRun], None] = lambda _: None
    """Called with the DAG run once it is started, or attached to; may raise RpsError to stop, as ``on_poll`` may."""
    on_poll: Callable[[], None] = lambda: None
    """Called whenever the DAG run is looked at."""
    pull_request: PullRequest | None = None
    dag_run: DagRun | None = None
    airflow: Airflow = field(init=False)
    _policy: Policy | None = None
    _tasks: list[TaskState] = field(default_factory=list)
    _started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _clock: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.airflow = Airflow(self.order.airflow, note=self.log.line)

    def judge(self, policy: Policy) -> Judgement:
        """Run the pipeline on the commit, fetch the evidence, judge. Raises RpsError when no verdict can be had."""
        self._policy = policy
        order = self.order
        not_before = None if order.max_age is None else self._started - order.max_age
        while True:
            run = self._ended(not_before)
            if run.state != "success":
                return self.judgement(failure=self._failure(run))
            self.log.line(f"the run has ended; reading what it left in MLflow at {self.order.mlflow.url}")
            try:
                evidence = fetch_evidence(self.order.mlflow, order.challenge, run.run_id, order.sha)
            except ProductionMoved as error:
                if not run.attached or order.max_age is None:
                    raise
                self.log.line(f"{error}. The pipeline is run again.")
                not_before = datetime.now(UTC)
                continue
            verdict = judge(evidence.panel, evidence.evaluation, policy.gate, evidence.errors)
            return self.judgement(verdict, evidence)

    def judgement(
        self, verdict: Verdict | None = None, evidence: Evidence | None = None, *, failure: Failure | None = None
    ) -> Judgement:
        """All that is known now."""
        policy, run = self._policy, self.dag_run
        return Judgement(
            challenge=self.order.challenge,
            title=policy.title if policy else "",
            outcome=verdict.outcome if verdict else "error",
            summary=status_line(verdict, failure),
            git_sha=self.order.sha,
            run_id=run.run_id if run else "",
            model_version=evidence.model_version if evidence else "",
            pull_request=self.pull_request,
            policy=policy.gate if policy else None,
            policy_from=policy.origin if policy else "",
            policy_changes=policy.changes if policy else (),
            verdict=verdict,
            evaluation=evidence.evaluation if evidence else None,
            data=evidence.data if evidence else None,
            failure=failure,
            links=msgspec.structs.replace(
                evidence.links if evidence else Links(),
                dag_run=run.url if run else "",
                workflow=workflow_url(os.environ),
            ),
            started=self._started,
            seconds=time.monotonic() - self._clock,
            task_seconds=busy_seconds(self._tasks, since=self._started),
        )

    def record(self, judgement: Judgement) -> None:
        """Write `verdict.json` and `report.md`, and tag the version if there is a verdict on it. Raises RpsError."""
        directory = self.order.output
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "verdict.json").write_bytes(msgspec.json.format(msgspec.json.encode(judgement), indent=2) + b"\n")
        (directory / "report.md").write_text(render(judgement), encoding="utf-8")
        record_verdict(self.order.mlflow, judgement)

    def no_verdict(self, reason: str) -> Judgement:
        """Record that there is none, for a reason that is not the run's own."""
        self.log.line(f"no verdict: {reason}")
        judgement = self.judgement(failure=Failure(reason=reason))
        self.record(judgement)
        return judgement

    def cancel(self) -> None:
        """End the DAG run, if it is still under way."""
        if self.dag_run and self.dag_run.state not in ENDED_RUN and self.dag_run.cancel():
            self.log.line(f"cancelled the DAG run {self.dag_run.run_id}")

    def _ended(self, not_before: datetime | None) -> DagRun:
        """The DAG run of the commit, once it has ended."""
        order = self.order
        parameters = {"git_sha": order.sha, "as_of": order.as_of, "reason": order.reason}
        parameters["pull_request"] = str(order.pull_request or "")
        self._tasks = []
        self.dag_run = run = self.airflow.attach_or_start(
            dag_id(order.challenge), self.stem, parameters, not_before=not_before
        )
        self.log.line(f"{'attached to' if run.attached else 'started'} the DAG run {run.run_id}: {run.url}")
        self.on_start(run)
        left = order.deadline.total_seconds() - (time.monotonic() - self._clock)
        for tasks in run.changes(left, on_poll=self.on_poll):
            self._tasks = tasks
            self.log.tasks(f"The DAG run {run.run_id}", tasks)
        return run

    def _failure(self, run: DagRun) -> Failure:
        """The run ended before there was a model to judge: which task, and why."""
        task = next((task for task in self._tasks if task.state == "failed"), None)
        if task is None:
            raise NoVerdict(f"the DAG run {run.run_id} is {run.state}, though no task of it failed: look at {run.url}")
        tail = tuple(run.log(task)[-LOG_TAIL:])
        rejected = task.name == "validate"
        violations = rejected_data(self.order.mlflow, self.order.challenge, run.run_id) if rejected else ()
        broken = sum(violation.severity == "error" for violation in violations)
        last_words = next((line.strip() for line in reversed(tail) if line.strip()), "its log is empty")
        why = f"the data failed the quality gate: {broken} rules are broken" if broken else last_words
        return Failure(
            reason=f"the task {task.name} failed: {why}",
            task=task.name,
            log_url=run.log_url(task),
            log_tail=tail,
            violations=violations,
        )
