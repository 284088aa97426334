from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from clients.errors import ConfigurationError, DataRejected, PassingFault
from doubles.connection import answering
from pipelines.carrier.tracked_run import open_tracking
from pipelines.files import write_text
from pipelines.run import Run
from tests.runs import ROOT, carried, made_up_weather, make_run, write_observations


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = make_run(tmp_path, f"profile__{tmp_path.name}")
    write_observations(run, made_up_weather(hours=200))
    write_text(run.files.quality, "{}")
    write_text(run.files.quality_report, "good")
    return run


def test_the_page_is_logged_beside_the_quality_report_and_needs_no_network(tracking_env: str, run: Run) -> None:
    carried("profile", run)
    found = MlflowClient(tracking_env).list_artifacts(open_tracking(run).run_id, "profile")
    assert {each.path for each in found} == {"profile/profile.html", "profile/quality.json", "profile/quality.md"}
    page = run.files.profile.read_text()
    assert run.challenge.title.replace("'", "&#39;") in page or run.challenge.title in page
    assert all(column in page for column in run.challenge.columns)
    loaded = re.findall(r"""<(?:script|img|iframe)[^>]*\ssrc=["']?(?!data:)[^>]*|<link[^>]*href[^>]*|@import""", page)
    assert loaded == []


def test_making_the_page_reaches_nobody(run: Run) -> None:
    program = (
        "import sys; import pandas; from pipelines.profile import profile_page\n"
        "assert '<html' in profile_page(pandas.read_parquet(sys.argv[1]), title='t')"
    )
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def listen() -> None:
            while True:
                try:
                    connection, _ = proxy.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(1000))

        threading.Thread(target=listen, daemon=True).start()
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
        environment = {**os.environ, **dict.fromkeys(names, address), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", program, str(run.files.observations)]
        subprocess.run(command, env=environment, check=True, timeout=120)
        proxy.shutdown(socket.SHUT_RDWR)
    assert asked == []


def test_a_tracking_server_that_is_down_is_a_passing_fault_that_keeps_the_page(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(503) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        with pytest.raises(PassingFault):
            carried("profile", run)
    assert run.files.profile.exists()


def test_missing_observations_are_reported_with_the_stage_that_makes_them(run: Run) -> None:
    run.files.observations.unlink()
    with pytest.raises(ConfigurationError, match="merge"):
        carried("profile", run)


def test_damaged_observations_are_reported_with_the_stage_that_makes_them(run: Run) -> None:
    run.files.observations.write_bytes(b"garbage")
    with pytest.raises(ConfigurationError, match=r"cannot be read .*'merge' again"):
        carried("profile", run)


def test_a_table_without_rows_has_no_profile(run: Run) -> None:
    write_observations(run, made_up_weather(hours=0))
    with pytest.raises(DataRejected, match="found none"):
        carried("profile", run)
