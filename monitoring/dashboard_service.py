"""The dashboard of the served model as a server: rate, errors, latency, saturation."""

from __future__ import annotations

from collections.abc import Iterator

from grafana_foundation_sdk.models import dashboard as models

from monitoring import dashboard_panels as panels
from monitoring.alerts import ALWAYS_WELL, INFERENCE

SERVED = 'instance=~"$instance"'
COUNTED = f'{SERVED}, route!~"{ALWAYS_WELL}"'
ASKED = f'{SERVED}, route=~"{INFERENCE}"'


def service_dashboard() -> models.Dashboard:
    return panels.dashboard(
        "service",
        "Does the service answer, how fast, and how full is it?",
        _rows(),
        [
            panels.variable("challenge", "Challenge", "What is predicted", "rps_model_info"),
            panels.variable(
                "instance", "Instance", "A process of the service", 'rps_model_info{challenge=~"$challenge"}'
            ),
        ],
        released=SERVED,
        area="service",
        refresh="30s",
        since="now-3h",
    )


def _rows() -> Iterator[panels.Row]:
    yield panels.row(
        "",
        panels.number(
            "Answering",
            "Whether Prometheus could read the metrics of each instance.",
            ('up{job="service", instance=~"$instance"}', "{{instance}}"),
            words=panels.UP,
        ),
        panels.alerts_now("service"),
        panels.number(
            "Requests",
            "Requests per second that all selected instances answered, including probes and Prometheus.",
            (f"sum(rate(rps_requests_total{{{SERVED}}}[$__rate_interval]))", "requests"),
            unit="reqps",
        ),
        panels.number(
            "Failed",
            "Share of the requests answered with 5xx, over 5 minutes. Above 2 %, FailingRequests fires.",
            (f"max(rps:requests:error_ratio{{{SERVED}}})", "failed"),
            unit="percentunit",
            steps=panels.bad_from(0.02),
        ),
        panels.number(
            "p95",
            "One in twenty requests takes longer than this, over 5 minutes, on the slowest instance.",
            (f"max(rps:request_seconds:p95{{{SERVED}}})", "p95"),
            unit="s",
            steps=panels.bad_from(0.5),
        ),
        panels.number(
            "Refused",
            "Requests refused per second because too many were in progress. Above 0, add a replica.",
            (f"sum(rate(rps_requests_shed_total{{{SERVED}}}[$__rate_interval]))", "refused"),
            unit="reqps",
            steps=panels.bad_from(0.01),
        ),
    )
    failed = f'sum by (instance) (rate(rps_requests_total{{{COUNTED}, status=~"5.."}}[$__rate_interval]))'
    counted = f"sum by (instance) (rate(rps_requests_total{{{COUNTED}}}[$__rate_interval]))"
    yield panels.row(
        "Rate and errors",
        panels.chart(
            "Requests by route",
            "Requests answered per second.",
            (f"sum by (route) (rate(rps_requests_total{{{SERVED}}}[$__rate_interval]))", "{{route}}"),
            unit="reqps",
        ),
        panels.chart(
            "Answers by status",
            "Answers per second. 4xx are client errors, 503 is overload or an unreachable state, 500 is a bug.",
            (f"sum by (status) (rate(rps_requests_total{{{SERVED}}}[$__rate_interval]))", "{{status}}"),
            unit="reqps",
            stacked=True,
        ),
        panels.chart(
            "Share of failed requests",
            "Share of requests answered with 5xx, by instance. The dashed line is the threshold of FailingRequests.",
            (f"({failed} or 0 * {counted}) / {counted}", "{{instance}}"),
            unit="percentunit",
            steps=panels.bad_from(0.02),
        ),
    )
    quantiles = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    buckets = f"rate(rps_request_seconds_bucket{{{ASKED}}}[$__rate_interval])"
    yield panels.row(
        "Latency",
        panels.chart(
            "Latency",
            "Forecasts and observations, from the headers to the full answer. The line is SlowRequests' threshold.",
            *((f"histogram_quantile({share}, sum by (le) ({buckets}))", name) for name, share in quantiles.items()),
            unit="s",
            steps=panels.bad_from(0.5),
        ),
        panels.chart(
            "p95 by route",
            "The same percentile for each route.",
            (f"histogram_quantile(0.95, sum by (route, le) ({buckets}))", "{{route}}"),
            unit="s",
        ),
        width=12,
    )
    yield panels.row(
        "Saturation",
        panels.chart(
            "Requests in progress",
            "Requests in flight at the scrape. RPS_MAX_IN_FLIGHT (256 per worker) is the limit.",
            (f"rps_requests_in_flight{{{SERVED}}}", "{{instance}}"),
        ),
        panels.chart(
            "CPU",
            "Cores used. One worker uses at most one core. Not available with several workers.",
            (f'rate(process_cpu_seconds_total{{job="service", {SERVED}}}[$__rate_interval])', "{{instance}}"),
        ),
        panels.chart(
            "Memory",
            "Resident memory. It should stay level. Not available with several workers.",
            (f'process_resident_memory_bytes{{job="service", {SERVED}}}', "{{instance}}"),
            unit="bytes",
        ),
        panels.chart(
            "Open files",
            "Share of the process's open-file limit; connections count. Not available with several workers.",
            (
                f'process_open_fds{{job="service", {SERVED}}} / process_max_fds{{job="service", {SERVED}}}',
                "{{instance}}",
            ),
            unit="percentunit",
            steps=panels.bad_from(0.8),
        ),
        width=6,
    )
    yield panels.row(
        "Work",
        panels.chart(
            "Rows predicted",
            "Rows predicted per second, by origin: the stream, a window, or a protocol.",
            (f"sum by (source) (rate(rps_predictions_total{{{SERVED}}}[$__rate_interval]))", "{{source}}"),
            unit="rowsps",
            stacked=True,
        ),
        panels.chart(
            "Observations",
            "Observations per second, by their effect. `rejected` counts requests with a value out of range.",
            (f"sum by (arrival) (rate(rps_observations_total{{{SERVED}}}[$__rate_interval]))", "{{arrival}}"),
            unit="cps",
            stacked=True,
        ),
        panels.chart(
            "Time since the start",
            "A drop to zero is a restart; a sawtooth means a crash loop.",
            (f"rps_uptime_seconds{{{SERVED}}}", "{{instance}}"),
            unit="s",
        ),
    )
