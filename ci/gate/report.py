"""The comment that a reviewer reads: a judgement as GitHub Markdown, short enough for a comment and for a phone.

`docs/reference/gate-report.md` explains its parts. `verdict.json` has all that is cut here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ci import wording
from ci.gate.chart import error_chart
from ci.gate.statuses import Opponent, change_of, error_heading, title_of
from ci.markdown import BODY_LIMIT, bullets, code, details, fence, length, link, table, text
from forecasting.judging.contests import Contest
from forecasting.judging.evaluation import Evaluation, FoldErrors
from forecasting.judging.verdict import Rule, Verdict
from records.judgement import Data, Failure, Judgement, Links, Outcome
from records.quality import Violation

THIN = 2
"""With fewer folds, the evidence is thin."""
RESERVE = 512
"""Characters of a comment for the watermark that `ci.gate.comment` appends."""
STABLE, SHIFTED = 0.1, 0.25
"""The usual reading of a population stability index (Siddiqi, 2006): stable below, a shift above."""

_HEADINGS: dict[Outcome, str] = {"pass": "✅ Pass", "block": "❌ Blocked", "error": "⚠️ No verdict"}
_TRAINED = {"production": "the production model", "candidate": "the candidate"}
_HOW_TO_GET = "docs/how-to/get-a-dataset.md"
_P_NOTE = (
    "p: one-sided Diebold–Mariano test that the error has grown by more than the policy's `negligible_regression`; for "
    "horizons and series, corrected for their number."
)
_NAME, _SENTENCE = 100, 500
"""Characters that are shown of a name, and of a sentence."""


@dataclass(frozen=True)
class _Rows:
    """How many entries of each list are shown; the rest is counted. Without slices, there is no chart."""

    reasons: int
    slices: int
    violations: int
    log_lines: int
    drift: int


_SHRINKING = (
    _Rows(reasons=30, slices=30, violations=50, log_lines=60, drift=5),
    _Rows(reasons=30, slices=10, violations=20, log_lines=20, drift=3),
    _Rows(reasons=10, slices=3, violations=10, log_lines=5, drift=0),
    _Rows(reasons=3, slices=0, violations=3, log_lines=0, drift=0),
)
"""Tried in turn until the report is short enough. The last always is, as every text in it is cut."""


def render(judgement: Judgement) -> str:
    """The report: at most BODY_LIMIT - RESERVE characters, whatever is in the judgement; without the watermark."""
    report = ""
    for rows in _SHRINKING:
        report = _report(judgement, rows)
        if length(report) <= BODY_LIMIT - RESERVE:
            break
    return report


def _report(judgement: Judgement, rows: _Rows) -> str:
    verdict, evaluation = judgement.verdict, judgement.evaluation
    parts = [f"## {_HEADINGS[judgement.outcome]}: {text(judgement.title or judgement.challenge, _NAME)}"]
    if judgement.failure:
        parts += _failure(judgement.failure, rows)
    elif verdict is None:
        parts += [text(judgement.summary, _SENTENCE)]
    if verdict:
        reasons = bullets(text(reason.message, _SENTENCE) for reason in verdict.reasons[: rows.reasons])
        parts += [_sentence(verdict, evaluation), *_cut(reasons, verdict.reasons, rows.reasons)]
    parts += _policy_changes(judgement, rows)
    if verdict:
        parts += [
            _models(verdict, evaluation),
            *_horizons(verdict, rows),
            error_chart(verdict) if rows.slices else "",
            _series(verdict, rows),
            _folds(verdict, evaluation, rows),
            _rules(verdict, evaluation, judgement.policy_from),
        ]
    if judgement.data:
        parts += [_data(judgement.data, evaluation, rows)]
    parts += [_links(judgement.links), _footer(judgement)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _cut(shown: str, entries: Sequence[object], limit: int, place: str = "in `verdict.json`") -> list[str]:
    """What is shown of a list, and how much more there is."""
    left = len(entries) - limit
    return [shown if limit else "", f"… and {left:,} more, {place}." if left > 0 else ""]


def _sentence(verdict: Verdict, evaluation: Evaluation | None) -> str:
    """The main number, and against whom."""
    overall, opponent = verdict.overall, verdict.opponent
    title = text(title_of(verdict, opponent), _NAME)
    number = f"**{verdict.measure} {wording.number(overall.candidate)} {text(verdict.unit, 20)}".rstrip() + "**"
    number += f", **{wording.compared(change_of(overall, opponent), title)}**"
    if interval := _interval(overall, opponent):
        number += f" ({verdict.confidence * 100:g} % interval {interval})"
    if opponent == "production":
        return f"{number}."
    if evaluation and evaluation.production_version:
        version = text(evaluation.production_version, _NAME)
        return f"{number}. The production model (version {version}) could not be compared."
    return f"{number}; no production model yet: {title} is the only opponent."


def _interval(contest: Contest, opponent: Opponent) -> str:
    """`−3.4 % to −0.8 %`; only known against production."""
    if opponent != "production" or contest.low is None or contest.high is None:
        return ""
    return f"{wording.percent(contest.low)} to {wording.percent(contest.high)}"


def _cells(contest: Contest, opponent: Opponent) -> list[str]:
    """The opponent's error; how much better or worse ours is, whether that breaks the policy, and the interval."""
    against = contest.production if opponent == "production" else contest.baseline
    broken = contest.worse if opponent == "production" else not contest.candidate < contest.baseline
    difference = wording.compared(change_of(contest, opponent)) + (" ❌" if broken else "")
    interval = _interval(contest, opponent)
    return ["–" if against is None else wording.number(against), difference + (f"<br>{interval}" if interval else "")]


def _models(verdict: Verdict, evaluation: Evaluation | None) -> str:
    overall, compared = verdict.overall, evaluation.production if evaluation else None
    rows = [["candidate", wording.number(overall.candidate), "", wording.percent(verdict.coverage)]]
    if overall.production is not None:
        known = compared.measured.overall.coverage if compared else None
        covered = "–" if known is None else wording.percent(known)
        version = f" {text(compared.version, 20)}" if compared else ""
        rows += [[f"production{version}", *_cells(overall, "production"), covered]]
    rows += [[text(verdict.baseline, _NAME), *_cells(overall, "baseline"), "–"]]
    for kind, error in overall.opponents.items():
        change = overall.candidate / error - 1 if error else None
        shown = f"{text(verdict.opponents.get(kind, kind), _NAME)}, for comparison"
        rows += [[shown, wording.number(error), wording.compared(change), "–"]]
    headers = ["model", text(error_heading(verdict), _NAME), "candidate is", "covered"]
    note = f"Covered: share of truths inside the {verdict.interval * 100:g} % interval."
    if _interval(overall, "production"):
        level = f"{verdict.confidence * 100:g} %"
        note = f"Below a difference: its {level} interval; under 0 % the candidate is better. {note}"
    return f"{table(headers, rows, 'lrlr')}\n\n{note}"


def _slices(kind: str, contests: Sequence[Contest], verdict: Verdict, limit: int) -> list[str]:
    """A table of the first contests, one a row, against the opponent."""
    rows = []
    for contest in contests[:limit]:
        name = text(contest.slice.removeprefix(f"{kind} "), _NAME)
        rows += [[name, wording.number(contest.candidate), *_cells(contest, verdict.opponent)]]
    opponent = text(title_of(verdict, verdict.opponent), _NAME)
    return _cut(table([kind, "candidate", opponent, "candidate is"], rows, "lrrl"), contests, limit)


def _horizons(verdict: Verdict, rows: _Rows) -> list[str]:
    heading = f"**{verdict.measure} by horizon**" + (f", {text(verdict.unit, 20)}" if verdict.unit else "")
    return [heading, *_slices("horizon", verdict.horizons, verdict, rows.slices)] if verdict.horizons else []


def _series(verdict: Verdict, rows: _Rows) -> str:
    if not verdict.series:
        return ""

    def best_last(contest: Contest) -> tuple[bool, float]:
        change = change_of(contest, verdict.opponent)
        return not contest.worse, -math.inf if change is None or math.isnan(change) else -change

    broken = sum(contest.worse for contest in verdict.series)
    summary = f"By series: {len(verdict.series):,}, worst first; {broken or 'none'} too much worse"
    return details(summary, *_slices("series", sorted(verdict.series, key=best_last), verdict, rows.slices))


def _folds(verdict: Verdict, evaluation: Evaluation | None, rows: _Rows) -> str:
    """The error on each fold, oldest first; with one fold, a word that this is little."""
    found = evaluation.folds if evaluation else ()
    if not found or not rows.slices:
        return ""
    models = {"candidate": "candidate", "production": "production", "baseline": text(verdict.baseline, _NAME)}
    shown = {model: name for model, name in models.items() if model in found[0].errors}
    cells = [
        [f"{wording.moment(fold.start)} to {wording.moment(fold.end)}", *(_error(fold, model) for model in shown)]
        for fold in found[: rows.slices]
    ]
    thin = "A single fold is thin evidence: more history gives more." if len(found) < THIN else ""
    summary = f"By fold: {wording.counted(len(found), 'fold')}, each predicted by models that have not seen it"
    shortened = _cut(table(["origins", *shown.values()], cells, "l" + "r" * len(shown)), found, rows.slices)
    return "\n\n".join(part for part in (thin, details(summary, *shortened)) if part)


def _error(fold: FoldErrors, model: str) -> str:
    return wording.number(fold.errors[model]) if model in fold.errors else "–"


def _rules(verdict: Verdict, evaluation: Evaluation | None, policy_from: str) -> str:
    """Every rule of the policy with what was found, so that a reader can check the verdict."""
    policy, overall = verdict.policy, verdict.overall
    low, high = map(wording.percent, policy.coverage)
    covered = wording.percent(verdict.coverage)
    if verdict.coverage_low is not None and verdict.coverage_high is not None:
        covered += f"<br>{wording.percent(verdict.coverage_low)} to {wording.percent(verdict.coverage_high)}"
    unfair = sum(reason.rule == "evidence" for reason in verdict.reasons)
    baseline = wording.compared(change_of(overall, "baseline"))
    rows: list[tuple[Rule, str, str, str]] = [
        ("evidence", "fair comparison", "yes", f"{unfair:,} against it" if unfair else "yes"),
        ("baseline", f"against {text(verdict.baseline, _NAME)}", "better", baseline),
    ]
    if evaluation:
        age = (evaluation.as_of - evaluation.candidate.train_end).total_seconds() / 3600
        most = f"at most {policy.max_training_age_hours} h"
        rows += [("freshness", "age of the newest target learnt from", most, f"{age:.0f} h")]
    if evaluation and evaluation.same_code:
        rows += [("regression", "against production", "the same commit", "not judged: there is no other recipe")]
    elif verdict.opponent == "production":
        slices = [*verdict.horizons, *verdict.series]
        beyond = f"{sum(contest.worse for contest in slices):,} of {len(slices):,} beyond"
        by_chance = f"if p ≥ {policy.significance:g}"
        slightly, much = wording.percent(policy.negligible_regression), wording.percent(policy.max_regression)
        allowed = "not worse" if policy.strict else f"up to {slightly} worse; up to {much} {by_chance}"
        most = f"up to {wording.percent(policy.max_slice_regression)} worse; more {by_chance}"
        p_value = "p unknown" if overall.p_value is None else wording.p_value(overall.p_value)
        rows += [
            ("regression", "against production", allowed, f"{wording.compared(overall.change)}, {p_value}"),
            ("slice", "each horizon, series", most, beyond),
        ]
    budget, bundle = f"at most {wording.size(policy.max_bundle_bytes)}", wording.size(verdict.bundle_bytes)
    rows += [("coverage", "covered", f"{low} to {high}", covered), ("bundle_size", "bundle", budget, bundle)]
    if verdict.prediction_time_ratio is not None:
        limit = f"at most {policy.max_prediction_time_ratio:g} × production's"
        rows += [("prediction_time", "prediction time", limit, f"{wording.number(verdict.prediction_time_ratio)} ×")]
    broken = {reason.rule for reason in verdict.reasons}
    cells = [[f"{'❌' if rule in broken else '✅'} {name}", allowed, found] for rule, name, allowed, found in rows]
    whose = f"Policy: {text(policy_from, _SENTENCE)}." if policy_from else ""
    return details("Rules, and what was found", table(["rule", "allowed", "found"], cells, "lll"), whose, _P_NOTE)


def _policy_changes(judgement: Judgement, rows: _Rows) -> list[str]:
    changes = judgement.policy_changes
    if not changes:
        return []
    heading = "**⚠️ This pull request changes the gate's policy.** It is judged by the policy of its base branch:"
    cells = [[code(change.key, 80), code(change.base, 80), code(change.head, 80)] for change in changes[: rows.reasons]]
    return [heading, *_cut(table(["key", "base (judges)", "pull request"], cells, "lll"), changes, rows.reasons)]


def _failure(failure: Failure, rows: _Rows) -> list[str]:
    """Why there is no verdict: the reason, the violations of the data gate, the end of the task's log."""
    parts = [text(failure.reason, _SENTENCE)]
    if failure.task or failure.log_url:
        log = link("its log", failure.log_url) if failure.log_url else "its log has no address"
        parts += [f"Failed task: {code(failure.task, _NAME)} ({log})"]
    if failure.violations:
        errors_first = sorted(failure.violations, key=lambda violation: violation.severity != "error")
        cells = [_violation(violation) for violation in errors_first[: rows.violations]]
        shown = table(["rule", "where", "what"], cells, "lll")
        parts += _cut(shown, errors_first, rows.violations, "in `quality.json`")
    tail = failure.log_tail[-rows.log_lines :] if rows.log_lines else ()
    if tail:
        parts += [details(f"The log's last {wording.counted(len(tail), 'line')}", fence(tail))]
    return parts


def _violation(violation: Violation) -> list[str]:
    rule = code(violation.rule, _NAME) + (" (warning)" if violation.severity == "warning" else "")
    where = ", ".join(code(name, _NAME) for name in (violation.series, violation.column) if name) or "all"
    when = [wording.moment(end) for end in (violation.first, violation.last) if end]
    if when:
        where += f"<br>{' to '.join(dict.fromkeys(when))}"
    return [rule, where, text(violation.message)]


def _data(data: Data, evaluation: Evaluation | None, rows: _Rows) -> str:
    shifted = sum(not value <= SHIFTED for value in data.drift.values())
    drift = f"{shifted or 'no'} of {wording.counted(len(data.drift), 'feature')} shifted" if data.drift else ""
    quality = wording.counted(data.warnings, "warning")
    summary = ", ".join(part for part in (f"Data: {wording.counted(data.rows, 'row')}", quality, drift) if part)
    facts = [f"{wording.counted(data.rows, 'row')}, {wording.moment(data.first)} to {wording.moment(data.last)} UTC"]
    if evaluation:
        window = evaluation.window
        judged = f"{wording.counted(window.origins, 'moment')}, {wording.counted(window.rows, 'prediction')}"
        facts += [f"judged on {wording.moment(window.start)} to {wording.moment(window.end)} UTC: {judged}"]
    facts += [
        f"quality gate: {wording.counted(data.errors, 'error')}, {quality} (`quality.json`)",
        f"hash {code(data.dataset_md5, _NAME)}, revision {code(data.dataset_rev, _NAME)}",
        f"to get it: {code(f'dvc get <repository> dataset --rev {data.dataset_rev}', 160)} (`{_HOW_TO_GET}`)",
    ]
    return details(summary, bullets(facts), *_drift(data, rows))


def _drift(data: Data, rows: _Rows) -> list[str]:
    """The largest few population stability indices, in words."""
    if not data.drift or not rows.drift:
        return []

    def largest_first(entry: tuple[str, float]) -> float:
        return -math.inf if math.isnan(entry[1]) else -entry[1]

    largest = sorted(data.drift.items(), key=largest_first)[: rows.drift]
    cells = [[code(name, _NAME), wording.number(value, digits=2), _reading(value)] for name, value in largest]
    heading = (
        f"Drift of the features from what {_TRAINED[data.drift_from]} saw in training to that window: "
        f"population stability index, the largest {len(largest)} of {len(data.drift):,}."
    )
    return [heading, table(["feature", "PSI", "reading"], cells, "lrl")]


def _reading(index: float) -> str:
    if math.isnan(index):
        return "unknown"
    return "stable" if index < STABLE else "moderate" if index <= SHIFTED else "shift"


def _links(links: Links) -> str:
    pages = {"Airflow run": links.dag_run, "MLflow run": links.mlflow_run, "data profile": links.profile}
    pages |= {"model version": links.model_version, "workflow run": links.workflow}
    return " · ".join(link(label, url) for label, url in pages.items() if url)


def _footer(judgement: Judgement) -> str:
    """What was judged, and how long it took."""
    facts = []
    if pull := judgement.pull_request:
        branches = f"{code(pull.head_ref, _NAME)} into {code(pull.base_ref, _NAME)}"
        facts += [f"pull request {pull.number}, {branches}: {text(pull.title)}"]
    facts += [f"commit {code(judgement.git_sha[:12], _NAME)}"]
    facts += [f"run {code(judgement.run_id, 160)}"] if judgement.run_id else []
    facts += [f"model version {code(judgement.model_version, _NAME)}"] if judgement.model_version else []
    if judgement.data and judgement.data.sandbox:
        alone = "no sandbox: in processes without keys"
        facts += [f"the stages ran in {alone if judgement.data.sandbox == 'process' else code(judgement.data.sandbox)}"]
    took = f"{wording.duration(judgement.seconds)}, tasks at work for {wording.duration(judgement.task_seconds)} of it"
    facts += [f"started {wording.moment(judgement.started)} UTC; took {took}"]
    return bullets(facts)
