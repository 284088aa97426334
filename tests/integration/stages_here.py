"""A pipeline whose stages run in this process: what a stage does to its services and files, without its imports' cost.

Their process boundary is tested where they are killed (`test_kill.py`) and where Airflow runs them (`tests/e2e`).
"""

from __future__ import annotations

import io
import os
from contextlib import chdir, redirect_stderr, redirect_stdout
from unittest.mock import patch

import pytest

from tests.integration.conftest import Pipeline
from tests.integration.ingesting import carried, share_models_of_apis

SMALLER = (
    ("history_days = 365", "history_days = 100"),
    ("count = 12\ndays = 28", "count = 2\ndays = 14"),
    ("max_iter = 100", "max_iter = 20"),
    ("learning_rate = 0.05", "learning_rate = 0.2"),
)
"""Changes of the challenge that make a run cheap, and change nothing of what it asks of its services."""


class PipelineHere(Pipeline):
    """The same workspace and environment."""

    def run(self, stage: str, **changes: str) -> tuple[int, str]:
        """Exit code and output. An exception that would end the process with a trace is raised."""
        output = io.StringIO()
        with (
            chdir(self.workspace),
            pytest.MonkeyPatch.context() as shared,
            patch.dict(os.environ, {**self.environment, **changes}, clear=True),
            redirect_stdout(output),
            redirect_stderr(output),
        ):
            share_models_of_apis(shared)
            code = carried(stage)
        return code, output.getvalue()


def made_smaller(pipeline: Pipeline) -> PipelineHere:
    """The pipeline, here, on less data and with a smaller model."""
    path = pipeline.workspace / "challenges" / "weather.toml"
    text = path.read_text(encoding="utf-8")
    for large, small in SMALLER:
        assert text.count(large) == 1, large
        text = text.replace(large, small)
    path.write_text(text, encoding="utf-8")
    return PipelineHere(pipeline.workspace, pipeline.environment)
