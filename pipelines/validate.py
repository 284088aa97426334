"""The data gate: judge the observations, report every violation, and let only good data pass."""

from __future__ import annotations

from clients.errors import DataRejected
from pipelines.data_rules import judge
from pipelines.files import read_json, read_table, write_json, write_text
from pipelines.history import Collection
from pipelines.run import Run
from records.quality import QualityReport, Violation


def run(run: Run) -> None:
    """Write `quality.json` and `quality.md`. Raises DataRejected with every error."""
    files = run.files
    collection = read_json(files.collection, Collection, made_by="merge")
    run.require_own(files.collection, collection.run_id, made_by="merge")
    observations = read_table(files.observations, made_by="merge")
    received, conflicting = collection.rows_received, collection.conflicting_repeats
    as_of = run.identity.as_of
    report = judge(observations, run.challenge, as_of, rows_received=received, conflicting_repeats=conflicting)
    write_json(files.quality, report)
    write_text(files.quality_report, as_markdown(report))
    for violation in report.violations:
        print(f"{violation.severity}: {_line(violation)}", flush=True)
    if not report.passed:
        errors = "\n".join(f"  - {_line(violation)}" for violation in report.errors)
        raise DataRejected(
            f"{len(report.errors)} quality rules are broken:\n{errors}\n"
            f"The data stays in {files.root}, the source's answers in the store; the report is {files.quality_report}."
        )
    print(f"{report.rows:,} rows of {len(report.series)} series passed", flush=True)


def as_markdown(report: QualityReport) -> str:
    """The report for people: verdict first, then a table of every violation."""
    warnings = len(report.violations) - len(report.errors)
    verdict = "passed" if report.passed else "**rejected**"
    counts = ", ".join(f"{series} {rows:,}" for series, rows in report.series.items())
    totals = f"{report.rows:,} rows ({_escaped(counts)}) as of {report.as_of:%Y-%m-%d %H:%M} UTC"
    lines = [
        f"### Data quality of `{report.challenge}`: {verdict}",
        "",
        f"{totals}; {len(report.errors)} errors, {warnings} warnings.",
    ]
    if report.violations:
        lines += ["", "| | rule | series | column | what | from | to |", "| --- | --- | --- | --- | --- | --- | --- |"]
        lines += [_row(violation) for violation in report.violations]
    return "\n".join(lines) + "\n"


def _row(violation: Violation) -> str:
    times = [f"{moment:%Y-%m-%d %H:%M}" if moment else "" for moment in (violation.first, violation.last)]
    cells = [violation.severity, violation.rule, violation.series, violation.column, violation.message, *times]
    return f"| {' | '.join(_escaped(cell) for cell in cells)} |"


def _escaped(text: str) -> str:
    """Text that neither breaks out of its table cell nor reads as HTML, whatever the source sends."""
    plain = " ".join(text.split())
    for character, replacement in (("&", "&amp;"), ("<", "&lt;"), ("\\", "\\\\"), ("|", "\\|"), ("`", "\\`")):
        plain = plain.replace(character, replacement)
    return plain


def _line(violation: Violation) -> str:
    where = " ".join(part for part in (violation.series, violation.column) if part)
    moment = f" (first: {violation.first:%Y-%m-%d %H:%M} UTC)" if violation.first else ""
    return f"{violation.rule}: {where + ': ' if where else ''}{violation.message}{moment}"
