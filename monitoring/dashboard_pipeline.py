"""The dashboard of the pipeline: DAG runs, data quality, the gate, retrainings and what the alerts' receiver did."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.models import dashboard as models

from monitoring.alerts import RUN_HOURS
from monitoring.dashboard_panels import (
    UP,
    Panel,
    Query,
    alerts_now,
    bad_from,
    bars,
    chart,
    dashboard,
    firing,
    number,
    releases,
    states,
    variable,
)

DAG = 'dag_id=~"$dag_id"'
OF = 'challenge=~"$challenge"'


def pipeline_dashboard() -> models.Dashboard:
    return dashboard(
        "pipeline",
        "Did the last runs succeed, what did the gate decide, and what did the alerts trigger?",
        {
            "": _first(),
            "DAG runs": _runs(),
            "Data and gate": _gate(),
            "Alerts and retrainings": _loop(),
        },
        [
            variable("challenge", "Challenge", "What is predicted", "rps_gate_verdicts"),
            variable("dag_id", "DAG", "A DAG of Airflow", "rps_dag_runs"),
        ],
        [releases(OF), firing("pipeline|watching")],
        refresh="1m",
        since="now-7d",
    )


def _first() -> Sequence[Panel]:
    return (
        number(
            "Readable",
            "Whether the exporter could last read Airflow and MLflow. While one is down, its figures are old.",
            "none",
            Query("rps_pipeline_up", "{{system}}"),
            words=UP,
        ),
        alerts_now("pipeline|watching"),
        number(
            "Since the last good run",
            f"Time since a run of each DAG succeeded. Above {RUN_HOURS} hours, NoRun fires.",
            "s",
            Query(
                f'time() - max by (dag_id) (rps_dag_run_end_timestamp_seconds{{{DAG}, state="success"}})', "{{dag_id}}"
            ),
            steps=((None, "green"), (RUN_HOURS * 1800, "yellow"), (RUN_HOURS * 3600, "red")),
        ),
        number(
            "Failed runs",
            "Runs that failed in the last 24 hours.",
            "none",
            Query(f'sum(rps_dag_runs{{{DAG}, state="failed"}})', "failed"),
            steps=bad_from(1),
        ),
        number(
            "In production",
            "The version that the alias `production` points to.",
            "none",
            Query(f"max by (challenge) (rps_production_version{{{OF}}})", "{{challenge}}"),
        ),
        number(
            "Events waiting",
            "Drift events that the receiver has accepted and GitHub has not. If it stays above 0 for minutes, GitHub "
            "is unreachable or refuses the token.",
            "none",
            Query("sum(rps_alert_events_waiting)", "waiting"),
            steps=bad_from(1),
        ),
    )


def _runs() -> Sequence[Panel]:
    good = f'max by (dag_id) (rps_dag_run_end_timestamp_seconds{{{DAG}, state="success"}})'
    failed = f'max by (dag_id) (rps_dag_run_end_timestamp_seconds{{{DAG}, state="failed"}})'
    return (
        states(
            "How the last run ended",
            "For each DAG, whether the newest completed run succeeded.",
            Query(f"({good} > bool ({failed} or 0 * {good})) or 0 * {failed}", "{{dag_id}}"),
            {"0": ("failed", "red"), "1": ("success", "green")},
            width=12,
        ),
        chart(
            "Runs by state",
            "Runs in the last 24 hours.",
            "none",
            Query(f"sum by (state) (rps_dag_runs{{{DAG}}})", "{{state}}"),
            width=12,
            stacked=True,
        ),
        chart(
            "Duration of runs",
            "Duration of the last run that ended in each state.",
            "s",
            Query(f"rps_dag_run_duration_seconds{{{DAG}}}", "{{dag_id}} {{state}}"),
            width=12,
        ),
        bars(
            "Duration of tasks",
            "Durations in the last successful run, the longest first.",
            "s",
            Query(f"sort_desc(rps_task_duration_seconds{{{DAG}}})", "{{task_id}} ({{dag_id}})"),
            width=12,
        ),
    )


def _gate() -> Sequence[Panel]:
    return (
        chart(
            "Quality violations",
            "What the quality gate found in the data of the last run with a report in MLflow. An error stops a run.",
            "none",
            Query(f"rps_quality_violations{{{OF}}}", "{{challenge}} {{severity}}"),
        ),
        chart(
            "Gate verdicts",
            "Model versions in the registry, by the gate's verdict.",
            "none",
            Query(f"rps_gate_verdicts{{{OF}}}", "{{challenge}} {{verdict}}"),
            stacked=True,
        ),
        chart(
            "Candidate against production",
            "RMSE on the hold-out of the newest finished run, in the target's unit: the candidate, the production "
            "model and persistence on the same rows.",
            "none",
            Query(f"rps_candidate_error{{{OF}}}", "{{challenge}} {{model}}"),
        ),
    )


def _loop() -> Sequence[Panel]:
    return (
        chart(
            "Retrainings by reason",
            "Runs in the last 24 hours, by their reason.",
            "none",
            Query(f"rps_retrainings{{{OF}}}", "{{challenge}} {{reason}}"),
            stacked=True,
        ),
        chart(
            "Alerts received",
            "Alerts that the receiver accepted per hour, by sender; it keeps each one in its file.",
            "none",
            Query(
                "sum by (source, status) (increase(rps_alerts_received_total[1h]))",
                "{{source}} {{status}}",
            ),
        ),
        chart(
            "Drift events",
            "Outcomes of the drift alerts since the receiver's start.",
            "none",
            Query(f"sum by (challenge, outcome) (rps_alert_events_total{{{OF}}})", "{{challenge}} {{outcome}}"),
        ),
    )
