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


def _families() -> dict[str, GaugeMetricFamily]:
    """Every metric, still without values, by its name without `rps_`."""
    of_dag, of_challenge = ("dag_id", "state"), ("challenge",)
    families = (
        ("pipeline_up", "Whether the last look at the system succeeded.", ("system",)),
        ("pipeline_look_timestamp_seconds", "When the last good look at the system ended.", ("system",)),
        ("dag_run_end_timestamp_seconds", "When a run of the DAG last ended so.", of_dag),
        ("dag_run_duration_seconds", "How long that run took.", of_dag),
        ("dag_runs", "Runs that wait or are at work, or ended so in the last 24 hours.", of_dag),
        ("task_duration_seconds", "How long a task of the last good run took.", ("dag_id", "task_id")),
        ("quality_violations", "Broken quality rules in the newest report of a run.", (*of_challenge, "severity")),
        ("gate_verdicts", "Model versions, by what the gate said of them.", (*of_challenge, "verdict")),
        (
            "candidate_error",
            "Hold-out RMSE of the newest finished run, and of what it was compared with.",
            (*of_challenge, "model"),
        ),
        ("production_version", "The version behind the alias production.", of_challenge),
        ("retrainings", "Runs started in the last 24 hours, by their reason.", (*of_challenge, "reason")),
    )
    return {name: GaugeMetricFamily(f"rps_{name}", meaning, labels=labels) for name, meaning, labels in families}


@dataclass(frozen=True)
class Pipeline(Collector):
    """What both systems know."""

    airflow: Watched[dict[str, DagRuns]]
    mlflow: Watched[dict[str, Records]]

    def collect(self) -> Iterable[Metric]:
        families = _families()
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
                yield "pipeline_up", system, watched.up
            if watched.looked_at is not None:
                yield "pipeline_look_timestamp_seconds", system, watched.looked_at
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
        yield "dag_run_end_timestamp_seconds", (dag_id, state), run.ended
        yield "dag_run_duration_seconds", (dag_id, state), run.seconds
    for state, number in runs.counts.items() if now else ():
        yield "dag_runs", (dag_id, state), number
    for task_id, seconds in runs.task_seconds.items():
        yield "task_duration_seconds", (dag_id, task_id), seconds


def _records(challenge: str, records: Records, *, now: bool) -> Iterator[Sample]:
    for name, values in (
        ("quality_violations", records.violations),
        ("gate_verdicts", records.verdicts),
        ("candidate_error", records.errors),
        ("retrainings", records.retrainings if now else {}),
    ):
        for label, value in values.items():
            yield name, (challenge, label), value
    if records.production is not None:
        yield "production_version", (challenge,), records.production
