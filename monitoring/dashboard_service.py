"""The dashboard of the served model as a server: rate, errors, latency, saturation."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.models import dashboard as models

from monitoring.alerts import ALWAYS_WELL, INFERENCE
from monitoring.dashboard_panels import (
    UP,
    Panel,
    Query,
    alerts_now,
    bad_from,
    chart,
    dashboard,
    firing,
    number,
    releases,
    variable,
)

SERVED = 'instance=~"$instance"'
COUNTED = f'{SERVED}, route!~"{ALWAYS_WELL}"'
ASKED = f'{SERVED}, route=~"{INFERENCE}"'


def service_dashboard() -> models.Dashboard:
    return dashboard(
        "service",
        "Does the service answer, how fast, and how full is it?",
        {
            "": _first(),
            "Rate and errors": _rate(),
            "Latency": _latency(),
            "Saturation": _saturation(),
            "Work": _work(),
        },
        [
            variable("challenge", "Challenge", "What is predicted", "rps_model_info"),
            variable("instance", "Instance", "A process of the service", 'rps_model_info{challenge=~"$challenge"}'),
        ],
        [releases(SERVED), firing("service")],
        refresh="30s",
        since="now-3h",
    )


def _first() -> Sequence[Panel]:
    return (
        number(
            "Answering",
            "Whether Prometheus could read the metrics of each instance.",
            "none",
            Query('up{job="service", instance=~"$instance"}', "{{instance}}"),
            words=UP,
        ),
        alerts_now("service"),
        number(
            "Requests",
            "Requests per second that all selected instances answered, including probes and Prometheus.",
            "reqps",
            Query(f"sum(rate(rps_requests_total{{{SERVED}}}[$__rate_interval]))", "requests"),
        ),
        number(
            "Failed",
            "Share of the requests answered with 5xx, over 5 minutes. Above 2 %, FailingRequests fires.",
            "percentunit",
            Query(f"max(rps:requests:error_ratio{{{SERVED}}})", "failed"),
            steps=bad_from(0.02),
        ),
        number(
            "p95",
            "One in twenty requests takes longer than this, over 5 minutes, on the slowest instance.",
            "s",
            Query(f"max(rps:request_seconds:p95{{{SERVED}}})", "p95"),
            steps=bad_from(0.5),
        ),
        number(
            "Refused",
            "Requests refused per second because too many were in progress. Above 0, add a replica.",
            "reqps",
            Query(f"sum(rate(rps_requests_shed_total{{{SERVED}}}[$__rate_interval]))", "refused"),
            steps=bad_from(0.01),
        ),
    )


def _rate() -> Sequence[Panel]:
    return (
        chart(
            "Requests by route",
            "Requests answered per second.",
            "reqps",
            Query(f"sum by (route) (rate(rps_requests_total{{{SERVED}}}[$__rate_interval]))", "{{route}}"),
        ),
        chart(
            "Answers by status",
            "Answers per second. 4xx are client errors, 503 is overload or an unreachable state, 500 is a bug.",
            "reqps",
            Query(f"sum by (status) (rate(rps_requests_total{{{SERVED}}}[$__rate_interval]))", "{{status}}"),
            stacked=True,
        ),
        chart(
            "Share of failed requests",
            "Share of requests answered with 5xx, by instance. The dashed line is the threshold of FailingRequests.",
            "percentunit",
            Query(
                f'(sum by (instance) (rate(rps_requests_total{{{COUNTED}, status=~"5.."}}[$__rate_interval])) '
                f"or 0 * sum by (instance) (rate(rps_requests_total{{{COUNTED}}}[$__rate_interval]))) "
                f"/ sum by (instance) (rate(rps_requests_total{{{COUNTED}}}[$__rate_interval]))",
                "{{instance}}",
            ),
            steps=bad_from(0.02),
        ),
    )


def _latency() -> Sequence[Panel]:
    return (
        chart(
            "Latency",
            "Forecasts and observations, from the headers to the full answer. The line is SlowRequests' threshold.",
            "s",
            *(
                Query(
                    f"histogram_quantile({share}, "
                    f"sum by (le) (rate(rps_request_seconds_bucket{{{ASKED}}}[$__rate_interval])))",
                    name,
                )
                for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
            ),
            width=12,
            steps=bad_from(0.5),
        ),
        chart(
            "p95 by route",
            "The same percentile for each route.",
            "s",
            Query(
                "histogram_quantile(0.95, "
                f"sum by (route, le) (rate(rps_request_seconds_bucket{{{ASKED}}}[$__rate_interval])))",
                "{{route}}",
            ),
            width=12,
        ),
    )


def _saturation() -> Sequence[Panel]:
    return (
        chart(
            "Requests in progress",
            "Requests in flight at the scrape. RPS_MAX_IN_FLIGHT (256 per worker) is the limit.",
            "none",
            Query(f"rps_requests_in_flight{{{SERVED}}}", "{{instance}}"),
            width=6,
        ),
        chart(
            "CPU",
            "Cores used. One worker uses at most one core. Not available with several workers.",
            "none",
            Query(f'rate(process_cpu_seconds_total{{job="service", {SERVED}}}[$__rate_interval])', "{{instance}}"),
            width=6,
        ),
        chart(
            "Memory",
            "Resident memory. It should stay level. Not available with several workers.",
            "bytes",
            Query(f'process_resident_memory_bytes{{job="service", {SERVED}}}', "{{instance}}"),
            width=6,
        ),
        chart(
            "Open files",
            "Share of the process's open-file limit; connections count. Not available with several workers.",
            "percentunit",
            Query(
                f'process_open_fds{{job="service", {SERVED}}} / process_max_fds{{job="service", {SERVED}}}',
                "{{instance}}",
            ),
            width=6,
            steps=bad_from(0.8),
        ),
    )


def _work() -> Sequence[Panel]:
    return (
        chart(
            "Rows predicted",
            "Rows predicted per second, by origin: the stream, a window, or a protocol.",
            "rowsps",
            Query(f"sum by (source) (rate(rps_predictions_total{{{SERVED}}}[$__rate_interval]))", "{{source}}"),
            stacked=True,
        ),
        chart(
            "Observations",
            "Observations per second, by their effect. `rejected` counts requests with a value out of range.",
            "cps",
            Query(f"sum by (arrival) (rate(rps_observations_total{{{SERVED}}}[$__rate_interval]))", "{{arrival}}"),
            stacked=True,
        ),
        chart(
            "Time since the start",
            "A drop to zero is a restart; a sawtooth means a crash loop.",
            "s",
            Query(f"rps_uptime_seconds{{{SERVED}}}", "{{instance}}"),
        ),
    )
