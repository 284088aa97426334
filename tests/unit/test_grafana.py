"""What Grafana is provisioned with: dashboards that its SDK reads, alert rules for every alert, and who is reported.

Grafana itself cannot be had in the tests. What it does with these files is played here as its documentation and sources
have it: the environment's variables are put in everywhere but in queries and annotations, and `$$` becomes `$`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units

from monitoring.alerts import alerts, short
from monitoring.dashboard_panels import COLUMNS
from monitoring.grafana_alerts import SHOWN_BY
from monitoring.grafana_files import DASHBOARDS, DIRECTORY, PROVISIONING, WITH_SLACK, files
from monitoring.prometheus_files import labels
from monitoring.tables import DASHBOARDS as PAGE
from monitoring.tables import files as pages

UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_")}
CONTACTS = Path("alerting") / "contacts.yml"
MARK_FIELDS = {"step", "titleFormat", "textFormat", "tagKeys"}
"""Of Prometheus' annotations; the SDK does not know them."""
FIRING = {
    "RPS_ALERTS_SECRET": "a$ecret",
    "RPS_SLACK_URL": "https://hooks.example/T/B/x",
    "RPS_RUNBOOKS_URL": "https://h",
}


@pytest.fixture(scope="module")
def made() -> dict[Path, str]:
    return dict(files())


@pytest.fixture(scope="module")
def dashboards(made: dict[Path, str]) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(text) for path, text in made.items() if path.suffix == ".json"}


@pytest.fixture(scope="module")
def rules(made: dict[Path, str]) -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(made[PROVISIONING / "alerting" / "rules.yml"])["groups"]
    return {rule["title"]: {**rule, "group": group} for group in groups for rule in group["rules"]}


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (each for each in board["panels"] if each["type"] != "row")


def interpolated(value: Any, environment: dict[str, str], path: str = "") -> Any:
    """As Grafana reads a provisioning file."""
    if path.endswith((".model", ".annotations")):
        return value
    if isinstance(value, dict):
        return {key: interpolated(each, environment, f"{path}.{key}") for key, each in value.items()}
    if isinstance(value, list):
        return [interpolated(each, environment, path) for each in value]
    if not isinstance(value, str):
        return value
    variable = re.compile(r"\$\{?(\w+)\}?")
    return "$".join(variable.sub(lambda found: environment.get(found[1], ""), part) for part in value.split("$$"))


def test_the_same_files_come_out_every_time_and_lie_where_compose_mounts_them(made: dict[Path, str]) -> None:
    assert made == dict(files())
    assert sorted(path.relative_to(DIRECTORY).as_posix() for path in made) == [
        "dashboards/model.json",
        "dashboards/pipeline.json",
        "dashboards/service.json",
        "provisioning-slack/alerting/contacts.yml",
        "provisioning/alerting/contacts.yml",
        "provisioning/alerting/rules.yml",
        "provisioning/dashboards/rps.yml",
        "provisioning/datasources/prometheus.yml",
    ]


def test_the_page_lists_every_panel(dashboards: dict[str, dict[str, Any]]) -> None:
    page = pages()[PAGE]
    for board in dashboards.values():
        assert f"`/d/{board['uid']}`: {board['description']}" in page
        for panel in panels(board):
            assert f"| {panel['title']} | {panel['description']} |" in page


def test_no_machine_and_no_secret_is_in_a_file(made: dict[Path, str]) -> None:
    for path, text in made.items():
        assert str(Path.home()) + os.sep not in text, path
        assert not re.search(r"https://hooks\.slack|Bearer [^\n]", text), path


def test_sdk_reads_each_dashboard_and_writes_the_same(dashboards: dict[str, dict[str, Any]]) -> None:
    register_default_plugins()
    for name, board in dashboards.items():
        read = json.loads(JSONEncoder().encode(models.Dashboard.from_json(board)))
        marks = board["annotations"]["list"]
        assert all(mark.keys() >= MARK_FIELDS for mark in marks)
        plain = [{field: mark[field] for field in mark.keys() - MARK_FIELDS} for mark in marks]
        assert read == {**board, "annotations": {"list": plain}}, name


def test_a_dashboard_can_be_found_linked_and_not_edited(dashboards: dict[str, dict[str, Any]]) -> None:
    assert {board["uid"] for board in dashboards.values()} == {"rps-service", "rps-model", "rps-pipeline"}
    for board in dashboards.values():
        assert board["tags"] == ["rps"]
        assert board["editable"] is False
        assert board["timezone"] == "utc"
        assert board["refresh"]
        assert board["description"]
        (link,) = board["links"]
        assert (link["type"], link["tags"], link["includeVars"]) == ("dashboards", ["rps"], True)


def test_each_panel_says_what_it_shows(dashboards: dict[str, dict[str, Any]]) -> None:
    for board in dashboards.values():
        titles = [panel["title"] for panel in panels(board)]
        assert len(set(titles)) == len(titles)
        for panel in panels(board):
            shown = panel["title"]
            assert shown
            assert panel["description"].endswith("."), shown
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, shown
            assert panel["targets"], shown
            assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None, shown
            for target in panel["targets"]:
                assert target["expr"], shown
                assert target["legendFormat"], shown
                assert target["datasource"]["uid"] == "prometheus", shown
                assert target["instant"] != target["range"], shown


def test_panels_fill_the_grid_and_none_covers_another(dashboards: dict[str, dict[str, Any]]) -> None:
    for name, board in dashboards.items():
        identities = [panel["id"] for panel in board["panels"]]
        assert identities == list(range(1, len(identities) + 1))
        taken: dict[tuple[int, int], str] = {}
        for panel in board["panels"]:
            at = panel["gridPos"]
            for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
                assert cell not in taken, f"{name}: {panel['title']} covers {taken[cell]}"
                taken[cell] = panel["title"]
        height = max(y for _, y in taken) + 1
        assert len(taken) == COLUMNS * height, f"{name} has holes"


def test_what_an_operator_asks_first_stands_above_all_rows(dashboards: dict[str, dict[str, Any]]) -> None:
    for board in dashboards.values():
        first = [panel["title"] for panel in panels(board) if panel["gridPos"]["y"] == 0]
        assert len(first) == 6
        assert "Alerts firing" in first


def test_variables_are_filled_by_prometheus_and_used(dashboards: dict[str, dict[str, Any]]) -> None:
    used_in = {"service": ["challenge", "instance"], "pipeline": ["challenge", "dag_id"]}
    used_in["model"] = ["challenge", "instance", "unique_id", "horizon"]
    for name, board in dashboards.items():
        variables = board["templating"]["list"]
        assert [each["name"] for each in variables] == used_in[name]
        for each in variables:
            assert each["includeAll"], each["name"]
            assert each["multi"], each["name"]
            assert each["current"]["value"] == ["$__all"], each["name"]
            assert each["query"]["query"].endswith(f", {each['name']})")
            others = json.dumps([*board["panels"], *(other["query"] for other in variables if other is not each)])
            assert f"${each['name']}" in others, f"{name}: nothing looks at ${each['name']}"
        known = {each["name"] for each in variables} | {"__rate_interval"}
        assert set(re.findall(r"\$(\w+)", json.dumps(board["panels"]))) <= known


def test_releases_and_alerts_are_marked_on_the_charts(dashboards: dict[str, dict[str, Any]]) -> None:
    for board in dashboards.values():
        releases, firing = board["annotations"]["list"]
        assert "rps_model_info" in releases["expr"]
        assert "version {{version}}" in releases["titleFormat"]
        assert 'ALERTS{alertstate="firing"' in firing["expr"]
        assert releases["enable"]
        assert firing["enable"]


def test_limits_in_the_panels_are_those_of_the_alerts(dashboards: dict[str, dict[str, Any]]) -> None:
    steps = {
        (name, panel["title"]): [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
        for name, board in dashboards.items()
        for panel in panels(board)
    }
    expressions = {alert.name: alert.expression for alert in alerts()}
    limit = float(expressions["SlowRequests"].split("> ")[1])
    assert steps["service", "p95"] == steps["service", "Latency"] == [None, limit]
    limit = float(expressions["FailingRequests"].split("> ")[1])
    assert steps["service", "Failed"] == steps["service", "Share of failed requests"] == [None, limit]
    low, high = re.findall(r"coverage\{[^}]*\} [<>] ([\d.]+)", expressions["IntervalCoverage"])
    assert steps["model", "Interval coverage by horizon"] == [None, float(low), float(high)]
    assert f"> {steps['pipeline', 'Since the last good run'][-1]}" in expressions["NoRun"]


def test_every_alert_has_a_rule(rules: dict[str, dict[str, Any]]) -> None:
    assert rules.keys() == {alert.name for alert in alerts()}
    for alert in alerts():
        rule = rules[alert.name]
        query, condition = rule["data"]
        assert query["model"]["expr"] == alert.expression
        assert (query["refId"], query["datasourceUid"], query["model"]["instant"]) == ("A", "prometheus", True)
        assert (condition["refId"], condition["datasourceUid"]) == ("B", "__expr__")
        assert rule["condition"] == "B"
        assert rule["for"] == short(alert.lasting)
        assert rule["labels"] == labels(alert)
        assert rule["annotations"]["runbook_url"] == alert.runbook
        assert rule["group"]["name"] == alert.area
        assert rule["group"]["folder"]


def test_each_series_that_an_expression_gives_is_an_alert_and_none_is_fine(rules: dict[str, dict[str, Any]]) -> None:
    for rule in rules.values():
        condition = rule["data"][1]["model"]
        assert (condition["type"], condition["expression"]) == ("math", "is_number($A)")  # a value of 0 is one, too
        assert rule["noDataState"] == "OK"
        assert rule["execErrState"] == "Error"


def test_rules_have_names_that_grafana_takes(rules: dict[str, dict[str, Any]]) -> None:
    uids = [rule["uid"] for rule in rules.values()]
    assert len(set(uids)) == len(uids)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,40}", uid) for uid in uids)
    for rule in rules.values():
        seconds = re.fullmatch(r"(\d+)s", rule["group"]["interval"])
        assert seconds
        assert int(seconds[1]) % 10 == 0, "Grafana looks every ten seconds"


def test_summaries_are_templates_of_grafana(rules: dict[str, dict[str, Any]]) -> None:
    for name, rule in rules.items():
        summary = rule["annotations"]["summary"]
        assert "$$" not in summary, f"{name}: Grafana leaves annotations as they are"
        assert "${" not in summary, f"{name}: newer Grafanas put the environment in there"
        assert set(re.findall(r"\$(\w+)", summary)) <= {"labels", "values"}, name
        functions = set(re.findall(r"\| (\w+)", summary))
        assert functions <= {"humanize", "humanizeDuration", "humanizePercentage"}, name
        assert "$values." not in summary.replace("$values.A.Value", ""), name


def test_a_rule_leads_to_its_panel(rules: dict[str, dict[str, Any]], dashboards: dict[str, dict[str, Any]]) -> None:
    titles = {(board["uid"], panel["id"]): panel["title"] for board in dashboards.values() for panel in panels(board)}
    assert SHOWN_BY.keys() <= rules.keys()
    for name, title in SHOWN_BY.items():
        rule = rules[name]
        assert titles[rule["dashboardUid"], rule["panelId"]] == title
        assert list(titles.values()).count(title) == 1
        assert rule["dashboardUid"] == f"rps-{rule['group']['name'].replace('watching', 'pipeline')}"
    for name in rules.keys() - SHOWN_BY.keys():
        assert not {"dashboardUid", "panelId"} & rules[name].keys()


def test_nothing_but_addresses_and_secrets_changes_when_grafana_reads_the_files(made: dict[Path, str]) -> None:
    found = set()
    for path, text in made.items():
        if path.suffix != ".yml":
            continue  # Grafana puts no variables into dashboards
        content = yaml.safe_load(text)
        names = {name: f"${name}" for name in FIRING}
        assert interpolated(content, names) == content, path
        found |= {name for name in FIRING if f"${name}" in text}
    assert found == FIRING.keys()


@pytest.mark.parametrize("folder", [PROVISIONING, WITH_SLACK])
def test_everybody_in_the_policy_exists(made: dict[Path, str], folder: Path) -> None:
    content = yaml.safe_load(made[folder / CONTACTS])
    known = {point["name"] for point in content["contactPoints"]}
    (policy,) = content["policies"]
    assert {policy["receiver"], *(route["receiver"] for route in policy["routes"])} == known
    uids = [receiver["uid"] for point in content["contactPoints"] for receiver in point["receivers"]]
    assert len(set(uids)) == len(uids)


def shown(content: dict[str, Any], alert: dict[str, str]) -> set[str]:
    """The contact points that an alert with these labels goes to, as Alertmanager's routing has it."""
    (policy,) = content["policies"]
    found = set()
    for route in policy["routes"]:
        matches = {
            "=": lambda value, wanted: value == wanted,
            "=~": lambda value, wanted: re.fullmatch(wanted, value) is not None,
        }
        if all(matches[how](alert.get(label, ""), wanted) for label, how, wanted in route["object_matchers"]):
            found.add(route["receiver"])
            if not route.get("continue"):
                return found
    return found or {policy["receiver"]}


def test_the_receiver_is_told_of_everything_and_slack_of_what_is_critical(made: dict[Path, str]) -> None:
    alone = yaml.safe_load(made[PROVISIONING / CONTACTS])
    with_slack = yaml.safe_load(made[WITH_SLACK / CONTACTS])
    for alert in alerts():
        assert shown(alone, labels(alert)) == {"rps receiver"}
        slack = {"rps slack"} if alert.severity == "critical" else set()
        assert shown(with_slack, labels(alert)) == {"rps receiver"} | slack


def test_the_receiver_gets_its_secret_and_slack_its_address(made: dict[Path, str]) -> None:
    content = interpolated(yaml.safe_load(made[WITH_SLACK / CONTACTS]), FIRING)
    receiver, slack = (point["receivers"][0] for point in content["contactPoints"])
    assert receiver["type"] == "webhook"
    assert receiver["settings"] == {
        "url": "http://alerts:9107/v1/alerts",
        "httpMethod": "POST",
        "authorization_scheme": "Bearer",
        "authorization_credentials": "a$ecret",
    }
    assert slack["type"] == "slack"
    assert slack["settings"]["url"] == FIRING["RPS_SLACK_URL"]
    assert '{{ with "https://h" }}' in slack["settings"]["text"]


def test_without_slack_no_contact_point_lacks_an_address(made: dict[Path, str]) -> None:
    """Grafana does not start with a Slack contact point whose address is empty."""
    content = interpolated(yaml.safe_load(made[PROVISIONING / CONTACTS]), {})
    assert [receiver["type"] for point in content["contactPoints"] for receiver in point["receivers"]] == ["webhook"]
    assert all(receiver["settings"]["url"] for point in content["contactPoints"] for receiver in point["receivers"])


def test_dashboards_are_provided_from_where_they_are_mounted_and_kept(made: dict[Path, str]) -> None:
    (provider,) = yaml.safe_load(made[PROVISIONING / "dashboards" / "rps.yml"])["providers"]
    assert provider["options"] == {"path": DASHBOARDS}
    assert (provider["allowUiUpdates"], provider["disableDeletion"]) == (False, True)
    (source,) = yaml.safe_load(made[PROVISIONING / "datasources" / "prometheus.yml"])["datasources"]
    assert (source["uid"], source["type"], source["editable"]) == ("prometheus", "prometheus", False)
