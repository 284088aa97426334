"""What closing the loop brings, on the recorded year: `python -m bench.loop PART` prints Markdown.

A year is served hour by hour, in this process, by the service's own code under models of the pipeline's own; they are
kept under `.rps/bench/loop/`, so that another look, or another rule, takes minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bench.loop_changes import FAULTS, MONTHS, STATIONS, faulty, jumps, month, natural
from bench.loop_models import judged, recorded_year, train_all
from bench.loop_policies import FIRST, Policy, replay, scheduled
from bench.loop_report import (
    demo_section,
    faults_section,
    jumps_section,
    natural_section,
    policies_section,
    quiet_section,
    rules_section,
    windows_section,
)
from bench.loop_rules import Recorder, differing_hours
from bench.loop_service import CONCEPT, DRIFT, LIVE_WINDOW
from bench.report import arguments, run
from scripts.services import ROOT

DAY = 24
WEEK = 504
"""Forecasts of each horizon of three hourly series in seven days."""
DAILY = Policy(name="daily", every_hours=DAY)
EACH = frozenset(DRIFT)
"""Every alert of drift starts a retraining."""
ON_DRIFT = Policy(name="on drift as shipped, with the gate", on_drift=True, gated=True)
POLICIES = (
    Policy(name="never"),
    DAILY,
    Policy(name="daily, with the gate", every_hours=DAY, gated=True),
    Policy(name="every fourth day", every_hours=4 * DAY),
    Policy(name="every fourth day, with the gate", every_hours=4 * DAY, gated=True),
    ON_DRIFT,
    Policy(name="the same, `InputsOutOfDistribution` starts one, too", on_drift=True, gated=True, starting=EACH),
    Policy(name="the same, and a cool-down of 6 h", on_drift=True, gated=True, cool_down_hours=6, starting=EACH),
    Policy(name="on drift as shipped, without the gate", on_drift=True),
)


def other(name: str, **rules: Any) -> Policy:  # noqa: ANN401
    """On drift with the gate, under other rules than what is shipped."""
    return Policy(name=name, on_drift=True, gated=True, last_midnight=True, **rules)


OTHER_RULES = (
    other("what is shipped"),
    other("a cool-down of 6 h", cool_down_hours=6),
    other("a cool-down of 24 h", cool_down_hours=24),
    other("a cool-down of 96 h", cool_down_hours=96),
    other("live error over a week", live_window=WEEK),
    other("72 h, live error over a week", cool_down_hours=72, live_window=WEEK),
    other("6 h, `InputsOutOfDistribution` starts one, too", cool_down_hours=6, starting=EACH),
    other("24 h, `InputsOutOfDistribution` starts one, too", cool_down_hours=24, starting=EACH),
    other("`InputsOutOfDistribution` starts one, too", starting=EACH),
    other("96 h, `InputsOutOfDistribution` starts one, too", cool_down_hours=96, starting=EACH),
    other(
        "24 h, `ConceptDrift` alone starts, live error over a week",
        cool_down_hours=24,
        starting=frozenset({CONCEPT}),
        live_window=WEEK,
    ),
)


def policies() -> Iterator[str]:
    train_all(scheduled(DAY))
    recorder = Recorder()
    years = {policy: replay(policy, recorder if policy is ON_DRIFT else None) for policy in POLICIES}
    drift = years[ON_DRIFT]
    differing = differing_hours(recorder, list(drift.firing.values()))
    first = judged(recorded_year(), FIRST, None)
    yield from policies_section(list(years.values()), years[DAILY], drift, first, differing)


def other_rules() -> Iterator[str]:
    train_all(scheduled(DAY))
    phases = [
        replay(Policy(name="every fourth day", every_hours=4 * DAY, phase_hours=phase))
        for phase in range(0, 4 * DAY, DAY)
    ]
    yield from rules_section([replay(policy) for policy in OTHER_RULES], replay(DAILY), phases)
    yield from windows_section(
        (window, [month(number, window) for number in MONTHS], jumps(window), natural(window))
        for window in (LIVE_WINDOW, WEEK)
    )


def changes() -> Iterator[str]:
    months = {number: month(number) for number in MONTHS}
    yield from quiet_section(months)
    yield from jumps_section(jumps())
    yield from natural_section(natural())
    quiet = {number: one for number, one in months.items() if one.quiet}
    places = (STATIONS, STATIONS[1:2])
    yield from faults_section(
        [faulty(fault, place, *one) for fault in FAULTS for place in places for one in quiet.items()]
    )


PARTS: dict[str, Callable[[], Iterable[str]]] = {
    "policies": policies,
    "rules": other_rules,
    "changes": changes,
    "demo": lambda: demo_section(ROOT / ".rps" / "loop-demo" / "timeline.json"),
}


if __name__ == "__main__":
    parser = arguments()
    parser.add_argument("part", choices=PARTS, help="what to measure; `demo`: what `make loop-demo` measured")
    sys.exit(run(parser, lambda part: PARTS[part]()))
