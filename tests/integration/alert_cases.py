"""What each alert must say of which series: when it fires, when it must not, and when it is over.

Times are hours and minutes from the first sample (`5h30m`). There is a sample a minute, or every so many minutes as
``EVERY`` says of what takes days. Services listen at a:8000 and b:8000 and serve version 3 of `weather`, unless a case
says something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.integration.alert_series import HOUR, A, B, Case, Fires, absent, counter, ended, gauge, latencies, requests
from tests.integration.model_alert_cases import (
    CONCEPT_DRIFT,
    FEATURE_DRIFT,
    INPUTS_OUT_OF_DISTRIBUTION,
    INTERVAL_COVERAGE,
    INTERVAL_WIDTH,
    NO_OBSERVATIONS,
    SENSOR_FAULT,
)

DOWN = Fires("The service at a:8000 does not answer Prometheus.", {"job": "service", "instance": "a:8000"})
RELEASED = {'rps_production_version{job="pipeline",challenge="weather"}': gauge((60, 1))}
MLFLOW = 'rps_pipeline_up{job="pipeline",instance="m:9106",system="mlflow"}'

SERVICE_DOWN = [
    Case(
        "a minute after the last good scrape, until the next one",
        {f"up{{{A}}}": gauge((10, 1), (10, 0), (10, 1)), f"up{{{B}}}": gauge((30, 1))},
        {"9m": [], "10m": [], "11m": [DOWN], "19m": [DOWN], "20m": []},
    ),
    Case("a restart", {f"up{{{A}}}": gauge((10, 1), (1, 0), (10, 1))}, {"10m": [], "11m": []}),
    Case(
        "no service is there to be scraped",
        {'up{job="prometheus",instance="p:9090"}': gauge((10, 1))},
        {"0m": [], "5m": [Fires("The service does not answer Prometheus.", {"job": "service"})]},
    ),
    Case(
        "nothing has been released yet",
        {f"up{{{A}}}": gauge((60, 0)), MLFLOW: gauge((60, 1))},
        {"30m": []},
    ),
    Case(
        "something has been released",
        {f"up{{{A}}}": gauge((60, 0)), MLFLOW: gauge((60, 1)), **RELEASED},
        {"30m": [DOWN]},
    ),
    Case(
        "whether something has been released is not known",
        {f"up{{{A}}}": gauge((60, 0)), MLFLOW: gauge((60, 0))},
        {"30m": [DOWN]},
    ),
]

SLOW = Fires("One in twenty requests to a:8000 takes over 750ms.", {"instance": "a:8000"})
FORECASTS = "/v1/forecasts/{unique_id}"
SLOW_REQUESTS = [
    Case(
        "a tenth takes up to a second, at one of two services",
        {**latencies(FORECASTS, 30, slow=10), **latencies(FORECASTS, 30, slow=0, where=B)},
        {"5m": [], "6m": [SLOW], "30m": [SLOW], "41m": []},
    ),
    Case("one in twenty takes longer, no more", latencies(FORECASTS, 30, slow=5), {"15m": [], "30m": []}),
    Case(
        "six in a hundred take longer",
        latencies("/v2/models/weather/infer", 30, slow=6),
        {"15m": [Fires("One in twenty requests to a:8000 takes over 583.3ms.", {"instance": "a:8000"})]},
    ),
    Case("no request for long", latencies(FORECASTS, 1, slow=100), {"0m": [], "1m": [], "10m": []}),
    Case(
        "only the page's stream and probes take long",
        {**latencies("/events", 30, slow=100), **latencies("/health", 30, slow=100)},
        {"15m": [], "30m": []},
    ),
]

FAILING = {"instance": "a:8000"}
FAILING_REQUESTS = [
    Case(
        "three in a hundred, until they stop",
        {
            **requests(FORECASTS, 200, (30, 97), (30, 100)),
            **requests(FORECASTS, 503, (30, 3), (30, 0)),
            **requests(FORECASTS, 200, (60, 100), where=B),
        },
        {
            "5m": [],
            "6m": [Fires("3% of the requests to a:8000 fail.", FAILING)],
            "30m": [Fires("3% of the requests to a:8000 fail.", FAILING)],
            "36m": [],
        },
    ),
    Case(
        "two in a hundred, no more",
        {**requests(FORECASTS, 200, (30, 2940)), **requests(FORECASTS, 500, (30, 60))},
        {"15m": [], "30m": []},
    ),
    Case(
        "scrapes, which always succeed, hide nothing",
        {**requests("/metrics", 200, (30, 1000)), **requests("/v1/observations", 503, (30, 1))},
        {"15m": [Fires("100% of the requests to a:8000 fail.", FAILING)]},
    ),
    Case(
        "the first failures of all, whose series was not there before",
        {
            **requests(FORECASTS, 200, (30, 50)),
            f'rps_requests_total{{{A},route="{FORECASTS}",status="500"}}': f"{absent(10)} {counter((20, 50), first=1)}",
        },
        {"9m": [], "20m": [Fires("50% of the requests to a:8000 fail.", FAILING)]},
    ),
    Case(
        "one failure among few requests",
        {**requests(FORECASTS, 200, (30, 1)), **requests(FORECASTS, 500, (10, 0), (1, 1), (19, 0))},
        {f"{minute}m": [] for minute in range(8, 24)},
    ),
    Case(
        "wrong requests, and clients that went away",
        {**requests(FORECASTS, 404, (30, 90)), **requests("/v1/observations", 499, (30, 90))},
        {"15m": [], "30m": []},
    ),
    Case("no request at all", requests(FORECASTS, 200, (30, 0)), {"15m": []}),
]

FAILED = Fires("The last run of retrain_weather has failed.", {"dag_id": "retrain_weather"})
RUN_FAILED = [
    Case(
        "at once, until a run succeeds",
        {
            **ended("success", gauge((60, 1000), (60, 9000))),
            **ended("failed", gauge((30, 500), (90, 5000))),
            **ended("success", gauge((120, 2000)), "retrain_crypto"),
        },
        {"29m": [], "30m": [FAILED], "59m": [FAILED], "60m": []},
    ),
    Case("the first run of all", ended("failed", gauge((30, 500))), {"1m": [FAILED]}),
    Case("no run has failed", ended("success", gauge((30, 500))), {"1m": []}),
]


def not_run(duration: str) -> Fires:
    shown = f"No run of retrain_weather has succeeded for {duration}."
    return Fires(shown, {"dag_id": "retrain_weather"})


KNOWN = 'rps_dag_runs{job="pipeline",instance="m:9106",dag_id="retrain_weather",state="success"}'
NO_RUN = [
    Case(
        "a day after the last good end, until the next",
        {**ended("success", gauge((26 * HOUR, 3600), (HOUR, 26 * 3600))), KNOWN: gauge((27 * HOUR, 1))},
        {"25h": [], "25h10m": [], "25h20m": [not_run("1d 0h 20m 0s")], "26h": []},
    ),
    Case(
        "never: a day after the DAG became known, until its first good end",
        {KNOWN: gauge((27 * HOUR, 0)), **ended("success", f"{absent(26 * HOUR)} {gauge((HOUR, 26 * 3600))}")},
        {"24h": [], "24h10m": [not_run("1d 0h 0m 0s")], "25h50m": [not_run("1d 0h 0m 0s")], "26h": []},
    ),
    Case(
        "Airflow's clock is ahead",
        {**ended("success", gauge((HOUR, 9000))), KNOWN: gauge((HOUR, 1))},
        {"30m": []},
    ),
]

PIPELINE_UNKNOWN = [
    Case(
        "after ten minutes, of one of the two",
        {MLFLOW: gauge((60, 1)), MLFLOW.replace("mlflow", "airflow"): gauge((10, 1), (20, 0), (30, 1))},
        {
            "19m": [],
            "20m": [Fires("The exporter cannot read airflow.", {"system": "airflow"})],
            "30m": [],
        },
    ),
    Case("a passing fault", {MLFLOW: gauge((10, 1), (9, 0), (30, 1))}, {"19m": [], "25m": []}),
]

UP = {f'up{{job="{job}",instance="w:1"}}': gauge((60, 1)) for job in ("alerts", "pipeline", "alertmanager")}
WATCHER_DOWN = [
    Case(
        "after five minutes",
        {**UP, 'up{job="alertmanager",instance="w:1"}': gauge((10, 1), (20, 0), (30, 1)), f"up{{{A}}}": gauge((60, 0))},
        {
            "14m": [],
            "15m": [
                Fires("alertmanager at w:1 does not answer Prometheus.", {"job": "alertmanager", "instance": "w:1"})
            ],
            "30m": [],
        },
    ),
    Case("the service alone is down", {**UP, f"up{{{A}}}": gauge((60, 0))}, {"30m": []}),
    Case(
        "there has never been an Alertmanager",
        {**UP, 'up{job="alertmanager",instance="w:1"}': gauge((60, 0))},
        {"30m": []},
    ),
    Case(
        "nobody has ever told Prometheus of the receiver and the exporter",
        {'up{job="prometheus",instance="w:1"}': gauge((60, 1))},
        {
            "4m": [],
            "5m": [Fires(f"{job} does not answer Prometheus.", {"job": job}) for job in ("alerts", "pipeline")],
        },
    ),
]

WAITING = 'rps_alert_events_waiting{job="alerts",instance="w:9107"}'
EVENTS_WAITING = [
    Case(
        "for a quarter of an hour, until it is delivered",
        {WAITING: gauge((10, 0), (30, 2), (20, 0))},
        {
            "24m": [],
            "25m": [Fires("2 drift events at w:9107 wait for GitHub.", {"instance": "w:9107"})],
            "40m": [],
        },
    ),
    Case("GitHub is away for ten minutes", {WAITING: gauge((10, 0), (10, 1), (40, 0))}, {"20m": [], "26m": []}),
]

UNDELIVERED = (
    'alertmanager_notification_requests_failed_total{job="alertmanager",instance="w:9093",integration="webhook"}'
)
NOTIFICATIONS_FAILING = [
    Case(
        "again and again, until it is delivered",
        {UNDELIVERED: counter((10, 0), (20, 1), (30, 0))},
        {
            "20m": [],
            "21m": [
                Fires(
                    "Alertmanager at w:9093 cannot deliver through webhook.",
                    {"instance": "w:9093", "integration": "webhook"},
                )
            ],
            "40m": [],
        },
    ),
    Case("once", {UNDELIVERED: counter((10, 0), (1, 1), (40, 0))}, {f"{minute}m": [] for minute in range(10, 24)}),
]

BROKEN = 'prometheus_rule_evaluation_failures_total{job="prometheus",instance="p:9090",rule_group="rules.yml;model"}'
RULES_FAILING = [
    Case(
        "again and again, until it is mended",
        {BROKEN: counter((10, 0), (20, 4), (30, 0))},
        {
            "20m": [],
            "21m": [Fires("Prometheus at p:9090 cannot evaluate some of its rules.", {"instance": "p:9090"})],
            "40m": [],
        },
    ),
    Case("once", {BROKEN: counter((10, 0), (1, 1), (40, 0))}, {f"{minute}m": [] for minute in range(10, 24)}),
]

EVERY = {"NoObservations": 5, "InputsOutOfDistribution": 10, "NoRun": 10}
CASES: Mapping[str, Sequence[Case]] = {
    "ServiceDown": SERVICE_DOWN,
    "SlowRequests": SLOW_REQUESTS,
    "FailingRequests": FAILING_REQUESTS,
    "NoObservations": NO_OBSERVATIONS,
    "SensorFault": SENSOR_FAULT,
    "InputsOutOfDistribution": INPUTS_OUT_OF_DISTRIBUTION,
    "FeatureDrift": FEATURE_DRIFT,
    "ConceptDrift": CONCEPT_DRIFT,
    "IntervalCoverage": INTERVAL_COVERAGE,
    "IntervalWidth": INTERVAL_WIDTH,
    "RunFailed": RUN_FAILED,
    "NoRun": NO_RUN,
    "PipelineUnknown": PIPELINE_UNKNOWN,
    "WatcherDown": WATCHER_DOWN,
    "EventsWaiting": EVENTS_WAITING,
    "NotificationsFailing": NOTIFICATIONS_FAILING,
    "RulesFailing": RULES_FAILING,
}
