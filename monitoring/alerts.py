"""Every alert, once: Prometheus' rules, Grafana's rules, the table in `docs/` and the runbooks' names come from here.

An expression gives one value for each thing that is wrong, and nothing where all is well. Alerts about data count hours
of data, which is what `pace` is for: a replay in which an hour passes in a second has a pace of 3600.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

Area = Literal["service", "model", "pipeline"]
Severity = Literal["critical", "warning"]
Drift = Literal["inputs", "features", "concept"]

OBSERVATIONS_HOURS = 6
"""Without a new observation for so long, nothing is forecast; what a challenge's `max_age_hours` is by default."""
RUN_HOURS = 24
"""Four times the default schedule's six hours."""


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
    """For how long it must hold before anybody is told."""
    summary: str
    """One sentence that a person understands. `{{ $labels.… }}` and `{{ $value }}` as in Prometheus."""
    drift: Drift | None = None
    """What has drifted; such an alert carries the labels `drift` and `challenge`, and starts a retraining."""

    @property
    def runbook(self) -> str:
        """Where the page lies that says what to look at and do, from the repository's root."""
        return f"docs/runbooks/{self.name}.md"


def recordings(pace: float = 1.0) -> tuple[Recording, ...]:
    """The recording rules, in an order in which none needs a later one."""
    spike = promql(timedelta(hours=6) / pace)
    return (
        Recording(
            name="rps:request_seconds:p95",
            expression=(
                "histogram_quantile(0.95, sum by (instance, le) "
                '(rate(rps_request_seconds_bucket{route!~"/metrics|/health|/v2/health/.*|/v1/stream.*"}[5m])))'
            ),
            told="95th percentile of the latency of requests, in seconds, over 5 minutes",
        ),
        Recording(
            name="rps:requests:error_ratio",
            expression=(
                'sum by (instance) (rate(rps_requests_total{status=~"5.."}[5m])) '
                "/ sum by (instance) (rate(rps_requests_total[5m]))"
            ),
            told="share of requests that the service could not answer, over 5 minutes",
        ),
        Recording(
            name="rps:out_of_distribution:ratio",
            expression=(
                f"sum by (instance) (increase(rps_out_of_distribution_total[{spike}])) "
                f"/ sum by (instance) (increase(rps_predictions_total[{spike}]))"
            ),
            told="share of the rows predicted in the last 6 hours with a feature outside what training saw",
        ),
    )


def alerts(pace: float = 1.0) -> tuple[Alert, ...]:
    """All alerts. pace: hours of data that pass in one hour; 1 but in a replay."""
    model = " * on (instance) group_left (challenge, version) rps_model_info"
    observing = promql(timedelta(hours=OBSERVATIONS_HOURS) / pace)
    hour = timedelta(hours=1) / pace
    return (
        Alert(
            name="ServiceDown",
            area="service",
            severity="critical",
            expression='up{job="service"} == 0 or absent(up{job="service"})',
            lasting=timedelta(minutes=1),
            summary="The service at {{ $labels.instance }} does not answer Prometheus.",
        ),
        Alert(
            name="SlowRequests",
            area="service",
            severity="warning",
            expression="rps:request_seconds:p95 > 0.5",
            lasting=timedelta(minutes=5),
            summary="One in twenty requests to {{ $labels.instance }} takes over {{ $value | humanizeDuration }}.",
        ),
        Alert(
            name="FailingRequests",
            area="service",
            severity="critical",
            expression="rps:requests:error_ratio > 0.02",
            lasting=timedelta(minutes=5),
            summary="{{ $value | humanizePercentage }} of the requests to {{ $labels.instance }} fail.",
        ),
        Alert(
            name="NoObservations",
            area="model",
            severity="critical",
            expression=(f'sum by (instance) (increase(rps_observations_total{{arrival="newest"}}[{observing}])) == 0'),
            lasting=hour,
            summary=f"No new observation has reached {{{{ $labels.instance }}}} for {OBSERVATIONS_HOURS} hours.",
        ),
        Alert(
            name="InputsOutOfDistribution",
            area="model",
            severity="warning",
            drift="inputs",
            expression=(
                "(rps:out_of_distribution:ratio > on (instance) group_left "
                'rps_drift_threshold{signal="out_of_distribution_ratio"})' + model
            ),
            lasting=hour,
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
                "max by (instance) (rps_population_stability_index > on (instance, feature) "
                "rps_population_stability_limit)" + model
            ),
            lasting=hour,
            summary=(
                "The features of {{ $labels.challenge }} have moved away from what version {{ $labels.version }} was "
                "trained on: a population stability index of {{ $value | humanize }}."
            ),
        ),
        Alert(
            name="ConceptDrift",
            area="model",
            severity="critical",
            drift="concept",
            expression=(
                '(rps_live_error_ratio{horizon="all"} > on (instance) group_left '
                'rps_drift_threshold{signal="live_error_ratio"})' + model
            ),
            lasting=hour,
            summary=(
                "The live error of {{ $labels.challenge }} is {{ $value | humanize }} times what version "
                "{{ $labels.version }} had on its hold-out."
            ),
        ),
        Alert(
            name="IntervalCoverage",
            area="model",
            severity="warning",
            expression=(
                '((rps_live_interval_coverage{horizon="all"} < 0.85) or '
                '(rps_live_interval_coverage{horizon="all"} > 0.95))' + model
            ),
            lasting=hour,
            summary=(
                "{{ $value | humanizePercentage }} of the truths of {{ $labels.challenge }} lie in their interval; "
                "between 85 and 95 % should."
            ),
        ),
        Alert(
            name="RunFailed",
            area="pipeline",
            severity="warning",
            expression=(
                'rps_dag_run_end_timestamp_seconds{state="failed"} > ignoring (state) '
                '(rps_dag_run_end_timestamp_seconds{state="success"} or ignoring (state) '
                '0 * rps_dag_run_end_timestamp_seconds{state="failed"})'
            ),
            lasting=timedelta(0),
            summary="The last run of {{ $labels.dag_id }} has failed.",
        ),
        Alert(
            name="NoRun",
            area="pipeline",
            severity="critical",
            expression=f'time() - rps_dag_run_end_timestamp_seconds{{state="success"}} > {RUN_HOURS} * 3600',
            lasting=timedelta(minutes=10),
            summary="{{ $labels.dag_id }} has not come to a good end for {{ $value | humanizeDuration }}.",
        ),
        Alert(
            name="PipelineUnknown",
            area="pipeline",
            severity="warning",
            expression='rps_pipeline_up == 0 or absent(up{job="pipeline"} == 1)',
            lasting=timedelta(minutes=10),
            summary="What {{ $labels.system }} knows of the pipeline cannot be read.",
        ),
    )


def promql(duration: timedelta) -> str:
    """A duration as PromQL writes it, in whole seconds, at least one: `21600s`."""
    return f"{max(round(duration.total_seconds()), 1)}s"
