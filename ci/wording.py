"""Numbers and times as the report shows them: few digits, a unit, and better or worse in words."""

from __future__ import annotations

import math
from datetime import UTC, datetime

MINUS = "−"


def number(value: float, digits: int = 3) -> str:
    """That many significant digits: 0.0123, 1.93, 1,930; NaN and ∞ as they are."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else _signed("∞", value)
    scientific = f"{abs(value):.{digits - 1}e}"
    exponent = int(scientific.partition("e")[2])
    if value == 0:
        return "0"
    if not -5 < exponent < 9:
        return _signed(scientific, value)
    return _signed(f"{abs(value):,.{max(0, digits - 1 - exponent)}f}", value)


def percent(share: float) -> str:
    """With one decimal, and never a negative zero."""
    hundredths = abs(share) * 100
    if not math.isfinite(hundredths):
        return f"{number(hundredths if share > 0 else -hundredths)} %"
    digits = f"{hundredths:,.1f}" if hundredths < 1e8 else f"{hundredths:.1e}"
    return digits + " %" if digits == "0.0" else _signed(f"{digits} %", share)


def compared(change: float | None, opponent: str = "") -> str:
    """change: candidate / opponent - 1. `2.1 % better`, `0.3 % worse than production`, `0.0 % different`."""
    if change is None or math.isnan(change):
        words, joint = "not comparable", "with"
    elif (size := percent(abs(change))) == "0.0 %":
        words, joint = "0.0 % different", "from"
    else:
        words, joint = f"{size} {'worse' if change > 0 else 'better'}", "than"
    return f"{words} {joint} {opponent}" if opponent else words


def p_value(value: float) -> str:
    if not 0 <= value <= 1:
        return f"p = {number(value)}"
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def moment(when: datetime) -> str:
    """To the minute, UTC; a time without a zone is taken for UTC, as all of ours are."""
    known = when if when.tzinfo else when.replace(tzinfo=UTC)
    return f"{known.astimezone(UTC):%Y-%m-%d %H:%M}"


def duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return f"{number(seconds)} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: int) -> str:
    """Bytes as kB or MB, in thousands."""
    return f"{number(count / 1000)} kB" if count < 1_000_000 else f"{number(count / 1_000_000)} MB"


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _signed(digits: str, value: float) -> str:
    return f"{MINUS}{digits}" if value < 0 else digits
