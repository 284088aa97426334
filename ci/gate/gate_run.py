"""`python -m ci gate`: run the pipeline on a commit, judge its model against production's, report, set the status.

Whatever happens, the status never turns green without a verdict: every way out but a pass sets `failure` or `error`;
where GitHub cannot be reached, the status stays pending, which blocks the merge as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from ci.gate.comment import post_report
from ci.gate.judged_run import EXIT_CODES, JudgedRun, Order
from ci.gate.policy import read_policy
from ci.gate.report import render
from ci.signals import cancelled_by_signals
from clients.errors import Cancelled, GitHubFault, NoVerdict, RpsError
from clients.github import GitHub
from clients.progress import Log
from clients.redaction import redacted
from clients.settings import GitHubSettings, workflow_url
from records.judgement import Judgement, Outcome, PullRequest

STATES: Mapping[Outcome, str] = {"pass": "success", "block": "failure", "error": "error"}
PULL_REQUEST_POLL_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class Request(Order):
    """What is judged, by whose policy, and under which commit status. Without a pull request, no report is posted."""

    base: str = ""
    """The revision whose policy judges; empty: the pull request's base branch, or else the commit."""
    context: str = ""
    """The name of the commit status."""
    github: GitHubSettings | None
    """None: nothing is reported there."""


def gate(request: Request, log: Log) -> int:
    """Judge, report, set the status.

    The exit code: 0 passed, 1 blocked, 2 no verdict; 64, 75: see `clients.errors`.
    """
    with cancelled_by_signals("run the gate again for a verdict") as signals:
        run = _GateRun(request, log)
        try:
            judgement = run.judged()
            run.report(judgement)
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


class _GateRun:
    """One gate run: what it has learnt so far can be reported even when it has to give up."""

    def __init__(self, request: Request, log: Log) -> None:
        self.request, github = request, request.github
        self.note = log.line
        self.workflow_url = workflow_url(os.environ)
        self.github = GitHub(github, note=self.note) if github else None
        # For what is not worth waiting for: a look in between, and the last words of a gate that is being ended.
        self.hasty = GitHub(github, patience_seconds=2.0, note=self.note) if github else None
        self.looked = 0.0
        stem = f"gate__{request.challenge}__{request.sha}"
        self.run = JudgedRun(request, stem, log, on_poll=self._watch_pull_request)

    def judged(self) -> Judgement:
        """The verdict on the commit. Raises RpsError when there is none for reasons that are not the run's own."""
        self._set_status("pending", "Airflow is running the pipeline on this commit")
        self._require_current(self.github)
        request, pull = self.request, self.run.pull_request
        base, name = request.base or request.sha, request.base or "this commit itself"
        if pull:
            # The branch as it is now: a stricter policy holds for the pull requests that were open before it.
            base, name = request.base or f"refs/remotes/origin/{pull.base_ref}", pull.base_ref
        policy = read_policy(request.repository, request.challenge, head=request.sha, base=base, base_name=name)
        return self.run.judge(policy)

    def report(self, judgement: Judgement) -> None:
        """Tag the version, write and post the report, and at the very end set the status. Raises RpsError."""
        self._require_current(self.github)
        self.run.record(judgement)
        link = self._post(judgement)
        self._set_status(STATES[judgement.outcome], judgement.summary, link)
        self.note(f"{judgement.outcome}: {judgement.summary}")

    def give_up(self, reason: str, *, comment: bool = True) -> None:
        """No verdict: set the status, end the DAG run if this gate still waits for it, report why; faults are noted.

        The status comes first: a cancelled job has some ten seconds to live. comment: whether to post a report; not
        when GitHub is at fault, and not for a cancelled gate, whose successor may have posted its own already.
        """
        judgement = self.run.no_verdict(reason)
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

    def _require_current(self, github: GitHub | None) -> None:
        """The pull request, if there is one, is still open, of this repository, and at the commit that is judged."""
        if github is None or self.request.pull_request is None:
            return
        pull = github.pull_request(self.request.pull_request)
        self.run.pull_request = self.run.pull_request or PullRequest(
            number=pull.number, title=pull.title, head_ref=pull.head.ref, base_ref=pull.base.ref, base_sha=pull.base.sha
        )
        name = f"pull request #{pull.number}"
        if pull.head.repo is None or pull.head.repo.full_name != github.settings.repository:
            raise NoVerdict(f"{name} comes from a fork, whose code is never run: push its branch to this repository")
        if pull.state != "open":
            raise Cancelled(f"{name} is closed: nothing is to be judged")
        if pull.head.sha != self.request.sha:
            raise Cancelled(
                f"{name} was pushed to: its head is {pull.head.sha[:12]}, not {self.request.sha[:12]} any more"
            )

    def _watch_pull_request(self) -> None:
        if time.monotonic() - self.looked < PULL_REQUEST_POLL_SECONDS:
            return
        self.looked = time.monotonic()
        try:
            self._require_current(self.hasty)
        except GitHubFault:
            return  # the look before the verdict is the one that counts

    def _post(self, judgement: Judgement) -> str:
        """The report as the pull request's comment; its address, or that of the workflow run."""
        request = self.request
        if self.github is None or request.pull_request is None:
            return self.workflow_url
        number, sha, challenge = request.pull_request, request.sha, request.challenge
        return post_report(render(judgement), github=self.github, pull_request=number, sha=sha, challenge=challenge)

    def _set_status(self, state: str, description: str, link: str = "", github: GitHub | None = None) -> None:
        """Through ``github``, or the patient one; nothing when GitHub has no part in this gate."""
        sha, context, page = self.request.sha, self.request.context, link or self.workflow_url
        if used := github or self.github:
            used.set_status(sha, state=state, context=context, description=description, target_url=page)
