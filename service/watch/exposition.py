"""What the counts look like to Prometheus: every metric of the service, its name, help and labels.

All label values are known beforehand (routes, statuses, features, horizons), so the number of series is bounded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import HistogramMetricFamily as Histogram
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from forecasting.judging.losses import LOSSES
from service.model.served import Model
from service.watch.monitor import Monitor
from service.watch.worker_counts import ARRIVALS, LATENCY_BOUNDS, PREDICTED_BY, STATUSES

_STATUSES = (*map(str, STATUSES), "other")
_BOUNDS = (*map(str, LATENCY_BOUNDS), "+Inf")


class Exposition(Collector):
    """The metrics of all workers together."""

    def __init__(self, model: Model, monitor: Monitor, *, one_worker: bool) -> None:
        self._model = model
        self._monitor = monitor
        self._registry = CollectorRegistry()
        self._registry.register(self)
        if one_worker:  # with several, a scrape would show whichever answered
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
        yield self._sensors()
        yield from self._about()

    def describe(self) -> Iterable[Metric]:
        """Nothing is registered twice, so nothing need be collected to find out."""
        return ()

    def _requests(self) -> Iterator[Metric]:
        total, routes = self._monitor.counts.total, self._monitor.routes
        requests = Counter("rps_requests", "Requests answered.", labels=("route", "status"))
        for route, row in zip(routes, total("requests").tolist(), strict=False):
            for status, times in zip(_STATUSES, row, strict=True):
                if times:
                    requests.add_metric((route, status), times)
        yield requests
        latency = Histogram("rps_request_seconds", "From a request's headers to its whole answer.", labels=("route",))
        for route, row, seconds in zip(routes, total("latency"), total("latency_sum").tolist(), strict=False):
            buckets = row.cumsum().tolist()
            if buckets[-1]:
                latency.add_metric((route,), list(zip(_BOUNDS, buckets, strict=True)), seconds)
        yield latency
        yield Gauge("rps_requests_in_flight", "Requests in progress.", value=float(total("in_flight")[0]))
        text = "Requests refused: too many were in progress."
        yield Counter("rps_requests_shed", text, value=float(total("shed")[0]))

    def _predictions(self) -> Iterator[Metric]:
        total = self._monitor.counts.total
        predicted = zip(PREDICTED_BY, total("predicted").tolist(), strict=True)
        yield _by("source", Counter, "rps_predictions", "Rows predicted, by what asked.", predicted)
        text = "Rows predicted with a feature outside what training saw."
        yield Counter("rps_out_of_distribution", text, value=float(total("unusual")[0]))
        arrived = zip(ARRIVALS, total("arrivals").tolist(), strict=True)
        text = "Observations by what they did; rejected counts requests."
        yield _by("arrival", Counter, "rps_observations", text, arrived)

    def _drift(self) -> Iterator[Metric]:
        signals = self._monitor.signals()
        text = "Rows in the window that drift is measured over."
        yield Gauge("rps_drift_window_rows", text, value=float(signals.rows))
        text = "Share of the window's rows with a feature outside what training saw."
        yield Gauge("rps_out_of_distribution_ratio", text, value=signals.out_of_distribution_ratio)
        found = signals.population_stability.items()
        indices = ((feature, each.index) for feature, each in found)
        text = "How far a feature in the window lies from training."
        yield _by("feature", Gauge, "rps_population_stability_index", text, indices)
        limits = ((feature, each.limit) for feature, each in found)
        text = "From which index on a feature has drifted."
        yield _by("feature", Gauge, "rps_population_stability_limit", text, limits)
        drift = self._model.bundle.manifest.drift
        names = ("out_of_distribution_ratio", "population_stability_index", "live_error_ratio")
        thresholds = ((name, getattr(drift, f"max_{name}")) for name in names)
        yield _by("signal", Gauge, "rps_drift_threshold", "From where on a signal counts as drift.", thresholds)

    def _live(self) -> Iterator[Metric]:
        scored = zip(map(str, self._model.horizons), self._monitor.counts.total("scored").tolist(), strict=True)
        yield _by("horizon", Counter, "rps_forecasts_scored", "Forecasts met by their truth.", scored)
        signals = self._monitor.signals()
        found = [*signals.live_by_horizon.items(), ("all", signals.live)]
        manifest = self._model.bundle.manifest
        label, baseline = LOSSES[manifest.loss].label, manifest.baseline.title
        for name, text, read in (
            ("rps_live_error", f"{label} of the last forecasts met by their truth.", "error"),
            ("rps_live_skill", f"1 minus the ratio of the live error to that of {baseline}.", "skill"),
            ("rps_live_interval_coverage", "Share of truths that lay in their interval.", "coverage"),
            ("rps_live_interval_width_ratio", "Mean width of the intervals over the folds'.", "width_ratio"),
            ("rps_live_error_ratio", "Live error over the folds': the signal of concept drift.", "error_ratio"),
        ):
            values = ((str(horizon), getattr(live, read)) for horizon, live in found if live is not None)
            yield _by("horizon", Gauge, name, text, values)

    def _series(self) -> Iterator[Metric]:
        newest = self._monitor.newest()
        truths = ((unique_id, each.truth) for unique_id, each in newest.items())
        yield _by("unique_id", Gauge, "rps_target_value", "The newest observation of the target, in its unit.", truths)
        text = "The forecast for the time of the newest observation, made so many steps before it."
        forecast = Gauge("rps_forecast_value", text, labels=("unique_id", "horizon"))
        for unique_id, each in newest.items():
            for horizon, value in zip(self._model.horizons, each.forecasts, strict=True):
                if not math.isnan(value):
                    forecast.add_metric((unique_id, str(horizon)), value)
        yield forecast
        text = "The size of the last errors, on the target's scale, that the series' intervals follow."
        scale = Gauge("rps_interval_scale", text, labels=("unique_id", "horizon"))
        for unique_id, each in newest.items():
            for horizon, value in zip(self._model.horizons, each.scales, strict=True):
                scale.add_metric((unique_id, str(horizon)), value)
        yield scale

    def _sensors(self) -> Metric:
        text = "1 where the newest observations of a series show a faulty sensor, else 0."
        fault = Gauge("rps_sensor_fault", text, labels=("unique_id", "detector", "variable"))
        for sensor, found in self._monitor.sensor_faults.items():
            fault.add_metric(sensor, float(found))
        return fault

    def _about(self) -> Iterator[Metric]:
        manifest = self._model.bundle.manifest
        loss = LOSSES[manifest.loss]
        said = {
            "challenge": manifest.challenge,
            "version": self._model.version,
            "git_sha": manifest.git_sha,
            "run": manifest.mlflow_run,
            "dataset_md5": manifest.dataset_md5,
            "measure": loss.label,
            "unit": loss.unit(manifest.unit),
            "baseline": manifest.baseline.title,
        }
        about = Gauge("rps_model_info", "The model that is served.", labels=tuple(said))
        about.add_metric(tuple(said.values()), 1.0)
        yield about
        trained = manifest.train_end.timestamp()
        yield Gauge("rps_model_train_end_timestamp_seconds", "The end of the training data.", value=trained)
        uptime = time.time() - min(float(worker.started[0]) for worker in self._monitor.counts)
        yield Gauge("rps_uptime_seconds", "Since the worker that has run the longest was started.", value=uptime)


def _by(
    label: str, kind: type[Counter | Gauge], name: str, text: str, samples: Iterable[tuple[str, float | None]]
) -> Metric:
    """A metric with one label; a value that is None is left out."""
    family = kind(name, text, labels=(label,))
    for value_of_label, value in samples:
        if value is not None:
            family.add_metric((value_of_label,), value)
    return family
