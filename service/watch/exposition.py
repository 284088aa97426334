"""What the counts look like to Prometheus: every metric of the service, its name, help and labels.

All label values are known beforehand (routes, statuses, features, horizons), so the number of series is bounded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator

import numpy as np
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from service.model.served import Model
from service.watch.monitor import LiveHorizon, Monitor
from service.watch.worker_counts import ARRIVALS, LATENCY_BOUNDS, PREDICTED_BY, STATUSES

OTHER = "other"
ALL_HORIZONS = "all"


class Exposition(Collector):
    """The metrics of all workers together."""

    def __init__(self, model: Model, monitor: Monitor, *, one_worker: bool) -> None:
        self._model = model
        self._monitor = monitor
        self._registry = CollectorRegistry()
        self._registry.register(self)
        if one_worker:  # with several, a scrape would tell of whichever answered
            ProcessCollector(registry=self._registry)

    def text(self, accept: str) -> tuple[bytes, str]:
        """The metrics, and their content type: Prometheus' text or OpenMetrics, as ``accept`` prefers."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type

    def collect(self) -> Iterable[Metric]:
        yield from self._requests()
        yield from self._predictions()
        yield from self._drift()
        yield from self._live()
        yield from self._series()
        yield from self._about()

    def describe(self) -> Iterable[Metric]:
        """Nothing is registered twice, so nothing need be collected to find out."""
        return ()

    def _requests(self) -> Iterator[Metric]:
        workers = list(self._monitor.counts)
        requests = CounterMetricFamily("rps_requests", "Requests answered.", labels=("route", "status"))
        latency = HistogramMetricFamily(
            "rps_request_seconds", "From a request's headers to its whole answer.", labels=("route",)
        )
        counts = np.sum([worker.requests for worker in workers], axis=0)
        taken = np.sum([worker.latency for worker in workers], axis=0)
        sums = np.sum([worker.latency_sum for worker in workers], axis=0)
        for place, route in enumerate(self._monitor.routes):
            for status, times in zip((*map(str, STATUSES), OTHER), counts[place].tolist(), strict=True):
                if times:
                    requests.add_metric((route, status), times)
            total, buckets = 0.0, []
            for bound, times in zip((*map(str, LATENCY_BOUNDS), "+Inf"), taken[place].tolist(), strict=True):
                total += times
                buckets.append((bound, total))
            if total:
                latency.add_metric((route,), buckets, float(sums[place]))
        yield requests
        yield latency
        in_flight = sum(float(worker.in_flight[0]) for worker in workers)
        yield GaugeMetricFamily("rps_requests_in_flight", "Requests in progress.", value=in_flight)
        shed = sum(float(worker.shed[0]) for worker in workers)
        yield CounterMetricFamily("rps_requests_shed", "Requests refused: too many were in progress.", value=shed)

    def _predictions(self) -> Iterator[Metric]:
        workers = list(self._monitor.counts)
        predictions = CounterMetricFamily("rps_predictions", "Rows predicted, by what asked.", labels=("source",))
        for place, source in enumerate(PREDICTED_BY):
            predictions.add_metric((source,), sum(float(worker.predicted[place]) for worker in workers))
        yield predictions
        unusual = sum(float(worker.unusual[0]) for worker in workers)
        text = "Rows predicted with a feature outside what training saw."
        yield CounterMetricFamily("rps_out_of_distribution", text, value=unusual)
        observations = CounterMetricFamily(
            "rps_observations", "Observations by what they did; rejected counts requests.", labels=("arrival",)
        )
        for place, arrival in enumerate(ARRIVALS):
            observations.add_metric((arrival,), sum(float(worker.arrivals[place]) for worker in workers))
        yield observations

    def _drift(self) -> Iterator[Metric]:
        signals = self._monitor.signals()
        yield GaugeMetricFamily(
            "rps_drift_window_rows", "Rows in the window that drift is measured over.", value=float(signals.rows)
        )
        ratio = GaugeMetricFamily(
            "rps_out_of_distribution_ratio", "Share of the window's rows with a feature outside what training saw."
        )
        if signals.out_of_distribution_ratio is not None:
            ratio.add_metric((), signals.out_of_distribution_ratio)
        yield ratio
        stability = GaugeMetricFamily(
            "rps_population_stability_index", "How far a feature in the window lies from training.", labels=("feature",)
        )
        limits = GaugeMetricFamily(
            "rps_population_stability_limit", "From which index on a feature has drifted.", labels=("feature",)
        )
        for feature, found in signals.population_stability.items():
            stability.add_metric((feature,), found.index)
            limits.add_metric((feature,), found.limit)
        yield stability
        yield limits
        thresholds = self._model.bundle.manifest.drift
        limit = GaugeMetricFamily("rps_drift_threshold", "From where on a signal counts as drift.", labels=("signal",))
        limit.add_metric(("out_of_distribution_ratio",), thresholds.max_out_of_distribution_ratio)
        limit.add_metric(("population_stability_index",), thresholds.max_population_stability_index)
        limit.add_metric(("live_error_ratio",), thresholds.max_live_error_ratio)
        yield limit

    def _live(self) -> Iterator[Metric]:
        workers = list(self._monitor.counts)
        scored = CounterMetricFamily("rps_forecasts_scored", "Forecasts met by their truth.", labels=("horizon",))
        for place, horizon in enumerate(self._model.horizons):
            scored.add_metric((str(horizon),), sum(float(worker.scored[place]) for worker in workers))
        yield scored
        signals = self._monitor.signals()
        found: dict[str, LiveHorizon] = {str(horizon): live for horizon, live in signals.live_by_horizon.items()}
        if signals.live is not None:
            found[ALL_HORIZONS] = signals.live
        kind = "RMSE" if self._model.bundle.manifest.loss == "squared_error" else "Mean absolute error"
        for name, text, read in (
            ("rps_live_error", f"{kind} of the last forecasts met by their truth, in target units.", "error"),
            ("rps_live_skill", "1 minus the ratio of the live error to persistence's.", "skill"),
            ("rps_live_interval_coverage", "Share of truths that lay in their interval.", "coverage"),
            ("rps_live_error_ratio", "Live error over the hold-out's: the signal of concept drift.", "error_ratio"),
        ):
            family = GaugeMetricFamily(name, text, labels=("horizon",))
            for horizon_label, live in found.items():
                value = getattr(live, read)
                if value is not None:
                    family.add_metric((horizon_label,), value)
            yield family

    def _series(self) -> Iterator[Metric]:
        truth = GaugeMetricFamily(
            "rps_target_value", "The newest observation of the target, in its unit.", labels=("unique_id",)
        )
        text = "The forecast for the time of the newest observation, made so many steps before it."
        forecast = GaugeMetricFamily("rps_forecast_value", text, labels=("unique_id", "horizon"))
        for unique_id, newest in self._monitor.newest().items():
            truth.add_metric((unique_id,), newest.truth)
            for horizon, value in zip(self._model.horizons, newest.forecasts, strict=True):
                if not math.isnan(value):
                    forecast.add_metric((unique_id, str(horizon)), value)
        yield truth
        yield forecast

    def _about(self) -> Iterator[Metric]:
        manifest = self._model.bundle.manifest
        about = GaugeMetricFamily(
            "rps_model_info",
            "The model that is served.",
            labels=("challenge", "version", "git_sha", "run", "dataset_md5"),
        )
        labels = (manifest.challenge, self._model.version, manifest.git_sha, manifest.mlflow_run, manifest.dataset_md5)
        about.add_metric(labels, 1.0)
        yield about
        trained = manifest.train_end.timestamp()
        yield GaugeMetricFamily("rps_model_train_end_timestamp_seconds", "The end of the training data.", value=trained)
        uptime = time.time() - min(float(worker.started[0]) for worker in self._monitor.counts)
        text = "Since the worker that has run the longest was started."
        yield GaugeMetricFamily("rps_uptime_seconds", text, value=uptime)
