"""Series as promtool has them, for the cases of the alerts: values over time, and what the parts of the system tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

DAY, HOUR = 144, 6
"""In samples, one every ten minutes."""
A, B = 'job="service",instance="a:8000"', 'job="service",instance="b:8000"'


@dataclass(frozen=True)
class Fires:
    """One alert that fires; its labels without those that it always has."""

    summary: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """Series by name and labels, in promtool's notation, and what fires at which times."""

    shown: str
    series: Mapping[str, str]
    expected: Mapping[str, Sequence[Fires]]


def gauge(*parts: tuple[int, float]) -> str:
    """So many samples of each value."""
    return " ".join(f"{value}+0x{samples - 1}" for samples, value in parts)


def counter(*parts: tuple[int, float], first: float = 0) -> str:
    """From the first value on, so many samples of each growth."""
    steps = [growth for samples, growth in parts for _ in range(samples)]
    return " ".join(f"{value:g}" for value in accumulate(steps, initial=first))


def absent(samples: int) -> str:
    return f"_x{samples}"


def gone(*values: str) -> str:
    """Values, and then what a scrape leaves that does not find the series any more."""
    return " ".join([*values, "stale"])


def info(where: str = A, version: str = "3", challenge: str = "weather") -> str:
    return (
        f'rps_model_info{{{where},challenge="{challenge}",version="{version}",git_sha="abc",run="def",dataset_md5="0"}}'
    )


def latencies(route: str, minutes: int, slow: int, where: str = A) -> dict[str, str]:
    """100 requests a minute: so many of them take half a second to a second, the others up to half a second."""
    counts = {"0.25": 0, "0.5": 100 - slow, "1.0": 100, "+Inf": 100}
    name = f'rps_request_seconds_bucket{{{where},route="{route}",le="'
    return {f'{name}{bound}"}}': counter((minutes, count)) for bound, count in counts.items()}


def requests(route: str, status: int, *parts: tuple[int, float], where: str = A) -> dict[str, str]:
    return {f'rps_requests_total{{{where},route="{route}",status="{status}"}}': counter(*parts)}


def rows(unusual: str, predicted: str, where: str = A) -> dict[str, str]:
    """Counters of predictions, with the challenge's limit of 0.2."""
    return {
        f"rps_out_of_distribution_total{{{where}}}": unusual,
        f'rps_predictions_total{{{where},source="stream"}}': predicted,
        f'rps_drift_threshold{{{where},signal="out_of_distribution_ratio"}}': gauge((3 * DAY, 0.2)),
        f'rps_drift_threshold{{{where},signal="live_error_ratio"}}': gauge((3 * DAY, 1.5)),
    }


def stability(index: str, feature: str = "lag_0", where: str = A, minutes: int = 300) -> dict[str, str]:
    """A feature whose limit is 0.25."""
    return {
        f'rps_population_stability_index{{{where},feature="{feature}"}}': index,
        f'rps_population_stability_limit{{{where},feature="{feature}"}}': gauge((minutes, 0.25)),
    }


def live(name: str, value: str, scored: int, where: str = A, horizon: str = "all") -> dict[str, str]:
    """A live signal after so many scored forecasts; the limit of the error ratio is 1.5."""
    each = scored // 3
    return {
        f'{name}{{{where},horizon="{horizon}"}}': value,
        f'rps_forecasts_scored_total{{{where},horizon="4"}}': gauge((300, each)),
        f'rps_forecasts_scored_total{{{where},horizon="5"}}': gauge((300, each)),
        f'rps_forecasts_scored_total{{{where},horizon="6"}}': gauge((300, scored - 2 * each)),
        f'rps_drift_threshold{{{where},signal="live_error_ratio"}}': gauge((300, 1.5)),
        f'rps_drift_threshold{{{where},signal="out_of_distribution_ratio"}}': gauge((300, 0.2)),
    }


def arrived(values: str, arrival: str = "newest", where: str = A) -> dict[str, str]:
    return {f'rps_observations_total{{{where},arrival="{arrival}"}}': values}


def ended(state: str, values: str, dag: str = "retrain_weather") -> dict[str, str]:
    where = 'job="pipeline",instance="m:9106"'
    return {f'rps_dag_run_end_timestamp_seconds{{{where},dag_id="{dag}",state="{state}"}}': values}
