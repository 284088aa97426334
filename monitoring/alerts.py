"""Every alert, once: Prometheus' rules, Grafana's rules, the table in `docs/` and the runbooks' names come from here.

An expression gives one value for each thing that is wrong, and nothing where all is well. Alerts about data count hours
of data, which is what `pace` is for: a replay in which an hour passes in a second has a pace of 3600.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from records.drift_kinds import DriftKind

Area = Literal["service", "model", "pipeline", "watching"]
Severity = Literal["critical", "warning"]

OBSERVATIONS_HOURS = 6
"""Without a new observation for so long, nothing is forecast; what a challenge's `max_age_hours` is by default."""
SPIKE_HOURS = 24
"""Out-of-distribution rows are counted over a day: an hour has too few rows, and a night is not like a day."""
FEWEST_ROWS = 30
"""With fewer rows a share is noise; the service tells nothing from fewer, either."""
FEWEST_SCORES = 1500
"""Forecasts that have met their truth: a week of three hourly series at three horizons. The errors of a day are alike:
about every tenth quiet day has an error of 1.5 times the hold-out's, and far fewer weeks."""
COVERAGE = (0.85, 0.95)
RUN_HOURS = 24
"""Four times the default schedule's six hours."""

SHORTEST_RANGE = timedelta(seconds=10)
"""Whatever the pace: a range must hold several looks, and a replay may go slower for a while."""

INFERENCE = "/v1/.*|/v2/models/.*/infer|/invocations"
"""The routes whose latency counts. The page's `/events` lasts as long as somebody looks at it."""
ALWAYS_WELL = "/metrics|/v2/health/live"
"""Asked by machines, and never answered with an error; they would make any share of errors small."""

_BY_MODEL = "* on (instance) group_left (challenge, version)"
_ENOUGH_SCORES = f"and on (instance) (sum by (instance) (rps_forecasts_scored_total) >= {FEWEST_SCORES})"


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording rule: a series that is worked out once, and used by alerts and panels."""

    name: str
    expression: str
    told: str


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One alert."""

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
    counted = f'rps_requests_total{{route!~"{ALWAYS_WELL}"}}'
    failed = f'rps_requests_total{{route!~"{ALWAYS_WELL}", status=~"5.."}}'
    return (
        Recording(
            name="rps:request_seconds:p95",
            expression=(
                "histogram_quantile(0.95, "
                f'sum by (instance, le) (rate(rps_request_seconds_bucket{{route=~"{INFERENCE}"}}[5m])))'
            ),
            told="95th percentile of the latency of forecasts and observations, in seconds, over 5 minutes",
        ),
        Recording(
            name="rps:requests:error_ratio",
            expression=(
                f"(sum by (instance) (rate({failed}[5m])) or 0 * sum by (instance) (rate({counted}[5m]))) "
                f"/ sum by (instance) (rate({counted}[5m]))"
            ),
            told="share of requests that the service could not answer, over 5 minutes",
        ),
        Recording(
            name="rps:out_of_distribution:ratio",
            expression=(
                f"sum by (instance) (increase(rps_out_of_distribution_total[{spike}])) "
                f"/ (sum by (instance) (increase(rps_predictions_total[{spike}])) >= {FEWEST_ROWS})"
            ),
            told=(
                f"share of the rows predicted in the last {SPIKE_HOURS} hours with a feature outside the training "
                f"range, from {FEWEST_ROWS} rows on"
            ),
        ),
    )


def alerts(pace: float = 1.0) -> tuple[Alert, ...]:
    """All alerts. pace: hours of data that pass in one hour; 1 except in a replay."""
    return (
        *_service_alerts(),
        _no_observations(pace),
        *_drift_alerts(pace),
        _interval_coverage(pace),
        *_pipeline_alerts(),
        *_watching_alerts(),
    )


def promql(duration: timedelta) -> str:
    """A duration as PromQL writes it, in whole seconds, at least one: `21600s`."""
    return f"{max(round(duration.total_seconds()), 1)}s"


def short(duration: timedelta) -> str:
    """A duration in its largest whole unit, as configurations and people have it: `6h`, `90m`, `0s`."""
    seconds = round(duration.total_seconds())
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _range(hours: float, pace: float) -> str:
    return promql(max(timedelta(hours=hours) / pace, SHORTEST_RANGE))


def _service_alerts() -> tuple[Alert, ...]:
    return (
        Alert(
            name="ServiceDown",
            area="service",
            severity="critical",
            expression=(
                '(up{job="service"} == 0 or absent(up{job="service"})) '
                'unless on () (rps_pipeline_up{system="mlflow"} == 1 unless on () rps_production_version)'
            ),
            lasting=timedelta(minutes=1),
            when="a service cannot be scraped, or no service exists after the first release",
            summary="The service{{ with $labels.instance }} at {{ . }}{{ end }} does not answer Prometheus.",
        ),
        Alert(
            name="SlowRequests",
            area="service",
            severity="warning",
            expression="rps:request_seconds:p95 > 0.5",
            lasting=timedelta(minutes=5),
            when="the 95th percentile of the latency of forecasts and observations is above 500 ms",
            summary="One in twenty requests to {{ $labels.instance }} takes over {{ $value | humanizeDuration }}.",
        ),
        Alert(
            name="FailingRequests",
            area="service",
            severity="critical",
            expression="rps:requests:error_ratio > 0.02",
            lasting=timedelta(minutes=5),
            when="the service answers more than 2 % of the requests with 500 or more",
            summary="{{ $value | humanizePercentage }} of the requests to {{ $labels.instance }} fail.",
        ),
    )


def _no_observations(pace: float) -> Alert:
    window = _range(OBSERVATIONS_HOURS, pace)
    return Alert(
        name="NoObservations",
        area="model",
        severity="critical",
        # The offset excludes a service or a Prometheus that started later than that.
        expression=(
            f'sum by (challenge) (increase(rps_observations_total{{arrival="newest"}}[{window}]) '
            "* on (instance) group_left (challenge) rps_model_info) == 0 "
            f"and on (challenge) count by (challenge) (rps_model_info offset {window})"
        ),
        lasting=timedelta(minutes=15) / pace,
        when=f"no replica of a challenge's service has received a new observation for {OBSERVATIONS_HOURS} hours",
        summary=f"No new observation of {{{{ $labels.challenge }}}} has arrived for {OBSERVATIONS_HOURS} hours.",
    )


def _drift_alerts(pace: float) -> tuple[Alert, ...]:
    """One per challenge and version, however many replicas report it; a new version ends the old one's alerts."""
    spike = _range(SPIKE_HOURS, pace)
    hour = timedelta(hours=1) / pace
    return (
        Alert(
            name="InputsOutOfDistribution",
            area="model",
            severity="warning",
            # No `drift`: it would retrain in vain all through a spring (docs/how-to/drift-limits.md).
            # The counters continue across a change of model, but all rows must be this version's.
            expression=(
                "max by (challenge, version) ((rps:out_of_distribution:ratio > on (instance) "
                'rps_drift_threshold{signal="out_of_distribution_ratio"}) '
                f"{_BY_MODEL} (rps_model_info and rps_model_info offset {spike}))"
            ),
            lasting=hour,
            when=(
                f"of at least {FEWEST_ROWS} rows of one version in the last {SPIKE_HOURS} hours, a larger share than "
                "the challenge's `max_out_of_distribution_ratio` has a feature outside the training range"
            ),
            summary=(
                "{{ $value | humanizePercentage }} of the last rows of {{ $labels.challenge }} have a feature outside "
                "what version {{ $labels.version }} was trained on."
            ),
        ),
        Alert(
            name="FeatureDrift",
            area="model",
            severity="warning",
            drift="features",
            expression=(
                "max by (challenge, version) (count by (instance) (rps_population_stability_index "
                f"> on (instance, feature) rps_population_stability_limit) {_BY_MODEL} rps_model_info)"
            ),
            lasting=hour,
            when="a feature's population stability index is above its limit",
            summary=(
                "{{ $value }} of the features of {{ $labels.challenge }} lie farther from what version "
                "{{ $labels.version }} was trained on than training itself ever did."
            ),
        ),
        Alert(
            name="ConceptDrift",
            area="model",
            severity="critical",
            drift="concept",
            expression=(
                'max by (challenge, version) ((rps_live_error_ratio{horizon="all"} > on (instance) '
                f'rps_drift_threshold{{signal="live_error_ratio"}} {_ENOUGH_SCORES}) {_BY_MODEL} rps_model_info)'
            ),
            lasting=hour,
            when=(
                "the ratio of live error to hold-out error is above the challenge's `max_live_error_ratio`, "
                f"from {FEWEST_SCORES:,} scored forecasts on"
            ),
            summary=(
                "The live error of {{ $labels.challenge }} is {{ $value | humanize }} times what version "
                "{{ $labels.version }} had on its hold-out."
            ),
        ),
    )


def _interval_coverage(pace: float) -> Alert:
    low, high = COVERAGE
    least, most = f"{low * 100:g} %", f"{high * 100:g} %"
    return Alert(
        name="IntervalCoverage",
        area="model",
        severity="warning",
        expression=(
            f'max by (challenge, version) (((rps_live_interval_coverage{{horizon="all"}} < {low} '
            f'or rps_live_interval_coverage{{horizon="all"}} > {high}) {_ENOUGH_SCORES}) {_BY_MODEL} rps_model_info)'
        ),
        lasting=timedelta(hours=1) / pace,
        when=(
            f"less than {least} or more than {most} of the observed values lay in their interval, "
            f"from {FEWEST_SCORES:,} scored forecasts on"
        ),
        summary=(
            "{{ $value | humanizePercentage }} of the truths of {{ $labels.challenge }} lie in their interval; "
            f"between {least} and {most} should."
        ),
    )


def _pipeline_alerts() -> tuple[Alert, ...]:
    succeeded = 'max by (dag_id) (rps_dag_run_end_timestamp_seconds{state="success"})'
    failed = 'max by (dag_id) (rps_dag_run_end_timestamp_seconds{state="failed"})'
    seconds = RUN_HOURS * 3600
    return (
        Alert(
            name="RunFailed",
            area="pipeline",
            severity="warning",
            expression=f"{failed} > ({succeeded} or 0 * {failed})",
            lasting=timedelta(0),
            when="the last completed run of a DAG failed",
            summary="The last run of {{ $labels.dag_id }} has failed.",
        ),
        Alert(
            name="NoRun",
            area="pipeline",
            severity="critical",
            # The second part: a DAG that existed that long ago and has never succeeded.
            expression=(
                f"time() - {succeeded} > {seconds} "
                f"or ({seconds} + 0 * max by (dag_id) (rps_dag_runs offset {seconds}s)) unless on (dag_id) {succeeded}"
            ),
            lasting=timedelta(minutes=10),
            when=f"no run of a DAG has succeeded for {RUN_HOURS} hours",
            summary="No run of {{ $labels.dag_id }} has succeeded for {{ $value | humanizeDuration }}.",
        ),
        Alert(
            name="PipelineUnknown",
            area="pipeline",
            severity="warning",
            expression="max by (system) (rps_pipeline_up) == 0",
            lasting=timedelta(minutes=10),
            when="`python -m monitoring.exporter` cannot read Airflow or MLflow",
            summary="The exporter cannot read {{ $labels.system }}.",
        ),
    )


def _watching_alerts() -> tuple[Alert, ...]:
    return (
        Alert(
            name="WatcherDown",
            area="watching",
            severity="critical",
            # Setups without Alertmanager have none; one that ran before is reported missing for a day.
            expression=(
                'up{job=~"alerts|pipeline|prometheus"} == 0 or absent(up{job="alerts"}) or absent(up{job="pipeline"}) '
                'or (up{job="alertmanager"} == 0 and max_over_time(up{job="alertmanager"}[1d]) == 1)'
            ),
            lasting=timedelta(minutes=5),
            when="`alerts`, `pipeline` or `prometheus`, or an Alertmanager that ran before, cannot be scraped",
            summary="{{ $labels.job }}{{ with $labels.instance }} at {{ . }}{{ end }} does not answer Prometheus.",
        ),
        Alert(
            name="EventsWaiting",
            area="watching",
            severity="warning",
            expression='sum by (instance) (rps_alert_events_waiting{job="alerts"}) > 0',
            lasting=timedelta(minutes=15),
            when="`python -m monitoring.relay` could not deliver an event to GitHub for 15 minutes",
            summary="{{ $value }} drift events at {{ $labels.instance }} wait for GitHub.",
        ),
        Alert(
            name="NotificationsFailing",
            area="watching",
            severity="warning",
            expression=(
                "sum by (instance, integration) (rate(alertmanager_notification_requests_failed_total[10m])) > 0"
            ),
            lasting=timedelta(minutes=10),
            when="Alertmanager cannot deliver to the receiver or to Slack",
            summary="Alertmanager at {{ $labels.instance }} cannot deliver through {{ $labels.integration }}.",
        ),
        Alert(
            name="RulesFailing",
            area="watching",
            severity="critical",
            expression="sum by (instance) (increase(prometheus_rule_evaluation_failures_total[10m])) > 0",
            lasting=timedelta(minutes=10),
            when="Prometheus cannot evaluate a rule, so its alert cannot fire",
            summary="Prometheus at {{ $labels.instance }} cannot evaluate some of its rules.",
        ),
    )
