"""What is known of the pipeline as Prometheus reads it: every metric, its help and its labels.

Labels are the checkout's challenges, their DAGs' tasks, and closed sets, so the number of series is bounded. While a
system is down, its last word on what has happened stays; counts of the last 24 hours and of what is running would be
wrong by now, and are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from monitoring.exporter.airflow_runs import DagRuns
from monitoring.exporter.mlflow_records import Records
from monitoring.exporter.watched import Watched


@dataclass(frozen=True)
class Pipeline(Collector):
    """What both systems know."""

    airflow: Watched[dict[str, DagRuns]]
    mlflow: Watched[dict[str, Records]]

    def collect(self) -> Iterable[Metric]:
        yield from self._systems()
        yield from _runs(self.airflow.known or {}, now=bool(self.airflow.up))
        yield from _records(self.mlflow.known or {}, now=bool(self.mlflow.up))

    def describe(self) -> Iterable[Metric]:
        """Nothing is registered twice, so nothing need be collected to find out."""
        return ()

    def _systems(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("rps_pipeline_up", "Whether the last look at the system succeeded.", labels=("system",))
        looked = GaugeMetricFamily(
            "rps_pipeline_look_timestamp_seconds", "When the last good look at the system ended.", labels=("system",)
        )
        for watched in (self.airflow, self.mlflow):
            name = watched.name.lower()
            if watched.up is not None:
                up.add_metric((name,), float(watched.up))
            if watched.looked_at is not None:
                looked.add_metric((name,), watched.looked_at)
        yield up
        yield looked


def registry_of(pipeline: Pipeline) -> CollectorRegistry:
    """The pipeline's metrics and those of this process."""
    registry = CollectorRegistry()
    registry.register(pipeline)
    ProcessCollector(registry=registry)
    return registry


def _runs(dags: Mapping[str, DagRuns], *, now: bool) -> Iterator[Metric]:
    ended = GaugeMetricFamily(
        "rps_dag_run_end_timestamp_seconds", "When a run of the DAG last ended so.", labels=("dag_id", "state")
    )
    seconds = GaugeMetricFamily("rps_dag_run_duration_seconds", "How long that run took.", labels=("dag_id", "state"))
    counts = GaugeMetricFamily(
        "rps_dag_runs", "Runs that wait or are at work, or ended so in the last 24 hours.", labels=("dag_id", "state")
    )
    tasks = GaugeMetricFamily(
        "rps_task_duration_seconds", "How long a task of the last good run took.", labels=("dag_id", "task_id")
    )
    for dag_id, runs in dags.items():
        for state, run in runs.last.items():
            ended.add_metric((dag_id, state), run.ended)
            seconds.add_metric((dag_id, state), run.seconds)
        for state, number in runs.counts.items() if now else ():
            counts.add_metric((dag_id, state), float(number))
        for task_id, taken in runs.task_seconds.items():
            tasks.add_metric((dag_id, task_id), taken)
    yield from (ended, seconds, counts, tasks)


def _records(challenges: Mapping[str, Records], *, now: bool) -> Iterator[Metric]:
    violations = GaugeMetricFamily(
        "rps_quality_violations",
        "Broken quality rules in the newest report of a run.",
        labels=("challenge", "severity"),
    )
    verdicts = GaugeMetricFamily(
        "rps_gate_verdicts", "Model versions, by what the gate said of them.", labels=("challenge", "verdict")
    )
    errors = GaugeMetricFamily(
        "rps_candidate_error", "Hold-out RMSE of the newest finished run, and of what it was compared with.",
        labels=("challenge", "model"),
    )  # fmt: skip
    production = GaugeMetricFamily(
        "rps_production_version", "The version behind the alias production.", labels=("challenge",)
    )
    retrainings = GaugeMetricFamily(
        "rps_retrainings", "Runs started in the last 24 hours, by their reason.", labels=("challenge", "reason")
    )
    for challenge, records in challenges.items():
        for family, values in (
            (violations, records.violations),
            (verdicts, records.verdicts),
            (errors, records.errors),
            (retrainings, records.retrainings if now else {}),
        ):
            for label, value in values.items():
                family.add_metric((challenge, label), float(value))
        if records.production is not None:
            production.add_metric((challenge,), float(records.production))
    yield from (violations, verdicts, errors, production, retrainings)
