"""Services that are down, refuse, or are lost half-way, and a full disk: the right exit code, one message, no loss.

In each case the stage succeeds when it is run again without the fault.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.connection import CutConnection
from records.stages import STEPS
from scripts.services import free_ports
from tests.integration.conftest import Pipeline
from tests.integration.stages_here import PipelineHere, made_smaller

NOBODY = "http://127.0.0.1:9"
NEVER = 10**12
"""Bytes."""
USES_S3 = ("ingest", "merge", "validate", "version")
USES_MLFLOW = ("profile", "train", "evaluate", "register")
WRITES = ("ingest", "merge", "validate", "transform", "profile", "version", "train", "evaluate")


@pytest.fixture
def here(pipeline: Pipeline) -> PipelineHere:
    return made_smaller(pipeline)


def refused(here: PipelineHere, stage: str, code: int, shown: str, **changes: str) -> None:
    """The stage fails with that code, in one message without a trace."""
    found, output = here.run(stage, **changes)
    assert found == code, f"{stage}: {output}"
    assert shown in output
    assert "Traceback" not in output


def visible(pipeline: Pipeline) -> set[str]:
    return {path.name for path in pipeline.data.glob("*") if not path.name.startswith(".")}


def test_s3_that_is_down_or_refuses_the_key_stops_the_stages_that_need_it(here: PipelineHere) -> None:
    for stage in ("ingest", "merge", "validate", "transform", "version"):
        if stage in USES_S3:
            refused(here, stage, 75, NOBODY, AWS_ENDPOINT_URL=NOBODY)
            refused(here, stage, 64, "AWS_SECRET_ACCESS_KEY", AWS_SECRET_ACCESS_KEY="wrong")
            refused(here, stage, 64, "RPS_STORE", RPS_STORE="")
        here.run_all((stage,))


def test_mlflow_that_is_down_stops_the_stages_that_need_it(here: PipelineHere) -> None:
    for stage in STEPS:
        if stage in USES_MLFLOW:
            refused(here, stage, 75, NOBODY, MLFLOW_TRACKING_URI=NOBODY, MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR="0")
            refused(here, stage, 64, "MLFLOW_TRACKING_URI", MLFLOW_TRACKING_URI="")
        here.run_all((stage,))


@pytest.mark.parametrize(("allowance", "cut"), [(20_000, {"ingest", "validate", "version"}), (100_000, {"version"})])
def test_s3_that_is_lost_half_way_loses_nothing(here: PipelineHere, allowance: int, cut: set[str]) -> None:
    lost = set()
    for stage in ("ingest", "merge", "validate", "transform", "version"):
        if stage in USES_S3:
            with CutConnection(here.environment["AWS_ENDPOINT_URL"], after_bytes=allowance) as connection:
                code, output = here.run(stage, AWS_ENDPOINT_URL=connection.url)
            assert code == (75 if connection.was_cut else 0), f"{stage}: {output}"
            assert "Traceback" not in output
            lost |= {stage} if connection.was_cut else set()
        here.run_all((stage,))
    assert lost == cut


def test_mlflow_that_is_lost_half_way_loses_nothing(here: PipelineHere) -> None:
    server, port = here.environment["MLFLOW_TRACKING_URI"], free_ports(1)
    here.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"  # MLflow's client keeps a run's address
    here.environment["MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"] = "0"
    lost = set()
    for stage in STEPS:
        if stage in USES_MLFLOW:
            with CutConnection(server, after_bytes=60_000, port=port) as connection:
                code, output = here.run(stage)
            assert code == (75 if connection.was_cut else 0), f"{stage}: {output}"
            assert "Traceback" not in output
            lost |= {stage} if connection.was_cut else set()
        with CutConnection(server, after_bytes=NEVER, port=port):
            here.run_all((stage,))
    assert lost == {"profile", "train", "evaluate"}


@pytest.fixture
def small_disk(here: PipelineHere) -> Iterator[PipelineHere]:
    """The workspace's data on a file system of its own, which a test can fill."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    here.data.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(here.data)], check=True)
    yield here
    subprocess.run(["umount", "--lazy", str(here.data)], check=True)


def test_a_full_disk_is_reported_and_leaves_nothing_half_written(small_disk: PipelineHere) -> None:
    filler = small_disk.data / "filler"
    for stage in WRITES:
        if stage == "ingest":
            # The run's identity and the lock need a place before anything else does.
            code, _ = small_disk.run(stage)
            assert code == 0
            for answer in (small_disk.data / "raw").iterdir():  # the stage would make room with them
                answer.unlink()
        before = visible(small_disk)
        _fill(filler)
        code, output = small_disk.run(stage)
        filler.unlink()
        assert code == 75, f"{stage}: {output}"
        assert "disk" in output
        assert "Traceback" not in output
        assert visible(small_disk) - {"filler"} <= before, stage
        code, output = small_disk.run(stage)
        assert code == 0, f"{stage}: {output}"


def _fill(path: Path) -> None:
    free = shutil.disk_usage(path.parent).free
    with path.open("wb") as full:
        full.write(bytes(free))
