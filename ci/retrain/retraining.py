"""`python -m ci retrain`: run the pipeline on fresh data, gate the candidate, offer it for release, tell in the issue.

The same event can be delivered again at any time: it finds the run that it has started, and does what was left undone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ci.gate.evidence import ProductionMoved, record_verdict
from ci.gate.judged_run import EXIT_CODES, JudgedRun, Order, Result, failed, write_judgement
from ci.gate.policy import commit_of, read_policy
from ci.gate.report import render
from ci.retrain.drift_issue import LABEL, Answer, marker_of, read_body, title_of, told_of, write_body
from ci.retrain.limits import AtWork, Limits, Retraining, Seen, Wait, decide, look, overtaken, stem_of
from ci.retrain.offer import WORKFLOW, Offer, offer
from ci.retrain.trigger import Trigger
from ci.signals import cancelled_by_signals
from clients.dag_run import Airflow, DagRun
from clients.errors import Cancelled, RpsError
from clients.github import GitHub
from clients.github_issues import Issues, Wanted
from clients.github_releases import Releases
from clients.progress import Log, summarise
from clients.redaction import redacted
from clients.settings import AirflowSettings, GitHubSettings, MlflowSettings, workflow_url
from clients.tracking import connect
from records.judgement import Failure, Judgement
from records.mlflow_names import GateTag, VersionTag

MLFLOW_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be retrained, and why."""

    challenge: str
    sha: str
    """The commit of master whose code is run, and whose policy judges."""
    repository: Path
    """A checkout with its whole history."""
    trigger: Trigger
    limits: Limits
    by_hand: bool
    """A person asks: there is no cool-down."""
    deadline: timedelta
    output: Path


@dataclass(frozen=True)
class Services:
    """The services that a retraining talks to."""

    airflow: AirflowSettings
    mlflow: MlflowSettings
    github: GitHubSettings


class NotStarted(RpsError):
    """Another retraining of the challenge is at work: rightly, nothing is done."""

    exit_code = 0


def retrain(request: Request, services: Services, log: Log) -> int:
    """The exit code: 0 passed, or rightly not started, 1 blocked, 2 no verdict, 64 and 75 as in `clients.errors`."""
    with cancelled_by_signals("the same event, delivered again, starts a new run within the limits") as signals:
        run = _Retraining(request, services, log)
        try:
            answer = run.answer()
        except NotStarted as error:
            signals.ignore()
            run.withdraw(str(error))
            return error.exit_code
        except RpsError as error:
            signals.ignore()
            return run.give_up(error)
        except BaseException as error:  # whatever it is, no DAG run is left behind
            signals.ignore()
            run.no_verdict(redacted(f"the retraining itself failed ({type(error).__name__}: {error})"))
            raise
        return run.finish(answer)


class _Retraining:
    """One event's answer: what has been learnt so far, which is what can be told when it has to be given up."""

    def __init__(self, request: Request, services: Services, log: Log) -> None:
        self.request = request
        self.services = services
        self.log = log
        self.at = datetime.now(UTC)
        self.airflow = Airflow(services.airflow, note=log.line)
        self.github = GitHub(services.github, note=log.line)
        self.run = self._run(request.sha)

    def answer(self) -> Answer:
        """What is to be said: a limit holds, or the verdict on the event's run. Raises NotStarted and RpsError."""
        request = self.request
        self.log.line(f"{request.challenge}: {request.trigger.reason}, the event {request.trigger.event}")
        decision = decide(self._seen(), request.trigger.event, request.limits, by_hand=request.by_hand)
        if isinstance(decision, AtWork):
            raise NotStarted(_at_work(decision.run))
        if isinstance(decision, Wait):
            when = f"{decision.next:%Y-%m-%d %H:%M} UTC"
            self.log.notice(f"not started: {decision.limit} holds; the next can be started at {when}")
            return self._answer(wait=decision)
        if decision.run is not None:
            self.at = decision.run.started
            # Master may have moved since: what that run has made is of its own commit.
            self.run = self._run(commit_of(request.repository, decision.run.sha or request.sha))
        return self._answer(judgement=self._judged())

    def _judged(self) -> Judgement:
        """The verdict on the event's run, which is written, and recorded in the registry. Raises RpsError."""
        request, sha = self.request, self.run.order.sha
        policy = read_policy(request.repository, request.challenge, head=sha, base=sha, base_name="this commit itself")
        try:
            result = self.run.judge(policy)
        except ProductionMoved as moved:
            result = self._recorded(moved)
            self.log.line(f"{moved}. What was decided before that holds.")
        judgement = self.run.judgement(result)
        write_judgement(judgement, request.output)
        record_verdict(self.services.mlflow, judgement)
        self.log.line(f"{judgement.outcome}: {judgement.summary}")
        return judgement

    def finish(self, answer: Answer) -> int:
        """Offer what has passed, and tell. What cannot be done now is done when the event is delivered again."""
        faults: list[RpsError] = []
        try:
            if answer.judgement and answer.judgement.outcome == "pass":
                answer = replace(answer, offer=self._offered(answer.judgement, faults))
            self._tell(answer)
        except RpsError as error:
            self.log.error(f"{error}. The same event, delivered again, finishes it")
            faults.append(error)
        if faults:
            return faults[0].exit_code
        return EXIT_CODES[answer.judgement.outcome] if answer.judgement else 0

    def give_up(self, error: RpsError) -> int:
        """No verdict: the DAG run is ended, and the issue says why; a cancelled retraining is told in the log alone."""
        judgement = self.no_verdict(str(error))
        if isinstance(error, Cancelled):
            return error.exit_code
        try:
            self._tell(self._answer(judgement=judgement))
        except RpsError as fault:
            self.log.error(f"the issue could not be brought up to date: {fault}")
        return error.exit_code

    def no_verdict(self, reason: str) -> Judgement:
        """Write that there is none, and end the DAG run."""
        self.log.line(f"no verdict: {reason}")
        judgement = self.run.judgement(failed(Failure(reason=reason)))
        write_judgement(judgement, self.request.output)
        self.run.cancel()
        return judgement

    def withdraw(self, why: str) -> None:
        """Another one is at work: end what was just started, if anything was."""
        if self.run.run is not None and not self.run.run.attached:
            self.run.cancel()
        self.log.notice(f"not started: {why}")
        summarise(f"### {self.request.challenge} is not retrained\n\nNot started: another retraining is running.")

    def _run(self, sha: str) -> JudgedRun:
        request, services = self.request, self.services
        order = Order(
            challenge=request.challenge,
            sha=sha,
            stem=stem_of(request.challenge, request.trigger.event),
            reason=request.trigger.reason,
            deadline=request.deadline,
            max_age=None,
        )
        return JudgedRun(order, services.airflow, services.mlflow, self.log, on_start=self._withdraw_if_younger)

    def _seen(self) -> Seen:
        return look(self.airflow, self.request.challenge, self.request.trigger.event, self.request.limits)

    def _withdraw_if_younger(self, run: DagRun) -> None:
        """Two events at the same moment both saw nobody at work: the younger run goes."""
        other = None if run.attached else overtaken(self._seen(), run.run_id)
        if other is not None:
            raise NotStarted(_at_work(other))

    def _recorded(self, moved: ProductionMoved) -> Result:
        """The verdict of an earlier delivery, from the version's tags. Raises ``moved`` when there was none."""
        run_id = self.run.run.run_id if self.run.run else ""
        tracking = connect(self.services.mlflow, MLFLOW_SECONDS)
        filtered = f"name = '{self.request.challenge}' and tags.{VersionTag.RUN_ID} = '{run_id}'"
        found = tracking.ask("search the versions", lambda: list(tracking.client.search_model_versions(filtered)))
        judged = [each for each in found if each.tags.get(VersionTag.GATE) in {GateTag.PASSED, GateTag.BLOCKED}]
        if not judged:
            raise moved
        version = judged[0]
        return Result(
            outcome="pass" if version.tags[VersionTag.GATE] == GateTag.PASSED else "block",
            summary=version.tags.get(VersionTag.SUMMARY, version.tags[VersionTag.GATE]),
            model_version=str(version.version),
        )

    def _offered(self, judgement: Judgement, faults: list[RpsError]) -> Offer:
        """What has become of the version; a fault that keeps it from being offered is told in the issue, too."""
        tracking, releases = connect(self.services.mlflow, MLFLOW_SECONDS), Releases(self.github)
        try:
            return offer(tracking, releases, judgement.challenge, judgement.model_version, self.log)
        except Cancelled:
            raise
        except RpsError as error:
            faults.append(error)
            self.log.error(f"{WORKFLOW} could not be started for version {judgement.model_version}: {error}")
            return Offer("failed", str(error))

    def _answer(self, *, wait: Wait | None = None, judgement: Judgement | None = None) -> Answer:
        github = self.services.github
        return Answer(
            challenge=self.request.challenge,
            trigger=self.request.trigger,
            repository_url=f"{github.server_url}/{github.repository}",
            workflow_url=workflow_url(os.environ),
            at=self.at,
            wait=wait,
            judgement=judgement,
        )

    def _tell(self, answer: Answer) -> None:
        """The workflow's summary, and the issue. Raises RpsError."""
        report = render(answer.judgement) if answer.judgement else ""
        summarise(f"{told_of(answer)}\n\n{report}")
        if answer.judgement or answer.is_of_drift:
            self._put(answer, report)

    def _put(self, answer: Answer, report: str) -> None:
        """The issue, as the answer says: open while a person must look. A routine that went well makes none."""
        challenge = answer.challenge
        wanted = Wanted(
            marker=marker_of(challenge),
            title=title_of(challenge),
            label=LABEL,
            is_open=answer.needs_a_person,
            write=lambda before: write_body(answer, read_body(before, challenge), report),
        )
        issue = Issues(self.github).put(wanted, create=answer.needs_a_person or answer.is_of_drift)
        if issue is not None:
            self.log.line(f"told in the issue {issue.url}")


def _at_work(run: Retraining) -> str:
    return f"{run.run_id} has been running since {run.started:%Y-%m-%d %H:%M} UTC, and only one runs at a time"
