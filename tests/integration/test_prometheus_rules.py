"""Every alert by Prometheus' own test tool, both ways, and the configuration by the programs that will read it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from monitoring.alertmanager_files import alertmanager_configuration
from monitoring.alerts import alerts
from monitoring.prometheus_files import labels, prometheus_configuration, prometheus_rules
from tests.integration.alert_cases import CASES, EVERY, Case
from tests.integration.prometheus_server import amtool, promtool

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS, ALERTMANAGER = ROOT / "monitoring" / "prometheus", ROOT / "monitoring" / "alertmanager"
ALERTS = {alert.name: alert for alert in alerts()}
GROUPS = [group["name"] for group in yaml.safe_load(prometheus_rules())["groups"]]
RUNBOOKS = "https://example.org/runbooks"


def as_promtool_has_it(name: str, case: Case) -> dict[str, object]:
    page = f"{RUNBOOKS}/{name}.md"
    return {
        "name": case.shown,
        "interval": f"{EVERY.get(name, 1)}m",
        "external_labels": {"runbooks": RUNBOOKS},
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "alert_rule_test": [
            {
                "eval_time": time,
                "alertname": name,
                "exp_alerts": [
                    {
                        "exp_labels": {**labels(ALERTS[name]), **each.labels},
                        "exp_annotations": {"summary": each.summary, "runbook_url": page},
                    }
                    for each in firing
                ],
            }
            for time, firing in case.expected.items()
        ],
    }


@pytest.mark.parametrize("name", CASES)
def test_alert_fires_when_it_must_and_else_is_silent(name: str, tmp_path: Path) -> None:
    test = {
        "rule_files": [str(PROMETHEUS / "rules.yml")],
        "evaluation_interval": f"{EVERY.get(name, 1)}m",
        "group_eval_order": GROUPS,
        "tests": [as_promtool_has_it(name, case) for case in CASES[name]],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump(test, allow_unicode=True), encoding="utf-8")
    promtool("test", "rules", file)


def test_every_alert_has_cases_in_which_it_fires_ends_and_is_silent() -> None:
    assert set(CASES) == set(ALERTS)
    for name, cases in CASES.items():
        firing = [[bool(alerts) for alerts in case.expected.values()] for case in cases]
        assert any(not any(each) for each in firing), f"{name} is never silent"
        assert any(True in each and not each[-1] for each in firing), f"{name} never ends"


def test_prometheus_accepts_what_is_shipped() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", PROMETHEUS / "rules.yml")


@pytest.mark.parametrize("pace", [3600.0, 1e6])
def test_prometheus_accepts_the_files_of_a_replay(pace: float, tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(prometheus_rules(pace), encoding="utf-8")
    configuration = prometheus_configuration({"service": ["127.0.0.1:1"]}, "rules.yml", scrape_seconds=0.25)
    (tmp_path / "prometheus.yml").write_text(configuration, encoding="utf-8")
    promtool("check", "config", tmp_path / "prometheus.yml")


@pytest.mark.parametrize("name", ["alertmanager.yml", "with-slack.yml"])
def test_alertmanager_accepts_what_is_shipped(name: str) -> None:
    amtool("check-config", ALERTMANAGER / name)


def test_alertmanager_accepts_the_file_of_a_replay(tmp_path: Path) -> None:
    file = tmp_path / "alertmanager.yml"
    file.write_text(alertmanager_configuration("http://127.0.0.1:1/", tmp_path / "secret", pace=1e6), encoding="utf-8")
    amtool("check-config", file)


@pytest.mark.parametrize(
    ("alert", "route"),
    [
        ({"alertname": "FeatureDrift", "drift": "features", "severity": "warning"}, 'drift=~".+"'),
        ({"alertname": "ConceptDrift", "drift": "concept", "severity": "critical"}, 'drift=~".+"'),
        ({"alertname": "NoRun", "severity": "critical"}, 'severity="critical"'),
        ({"alertname": "RunFailed", "severity": "warning"}, "default-route"),
    ],
)
def test_each_alert_takes_its_route_to_the_receiver(alert: dict[str, str], route: str) -> None:
    given = [f"{name}={value}" for name, value in alert.items()]
    file = f"--config.file={ALERTMANAGER / 'alertmanager.yml'}"
    tree = amtool("config", "routes", "test", file, "--tree", "--verify.receivers=rps", *given)
    taken = tree.replace("Matching routes:", "").split("receiver:")[0].strip().splitlines()[-1]
    assert route in taken, tree
