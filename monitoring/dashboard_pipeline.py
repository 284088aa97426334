"""The dashboard of the pipeline: DAG runs, data quality, the gate, retrainings and what the alerts' receiver did."""

from __future__ import annotations

from collections.abc import Iterator

from grafana_foundation_sdk.models import dashboard as models

from monitoring import dashboard_panels as panels
from monitoring.alerts import RUN_HOURS

DAG = 'dag_id=~"$dag_id"'
OF = 'challenge=~"$challenge"'


def pipeline_dashboard() -> models.Dashboard:
    return panels.dashboard(
        "pipeline",
        "Did the last runs succeed, what did the gate decide, and what did the alerts trigger?",
        _rows(),
        [
            panels.variable("challenge", "Challenge", "What is predicted", "rps_gate_verdicts"),
            panels.variable("dag_id", "DAG", "A DAG of Airflow", "rps_dag_runs"),
        ],
        released=OF,
        area="pipeline|watching",
        refresh="1m",
        since="now-7d",
    )


def _rows() -> Iterator[panels.Row]:
    yield panels.row(
        "",
        panels.number(
            "Readable",
            "Whether the exporter could last read Airflow and MLflow. While one is down, its figures are old.",
            ("rps_pipeline_up", "{{system}}"),
            words=panels.UP,
        ),
        panels.alerts_now("pipeline|watching"),
        panels.number(
            "Since the last good run",
            f"Time since a run of each DAG succeeded. Above {RUN_HOURS} hours, NoRun fires.",
            (f'time() - max by (dag_id) (rps_dag_run_end_timestamp_seconds{{{DAG}, state="success"}})', "{{dag_id}}"),
            unit="s",
            steps=((None, "green"), (RUN_HOURS * 1800, "yellow"), (RUN_HOURS * 3600, "red")),
        ),
        panels.number(
            "Failed runs",
            "Runs that failed in the last 24 hours.",
            (f'sum(rps_dag_runs{{{DAG}, state="failed"}})', "failed"),
            steps=panels.bad_from(1),
        ),
        panels.number(
            "In production",
            "The version that the alias `production` points to.",
            (f"max by (challenge) (rps_production_version{{{OF}}})", "{{challenge}}"),
        ),
        panels.number(
            "Events waiting",
            "Drift events that the receiver has accepted and GitHub has not. If it stays above 0 for minutes, GitHub "
            "is unreachable or refuses the token.",
            ("sum(rps_alert_events_waiting)", "waiting"),
            steps=panels.bad_from(1),
        ),
    )
    good = f'max by (dag_id) (rps_dag_run_end_timestamp_seconds{{{DAG}, state="success"}})'
    failed = f'max by (dag_id) (rps_dag_run_end_timestamp_seconds{{{DAG}, state="failed"}})'
    yield panels.row(
        "DAG runs",
        panels.states(
            "How the last run ended",
            "For each DAG, whether the newest completed run succeeded.",
            (f"({good} > bool ({failed} or 0 * {good})) or 0 * {failed}", "{{dag_id}}"),
            {"0": ("failed", "red"), "1": ("success", "green")},
        ),
        panels.chart(
            "Runs by state",
            "Runs in the last 24 hours.",
            (f"sum by (state) (rps_dag_runs{{{DAG}}})", "{{state}}"),
            stacked=True,
        ),
        panels.chart(
            "Duration of runs",
            "Duration of the last run that ended in each state.",
            (f"rps_dag_run_duration_seconds{{{DAG}}}", "{{dag_id}} {{state}}"),
            unit="s",
        ),
        panels.bars(
            "Duration of tasks",
            "Durations in the last successful run, the longest first.",
            (f"sort_desc(rps_task_duration_seconds{{{DAG}}})", "{{task_id}} ({{dag_id}})"),
            unit="s",
        ),
        width=12,
    )
    yield panels.row(
        "Data and gate",
        panels.chart(
            "Quality violations",
            "What the quality gate found in the data of the last run with a report in MLflow. An error stops a run.",
            (f"rps_quality_violations{{{OF}}}", "{{challenge}} {{severity}}"),
        ),
        panels.chart(
            "Gate verdicts",
            "Model versions in the registry, by the gate's verdict.",
            (f"rps_gate_verdicts{{{OF}}}", "{{challenge}} {{verdict}}"),
            stacked=True,
        ),
        panels.chart(
            "Candidate against production",
            "Error on the folds of the newest finished run, in the measure of the challenge's loss: the candidate, "
            "the production model and the baseline on the same rows.",
            (f"rps_candidate_error{{{OF}}}", "{{challenge}} {{model}}"),
        ),
    )
    yield panels.row(
        "Alerts and retrainings",
        panels.chart(
            "Retrainings by reason",
            "Runs in the last 24 hours, by their reason.",
            (f"rps_retrainings{{{OF}}}", "{{challenge}} {{reason}}"),
            stacked=True,
        ),
        panels.chart(
            "Alerts received",
            "Alerts that the receiver accepted per hour, by sender; it keeps each one in its file.",
            ("sum by (source, status) (increase(rps_alerts_received_total[1h]))", "{{source}} {{status}}"),
        ),
        panels.chart(
            "Drift events",
            "Outcomes of the drift alerts since the receiver's start.",
            (f"sum by (challenge, outcome) (rps_alert_events_total{{{OF}}})", "{{challenge}} {{outcome}}"),
        ),
    )
