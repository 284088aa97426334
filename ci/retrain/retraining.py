"""`python -m ci retrain`: run the pipeline on fresh data, gate the candidate, offer it for release, keep the issue.

The same event can be delivered again at any time: it finds the run that it has started, and does what was left undone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import msgspec

from ci.gate.evidence import ProductionMoved
from ci.gate.judged_run import EXIT_CODES, JudgedRun, Order
from ci.gate.policy import commit_of, read_policy
from ci.gate.report import render
from ci.retrain.drift_issue import LABEL, Answer, marker_of, read_body, state_of, write_body
from ci.retrain.limits import Limits, NotStarted, Seen, Wait, decide, look, overtaken, stem_of
from ci.retrain.offer import WORKFLOW, Offer, offer
from ci.retrain.trigger import Trigger
from ci.signals import cancelled_by_signals
from clients.dag_run import DagRun
from clients.errors import Cancelled, RpsError
from clients.github import GitHub
from clients.github_issues import Issues, Wanted
from clients.github_releases import Releases
from clients.progress import Log, summarise
from clients.redaction import redacted
from clients.settings import GitHubSettings, workflow_url
from clients.tracking import connect
from records.judgement import Judgement
from records.mlflow_names import GateTag, VersionTag

MLFLOW_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Request(Order):
    """What is retrained, and why. The commit is one of master: its code is run, and its policy judges."""

    trigger: Trigger
    limits: Limits
    by_hand: bool
    """A person asks: there is no cool-down."""
    github: GitHubSettings


def retrain(request: Request, log: Log) -> int:
    """The exit code: 0 passed, or rightly not started, 1 blocked, 2 no verdict, 64 and 75 as in `clients.errors`."""
    with cancelled_by_signals("the same event, delivered again, starts a new run within the limits") as signals:
        retraining = _Retraining(request, log)
        try:
            answer = retraining.answer()
        except NotStarted as error:
            signals.ignore()
            retraining.withdraw(str(error))
            return error.exit_code
        except RpsError as error:
            signals.ignore()
            return retraining.give_up(error)
        except BaseException as error:  # whatever it is, no DAG run is left behind
            signals.ignore()
            retraining.run.no_verdict(redacted(f"the retraining itself failed ({type(error).__name__}: {error})"))
            retraining.run.cancel()
            raise
        return retraining.finish(answer)


class _Retraining:
    """One event's answer: what has been learnt so far can be reported even when it has to be given up."""

    def __init__(self, request: Request, log: Log) -> None:
        self.request = request
        self.log = log
        self.at = datetime.now(UTC)
        self.github = GitHub(request.github, note=log.line)
        stem = stem_of(request.challenge, request.trigger.event)
        self.run = JudgedRun(request, stem, log, on_start=self._withdraw_if_younger)

    def answer(self) -> Answer:
        """What is to be reported: a limit holds, or the verdict on the event's run. Raises NotStarted and RpsError."""
        request = self.request
        self.log.line(f"{request.challenge}: {request.reason}, the event {request.trigger.event}")
        decision = decide(self._seen(), request.trigger.event, request.limits, by_hand=request.by_hand)
        if isinstance(decision, Wait):
            when = f"{decision.next:%Y-%m-%d %H:%M} UTC"
            self.log.notice(f"not started: {decision.limit} holds; the next can be started at {when}")
            return self._answer(wait=decision)
        if decision is not None:
            self.at = decision.started
            # Master may have moved since: what that run has made is of its own commit.
            sha = commit_of(request.repository, decision.sha or request.sha)
            self.run.order = replace(request, sha=sha)
        return self._answer(judgement=self._judged())

    def finish(self, answer: Answer) -> int:
        """Offer what has passed, and report. What cannot be done now is done when the event is delivered again."""
        judgement = answer.judgement
        fault = None
        try:
            if judgement and judgement.outcome == "pass":
                made, fault = self._offered(judgement)
                answer = replace(answer, offer=made)
            self._publish(answer)
        except RpsError as error:
            self.log.error(f"{error}. The same event, delivered again, finishes it")
            fault = fault or error
        if fault:
            return fault.exit_code
        return EXIT_CODES[judgement.outcome] if judgement else 0

    def give_up(self, error: RpsError) -> int:
        """No verdict: the DAG run is ended, and the issue says why; only the log reports a cancelled retraining."""
        judgement = self.run.no_verdict(str(error))
        self.run.cancel()
        if not isinstance(error, Cancelled):
            try:
                self._publish(self._answer(judgement=judgement))
            except RpsError as fault:
                self.log.error(f"the issue could not be brought up to date: {fault}")
        return error.exit_code

    def withdraw(self, why: str) -> None:
        """Another one is at work: end what was just started, if anything was."""
        if self.run.dag_run is not None and not self.run.dag_run.attached:
            self.run.cancel()
        self.log.notice(f"not started: {why}")
        summarise(f"### {self.request.challenge} is not retrained\n\nNot started: another retraining is running.")

    def _seen(self) -> Seen:
        return look(self.run.airflow, self.request.challenge, self.request.trigger.event, self.request.limits)

    def _withdraw_if_younger(self, run: DagRun) -> None:
        """Two events at the same moment both saw nobody at work: the younger run goes."""
        if not run.attached and (other := overtaken(self._seen(), run.run_id)):
            raise NotStarted(other)

    def _judged(self) -> Judgement:
        """The verdict on the event's run, which is written, and recorded in the registry. Raises RpsError."""
        request, sha = self.request, self.run.order.sha
        policy = read_policy(request.repository, request.challenge, head=sha, base=sha, base_name="this commit itself")
        try:
            judgement = self.run.judge(policy)
        except ProductionMoved as moved:
            judgement = self._recorded(moved)
            self.log.line(f"{moved}. What was decided before that holds.")
        self.run.record(judgement)
        self.log.line(f"{judgement.outcome}: {judgement.summary}")
        return judgement

    def _recorded(self, moved: ProductionMoved) -> Judgement:
        """The verdict of an earlier delivery, from the version's tags. Raises ``moved`` when there was none."""
        run_id = self.run.dag_run.run_id if self.run.dag_run else ""
        filtered = f"name = '{self.request.challenge}' and tags.{VersionTag.RUN_ID} = '{run_id}'"
        found = connect(self.request.mlflow, MLFLOW_SECONDS).versions(filtered)
        judged = [each for each in found if each.tags.get(VersionTag.GATE) in {GateTag.PASSED, GateTag.BLOCKED}]
        if not judged:
            raise moved
        tags = judged[0].tags
        return msgspec.structs.replace(
            self.run.judgement(),
            outcome="pass" if tags[VersionTag.GATE] == GateTag.PASSED else "block",
            summary=tags.get(VersionTag.SUMMARY, tags[VersionTag.GATE]),
            model_version=str(judged[0].version),
        )

    def _offered(self, judgement: Judgement) -> tuple[Offer, RpsError | None]:
        """What has become of the version, and the fault that kept it from being offered; the issue reports both."""
        tracking, releases = connect(self.request.mlflow, MLFLOW_SECONDS), Releases(self.github)
        try:
            return offer(tracking, releases, judgement.challenge, judgement.model_version, self.log), None
        except Cancelled:
            raise
        except RpsError as error:
            self.log.error(f"{WORKFLOW} could not be started for version {judgement.model_version}: {error}")
            return Offer("failed", str(error)), error

    def _answer(self, *, wait: Wait | None = None, judgement: Judgement | None = None) -> Answer:
        github = self.github.settings
        return Answer(
            challenge=self.request.challenge,
            trigger=self.request.trigger,
            repository_url=f"{github.server_url}/{github.repository}",
            workflow_url=workflow_url(os.environ),
            at=self.at,
            wait=wait,
            judgement=judgement,
        )

    def _publish(self, answer: Answer) -> None:
        """The summary, and the issue, open while a person must look; a routine without trouble makes none."""
        report = render(answer.judgement) if answer.judgement else ""
        summarise(f"{state_of(answer)}\n\n{report}")
        if not (answer.judgement or answer.is_of_drift):
            return
        wanted = Wanted(
            marker=marker_of(answer.challenge),
            title=f"Model drift: {answer.challenge}",
            label=LABEL,
            is_open=answer.needs_a_person,
            write=lambda before: write_body(answer, read_body(before, answer.challenge), report),
        )
        issue = Issues(self.github).put(wanted, create=answer.needs_a_person or answer.is_of_drift)
        if issue is not None:
            self.log.line(f"the issue is up to date: {issue.url}")
