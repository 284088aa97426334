"""The pipeline's metrics as Prometheus reads them, with their help and labels.

Labels are the checkout's challenges, their DAGs' tasks, and closed sets, so the number of series is bounded. While a
system is down, what has happened stays as last seen; counts of the last 24 hours and of what is running would be wrong
by now, and are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from monitoring.exporter.airflow_runs import DagRuns
from monitoring.exporter.mlflow_records import Records
from monitoring.exporter.watched import Watched

Sample = tuple[str, tuple[str, ...], float]
"""A metric's name, its labels' values and its own."""
METRICS = (
    ("rps_pipeline_up", "Whether the last look at the system succeeded.", ("system",)),
    ("rps_pipeline_look_timestamp_seconds", "When the last good look at the system ended.", ("system",)),
    ("rps_dag_run_end_timestamp_seconds", "When a run of the DAG last ended so.", ("dag_id", "state")),
    ("rps_dag_run_duration_seconds", "How long that run took.", ("dag_id", "state")),
    ("rps_dag_runs", "Runs that wait or are at work, or ended so in the last 24 hours.", ("dag_id", "state")),
    ("rps_task_duration_seconds", "How long a task of the last good run took.", ("dag_id", "task_id")),
    ("rps_quality_violations", "Broken quality rules in the newest report of a run.", ("challenge", "severity")),
    ("rps_gate_verdicts", "Model versions, by what the gate said of them.", ("challenge", "verdict")),
    (
        "rps_candidate_error",
        "Error on the folds of the newest finished run, and of what it was compared with.",
        ("challenge", "model"),
    ),
    ("rps_production_version", "The version behind the alias production.", ("challenge",)),
    ("rps_retrainings", "Runs started in the last 24 hours, by their reason.", ("challenge", "reason")),
)
"""Name, help and labels."""


@dataclass(frozen=True)
class Pipeline(Collector):
    """What both systems know."""

    airflow: Watched[dict[str, DagRuns]]
    mlflow: Watched[dict[str, Records]]

    def collect(self) -> Iterable[Metric]:
        families = {name: GaugeMetricFamily(name, meaning, labels=labels) for name, meaning, labels in METRICS}
        for name, labels, value in self._samples():
            families[name].add_metric(labels, float(value))
        return families.values()

    def describe(self) -> Iterable[Metric]:
        """Nothing: only one collector is registered, so no name needs checking."""
        return ()

    def _samples(self) -> Iterator[Sample]:
        for watched in (self.airflow, self.mlflow):
            system = (watched.name.lower(),)
            if watched.up is not None:
                yield "rps_pipeline_up", system, watched.up
            if watched.looked_at is not None:
                yield "rps_pipeline_look_timestamp_seconds", system, watched.looked_at
        for dag_id, runs in (self.airflow.known or {}).items():
            yield from _runs(dag_id, runs, now=bool(self.airflow.up))
        for challenge, records in (self.mlflow.known or {}).items():
            yield from _records(challenge, records, now=bool(self.mlflow.up))


def registry_of(pipeline: Pipeline) -> CollectorRegistry:
    """The pipeline's metrics and those of this process."""
    registry = CollectorRegistry()
    registry.register(pipeline)
    ProcessCollector(registry=registry)
    return registry


def _runs(dag_id: str, runs: DagRuns, *, now: bool) -> Iterator[Sample]:
    for state, run in runs.last.items():
        yield "rps_dag_run_end_timestamp_seconds", (dag_id, state), run.ended
        yield "rps_dag_run_duration_seconds", (dag_id, state), run.seconds
    for state, number in runs.counts.items() if now else ():
        yield "rps_dag_runs", (dag_id, state), number
    for task_id, seconds in runs.task_seconds.items():
        yield "rps_task_duration_seconds", (dag_id, task_id), seconds


def _records(challenge: str, records: Records, *, now: bool) -> Iterator[Sample]:
    for name, values in (
        ("rps_quality_violations", records.violations),
        ("rps_gate_verdicts", records.verdicts),
        ("rps_candidate_error", records.errors),
        ("rps_retrainings", records.retrainings if now else {}),
    ):
        for label, value in values.items():
            yield name, (challenge, label), value
    if records.production is not None:
        yield "rps_production_version", (challenge,), records.production
