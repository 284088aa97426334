"""The list of stages agrees with DVC's stage file and with the modules; `test_dags` compares it with the DAG."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from records.stages import STAGES
from tests.runs import ROOT

CODE = {"clients", "forecasting", "pipelines", "records", "challenges/${item}.toml"}


@pytest.fixture(scope="module")
def dvc() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def paths(entries: list[Any]) -> set[str]:
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def test_dvc_has_every_stage_in_the_same_order(dvc: dict[str, Any]) -> None:
    assert list(dvc) == list(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_dvc_runs_a_stage_on_what_it_reads_and_keeps_what_it_writes(dvc: dict[str, Any], name: str) -> None:
    stage, entry = STAGES[name], dvc[name]["do"]
    assert entry["cmd"] == f"python -m pipelines {name} --challenge ${{item}}"
    assert paths(entry["deps"]) == CODE | {f"data/${{item}}/{path}" for path in stage.reads}
    assert paths([*entry["outs"], *entry.get("metrics", ()), *entry.get("plots", ())]) == {
        f"data/${{item}}/{path}" for path in stage.writes
    }


def test_a_stage_reads_only_what_an_earlier_one_has_written() -> None:
    written: set[Path] = set()
    for stage in STAGES.values():
        assert written.issuperset(stage.reads)
        assert written.isdisjoint(stage.writes)
        written.update(stage.writes)


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_has_its_module(name: str) -> None:
    assert callable(import_module(f"pipelines.{name}").run)
