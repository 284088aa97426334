"""What the receiver counts, for Prometheus. Labels take known values only."""

from __future__ import annotations

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics

from ci.alerts.decisions import Done
from ci.alerts.payload import Source


class Metrics:
    """The counters since the start of the process, and the gauges of what is stored."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # of no use here, and a series more for each counter
        self.registry = registry = CollectorRegistry()
        self.received = Counter(
            "rps_alerts_received", "Alerts that came in good requests.", ["source", "status"], registry=registry
        )
        self.done = Counter("rps_alerts_done", "Alerts by what was done with them.", ["done"], registry=registry)
        self.repeated = Counter(
            "rps_alerts_repeated", "Alerts that were told before, and are not in the file again.", registry=registry
        )
        self.truncated = Counter(
            "rps_alerts_truncated", "Alerts that the sender left out of its requests.", registry=registry
        )
        self.requests = Counter(
            "rps_alert_requests", "Requests to /v1/alerts by the status of the answer.", ["status"], registry=registry
        )
        self.events = Counter(
            "rps_alert_events", "Events by challenge: started, delivered to GitHub, given up.",
            ["challenge", "outcome"], registry=registry,
        )  # fmt: skip
        self.attempts = Counter(
            "rps_alert_dispatches", "Attempts to tell GitHub: delivered, failed (may pass), refused.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.waiting = Gauge(
            "rps_alert_events_waiting", "Events that GitHub has not taken yet, refused ones included.",
            registry=registry,
        )  # fmt: skip
        self.refused = Gauge(
            "rps_alert_events_refused", "Those of them that GitHub has refused: token, permission, repository.",
            registry=registry,
        )  # fmt: skip
        self.oldest = Gauge("rps_alert_oldest_event_seconds", "Age of the oldest event that waits.", registry=registry)
        self.lines = Gauge("rps_alert_lines_waiting", "Alerts that are not in the file yet.", registry=registry)
        self.up = Gauge("rps_alert_store_up", "1 while the store and the file can be written.", registry=registry)
        self.up.set(1)
        for source in get_args(Source):
            for status in ("firing", "resolved"):
                self.received.labels(source, status)
        for done in get_args(Done):
            self.done.labels(done)
