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

from tests.doubles.connection import CutConnection
from tests.integration.conftest import STAGES, Pipeline

NOBODY = "http://127.0.0.1:9"
USES_S3 = ("ingest", "validate", "version")
USES_MLFLOW = ("profile", "train", "evaluate", "register")
WRITES = ("ingest", "validate", "transform", "profile", "version", "train", "evaluate")


def refused(pipeline: Pipeline, stage: str, code: int, told: str, **changes: str) -> None:
    """The stage fails with that code, in one message without a trace."""
    found, output = pipeline.run(stage, **changes)
    assert found == code, f"{stage}: {output}"
    assert told in output
    assert "Traceback" not in output


def visible(pipeline: Pipeline) -> set[str]:
    return {path.name for path in pipeline.data.glob("*") if not path.name.startswith(".")}


def test_s3_that_is_down_or_refuses_the_key_stops_the_stages_that_need_it(pipeline: Pipeline) -> None:
    for stage in ("ingest", "validate", "transform", "version"):
        if stage in USES_S3:
            refused(pipeline, stage, 75, NOBODY, AWS_ENDPOINT_URL=NOBODY)
            refused(pipeline, stage, 64, "AWS_SECRET_ACCESS_KEY", AWS_SECRET_ACCESS_KEY="wrong")
            refused(pipeline, stage, 64, "RPS_STORE", RPS_STORE="")
        code, output = pipeline.run(stage)
        assert code == 0, f"{stage}: {output}"


def test_mlflow_that_is_down_stops_the_stages_that_need_it(pipeline: Pipeline) -> None:
    for stage in STAGES:
        if stage in USES_MLFLOW:
            refused(pipeline, stage, 75, NOBODY, MLFLOW_TRACKING_URI=NOBODY)
            refused(pipeline, stage, 64, "MLFLOW_TRACKING_URI", MLFLOW_TRACKING_URI="")
        code, output = pipeline.run(stage)
        assert code == 0, f"{stage}: {output}"


@pytest.mark.parametrize("allowance", [20_000, 300_000])
def test_s3_that_is_lost_half_way_loses_nothing(pipeline: Pipeline, allowance: int) -> None:
    for stage in ("ingest", "validate", "transform", "version"):
        if stage in USES_S3:
            with CutConnection(pipeline.environment["AWS_ENDPOINT_URL"], after_bytes=allowance) as connection:
                code, output = pipeline.run(stage, AWS_ENDPOINT_URL=connection.url)
                assert code == (75 if connection.was_cut else 0), f"{stage}: {output}"
                assert "Traceback" not in output
        code, output = pipeline.run(stage)
        assert code == 0, f"{stage}: {output}"


@pytest.mark.parametrize("allowance", [60_000])
def test_mlflow_that_is_lost_half_way_loses_nothing(pipeline: Pipeline, allowance: int) -> None:
    for stage in STAGES:
        if stage in USES_MLFLOW:
            with CutConnection(pipeline.environment["MLFLOW_TRACKING_URI"], after_bytes=allowance) as connection:
                code, output = pipeline.run(stage, MLFLOW_TRACKING_URI=connection.url)
                assert code == (75 if connection.was_cut else 0), f"{stage}: {output}"
                assert "Traceback" not in output
        code, output = pipeline.run(stage)
        assert code == 0, f"{stage}: {output}"


@pytest.fixture
def small_disk(pipeline: Pipeline) -> Iterator[Pipeline]:
    """The workspace's data on a file system of its own, which a test can fill."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    pipeline.data.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(pipeline.data)], check=True)
    yield pipeline
    subprocess.run(["umount", "--lazy", str(pipeline.data)], check=True)


def test_a_full_disk_is_told_and_leaves_nothing_half_written(small_disk: Pipeline) -> None:
    filler = small_disk.data / "filler"
    for stage in WRITES:
        if stage == "ingest":
            # The run's identity and the lock need a place before anything else does.
            code, _ = small_disk.run(stage)
            assert code == 0
            (small_disk.data / "observations.parquet").unlink()
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
