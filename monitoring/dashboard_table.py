"""The generated part of `docs/reference/dashboards.md`: each dashboard's panels, what they show and ask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.models import dashboard as models

from monitoring.alert_table import END, START, MarkersMissing

PAGE = Path("docs/reference/dashboards.md")
_ROOT = Path(__file__).resolve().parents[1]


def files(dashboards: Mapping[str, models.Dashboard]) -> Mapping[Path, str]:
    """The page with its tables as they should be, by path from the repository's root. Raises MarkersMissing."""
    return {PAGE: with_tables((_ROOT / PAGE).read_text(encoding="utf-8"), dashboards)}


def with_tables(page: str, dashboards: Mapping[str, models.Dashboard]) -> str:
    """The page, with new tables between its markers. Raises MarkersMissing."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise MarkersMissing(f"{PAGE}: expected the lines {START!r} and {END!r} around the tables")
    tables = "\n\n".join(_table(name, made) for name, made in dashboards.items())
    return f"{before}{START}\n\n{tables}\n\n{END}{after}"


def _table(name: str, made: models.Dashboard) -> str:
    lines = [f"## {name.capitalize()}", "", f"`/d/{made.uid}`: {made.description}", ""]
    lines += ["| row | panel | what it shows |", "| --- | --- | --- |"]
    row = ""
    for panel in made.panels or ():
        if isinstance(panel, models.RowPanel):
            row = panel.title or ""
            continue
        lines.append(f"| {row} | {panel.title} | {panel.description} |")
        row = ""
    return "\n".join(lines)
