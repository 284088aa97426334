"""What is generated from the alerts, and that everything which an alert promises is there."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from monitoring.__main__ import generated, main, outdated
from monitoring.alertmanager_files import alertmanager_configuration
from monitoring.alerts import Alert, alerts, recordings, short
from monitoring.prometheus_files import labels, prometheus_configuration, prometheus_rules
from monitoring.tables import ALERTS, END, START, MarkersMissing, files, with_tables

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))


def test_every_generated_file_is_current() -> None:
    assert list(outdated(ROOT, generated())) == []


def test_the_same_comes_out_every_time() -> None:
    assert generated() == generated()


def test_check_names_what_is_not_current_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], tmp_path) == 0
    assert list(outdated(tmp_path, generated())) == []
    assert main(["--check"], tmp_path) == 0
    rules = tmp_path / "monitoring" / "prometheus" / "rules.yml"
    rules.write_text("changed by hand\n")
    (tmp_path / "monitoring" / "alertmanager" / "alertmanager.yml").unlink()
    capsys.readouterr()
    assert main(["--check"], tmp_path) == 1
    shown = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 1)[0] for line in shown] == [
        "monitoring/prometheus/rules.yml",
        "monitoring/alertmanager/alertmanager.yml",
    ]
    assert rules.read_text() == "changed by hand\n"


def test_each_alert_has_its_page_and_no_page_is_left_over() -> None:
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "runbooks").iterdir()}
    assert pages == {alert.runbook for alert in alerts()}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_a_page_says_what_to_look_at_what_to_do_and_when_it_is_over(alert: Alert) -> None:
    text = (ROOT / alert.runbook).read_text(encoding="utf-8")
    assert re.findall(r"^#+ .*", text, re.MULTILINE) == [
        f"# {alert.name}",
        "## Look at",
        "## Do",
        "## Over when",
    ]
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [target for target in linked if not (ROOT / alert.runbook).parent.joinpath(target).exists()] == []


def test_what_starts_a_retraining_names_challenge_and_version() -> None:
    drifting = [alert for alert in alerts() if alert.drift]
    assert {alert.drift for alert in drifting} == {"features", "concept"}  # `inputs` is a choice that a team may make
    for alert in drifting:
        assert alert.expression.startswith("max by (challenge, version)")
        assert labels(alert)["drift"] == alert.drift
    assert all("drift" not in labels(alert) for alert in alerts() if alert not in drifting)


def test_names_are_unique_and_a_recording_needs_no_later_one() -> None:
    names = [alert.name for alert in alerts()]
    assert len(set(names)) == len(names)
    recorded = [each.name for each in recordings()]
    for place, each in enumerate(recordings()):
        assert not any(later in each.expression for later in recorded[place:])
    used = {name for alert in alerts() for name in re.findall(r"rps:[\w:]+", alert.expression)}
    assert used <= set(recorded)


def test_a_pace_shortens_what_counts_hours_of_data_and_nothing_else() -> None:
    for real, quick in zip(alerts(), alerts(360.0), strict=True):
        if real.area == "model":
            assert quick.lasting == real.lasting / 360
        else:
            assert quick == real
    assert "[86400s]" in recordings()[2].expression
    assert "[240s]" in recordings(360.0)[2].expression
    assert "[10s]" in recordings(1e6)[2].expression  # a range holds several looks, whatever the pace


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0s"), (1, "1s"), (90, "90s"), (300, "5m"), (5400, "90m"), (43200, "12h")]
)
def test_a_duration_is_reported_in_its_largest_whole_unit(seconds: int, shown: str) -> None:
    assert short(timedelta(seconds=seconds)) == shown


def test_rules_of_a_replay_hold_for_a_second_at_least() -> None:
    groups = yaml.safe_load(prometheus_rules(1e6))["groups"]
    lasting = {rule["alert"]: rule["for"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert lasting["ConceptDrift"] == "1s"
    assert lasting["SlowRequests"] == "5m"


def test_prometheus_is_told_where_to_look_and_whom_to_tell() -> None:
    made = yaml.safe_load(
        prometheus_configuration(
            {"service": ["127.0.0.1:1", "127.0.0.1:2"]},
            "/somewhere/rules.yml",
            ["127.0.0.1:3"],
            scrape_seconds=0.5,
            runbooks="https://example.org/runbooks",
        )
    )
    assert made["global"]["scrape_interval"] == made["global"]["evaluation_interval"] == "500ms"
    assert made["global"]["external_labels"] == {"runbooks": "https://example.org/runbooks"}
    assert made["rule_files"] == ["/somewhere/rules.yml"]
    assert made["alerting"]["alertmanagers"] == [{"static_configs": [{"targets": ["127.0.0.1:3"]}]}]
    assert made["scrape_configs"] == [
        {"job_name": "service", "static_configs": [{"targets": ["127.0.0.1:1", "127.0.0.1:2"]}]}
    ]


def test_the_shipped_targets_are_services_of_the_compose_file() -> None:
    made = yaml.safe_load((ROOT / "monitoring" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    targets = [
        target
        for job in made["scrape_configs"]
        for config in job["static_configs"]
        for target in config["targets"]
        if not target.startswith("localhost:")
    ]
    assert {target.split(":")[0] for target in targets} <= set(COMPOSE["services"])
    assert {job["job_name"] for job in made["scrape_configs"]} == {
        "service", "pipeline", "alerts", "alertmanager", "prometheus"
    }  # fmt: skip


def test_alertmanager_holds_back_less_in_a_replay_and_never_less_than_a_second() -> None:
    real = yaml.safe_load(alertmanager_configuration("http://a/", "/secret"))["route"]
    quick = yaml.safe_load(alertmanager_configuration("http://a/", "/secret", pace=3600.0))["route"]
    assert (real["group_wait"], real["group_interval"], real["repeat_interval"]) == ("30s", "5m", "12h")
    assert (quick["group_wait"], quick["group_interval"], quick["repeat_interval"]) == ("1s", "1s", "12s")


def test_alertmanager_reads_its_secrets_from_files() -> None:
    plain = yaml.safe_load(alertmanager_configuration("http://a/", "/secret"))["receivers"]
    assert plain == [
        {
            "name": "rps",
            "webhook_configs": [
                {
                    "url": "http://a/",
                    "send_resolved": True,
                    "http_config": {"authorization": {"type": "Bearer", "credentials_file": "/secret"}},
                }
            ],
        }
    ]
    (slack,) = yaml.safe_load(alertmanager_configuration("http://a/", "/secret", slack_file="/slack"))["receivers"]
    assert slack["slack_configs"][0]["api_url_file"] == "/slack"
    assert slack["webhook_configs"] == plain[0]["webhook_configs"]


def test_the_tables_replace_what_is_between_the_markers_and_nothing_else() -> None:
    page = f"before\n{START}\nwhat was there\n{END}\nafter\n"
    made = with_tables(ALERTS, page, ("one", "two"))
    assert made == f"before\n{START}\n\none\n\ntwo\n\n{END}\nafter\n"
    assert with_tables(ALERTS, made, ("one", "two")) == made


def test_the_page_of_the_alerts_links_every_runbook() -> None:
    page = files()[ALERTS]
    for alert in alerts():
        assert f"[`{alert.name}`](../runbooks/{alert.name}.md)" in page


@pytest.mark.parametrize("page", ["no markers\n", f"{START}\nno end\n"])
def test_a_page_without_markers_is_refused(page: str) -> None:
    with pytest.raises(MarkersMissing, match=r"docs/reference/alerts\.md: expected the lines"):
        with_tables(ALERTS, page, ())
