"""The shared features of one moment, read off the last steps of the grid: the form that serving uses.

The reader is compiled from text that is written once per specification, as `dataclasses` writes its methods: straight
arithmetic on local names costs a fifth of loops over the same plan. Of a specification it holds numbers only.
The operations are those of `forecasting.features.rolling` and `forecasting.features.vectors`, in the same order, so the
features equal the table form's to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from forecasting.challenge.scales import TargetScale
from forecasting.features.definitions import Difference, Lag, PastFeature, RollingStatistic, VectorComponent
from forecasting.features.rolling import Summary, leaf, merge_plan, merged, statistic_of
from forecasting.features.vectors import COMPONENTS

Floats = Sequence[float]
Reader = Callable[[Sequence[Floats]], tuple[float, ...]]


def origin_reader(variables: Sequence[str], past: Sequence[PastFeature], scale: TargetScale) -> Reader:
    """A function from the last values of each variable, at least ``lookback + 1``, to those of ``past``, in that order.

    Its argument: by ``variables``, one value per step, oldest first, the origin at -1, NaN when missing. The first
    variable is the target, in its own unit; its features are on the scale.
    """
    lines = ["def read(columns):"]
    scope: dict[str, Any] = {"sqrt": math.sqrt, "radians": math.radians, "u": COMPONENTS["u"], "v": COMPONENTS["v"]}
    scope["last_scaled"] = scale.last_scaled
    reach = max((feature.lookback for feature in past), default=0) + 1
    longest = dict.fromkeys(variables, 0)
    for index, variable in enumerate(variables):
        values = f"columns[{index}]"
        lines.append(f"    c{index} = {values if index else f'last_scaled({values}, {reach})'}")
        rolling = _rolling_of(variable, past)
        if rolling:
            longest[variable] = max(feature.window for feature in rolling)
            scope[f"some{index}"] = _of_some(rolling)
            lines += [f"    {line}" for line in _rolling_lines(index, rolling, longest[variable])]

    def value(variable: str, age: int) -> str:
        index = variables.index(variable)
        return f"v{index}_{age}" if age < longest[variable] else f"c{index}[-{age + 1}]"

    def text(feature: PastFeature) -> str:
        match feature:
            case Lag():
                return value(feature.variable, feature.steps)
            case Difference():
                return f"{value(feature.variable, 0)} - {value(feature.variable, feature.steps)}"
            case VectorComponent():
                speed, direction = (value(each, feature.steps) for each in (feature.speed, feature.direction))
                return f"0.0 if {speed} == 0.0 else -{speed} * {feature.component}(radians({direction}))"
            case RollingStatistic():
                statistic = _name(variables.index(feature.variable), feature)
                return f"{statistic} - {value(feature.variable, 0)}" if feature.relative else statistic

    lines.append(f"    return ({', '.join(map(text, past))},)")
    exec(compile("\n".join(lines), "<origin_reader>", "exec"), scope)  # noqa: S102 - our own text: numbers and fixed names
    reader: Reader = scope["read"]
    return reader


def _rolling_of(variable: str, past: Sequence[PastFeature]) -> list[RollingStatistic]:
    """The statistics of a variable, each once, however it is given."""
    rolling = (feature for feature in past if isinstance(feature, RollingStatistic) and feature.variable == variable)
    return list({(feature.window, feature.statistic): feature for feature in rolling}.values())


def _name(index: int, feature: RollingStatistic) -> str:
    return f"{feature.statistic}{index}_{feature.window}"


def _rolling_lines(index: int, rolling: Sequence[RollingStatistic], longest: int) -> list[str]:
    """The statistics of one variable: straight arithmetic when no value is missing, or else the general way."""
    unpacked = ", ".join(f"v{index}_{age}" for age in reversed(range(longest)))
    results = ", ".join(_name(index, feature) for feature in rolling)
    whole = [f"    {line}" for line in _whole_lines(index, rolling, longest)]
    return [
        f"t = c{index}[-{longest}:]",
        f"{unpacked}, = t",
        "total = sum(t)",
        "if total == total:",
        *whole,
        "else:",
        f"    {results}, = some{index}(t)",
    ]


def _whole_lines(index: int, rolling: Sequence[RollingStatistic], longest: int) -> list[str]:
    """As ``rolling.merged`` and ``rolling.statistic_of`` with counts and weights that are known beforehand."""
    averaged = [feature.window for feature in rolling if feature.statistic in {"mean", "std"}]
    deviations = any(feature.statistic == "std" for feature in rolling)
    lines = []
    for size, end, newer_size, older_size in _merges(averaged):
        weight = older_size / size
        newer, older = _mean(index, newer_size, end), _mean(index, older_size, end + newer_size)
        lines.append(f"d = {older} - {newer}")
        lines.append(f"{_mean(index, size, end)} = {newer} + d * {weight!r}")
        if deviations:
            squares = [f"q{index}_{part}_{at}" for part, at in ((newer_size, end), (older_size, end + newer_size))]
            parts = [name for name, part in zip(squares, (newer_size, older_size), strict=True) if part > 1]
            before = f"({' + '.join(parts)}) + " if parts else ""
            lines.append(f"q{index}_{size}_{end} = {before}d * d * {newer_size * weight!r}")
    for feature in rolling:
        tail = "t" if feature.window == longest else f"t[-{feature.window}:]"
        worked_out = {
            "mean": _mean(index, feature.window, 0),
            "std": f"sqrt(q{index}_{feature.window}_0 / {float(feature.window)!r})",
            "min": f"min({tail})",
            "max": f"max({tail})",
        }[feature.statistic]
        lines.append(f"{_name(index, feature)} = {worked_out}")
    return lines


def _mean(index: int, size: int, end: int) -> str:
    return f"v{index}_{end}" if size == 1 else f"m{index}_{size}_{end}"


def _merges(windows: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Size, end, newer size and older size of every window that is needed, parts before wholes.

    A window's end is how many steps before the origin it ends; the windows themselves end at 0.
    """
    plan = merge_plan(tuple(windows))
    ends: dict[int, set[int]] = {size: set() for size in (1, *plan)}
    for window in windows:
        ends[window].add(0)
    for size in sorted(plan, reverse=True):
        newer, older = plan[size]
        for end in ends[size]:
            ends[newer].add(end)
            ends[older].add(end + newer)
    return [(size, end, *plan[size]) for size in sorted(plan) for end in sorted(ends[size])]


def _of_some(rolling: Sequence[RollingStatistic]) -> Callable[[Floats], list[float]]:
    """The statistics of a window in which some value is missing."""
    merges = _merges([feature.window for feature in rolling])

    def read(tail: Floats) -> list[float]:
        found: dict[tuple[int, int], Summary] = {(1, end): leaf(tail[-1 - end]) for end in range(len(tail))}
        for size, end, newer, older in merges:
            found[size, end] = merged(found[newer, end], found[older, end + newer])
        return [statistic_of(found[each.window, 0], each.statistic, each.window) for each in rolling]

    return read
