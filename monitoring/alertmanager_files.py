"""Alertmanager's configuration: every alert goes to `python -m monitoring.relay`, and optionally to Slack."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from monitoring.alerts import short
from monitoring.prometheus_files import written

DIRECTORY = Path("monitoring/alertmanager")
WEBHOOK = "http://alerts:9107/v1/alerts"
SECRET_FILE = "/tmp/alerts_secret"  # noqa: S105, S108 - its path, in a container of its own
SLACK_FILE = "/tmp/slack_url"  # noqa: S108

GROUP_WAIT = timedelta(seconds=30)
GROUP_INTERVAL = timedelta(minutes=5)
REPEAT = timedelta(hours=12)
REPEAT_CRITICAL = timedelta(hours=4)
SHORTEST = timedelta(seconds=1)

SLACK_MESSAGE = {
    "title": "{{ .CommonLabels.severity }} {{ .CommonLabels.alertname }} {{ .Status }}",
    "title_link": "{{ (index .Alerts 0).Annotations.runbook_url }}",
    "text": "{{ range .Alerts }}{{ .Annotations.summary }}\n{{ end }}",
}
INHIBITIONS = [
    {
        "source_matchers": ['alertname="ServiceDown"'],
        "target_matchers": ['alertname!="ServiceDown"', 'area=~"service|model"'],
        "equal": ["instance"],
    },
    {  # while the exporter cannot read Airflow, it cannot know of newer runs
        "source_matchers": ['alertname="PipelineUnknown"', 'system="airflow"'],
        "target_matchers": ['alertname=~"NoRun|RunFailed"'],
    },
]


def files() -> Mapping[Path, str]:
    """What one host mounts, by path from the repository's root; Alertmanager starts with one of them."""
    return {
        DIRECTORY / "alertmanager.yml": alertmanager_configuration(WEBHOOK, SECRET_FILE),
        DIRECTORY / "with-slack.yml": alertmanager_configuration(WEBHOOK, SECRET_FILE, slack_file=SLACK_FILE),
    }


def alertmanager_configuration(
    webhook: str, secret_file: str | Path, *, slack_file: str | Path | None = None, pace: float = 1.0
) -> str:
    """Alertmanager's configuration, as YAML. Alertmanager reads secrets from files, not from its environment.

    secret_file: contains the token of `Authorization: Bearer …`; slack_file: contains the address of a Slack webhook.
    pace: hours of data that pass in one hour; nothing is held back for less than a second.
    """
    http = {"authorization": {"type": "Bearer", "credentials_file": str(secret_file)}}
    webhooks = [{"url": webhook, "send_resolved": True, "http_config": http}]
    receiver: dict[str, Any] = {"name": "rps", "webhook_configs": webhooks}
    if slack_file is not None:
        receiver["slack_configs"] = [{"api_url_file": str(slack_file), "send_resolved": True, **SLACK_MESSAGE}]
    route = {
        "receiver": "rps",
        "group_by": ["alertname"],
        "group_wait": _held(GROUP_WAIT, pace),
        "group_interval": _held(GROUP_INTERVAL, pace),
        "repeat_interval": _held(REPEAT, pace),
        "routes": [
            # One message for all that has drifted in a challenge: it is answered by one retraining.
            {"matchers": ['drift=~".+"'], "group_by": ["challenge"]},
            {"matchers": ['severity="critical"'], "repeat_interval": _held(REPEAT_CRITICAL, pace)},
        ],
    }
    return written({"route": route, "inhibit_rules": INHIBITIONS, "receivers": [receiver]})


def _held(duration: timedelta, pace: float) -> str:
    return short(max(duration / pace, SHORTEST))
