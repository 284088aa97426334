"""The error by horizon as a Mermaid chart, which GitHub draws by itself: no image, no host for it."""

from __future__ import annotations

import math
import re

from ci.gate.statuses import error_heading
from ci.markdown import clean, text
from forecasting.judging.verdict import Verdict

COLOURS = {"candidate": ("blue", "#0072B2"), "production": ("orange", "#E69F00"), "baseline": ("grey", "#888888")}
"""Hues that colour-blind people tell apart, on white and on black (Okabe and Ito, 2008). xychart has no legend."""
MOST_POINTS = 40
LONGEST_TITLE = 100
SPARE = 0.1
"""Share of the drawn range that is left free above and below."""


def error_chart(verdict: Verdict) -> str:
    """The chart, and above it which line is which; one sentence instead where lines would show nothing.

    A line needs two horizons, and Mermaid's grammar has no NaN, no infinity and no exponent.
    """
    contests = verdict.horizons[:MOST_POINTS]
    if len(contests) < 2:
        return ""
    lines = {"candidate": [contest.candidate for contest in contests]}
    production = [contest.production for contest in contests if contest.production is not None]
    if len(production) == len(contests):
        lines["production"] = production
    lines["baseline"] = [contest.baseline for contest in contests]
    values = [value for line in lines.values() for value in line]
    if not all(math.isfinite(value) and abs(value) < 1e12 for value in values):
        return "No chart: an error is not a number that can be drawn."
    lowest, highest = min(values), max(values)
    spare = SPARE * (highest - lowest) or SPARE * abs(highest) or 1.0  # so that the axis is never empty
    low, high = max(0.0, lowest - spare) if lowest >= 0 else lowest - spare, highest + spare
    names, colours = zip(*(COLOURS[model] for model in lines), strict=True)
    titles = {"baseline": text(verdict.baseline, LONGEST_TITLE)}
    legend = ", ".join(f"{name} is {titles.get(model, model)}" for name, model in zip(names, lines, strict=True))
    start = "" if low == 0 else " The axis does not start at 0."
    whole = len(verdict.horizons)
    cut = f" The first {MOST_POINTS} of {whole} horizons." if whole > MOST_POINTS else ""
    horizons = ", ".join(_quoted(contest.slice.removeprefix("horizon ")) for contest in contests)
    drawing = [
        "```mermaid",
        f'%%{{init: {{"themeVariables": {{"xyChart": {{"plotColorPalette": "{", ".join(colours)}"}}}}}}}}%%',
        "xychart-beta",
        f'    x-axis "horizon, steps ahead" [{horizons}]',
        f"    y-axis {_quoted(error_heading(verdict))} {_plain(low, high)} --> {_plain(high, high)}",
        *(f"    line [{', '.join(_plain(value, high) for value in line)}]" for line in lines.values()),
        "```",
    ]
    return "\n".join([f"Lower is better: {legend}.{start}{cut}", "", *drawing])


def _plain(value: float, largest: float) -> str:
    """Without an exponent, to four digits of the largest number in the chart."""
    exponent = math.floor(math.log10(abs(largest))) if largest else 0
    return f"{value:.{min(30, max(0, 3 - exponent))}f}"


def _quoted(value: str) -> str:
    """A string of Mermaid's: it has no escape for a quote, and reads `%%`, `#…;` and backquotes in its own way."""
    kept = re.sub(r"[^\w °²³µ€£¥%/.,()·^*+−-]", " ", clean(value, 40))
    return f'"{re.sub("%+", "%", kept).strip() or "?"}"'
