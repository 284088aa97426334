"""The commit statuses of the gate: one line each, one per challenge, and the one that branch rules require.

`model-gate/<challenge>` is set by the gate of that challenge; `model-gate` says what all of them together say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from clients.errors import one_line
from clients.github import STATUS_DESCRIPTION_LENGTH, GitHub, Status
from forecasting.judging.verdict import Contest, Verdict
from records.judgement import Failure

Opponent = Literal["production", "baseline"]

CONTEXT = "model-gate"
_WORST_FIRST = ("error", "failure", "pending", "success")


def status_line(verdict: Verdict | None, failure: Failure | None) -> str:
    """The verdict and its main number, or why there is none, in one line."""
    if failure or verdict is None:
        return one_line(f"no verdict: {failure.reason if failure else 'nothing was judged'}", STATUS_DESCRIPTION_LENGTH)
    opponent: Opponent = "baseline" if verdict.overall.change is None else "production"
    change = change_of(verdict.overall, opponent) or 0.0
    against = f"{abs(change):.1%} {'worse' if change > 0 else 'better'} than {title_of(verdict, opponent)}"
    numbers = f"{verdict.measure} {verdict.overall.candidate:.3g} {verdict.unit}".rstrip() + f", {against}"
    if verdict.outcome == "pass":
        return one_line(f"passed: {numbers}", STATUS_DESCRIPTION_LENGTH)
    more = f" (and {len(verdict.reasons) - 1} more)" if len(verdict.reasons) > 1 else ""
    line = f"blocked by {verdict.reasons[0].rule.replace('_', ' ')}{more}: {numbers}"
    return one_line(line, STATUS_DESCRIPTION_LENGTH)


def title_of(verdict: Verdict, opponent: Opponent) -> str:
    """What people call an opponent: `production`, `climatology (28 days)`."""
    return verdict.baseline if opponent == "baseline" else opponent


def error_heading(verdict: Verdict) -> str:
    """What the errors are called, with their unit if they have one."""
    return f"{verdict.measure}, {verdict.unit}" if verdict.unit else verdict.measure


def change_of(contest: Contest, opponent: Opponent) -> float | None:
    """The candidate's error over the opponent's, minus 1; None where there is none."""
    if opponent == "production":
        return contest.change
    return contest.candidate / contest.baseline - 1 if contest.baseline else None


def announce(github: GitHub, sha: str, challenges: Sequence[str], link: str) -> None:
    """Before any gate starts: everything that is about to be judged is pending, whatever an earlier run said."""
    waiting = {CONTEXT: f"waiting for {', '.join(challenges)}"}
    waiting |= {f"{CONTEXT}/{challenge}": "waiting for the verdict" for challenge in challenges}
    for context, line in waiting.items():
        github.set_status(sha, state="pending", context=context, description=line, target_url=link)


def conclude(github: GitHub, sha: str, challenges: Sequence[str], link: str) -> Status:
    """Set `model-gate` to the worst of the challenges' statuses; one that is missing or still pending is an error."""
    concluded = conclusion(github.statuses(sha), challenges, link)
    state, description, page = concluded.state, concluded.description, concluded.target_url
    github.set_status(sha, state=state, context=CONTEXT, description=description, target_url=page)
    return concluded


def conclusion(statuses: Mapping[str, Status], challenges: Sequence[str], link: str) -> Status:
    """What the challenges' statuses say together. link: where to look when the statuses have no page of their own."""
    if not challenges:
        return Status("error", "no verdict: this commit has no challenge to judge", link)
    found = {}
    for challenge in challenges:
        status = statuses.get(f"{CONTEXT}/{challenge}")
        if status is None or status.state == "pending":
            status = Status("error", "no verdict: its gate has not ended; see the workflow's log", link)
        found[challenge] = status
    worst = min(found, key=lambda challenge: _WORST_FIRST.index(found[challenge].state))
    if len(found) == 1:
        line = found[worst].description
    elif found[worst].state == "success":
        line = f"passed: {', '.join(found)}"
    else:
        line = f"{worst}: {found[worst].description}"
    return Status(found[worst].state, line, found[worst].target_url or link)
