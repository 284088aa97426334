"""`python -m ci gate`: run the pipeline on a commit, judge its model against production's, tell, and set the status.

Whatever happens, the status never turns green without a verdict: every way out but a pass sets `failure` or `error`;
where GitHub cannot be told, the status stays pending, which blocks the merge as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from ci.gate.comment import post_report
from ci.gate.evidence import record_verdict
from ci.gate.judged_run import EXIT_CODES, JudgedRun, Order, failed, write_judgement
from ci.gate.policy import Policy, read_policy
from ci.gate.report import render
from ci.signals import cancelled_by_signals
from clients.errors import Cancelled, GitHubFault, NoVerdict, RpsError
from clients.github import GitHub, PullRequestState
from clients.progress import Log
from clients.redaction import redacted
from clients.settings import AirflowSettings, GitHubSettings, MlflowSettings, workflow_url
from records.judgement import Failure, Judgement, Outcome, PullRequest

STATES: Mapping[Outcome, str] = {"pass": "success", "block": "failure", "error": "error"}
PULL_REQUEST_POLL_SECONDS = 15.0


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
    max_age: timedelta
    """A finished run of the same commit that is not older is judged, not run again."""
    output: Path


@dataclass(frozen=True)
class Services:
    """The services that a gate talks to. github is None when nothing is told to GitHub."""

    airflow: AirflowSettings
    mlflow: MlflowSettings
    github: GitHubSettings | None


def gate(request: Request, services: Services, log: Log) -> int:
    """Judge, report, set the status. The exit code: 0 passed, 1 blocked, 2 no verdict; 64, 75: see `clients.errors`."""
    with cancelled_by_signals("run the gate again for a verdict") as signals:
        run = GateRun(request, services, log)
        try:
            judgement = run.judged()
            run.tell(judgement)
        except RpsError as error:
            signals.ignore()
            run.give_up(str(error), comment=not isinstance(error, Cancelled | GitHubFault))
            return error.exit_code
        except BaseException as error:  # whatever it is, the status must not be left to chance
            signals.ignore()
            message = redacted(f"{type(error).__name__}: {error}")
            run.give_up(f"the gate itself failed ({message}); its trace is in the workflow's log")
            raise
        return EXIT_CODES[judgement.outcome]


class GateRun:
    """One gate run: what it has learnt so far, which is what it can tell when it has to give up."""

    def __init__(self, request: Request, services: Services, log: Log) -> None:
        self.request = request
        self.services = services
        self.note = log.line
        self.workflow_url = workflow_url(os.environ)
        self.github = GitHub(services.github, note=self.note) if services.github else None
        # For what is not worth waiting for: a look in between, and the last words of a gate that is being ended.
        self.hasty = GitHub(services.github, patience_seconds=2.0, note=self.note) if services.github else None
        self.looked = 0.0
        self.pull_request: PullRequestState | None = None
        order = Order(
            challenge=request.challenge,
            sha=request.sha,
            stem=f"gate__{request.challenge}__{request.sha}",
            reason=request.reason,
            pull_request=request.pull_request,
            as_of=request.as_of,
            deadline=request.deadline,
            max_age=request.max_age,
        )
        self.run = JudgedRun(order, services.airflow, services.mlflow, log, on_poll=self._watch_pull_request)

    def judged(self) -> Judgement:
        """The verdict on the commit. Raises RpsError when there is none for reasons that are not the run's own."""
        if self.github:
            self._set_status("pending", "Airflow is running the pipeline on this commit")
        if self.github and self.request.pull_request is not None:
            self.pull_request = self.github.pull_request(self.request.pull_request)
            self._require_current(self.pull_request)
        result = self.run.judge(self._policy())
        return self.run.judgement(result, self._shown_pull_request())

    def tell(self, judgement: Judgement) -> None:
        """Tag the version, write and post the report, and at the very end set the status. Raises RpsError."""
        if self.github and self.request.pull_request is not None:
            self._require_current(self.github.pull_request(self.request.pull_request))
        write_judgement(judgement, self.request.output)
        record_verdict(self.services.mlflow, judgement)
        link = self._post(judgement)
        self._set_status(STATES[judgement.outcome], judgement.summary, link)
        self.note(f"{judgement.outcome}: {judgement.summary}")

    def give_up(self, reason: str, *, comment: bool = True) -> None:
        """No verdict: set the status, end the DAG run if this gate still waits for it, tell why; a fault is only told.

        The status comes first: a cancelled job has some ten seconds to live. comment: whether to post a report; not
        when GitHub is at fault, and not for a cancelled gate, whose successor may have posted its own already.
        """
        self.note(f"no verdict: {reason}")
        judgement = self.run.judgement(failed(Failure(reason=reason)), self._shown_pull_request())
        write_judgement(judgement, self.request.output)
        try:
            self._set_status("error", judgement.summary, github=None if comment else self.hasty)
        except RpsError as error:
            self.note(f"the status could not be set, and is not green; the merge stays blocked: {error}")
        self.run.cancel()
        if comment:
            try:
                self._post(judgement)
            except RpsError as error:
                self.note(f"the report could not be posted: {error}")

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

    def _watch_pull_request(self) -> None:
        number = self.request.pull_request
        if self.hasty is None or number is None or time.monotonic() - self.looked < PULL_REQUEST_POLL_SECONDS:
            return
        self.looked = time.monotonic()
        try:
            self._require_current(self.hasty.pull_request(number))
        except GitHubFault:
            return  # the look before the verdict is the one that counts

    def _shown_pull_request(self) -> PullRequest | None:
        pull = self.pull_request
        if pull is None:
            return None
        return PullRequest(
            number=pull.number,
            title=pull.title,
            head_ref=pull.head_ref,
            base_ref=pull.base_ref,
            base_sha=pull.base_sha,
        )

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
