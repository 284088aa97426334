"""What the tests of `ingest` share: a workspace, one call per step, and readers of what it left."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import botocore.session
import msgspec
import pandas as pd
import pytest

from pipelines.__main__ import main
from pipelines.history import Collection, accept_history
from pipelines.run import open_run
from records.stages import RunFiles
from tests.replay_fixture import ROOT

FILES = RunFiles(Path("data/weather"))


def lay_out_workspace(workspace: Path) -> None:
    """The default challenge, patient for a test's time only."""
    challenges = workspace / "challenges"
    challenges.mkdir()
    (challenges / "weather.toml").write_text((ROOT / "challenges/weather.toml").read_text())
    change_challenge(workspace, "timeout_seconds = 30.0", "timeout_seconds = 5.0")
    change_challenge(workspace, "attempts = 5", "attempts = 2")


def share_models_of_apis(patch: pytest.MonkeyPatch) -> None:
    """Let the S3 clients of this process share what boto3 reads from its own files, a tenth of a second for each."""
    patch.setattr(botocore.session, "create_loader", _create_loader)


_create_loader = cache(botocore.session.create_loader)


def change_challenge(workspace: Path, old: str, new: str) -> None:
    path = workspace / "challenges/weather.toml"
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


def ingest() -> int:
    return main(["ingest", "--challenge", "weather"])


def accept() -> None:
    accept_history(open_run("weather", starts=False))


def collection() -> Collection:
    return msgspec.json.decode(FILES.collection.read_bytes(), type=Collection)


def observations() -> pd.DataFrame:
    return pd.read_parquet(FILES.observations)


def outputs() -> list[str]:
    """What lies in the run's directory, hidden scratch files included, but for the run's identity and its locks."""
    return sorted(path.name for path in FILES.root.iterdir() if path != FILES.run and path.suffix != ".lock")
