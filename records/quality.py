"""The data gate's report, `quality.json`: `validate` writes it; `version`, the model gate and the exporter read it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

Severity = Literal["error", "warning"]


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """One rule that one series (or the whole table) breaks; as a warning, within the tolerance."""

    rule: str
    series: str = ""
    """Empty: the whole table."""
    column: str = ""
    """Empty: the whole row."""
    severity: Severity = "error"
    found: float
    limit: float
    count: int
    """How many rows (or hours, for a rule about hours) break it."""
    first: datetime | None = None
    last: datetime | None = None
    message: str


class QualityReport(msgspec.Struct, frozen=True, kw_only=True):
    """`quality.json`. The same data as of the same moment gives the same report."""

    challenge: str
    as_of: datetime
    rows: int
    series: dict[str, int]
    """Rows by series, including those of the challenge that have none."""
    passed: bool
    violations: tuple[Violation, ...]
    first: datetime | None = None
    """The oldest row's time (UTC), as ``last`` is the newest's; None without a readable one."""
    last: datetime | None = None

    @property
    def errors(self) -> tuple[Violation, ...]:
        return tuple(violation for violation in self.violations if violation.severity == "error")
