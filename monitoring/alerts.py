"""Defines every alert once, for Prometheus' rules, Grafana's rules, the table in `docs/` and the runbooks' names.

An expression gives one value for each thing that is wrong, and nothing where all is well. Alerts about data count hours
of data; `pace` says how many pass in an hour: a replay of an hour per second has a pace of 3600.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Literal

from records.drift_kinds import DriftKind

Area = Literal["service", "model", "pipeline", "watching"]
Severity = Literal["critical", "warning"]

OBSERVATIONS_HOURS = 6
"""Without a new observation for so long, there is no forecast; the default of a challenge's `max_age_hours`."""
SPIKE_HOURS = 24
"""Out-of-distribution rows are counted over a day: an hour has too few rows, and a night is not like a day."""
FEWEST_ROWS = 30
"""With fewer rows a share is noise; the service reports none, either."""
FEWEST_SCORES = 1500
"""Forecasts that have met their truth: a week of three hourly series at three horizons. The errors of a day are alike:
about every tenth quiet day has an error of 1.5 times the folds', and far fewer weeks."""
COVERAGE = (0.82, 0.97)
"""Intervals follow the errors of the last days, so a week outside of this is no matter of the season."""
WIDTH = 1.75
"""Of live intervals over the folds': they hide from the coverage that forecasts have become worse."""
RUN_HOURS = 24
"""Four times the default schedule's six hours."""

SHORTEST_RANGE = timedelta(seconds=10)
"""Whatever the pace: a range must hold several looks, and a replay may go slower for a while."""

INFERENCE = "/v1/.*|/v2/models/.*/infer|/invocations"
"""The routes whose latency counts; the page's `/events` lasts as long as the page is open."""
ALWAYS_WELL = "/metrics|/v2/health/live"
"""Machines call them often and never get an error; they would hide any share of errors."""

_ENOUGH_SCORES = f"and on (instance) (sum by (instance) (rps_forecasts_scored_total) >= {FEWEST_SCORES})"


@dataclass(frozen=True)
class Recording:
    """A recording rule: a series that Prometheus computes once, for alerts and panels."""

    name: str
    expression: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Alert:
    name: str
    area: Area
    severity: Severity
    expression: str
    """PromQL; every series it gives is one alert."""
    lasting: timedelta
    """How long the condition must hold before the alert fires."""
    when: str
    """The condition in words, for the documentation."""
    summary: str
    """One sentence that a person understands. `{{ $labels.… }}` and `{{ $value }}` as in Prometheus."""
    drift: DriftKind | None = None
    """What has drifted; such an alert carries the labels `drift` and `challenge`, and starts a retraining."""

    @property
    def runbook(self) -> str:
        """The path of the runbook, from the repository's root."""
        return f"docs/runbooks/{self.name}.md"


def recordings(pace: float = 1.0) -> tuple[Recording, ...]:
    """The recording rules, ordered so that none needs a later one."""
    spike = _range(SPIKE_HOURS, pace)
    latencies = f'sum by (instance, le) (rate(rps_request_seconds_bucket{{route=~"{INFERENCE}"}}[5m]))'
    counted = f'sum by (instance) (rate(rps_requests_total{{route!~"{ALWAYS_WELL}"}}[5m]))'
    failed = f'sum by (instance) (rate(rps_requests_total{{route!~"{ALWAYS_WELL}", status=~"5.."}}[5m]))'
    return (
        Recording(
            "rps:request_seconds:p95",
            f"histogram_quantile(0.95, {latencies})",
            "95th percentile of the latency of forecasts and observations, in seconds, over 5 minutes",
        ),
        Recording(
            "rps:requests:error_ratio",
            f"({failed} or 0 * {counted}) / {counted}",
            "share of requests that the service could not answer, over 5 minutes",
        ),
        Recording(
            "rps:out_of_distribution:ratio",
            f"sum by (instance) (increase(rps_out_of_distribution_total[{spike}])) "
            f"/ (sum by (instance) (increase(rps_predictions_total[{spike}])) >= {FEWEST_ROWS})",
            f"share of the rows predicted in the last {SPIKE_HOURS} hours with a feature outside the training "
            f"range, from {FEWEST_ROWS} rows on",
        ),
    )


def alerts(pace: float = 1.0) -> tuple[Alert, ...]:
    """All alerts. pace: hours of data that pass in one hour; 1 except in a replay."""
    return (*_service_alerts(), *_model_alerts(pace), *_pipeline_alerts(), *_watching_alerts())


def short(duration: timedelta) -> str:
    """A duration in its largest whole unit, as configurations and people have it: `6h`, `90m`, `0s`."""
    seconds = round(duration.total_seconds())
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _range(hours: float, pace: float) -> str:
    """A PromQL range of so many hours of data, in whole seconds: `21600s`."""
    return f"{round(max(timedelta(hours=hours) / pace, SHORTEST_RANGE).total_seconds())}s"


def _severities(area: Area) -> tuple[partial[Alert], partial[Alert]]:
    return partial(Alert, area=area, severity="critical"), partial(Alert, area=area, severity="warning")


def _service_alerts() -> tuple[Alert, ...]:
    critical, warning = _severities("service")
    return (
        critical(
            name="ServiceDown",
            expression='(up{job="service"} == 0 or absent(up{job="service"})) '
            'unless on () (rps_pipeline_up{system="mlflow"} == 1 unless on () rps_production_version)',
            lasting=timedelta(minutes=1),
            when="a service cannot be scraped, or no service exists after the first release",
            summary="The service{{ with $labels.instance }} at {{ . }}{{ end }} does not answer Prometheus.",
        ),
        warning(
            name="SlowRequests",
            expression="rps:request_seconds:p95 > 0.5",
            lasting=timedelta(minutes=5),
            when="the 95th percentile of the latency of forecasts and observations is above 500 ms",
            summary="One in twenty requests to {{ $labels.instance }} takes over {{ $value | humanizeDuration }}.",
        ),
        critical(
            name="FailingRequests",
            expression="rps:requests:error_ratio > 0.02",
            lasting=timedelta(minutes=5),
            when="the service answers more than 2 % of the requests with 500 or more",
            summary="{{ $value | humanizePercentage }} of the requests to {{ $labels.instance }} fail.",
        ),
    )


def _model_alerts(pace: float) -> tuple[Alert, ...]:
    """One per challenge and, for a model, version, however many replicas; a new version ends the old one's alerts."""
    window, spike = _range(OBSERVATIONS_HOURS, pace), _range(SPIKE_HOURS, pace)
    hour = timedelta(hours=1) / pace
    least, most = (f"{limit * 100:g} %" for limit in COVERAGE)
    coverage = 'rps_live_interval_coverage{horizon="all"}'
    critical, warning = _severities("model")
    return (
        critical(
            name="NoObservations",
            # The offset excludes a service or a Prometheus that started later than that.
            expression=f'sum by (challenge) (increase(rps_observations_total{{arrival="newest"}}[{window}]) '
            "* on (instance) group_left (challenge) rps_model_info) == 0 "
            f"and on (challenge) count by (challenge) (rps_model_info offset {window})",
            lasting=timedelta(minutes=15) / pace,
            when=f"no replica of a challenge's service has received a new observation for {OBSERVATIONS_HOURS} hours",
            summary=f"No new observation of {{{{ $labels.challenge }}}} has arrived for {OBSERVATIONS_HOURS} hours.",
        ),
        warning(
            name="SensorFault",
            # No `drift`: a model trained on the values of a broken sensor is no remedy.
            expression="max by (challenge, unique_id, detector, variable) "
            "(rps_sensor_fault * on (instance) group_left (challenge) rps_model_info) == 1",
            lasting=timedelta(0),  # a detector looks at several hours as it is
            when="one of the challenge's `[[detectors]]` finds a sensor of a series faulty",
            summary="A sensor of {{ $labels.unique_id }} in {{ $labels.challenge }} looks faulty: "
            "{{ $labels.detector }} blames {{ $labels.variable }}.",
        ),
        warning(
            name="InputsOutOfDistribution",
            # No `drift`: it would retrain in vain all through a spring (docs/how-to/drift-limits.md).
            # The counters continue across a change of model, but all rows must be this version's.
            expression=_by_version(
                "(rps:out_of_distribution:ratio > on (instance) "
                'rps_drift_threshold{signal="out_of_distribution_ratio"})',
                f"(rps_model_info and rps_model_info offset {spike})",
            ),
            lasting=hour,
            when=f"of at least {FEWEST_ROWS} rows of one version in the last {SPIKE_HOURS} hours, a larger share than "
            "the challenge's `max_out_of_distribution_ratio` has a feature outside the training range",
            summary="{{ $value | humanizePercentage }} of the last rows of {{ $labels.challenge }} have a feature "
            "outside what version {{ $labels.version }} was trained on.",
        ),
        warning(
            name="FeatureDrift",
            drift="features",
            expression=_by_version(
                "count by (instance) (rps_population_stability_index "
                "> on (instance, feature) rps_population_stability_limit)"
            ),
            lasting=hour,
            when="a feature's population stability index is above its limit",
            summary="{{ $value }} of the features of {{ $labels.challenge }} lie farther from what version "
            "{{ $labels.version }} was trained on than training itself ever did.",
        ),
        critical(
            name="ConceptDrift",
            drift="concept",
            expression=_by_version(
                '(rps_live_error_ratio{horizon="all"} > on (instance) '
                f'rps_drift_threshold{{signal="live_error_ratio"}} {_ENOUGH_SCORES})'
            ),
            lasting=hour,
            when="the ratio of live error to the folds' error is above the challenge's `max_live_error_ratio`, "
            f"from {FEWEST_SCORES:,} scored forecasts on",
            summary="The live error of {{ $labels.challenge }} is {{ $value | humanize }} times what version "
            "{{ $labels.version }} had on its folds.",
        ),
        warning(
            name="IntervalCoverage",
            expression=_by_version(f"(({coverage} < {COVERAGE[0]} or {coverage} > {COVERAGE[1]}) {_ENOUGH_SCORES})"),
            lasting=hour,
            when=f"less than {least} or more than {most} of the observed values lay in their interval, "
            f"from {FEWEST_SCORES:,} scored forecasts on",
            summary="{{ $value | humanizePercentage }} of the truths of {{ $labels.challenge }} lie in their interval; "
            f"between {least} and {most} should.",
        ),
        warning(
            name="IntervalWidth",
            expression=_by_version(f'(rps_live_interval_width_ratio{{horizon="all"}} > {WIDTH} {_ENOUGH_SCORES})'),
            lasting=hour,
            when=f"the intervals have become more than {WIDTH} times as wide as on the folds, from {FEWEST_SCORES:,} "
            "scored forecasts on",
            summary="The intervals of {{ $labels.challenge }} are {{ $value | humanize }} times as wide as on the "
            "folds of version {{ $labels.version }}.",
        ),
    )


def _by_version(condition: str, served: str = "rps_model_info") -> str:
    return f"max by (challenge, version) ({condition} * on (instance) group_left (challenge, version) {served})"


def _pipeline_alerts() -> tuple[Alert, ...]:
    succeeded = 'max by (dag_id) (rps_dag_run_end_timestamp_seconds{state="success"})'
    failed = 'max by (dag_id) (rps_dag_run_end_timestamp_seconds{state="failed"})'
    seconds = RUN_HOURS * 3600
    critical, warning = _severities("pipeline")
    return (
        warning(
            name="RunFailed",
            expression=f"{failed} > ({succeeded} or 0 * {failed})",
            lasting=timedelta(0),
            when="the last completed run of a DAG failed",
            summary="The last run of {{ $labels.dag_id }} has failed.",
        ),
        critical(
            name="NoRun",
            # The second part: a DAG that existed that long ago and has never succeeded.
            expression=f"time() - {succeeded} > {seconds} "
            f"or ({seconds} + 0 * max by (dag_id) (rps_dag_runs offset {seconds}s)) unless on (dag_id) {succeeded}",
            lasting=timedelta(minutes=10),
            when=f"no run of a DAG has succeeded for {RUN_HOURS} hours",
            summary="No run of {{ $labels.dag_id }} has succeeded for {{ $value | humanizeDuration }}.",
        ),
        warning(
            name="PipelineUnknown",
            expression="max by (system) (rps_pipeline_up) == 0",
            lasting=timedelta(minutes=10),
            when="`python -m monitoring.exporter` cannot read Airflow or MLflow",
            summary="The exporter cannot read {{ $labels.system }}.",
        ),
    )


def _watching_alerts() -> tuple[Alert, ...]:
    critical, warning = _severities("watching")
    return (
        critical(
            name="WatcherDown",
            # Setups without Alertmanager have none; one that ran before is reported missing for a day.
            expression='up{job=~"alerts|pipeline|prometheus"} == 0 or absent(up{job="alerts"}) '
            'or absent(up{job="pipeline"}) '
            'or (up{job="alertmanager"} == 0 and max_over_time(up{job="alertmanager"}[1d]) == 1)',
            lasting=timedelta(minutes=5),
            when="`alerts`, `pipeline` or `prometheus`, or an Alertmanager that ran before, cannot be scraped",
            summary="{{ $labels.job }}{{ with $labels.instance }} at {{ . }}{{ end }} does not answer Prometheus.",
        ),
        warning(
            name="EventsWaiting",
            expression='sum by (instance) (rps_alert_events_waiting{job="alerts"}) > 0',
            lasting=timedelta(minutes=15),
            when="`python -m monitoring.relay` could not deliver an event to GitHub for 15 minutes",
            summary="{{ $value }} drift events at {{ $labels.instance }} wait for GitHub.",
        ),
        warning(
            name="NotificationsFailing",
            expression="sum by (instance, integration) "
            "(rate(alertmanager_notification_requests_failed_total[10m])) > 0",
            lasting=timedelta(minutes=10),
            when="Alertmanager cannot deliver to the receiver or to Slack",
            summary="Alertmanager at {{ $labels.instance }} cannot deliver through {{ $labels.integration }}.",
        ),
        critical(
            name="RulesFailing",
            expression="sum by (instance) (increase(prometheus_rule_evaluation_failures_total[10m])) > 0",
            lasting=timedelta(minutes=10),
            when="Prometheus cannot evaluate a rule, so its alert cannot fire",
            summary="Prometheus at {{ $labels.instance }} cannot evaluate some of its rules.",
        ),
    )
