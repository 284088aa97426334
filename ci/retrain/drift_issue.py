"""The issue of a challenge, "Model drift: weather": its state first, then the last retrainings, then the report.

What people write below its last line stays; all above is written anew each time. The retrainings are kept in the body,
hidden, and read back from there; where somebody has changed them so that they cannot be read, the list starts anew.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import msgspec

from ci import wording
from ci.markdown import BODY_LIMIT, bullets, clean, code, details, length, link, table, text
from ci.retrain.limits import Wait
from ci.retrain.offer import BRANCH, WORKFLOW, Offer
from ci.retrain.trigger import Trigger
from clients.github_issues import Written
from records.drift_kinds import DriftKind
from records.judgement import Judgement
from records.mlflow_names import Reason
from records.quality import Violation

LABEL = "model-drift"
HISTORY = 10
HOW_TO = "docs/how-to/answer-drift.md"
Outcome = Literal["passed", "blocked", "rejected", "no verdict"]

_NOTES = "<!-- rps:notes -->"
_HISTORY = re.compile(r"<!-- rps:history (.*?) -->", re.DOTALL)
_ESCAPES = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>@"})
_SENTENCE, _REASONS, _VIOLATIONS = 500, 10, 20
_DRIFTED: Mapping[DriftKind | None, str] = {
    "inputs": "the inputs: rows with features outside what the model was trained on",
    "features": "the features: they are distributed otherwise than in training",
    "concept": "the concept: the live error is above what the folds promised",
    None: "unknown",
}
_HEADINGS: Mapping[Outcome | None, str] = {
    "passed": "✅ Retrained, and passed",
    "blocked": "❌ Retrained, and blocked: a person must look",
    "rejected": "⛔ Not retrained, as the data was rejected: a person must look",
    "no verdict": "⚠️ Retrained without a verdict: a person must look",
    None: "⏸️ Not retrained: a limit is reached",
}
_NEXT: Mapping[Outcome | None, str] = {
    "rejected": "the source has to be fixed, because retraining cannot fix the data; production stays as it is, and a "
    "person must look",
    "blocked": "production stays as it is, as the new model would be worse: a person must look",
    "no verdict": "production stays as it is; a person must look at the run, and start it again",
}


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One retraining, as the issue remembers it. Nothing in it is Markdown."""

    event: str
    at: datetime
    why: str
    outcome: Outcome
    summary: str = msgspec.field(name="told")
    """The verdict's main figure, or why there is none."""
    version: str = ""
    url: str = ""
    """The DAG run's page."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What has become of one event: a retraining with its judgement, or a limit that was reached."""

    challenge: str
    trigger: Trigger
    repository_url: str
    workflow_url: str
    at: datetime
    wait: Wait | None = None
    judgement: Judgement | None = None
    offer: Offer | None = None

    @property
    def outcome(self) -> Outcome | None:
        """None when there was no retraining."""
        if self.judgement is None:
            return None
        if self.judgement.outcome == "error":
            return "rejected" if self.broken_rules else "no verdict"
        return "passed" if self.judgement.outcome == "pass" else "blocked"

    @property
    def broken_rules(self) -> list[Violation]:
        """Why the data was rejected, if it was."""
        failure = self.judgement.failure if self.judgement else None
        return [one for one in failure.violations if one.severity == "error"] if failure else []

    @property
    def needs_a_person(self) -> bool:
        return self.outcome != "passed" or self.offer is None or self.offer.state in {"withdrawn", "failed"}

    @property
    def is_of_drift(self) -> bool:
        return self.trigger.reason == Reason.DRIFT or self.trigger.drift is not None


@dataclass(frozen=True)
class Kept:
    """What is kept of a body: what people have written above and below, and the retrainings, the newest first."""

    above: str = ""
    notes: str = ""
    history: tuple[Entry, ...] = ()


def marker_of(challenge: str) -> str:
    """The line by which the issue is known, whatever its title."""
    return f"<!-- rps:drift {challenge} -->"


def read_body(body: str, challenge: str) -> Kept:
    """Whatever is in it. Where our marks are gone or out of order, all of it counts as people's own."""
    marker = marker_of(challenge)
    start, end = body.find(marker), body.find(_NOTES)
    history = _read_history(body)
    if 0 <= start < end:
        return Kept(body[:start].strip(), body[end + len(_NOTES) :].strip(), history)
    own = _HISTORY.sub("", body).replace(marker, "").replace(_NOTES, "")
    return Kept("", own.strip(), history)


def write_body(answer: Answer, kept: Kept, report: str) -> Written:
    """The issue's body: at most BODY_LIMIT characters, whatever is in it. report: the gate's, as Markdown."""
    history = _with(answer, kept.history)
    place = link("the workflow's summary", answer.workflow_url) if answer.workflow_url else "the command's output"
    more = f"Of {wording.moment(answer.at)} UTC; more in {place}."

    # As JSON that does not end the comment in which it stands, and calls nobody.
    hidden = f"<!-- rps:history {msgspec.json.encode(history).decode().translate(_ESCAPES)} -->"

    def own(report: str) -> str:
        parts = [marker_of(answer.challenge), state_of(answer, history), _history(history), report, more]
        parts += [hidden, "*Above is written anew each time; below is yours.*", _NOTES]
        return "\n\n".join(part for part in parts if part)

    left_out = own(f"The gate's report is too long for an issue: it is in {place}.")
    for ours in (own(details("The gate's report", report) if report else ""), left_out):
        body = "\n\n".join(part for part in (kept.above, ours, kept.notes) if part) + "\n"
        if length(body) <= BODY_LIMIT:
            return Written(body)
    return Written(f"{left_out}\n", "\n\n".join(part for part in (kept.above, kept.notes) if part))


def state_of(answer: Answer, history: Sequence[Entry] = ()) -> str:
    """What drifted, what was done, what happens next."""
    heading = _HEADINGS[answer.outcome]
    if answer.outcome == "passed" and answer.needs_a_person:
        heading = "⚠️ Retrained, and passed, but not offered for release: a person must look"
    parts = [f"## {heading}", bullets(_facts(answer, history))]
    judgement = answer.judgement
    if judgement and judgement.verdict and judgement.verdict.reasons:
        reasons = judgement.verdict.reasons[:_REASONS]
        parts += ["Blocked because", bullets(text(reason.message, _SENTENCE) for reason in reasons)]
    if answer.outcome == "rejected":
        broken = answer.broken_rules
        cells = []
        for one in broken[:_VIOLATIONS]:
            where = ", ".join(code(name) for name in (one.series, one.column) if name) or "all"
            cells.append([code(one.rule), where, text(one.message)])
        parts.append(table(["rule", "where", "what"], cells, "lll"))
        if len(broken) > _VIOLATIONS:
            parts.append(f"… and {len(broken) - _VIOLATIONS:,} more.")
    return "\n\n".join(parts)


def _facts(answer: Answer, history: Sequence[Entry]) -> list[str]:
    trigger, judgement = answer.trigger, answer.judgement
    facts = []
    if answer.is_of_drift:
        alert = f" ({code(trigger.alert)})" if trigger.alert else ""
        version = f", of version {text(trigger.version)}" if trigger.version else ""
        facts.append(f"**What drifted:** {_DRIFTED[trigger.drift]}{alert}{version}")
        if trigger.summary:
            facts.append(f"**The alert says:** {text(trigger.summary, _SENTENCE)}")
        if trigger.started:
            facts.append(f"**Since:** {wording.moment(trigger.started)} UTC")
    else:
        facts.append(f"**Started by:** {text(trigger.reason)}")
    if judgement:
        run = f", {link('the run', judgement.links.dag_run)}" if judgement.links.dag_run else ""
        figure = text(judgement.summary, _SENTENCE)
        facts.append(f"**What was done:** the pipeline on fresh data, on {code(judgement.git_sha)}{run}: {figure}")
    elif history:
        last = history[0]
        of = f" version {text(last.version)}:" if last.version else ""
        facts.append(f"**The last retraining**, {wording.moment(last.at)} UTC:{of} {text(last.summary, _SENTENCE)}")
    return [*facts, f"**Next:** {_next(answer)}"]


def _next(answer: Answer) -> str:
    how_to = link("what to do", f"{answer.repository_url}/blob/{BRANCH}/{HOW_TO}")
    if answer.wait:
        when = wording.moment(answer.wait.next)
        return (
            f"{text(answer.wait.limit)} holds. The next alert, or a person, can start a retraining at {when} UTC. "
            f"If the drift goes on, a release waits, or retraining does not mend it: a person must look ({how_to})."
        )
    if answer.outcome != "passed":
        return f"{_NEXT[answer.outcome]} ({how_to})."
    version = text(answer.judgement.model_version) if answer.judgement else ""
    where = link(WORKFLOW, f"{answer.repository_url}/actions/workflows/{WORKFLOW}")
    match answer.offer:
        case Offer("asked", when):
            asked = f"the release of version {version} was asked for at {text(when)}"
            return f"{asked}: {where} waits for approval in the environment `production`."
        case Offer("released", release):
            return f"nothing: version {version} was released as {text(release)}."
        case Offer("withdrawn", reason):
            return f"version {version} was withdrawn ({text(reason)}): a person must decide ({how_to})."
        case offer:
            why = f": {text(offer.detail, _SENTENCE)}" if offer else ""
            return f"{where} could not be started{why}. Start it by hand, for version {version} ({how_to})."


def _history(history: Sequence[Entry]) -> str:
    if not history:
        return ""
    rows = []
    for entry in history:
        when = wording.moment(entry.at)
        row = [link(when, entry.url) if entry.url else when, text(entry.why), entry.outcome]
        rows.append([*row, text(entry.version) or "–", text(entry.summary)])
    return f"**The last retrainings**\n\n{table(['UTC', 'why', 'verdict', 'version', 'figure'], rows, 'lllll')}"


def _with(answer: Answer, history: Sequence[Entry]) -> tuple[Entry, ...]:
    """The newest first, with this answer's retraining if there was one; one for each event."""
    trigger, judgement = answer.trigger, answer.judgement
    if answer.outcome is None or judgement is None:
        return tuple(history[:HISTORY])
    made = Entry(
        event=trigger.event,
        at=answer.at,
        why=" ".join(part for part in (trigger.reason, trigger.drift or "", trigger.alert) if part),
        outcome=answer.outcome,
        summary=judgement.summary,
        version=judgement.model_version,
        url=judgement.links.dag_run,
    )
    return (_fitting(made), *(one for one in history if one.event != trigger.event))[:HISTORY]


def _read_history(body: str) -> tuple[Entry, ...]:
    found = _HISTORY.search(body)
    with contextlib.suppress(msgspec.MsgspecError):
        entries = msgspec.json.decode(found[1] if found else "[]", type=list[Entry])
        return tuple(_fitting(entry) for entry in entries[:HISTORY])
    return ()


def _fitting(entry: Entry) -> Entry:
    """Whatever somebody has made of it: on one line, and cut."""
    texts = {name: clean(getattr(entry, name)) for name in ("event", "why", "summary", "version")}
    return msgspec.structs.replace(entry, **texts)
