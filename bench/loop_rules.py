"""Whether the replay reads the alert rules as Prometheus does: the year's metrics through `promtool test rules`.

What the service would have exposed on `/metrics` is kept for each hour and given to promtool with the generated rules;
the alerts that fire there are compared with those that fired in the replay, hour by hour.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import msgspec
import yaml

from bench.loop_service import WATCHED
from monitoring.prometheus_files import prometheus_rules
from service.watch.exposition import Exposition
from service.watch.monitor import Monitor

INSTANCE = "127.0.0.1:8000"
READ = re.compile(
    "rps_(out_of_distribution_total|predictions_total|forecasts_scored_total|population_stability_(index|limit)"
    "|drift_threshold|live_error_ratio|live_interval_coverage|live_interval_width_ratio|model_info)"
)
"""The metrics that the alerts in question read."""
GROUPS = ("recordings", "model")
_FAILED = re.compile(r"^ *expr: .*, time: (\w+),$", re.MULTILINE)


class Recorder:
    """What the service exposes, hour by hour."""

    def __init__(self) -> None:
        self.hours = 0
        self._series: dict[str, dict[int, float]] = {}

    def __call__(self, monitor: Monitor) -> None:
        for metric in Exposition(monitor.model, monitor, one_worker=False).collect():
            for sample in metric.samples:
                if READ.fullmatch(sample.name):
                    labels = {**sample.labels, "instance": INSTANCE, "job": "service"}
                    text = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
                    self._series.setdefault(f"{sample.name}{{{text}}}", {})[self.hours] = float(sample.value)
        self.hours += 1

    def input_series(self) -> list[dict[str, str]]:
        """As promtool takes them: a value for each hour, `_` where there was none."""
        return [
            {"series": series, "values": " ".join(_written(values.get(hour)) for hour in range(self.hours))}
            for series, values in self._series.items()
        ]


def _written(value: float | None) -> str:
    return "_" if value is None or math.isnan(value) else repr(value)


def differing_hours(recorder: Recorder, firing: list[frozenset[str]]) -> list[int] | None:
    """The hours, counted from the first, in which other alerts fire in Prometheus; None without promtool.

    firing: those of the replay, one set for each recorded hour.
    """
    if not shutil.which("promtool"):
        return None
    names = "|".join(WATCHED)
    asked = f'count by (alertname) (ALERTS{{alertstate="firing", alertname=~"{names}"}})'
    expected = [
        {
            "expr": asked,
            "eval_time": f"{hour}h",
            "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(fired)],
        }
        for hour, fired in enumerate(firing)
    ]
    with tempfile.TemporaryDirectory(prefix="rps-rules-") as scratch:
        rules, tests = Path(scratch) / "rules.yml", Path(scratch) / "tests.yml"
        # The generated rules, without those of other areas: promtool would look at them each hour for nothing.
        groups = [group for group in yaml.safe_load(prometheus_rules())["groups"] if group["name"] in GROUPS]
        rules.write_text(yaml.safe_dump({"groups": groups}), encoding="utf-8")
        written = {
            "rule_files": [rules.name],
            "evaluation_interval": "1h",
            "group_eval_order": GROUPS,  # any, otherwise; and an hour later what was recorded is too old to be seen
            "tests": [{"interval": "1h", "input_series": recorder.input_series(), "promql_expr_test": expected}],
        }
        tests.write_bytes(msgspec.json.encode(written))  # JSON is YAML
        done = subprocess.run(["promtool", "test", "rules", tests], capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    failed = {_hours_in(time) for time in _FAILED.findall(output)}
    if (done.returncode != 0) != bool(failed):
        raise RuntimeError(f"promtool test rules ended with {done.returncode}: {output[:2000]}")
    return sorted(failed)


def _hours_in(duration: str) -> int:
    """Whole hours of a duration as Go writes it: `120h0m0s`, or as Prometheus does: `5d`."""
    units = {"w": 168.0, "d": 24.0, "h": 1.0, "m": 1 / 60, "s": 1 / 3600}
    return round(sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([wdhms])", duration)))
