"""What is shown never holds a credential: addresses, queries, headers, and the values of the secret settings."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from ci.gate.gate_run import Request, gate
from clients.dag_run import Airflow, DagRun, TaskState
from clients.errors import ConfigurationError
from clients.git import Git
from clients.progress import Log
from clients.redaction import HIDDEN, redacted
from clients.settings import AirflowSettings, MlflowSettings, airflow_settings, github_settings, mlflow_settings
from doubles.scripted_http import Scripted, scripted
from forecasting.challenge.schema import load_challenge
from pipelines.run import utc_now
from pipelines.sources import make_source
from scripts.services import ROOT, free_ports


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("git fetch https://bot:TOKEN@host/x.git failed", "git fetch https://host/x.git failed"),
        ("fatal: 'https://TOKEN@host:8443/x.git/' not found", "fatal: 'https://host:8443/x.git/' not found"),
        ("redis://:p%40ss@host:6379/0", "redis://host:6379/0"),
        ("ssh://git@host/x.git", "ssh://git@host/x.git"),
        ("ssh://git:pw@host/x.git", "ssh://host/x.git"),
        ("git@host:x.git", "git@host:x.git"),
        ("https://host/a@b", "https://host/a@b"),
        ("GET /data?lat=1&appid=KEY&lon=2", f"GET /data?lat=1&appid={HIDDEN}&lon=2"),
        ("https://s3/x?X-Amz-Signature=abc&v=1", f"https://s3/x?X-Amz-Signature={HIDDEN}&v=1"),
        ("Authorization: Basic Ym90OnB3", f"Authorization: Basic {HIDDEN}"),
        ("{'authorization': 'Bearer eyJ'}", f"{{'authorization': 'Bearer {HIDDEN}'}}"),
    ],
)
def test_a_credential_is_hidden_and_the_rest_stays(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_the_value_of_a_secret_setting_is_hidden_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_secret/1")
    monkeypatch.setenv("RPS_API_KEY", "abc")
    assert redacted("said ghp_secret/1 and ghp_secret%2F1, abc") == f"said {HIDDEN} and {HIDDEN}, abc"


def test_neither_an_error_nor_a_log_holds_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_PASSWORD", "hunter2-hunter2")
    out = io.StringIO()
    log = Log(out, grouped=True)
    for show in (log.line, log.error, log.notice):
        show("hunter2-hunter2 at http://rps:hunter2-hunter2@host")
    message = str(ConfigurationError("hunter2-hunter2 is refused"))
    assert "hunter2" not in out.getvalue() + message
    assert out.getvalue().count("http") == 3


def test_the_log_of_a_task_is_given_without_credentials() -> None:
    raised = [{"exc_type": "AirflowFailException", "exc_value": "git of https://bot:TOKEN@host/x.git failed"}]
    entries = [{"event": "::group::Pre"}, {"event": "cloning https://bot:TOKEN@host/x.git", "error_detail": raised}]
    with scripted(Scripted(body=json.dumps({"content": entries}).encode())) as server:
        airflow = Airflow(AirflowSettings(server.url, "token", "", ""))
        begun = SimpleNamespace(
            dag_run_id="gate__1", state=SimpleNamespace(value="failed"), queued_at=None, run_after=None
        )
        run = DagRun(airflow, "retrain_weather", begun, attached=False)
        log = run.log(TaskState("workspace", "failed", 1.0, 1, None, None))
    assert log == ["cloning https://host/x.git", "AirflowFailException: git of https://host/x.git failed"]


ADDRESSES = {
    "AIRFLOW_API_URL": (airflow_settings, {"AIRFLOW_TOKEN": "t"}),
    "MLFLOW_TRACKING_URI": (mlflow_settings, {}),
    "GITHUB_API_URL": (github_settings, {"GITHUB_TOKEN": "t", "GITHUB_REPOSITORY": "a/b"}),
    "GITHUB_SERVER_URL": (github_settings, {"GITHUB_TOKEN": "t", "GITHUB_REPOSITORY": "a/b"}),
}


@pytest.mark.parametrize("url", ["https://user:pw@host", "https://token@host/api", "http://user:pw@host:8080/"])
@pytest.mark.parametrize("name", ADDRESSES)
def test_an_address_with_a_credential_is_refused_by_name(name: str, url: str) -> None:
    read, others = ADDRESSES[name]
    with pytest.raises(ConfigurationError, match=f"{name}: expected an address without user and password") as caught:
        read({**others, name: url})
    assert not {"pw", "token@"} & set(str(caught.value).split())
    assert "@host" not in str(caught.value)


@pytest.mark.parametrize("url", ["host:8080", "ftp://host", "http://", "https://[::1"])
@pytest.mark.parametrize("name", [name for name in ADDRESSES if name != "MLFLOW_TRACKING_URI"])
def test_an_address_of_another_kind_is_refused_by_name(name: str, url: str) -> None:
    read, others = ADDRESSES[name]
    with pytest.raises(ConfigurationError, match=f"{name}: expected an address that starts with http"):
        read({**others, name: url})


@pytest.mark.parametrize("name", ["OPEN_METEO_URL", "OPEN_METEO_ARCHIVE_URL", "RPS_CLOCK_URL"])
def test_a_source_or_a_clock_with_a_credential_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weather = load_challenge(ROOT / "challenges" / "weather.toml")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    monkeypatch.delenv("RPS_CLOCK_URL", raising=False)
    monkeypatch.setenv(name, "https://user:pw@host")
    with pytest.raises(ConfigurationError, match=f"{name}: expected an address without user and password") as caught:
        list(make_source(weather).requests(now - timedelta(days=400), utc_now(), utc_now()))
    assert "pw" not in str(caught.value).split("password")[-1]


class BrokenOnce(io.StringIO):
    """A terminal that goes away, and whose error names an address."""

    failed = False

    def write(self, text: str) -> int:
        if not self.failed:
            self.failed = True
            raise OSError("lost https://bot:hunter2@host/terminal")
        return super().write(text)


def test_a_gate_with_a_fault_of_its_own_reports_it_without_secrets(tmp_path: Path) -> None:
    airflow = AirflowSettings(f"http://127.0.0.1:{free_ports(1)}", "token", "", "")
    mlflow = MlflowSettings("http://127.0.0.1:9")
    sha = Git(ROOT).text("rev-parse", "HEAD")
    request = Request(
        challenge="weather", sha=sha, pull_request=None, repository=ROOT, base="", reason="test", context="model-gate",
        deadline=timedelta(minutes=1), max_age=timedelta(0), output=tmp_path / "gate",
        airflow=airflow, mlflow=mlflow, github=None,
    )  # fmt: skip
    out = BrokenOnce()
    with pytest.raises(OSError, match="lost"):
        gate(request, Log(out, grouped=False))
    verdict = json.loads((tmp_path / "gate" / "verdict.json").read_bytes())
    assert "lost https://host/terminal" in verdict["failure"]["reason"]
    assert "hunter2" not in out.getvalue() + "".join(
        path.read_text(encoding="utf-8") for path in (tmp_path / "gate").iterdir()
    )
