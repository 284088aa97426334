"""`python -m ci gate`: run the pipeline on a commit, judge its model against production's, tell, and set the status.

Whatever happens, the status never turns green without a verdict: every way out but a pass sets `failure` or `error`;
where GitHub cannot be told, the status stays pending, which blocks the merge as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from ci.comment import post_report
from ci.dag_run import Airflow, DagRun, TaskState, busy_seconds
from ci.errors import Cancelled, CiError, GitHubFault, NoVerdict
from ci.evidence import Evidence, ProductionMoved, fetch_evidence, record_verdict, rejected_data
from ci.github import GitHub, PullRequestState
from ci.judgement import Failure, Judgement, Links, Outcome, PullRequest
from ci.policy import Policy, read_policy
from ci.progress import Log
from ci.report import render
from ci.settings import AirflowSettings, GitHubSettings, MlflowSettings, workflow_url
from ci.signals import cancelled_by_signals
from ci.statuses import status_line
from forecasting.verdict import Verdict, judge

STATES: Mapping[Outcome, str] = {"pass": "success", "block": "failure", "error": "error"}
EXIT_CODES: Mapping[Outcome, int] = {"pass": 0, "block": 1, "error": 2}
PULL_REQUEST_POLL_SECONDS = 15.0
LOG_TAIL = 30
"""Lines of a failed task's log that the report shows."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be judged, and where it is told."""

    challenge: str
    sha: str
    pull_request: int | None
    """Its number; None judges a commit by itself, and tells GitHub nothing."""
    repository: Path
    """A checkout that holds the commit and the base branch."""
    base: str
    """The revision whose policy judges; with a pull request, its base branch."""
    reason: str
    as_of: str = ""
    """No observation after this moment is used (ISO 8601, UTC); empty: now."""
    context: str
    """The name of the commit status."""
    deadline: timedelta
    max_age: timedelta | None
    """An earlier run of the same stem is judged again, instead of a new one, when it is not older than this; with None,
    always: there is no second one once one has succeeded."""
    output: Path
    stem: str = ""
    """What the DAG run's id begins with, before its attempt; by default, the gate's own for challenge and commit."""


@dataclass(frozen=True)
class Services:
    """The services that a gate talks to. github is None when nothing is told to GitHub."""

    airflow: AirflowSettings
    mlflow: MlflowSettings
    github: GitHubSettings | None


def gate(request: Request, services: Services, log: Log) -> int:
    """Judge, report, set the status; the exit code: 0 passed, 1 blocked, 2 no verdict, 64 and 75 as in `ci.errors`."""
    with cancelled_by_signals("run the gate again for a verdict") as signals:
        run = GateRun(request, services, log)
        try:
            judgement = run.judged()
            run.tell(judgement)
        except CiError as error:
            signals.ignore()
            run.give_up(str(error), comment=not isinstance(error, Cancelled | GitHubFault))
            return error.exit_code
        except BaseException as error:  # whatever it is, the status must not be left to chance
            signals.ignore()
            run.give_up(f"the gate itself failed ({type(error).__name__}: {error}); its trace is in the workflow's log")
            raise
        return EXIT_CODES[judgement.outcome]


class GateRun:
    """One gate run: what it has learnt so far, which is what it can tell when it has to give up."""

    def __init__(
        self, request: Request, services: Services, log: Log, *, on_start: Callable[[DagRun], None] = lambda _: None
    ) -> None:
        """on_start: called with the DAG run once it is started, or attached to; may raise CiError to withdraw it."""
        self.request = request
        self._on_start = on_start
        self.services = services
        self.log = log
        self.note = log.line
        self.started = datetime.now(UTC)
        self.clock = time.monotonic()
        self.workflow_url = workflow_url(os.environ)
        self.github = GitHub(services.github, note=self.note) if services.github else None
        # For what is not worth waiting for: a look in between, and the last words of a gate that is being ended.
        self.hasty = GitHub(services.github, patience_seconds=2.0, note=self.note) if services.github else None
        self.looked = 0.0
        self.pull_request: PullRequestState | None = None
        self.policy: Policy | None = None
        self.run: DagRun | None = None
        self.tasks: list[TaskState] = []

    def judged(self) -> Judgement:
        """The verdict on the commit. Raises CiError when there is none for reasons that are not the run's own."""
        if self.github:
            self._set_status("pending", "Airflow is running the pipeline on this commit")
        if self.github and self.request.pull_request is not None:
            self.pull_request = self.github.pull_request(self.request.pull_request)
            self._require_current(self.pull_request)
        self.policy = self._policy()
        not_before = None if self.request.max_age is None else self.started - self.request.max_age
        while True:
            run = self._run(not_before)
            if run.state != "success":
                return self._failed(run)
            self.note(f"the run has ended; reading what it left in MLflow at {self.services.mlflow.url}")
            try:
                evidence = fetch_evidence(self.services.mlflow, self.request.challenge, run.run_id, self.request.sha)
            except ProductionMoved as error:
                if not run.attached or self.request.max_age is None:
                    raise
                self.note(f"{error}. The pipeline is run again.")
                not_before = datetime.now(UTC)
                continue
            verdict = judge(evidence.panel, evidence.evaluation, self.policy.gate)
            return self.judgement(verdict, evidence)

    def tell(self, judgement: Judgement) -> None:
        """Tag the version, write and post the report, and at the very end set the status. Raises CiError."""
        if self.github and self.request.pull_request is not None:
            self._require_current(self.github.pull_request(self.request.pull_request))
        self._write(judgement)
        record_verdict(self.services.mlflow, judgement)
        link = self._post(judgement)
        self._set_status(STATES[judgement.outcome], judgement.summary, link)
        self.note(f"{judgement.outcome}: {judgement.summary}")

    def give_up(self, reason: str, *, comment: bool = True) -> Judgement:
        """No verdict: set the status, end the DAG run if this gate still waits for it, tell why; a fault is only told.

        The status comes first: a cancelled job has some ten seconds to live. comment: whether to post a report; not
        when GitHub is at fault, and not for a cancelled gate, whose successor may have posted its own already.
        """
        self.note(f"no verdict: {reason}")
        judgement = self.judgement(None, None, Failure(reason=reason))
        self._write(judgement)
        try:
            self._set_status("error", judgement.summary, github=None if comment else self.hasty)
        except CiError as error:
            self.note(f"the status could not be set, and is not green; the merge stays blocked: {error}")
        if self.run and self.run.state not in {"success", "failed"} and self.run.cancel():
            self.note(f"cancelled the DAG run {self.run.run_id}")
        if comment:
            try:
                self._post(judgement)
            except CiError as error:
                self.note(f"the report could not be posted: {error}")
        return judgement

    def _policy(self) -> Policy:
        request, pull = self.request, self.pull_request
        base, name = request.base or request.sha, request.base or "this commit itself"
        if pull:
            # The branch as it is now: a stricter policy holds for the pull requests that were open before it.
            base, name = request.base or f"refs/remotes/origin/{pull.base_ref}", pull.base_ref
        return read_policy(request.repository, request.challenge, head=request.sha, base=base, base_name=name)

    def _require_current(self, pull: PullRequestState) -> None:
        """The pull request is still open, of this repository, and at the commit that is judged."""
        name = f"pull request #{pull.number}"
        if self.services.github and pull.head_repository != self.services.github.repository:
            raise NoVerdict(f"{name} comes from a fork, whose code is never run: push its branch to this repository")
        if pull.state != "open":
            raise Cancelled(f"{name} is closed: nothing is to be judged")
        if pull.head_sha != self.request.sha:
            raise Cancelled(
                f"{name} was pushed to: its head is {pull.head_sha[:12]}, not {self.request.sha[:12]} any more"
            )

    def _run(self, not_before: datetime | None) -> DagRun:
        """The DAG run of the commit, ended."""
        request = self.request
        parameters = {
            "git_sha": request.sha,
            "as_of": request.as_of,
            "reason": request.reason,
            "pull_request": str(request.pull_request or ""),
        }
        airflow = Airflow(self.services.airflow, note=self.note)
        stem = request.stem or f"gate__{request.challenge}__{request.sha}"
        self.tasks = []
        self.run = run = airflow.attach_or_start(
            f"retrain_{request.challenge}", stem, parameters, not_before=not_before
        )
        self.note(f"{'attached to' if run.attached else 'started'} the DAG run {run.run_id}: {run.url}")
        self._on_start(run)
        left = request.deadline.total_seconds() - (time.monotonic() - self.clock)
        for tasks in run.changes(left, on_poll=self._watch_pull_request):
            self.tasks = tasks
            self.log.tasks(f"The DAG run {run.run_id}", tasks)
        return run

    def _watch_pull_request(self) -> None:
        number = self.request.pull_request
        if self.hasty is None or number is None or time.monotonic() - self.looked < PULL_REQUEST_POLL_SECONDS:
            return
        self.looked = time.monotonic()
        try:
            self._require_current(self.hasty.pull_request(number))
        except GitHubFault:
            return  # the look before the verdict is the one that counts

    def _failed(self, run: DagRun) -> Judgement:
        """The run ended before there was a model to judge: which task, and why."""
        failed = [task for task in self.tasks if task.state == "failed"]
        if not failed:
            raise NoVerdict(f"the DAG run {run.run_id} is {run.state}, though no task of it failed: look at {run.url}")
        task = failed[0]
        tail = tuple(run.log(task)[-LOG_TAIL:])
        challenge, mlflow = self.request.challenge, self.services.mlflow
        violations = rejected_data(mlflow, challenge, run.run_id) if task.name == "validate" else ()
        broken = sum(violation.severity == "error" for violation in violations)
        why = f"the data failed the quality gate: {broken} rules are broken" if broken else _last_words(tail)
        failure = Failure(
            reason=f"the task {task.name} failed: {why}",
            task=task.name,
            log_url=run.log_url(task),
            log_tail=tail,
            violations=violations,
        )
        return self.judgement(None, None, failure)

    def judgement(
        self, verdict: Verdict | None, evidence: Evidence | None, failure: Failure | None = None
    ) -> Judgement:
        """All that is known now, with this verdict, or none."""
        request, pull, policy = self.request, self.pull_request, self.policy
        outcome: Outcome = verdict.outcome if verdict else "error"
        links = evidence.links if evidence else Links()
        return Judgement(
            challenge=request.challenge,
            title=policy.title if policy else "",
            outcome=outcome,
            summary=status_line(verdict, failure),
            git_sha=request.sha,
            run_id=self.run.run_id if self.run else "",
            model_version=evidence.model_version if evidence else "",
            pull_request=PullRequest(
                number=pull.number,
                title=pull.title,
                head_ref=pull.head_ref,
                base_ref=pull.base_ref,
                base_sha=pull.base_sha,
            )
            if pull
            else None,
            policy=policy.gate if policy else None,
            policy_from=policy.origin if policy else "",
            policy_changes=policy.changes if policy else (),
            verdict=verdict,
            evaluation=evidence.evaluation if evidence else None,
            data=evidence.data if evidence else None,
            failure=failure,
            links=msgspec.structs.replace(links, dag_run=self.run.url if self.run else "", workflow=self.workflow_url),
            started=self.started,
            seconds=time.monotonic() - self.clock,
            task_seconds=busy_seconds(self.tasks, since=self.started),
        )

    def _write(self, judgement: Judgement) -> str:
        """`verdict.json` and `report.md`; the report."""
        report = render(judgement)
        output = self.request.output
        output.mkdir(parents=True, exist_ok=True)
        (output / "verdict.json").write_bytes(msgspec.json.format(msgspec.json.encode(judgement), indent=2) + b"\n")
        (output / "report.md").write_text(report, encoding="utf-8")
        return report

    def _post(self, judgement: Judgement) -> str:
        """The report as the pull request's comment; its address, or that of the workflow run."""
        if self.github is None or self.request.pull_request is None:
            return self.workflow_url
        return post_report(
            render(judgement),
            github=self.github,
            pull_request=self.request.pull_request,
            sha=self.request.sha,
            challenge=self.request.challenge,
        )

    def _set_status(self, state: str, description: str, link: str = "", github: GitHub | None = None) -> None:
        """Through ``github``, or the patient one; nothing when GitHub has no part in this gate."""
        if self.github:
            (github or self.github).set_status(
                self.request.sha,
                state=state,
                context=self.request.context,
                description=description,
                target_url=link or self.workflow_url,
            )


def _last_words(log: tuple[str, ...]) -> str:
    return next((line.strip() for line in reversed(log) if line.strip()), "its log is empty")
