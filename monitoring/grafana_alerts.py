"""The alerts as Grafana evaluates and sends them: rules, contact points and the notification policy.

In these files Grafana replaces `$NAME` by the environment's variable everywhere but in queries and annotations (there
`$labels` and `$values` are for its templates); one that is not set becomes nothing. A file that Grafana refuses keeps
it from starting, and a Slack contact point without an address is refused: so Slack has a file of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from grafana_foundation_sdk.builders import alerting, expr, prometheus
from grafana_foundation_sdk.models import alerting as models
from grafana_foundation_sdk.models import dashboard

from monitoring.alertmanager_files import GROUP_INTERVAL, GROUP_WAIT, REPEAT, REPEAT_CRITICAL, WEBHOOK
from monitoring.alerts import Alert, Area, alerts, short
from monitoring.dashboard_panels import DATA_SOURCE
from monitoring.prometheus_files import labels

FOLDER = "RPS alerts"
INTERVAL = "30s"
LOOKED_AT_SECONDS = 600
EXPRESSIONS = dashboard.DataSourceRef(type_val="__expr__", uid="__expr__")
RECEIVER, SLACK = "rps receiver", "rps slack"
SECRET, SLACK_URL, RUNBOOKS_URL = "$RPS_ALERTS_SECRET", "$RPS_SLACK_URL", "$RPS_RUNBOOKS_URL"

SLACK_TITLE = '{{ if eq .Status "firing" }}critical{{ else }}resolved{{ end }}: {{ .CommonLabels.alertname }}'
SLACK_TEXT = (
    "{{ range .Alerts }}{{ .Annotations.summary }} "
    f'{{{{ with "{RUNBOOKS_URL}" }}}}{{{{ . }}}}{{{{ else }}}}docs/runbooks{{{{ end }}}}'
    "/{{ .Labels.alertname }}.md\n{{ end }}"
)

SHOWN_BY = {
    "ServiceDown": "Answering",
    "SlowRequests": "Latency",
    "FailingRequests": "Share of failed requests",
    "NoObservations": "New observations",
    "InputsOutOfDistribution": "Out of distribution",
    "FeatureDrift": "The features that drift most",
    "ConceptDrift": "Live error over the folds'",
    "IntervalCoverage": "Interval coverage by horizon",
    "IntervalWidth": "Interval width over the folds'",
    "RunFailed": "How the last run ended",
    "NoRun": "Since the last good run",
    "PipelineUnknown": "Readable",
    "EventsWaiting": "Events waiting",
}
"""By alert, the title of the panel to look at; Grafana links to it, and sends its address."""

_VALUE = re.compile(r"\$value\b")


def rules(dashboards: Sequence[dashboard.Dashboard]) -> dict[str, Any]:
    """Every alert, in a group for each area, linked to its panel."""
    panels = {
        panel.title: (made.uid, panel.id_val)
        for made in dashboards
        for panel in made.panels or ()
        if isinstance(panel, dashboard.Panel)
    }
    groups = []
    for area in get_args(Area):
        made = [_rule(alert, panels) for alert in alerts() if alert.area == area]
        groups.append({"orgId": 1, "name": area, "folder": FOLDER, "interval": INTERVAL, "rules": made})
    return {"groups": groups}


def contacts(*, slack: bool) -> dict[str, Any]:
    """The contact points: the receiver for every alert, and Slack for critical ones, if there is an address for it."""
    receiver = {
        "url": WEBHOOK,
        "httpMethod": "POST",
        "authorization_scheme": "Bearer",
        "authorization_credentials": SECRET,
    }
    points = [_contact(RECEIVER, "webhook", "rps-receiver", receiver)]
    if slack:
        message = {"url": SLACK_URL, "title": SLACK_TITLE, "text": SLACK_TEXT}
        points.append(_contact(SLACK, "slack", "rps-slack", message))
    return {"contactPoints": points, "policies": [_policy(slack=slack)]}


def _rule(alert: Alert, panels: Mapping[str | None, tuple[str | None, int | None]]) -> dict[str, Any]:
    """No data is fine: the expression gives nothing while all is well, and each value that it does give is an alert.

    If Grafana cannot query Prometheus, it sends its own alert (DatasourceError), which has no `challenge` and so
    retrains nothing.
    """
    query, condition = (
        alerting.Query(name)
        .datasource_uid(source.uid or "")
        .relative_time_range(models.RelativeTimeRange(from_val=seconds, to=0))
        for name, source, seconds in (("A", DATA_SOURCE, LOOKED_AT_SECONDS), ("B", EXPRESSIONS, 0))
    )
    asked = prometheus.Dataquery().ref_id("A").datasource(DATA_SOURCE).expr(alert.expression).instant()
    is_number = expr.TypeMath().ref_id("B").datasource(EXPRESSIONS).expression("is_number($A)")
    made = (
        alerting.Rule(alert.name)
        .uid(f"rps-{alert.name}")
        .condition("B")
        .queries([query.model(asked), condition.model(is_number)])
        .no_data_state("OK")
        .exec_err_state("Error")
        .for_val(short(alert.lasting))
        .labels(labels(alert))
        .annotations({"summary": _VALUE.sub("$values.A.Value", alert.summary), "runbook_url": alert.runbook})
        .build()
    ).to_json()
    for field in ("folderUID", "orgID", "ruleGroup"):  # the group has them
        del made[field]
    uid, panel = panels.get(SHOWN_BY.get(alert.name), (None, None))
    return {**made, "dashboardUid": uid, "panelId": panel} if panel else made


def _contact(name: str, kind: str, uid: str, settings: Mapping[str, str]) -> dict[str, Any]:
    return {"orgId": 1, "name": name, "receivers": [{"uid": uid, "type": kind, "settings": settings}]}


def _policy(*, slack: bool) -> dict[str, Any]:
    drift = {"object_matchers": [["drift", "=~", ".+"]], "group_by": ["challenge"]}
    critical = {"object_matchers": [["severity", "=", "critical"]], "repeat_interval": short(REPEAT_CRITICAL)}
    # One message for all that has drifted in a challenge: it is answered by one retraining.
    routes = [{"receiver": RECEIVER, **drift}, {"receiver": RECEIVER, **critical}]
    if slack:
        routes.insert(0, {"receiver": SLACK, **critical, "continue": True})
    return {
        "orgId": 1,
        "receiver": RECEIVER,
        "group_by": ["alertname"],
        "group_wait": short(GROUP_WAIT),
        "group_interval": short(GROUP_INTERVAL),
        "repeat_interval": short(REPEAT),
        "routes": routes,
    }
