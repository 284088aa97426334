"""What closing the loop brings, on the recorded year: `python -m bench.loop policies` or `changes` prints Markdown.

A year is served hour by hour, in this process, by the service's own code under models of the pipeline's own; they are
kept under `.rps/bench/loop/`, so that another look, or another rule, takes minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.loop_changes import FAULTS, STATIONS, faulty, jumps, month, natural
from bench.loop_models import judged, recorded_year, train_all
from bench.loop_policies import FIRST, Policy, replay, scheduled
from bench.loop_report import (
    told_demo,
    told_faults,
    told_jumps,
    told_natural,
    told_policies,
    told_quiet,
    told_rules,
    told_windows,
)
from bench.loop_rules import Recorder, agreement
from bench.loop_service import CONCEPT, DRIFT, Rules
from ci.retrain.retrain_command import COOL_DOWN_HOURS
from scripts.services import ROOT

DAY = 24
WEEK = 504
"""Forecasts of each horizon of three hourly series in seven days."""
DAILY = Policy(name="daily", every_hours=DAY)
EACH = Rules(starting=frozenset(DRIFT))
"""Every alert of drift starts a retraining."""
ON_DRIFT = Policy(name="on drift as shipped, with the gate", on_drift=True, gated=True)
POLICIES = (
    Policy(name="never"),
    DAILY,
    Policy(name="daily, with the gate", every_hours=DAY, gated=True),
    Policy(name="every fourth day", every_hours=4 * DAY),
    ON_DRIFT,
    Policy(name="the same, `InputsOutOfDistribution` starts one, too", on_drift=True, gated=True, rules=EACH),
    Policy(name="the same, and a cool-down of 6 h", on_drift=True, gated=True, cool_down_hours=6, rules=EACH),
    Policy(name="on drift as shipped, without the gate", on_drift=True),
)
OTHER_RULES = (
    ("what is shipped", COOL_DOWN_HOURS, Rules()),
    ("a cool-down of 6 h", 6, Rules()),
    ("a cool-down of 24 h", 24, Rules()),
    ("a cool-down of 96 h", 96, Rules()),
    ("live error over a week", COOL_DOWN_HOURS, Rules(live_window=WEEK)),
    ("72 h, live error over a week", 72, Rules(live_window=WEEK)),
    ("6 h, `InputsOutOfDistribution` starts one, too", 6, EACH),
    ("24 h, `InputsOutOfDistribution` starts one, too", 24, EACH),
    ("`InputsOutOfDistribution` starts one, too", COOL_DOWN_HOURS, EACH),
    ("96 h, `InputsOutOfDistribution` starts one, too", 96, EACH),
    (
        "24 h, `ConceptDrift` alone starts, live error over a week",
        24,
        Rules(starting=frozenset({CONCEPT}), live_window=WEEK),
    ),
)
"""By what is different: the cool-down in hours, and the rules."""
DEMO = ROOT / ".rps" / "loop-demo" / "timeline.json"
"""Where `make loop-demo` leaves its figures."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.loop", description=__doc__)
    parser.add_argument(
        "part", choices=("policies", "rules", "changes", "demo"), help="what to measure, or to tell of the demo"
    )
    parser.add_argument("--workers", type=int, default=2, help="how many train at a time (default: %(default)s)")
    parser.add_argument(
        "--demo", type=Path, default=DEMO, help="the demo's timeline.json (default: where it leaves it)"
    )
    options = parser.parse_args()
    if options.part == "policies":
        told = policies(options.workers)
    elif options.part == "rules":
        told = other_rules(options.workers)
    elif options.part == "changes":
        told = changes(Rules())
    else:
        told = told_demo(options.demo)
    print("\n".join(told))
    return 0


def policies(workers: int) -> Iterator[str]:
    train_all(scheduled(DAY), workers)
    recorder = Recorder()
    years = {policy: replay(policy, recorder if policy is ON_DRIFT else None) for policy in POLICIES}
    drift = years[ON_DRIFT]
    agreed = agreement(recorder, list(drift.firing.values()))
    first = judged(recorded_year(), FIRST, None)
    yield from told_policies(list(years.values()), years[DAILY], drift, first, agreed)


def other_rules(workers: int) -> Iterator[str]:
    train_all(scheduled(DAY), workers)
    daily = replay(DAILY)
    years = [
        replay(Policy(name=name, on_drift=True, gated=True, cool_down_hours=hours, last_midnight=True, rules=rules))
        for name, hours, rules in OTHER_RULES
    ]
    phases = [
        replay(Policy(name="every fourth day", every_hours=4 * DAY, phase_hours=phase))
        for phase in range(0, 4 * DAY, DAY)
    ]
    yield from told_rules(years, daily, phases)
    yield from told_windows(
        [
            (rules.live_window, [month(number, rules) for number in range(1, 13)], jumps(DRIFT, rules),
             natural(DRIFT, rules))
            for rules in (Rules(), Rules(live_window=WEEK))
        ]
    )  # fmt: skip


def changes(rules: Rules) -> Iterator[str]:
    months = [month(number, rules) for number in range(1, 13)]
    yield from told_quiet(months)
    yield from told_jumps(jumps(DRIFT, rules))
    yield from told_natural(natural(DRIFT, rules))
    quiet = [one for one in months if one.quiet]
    places = (STATIONS, STATIONS[1:2])
    yield from told_faults(
        [faulty(fault, stations, one, DRIFT, rules) for fault in FAULTS for stations in places for one in quiet]
    )


if __name__ == "__main__":
    sys.exit(main())
