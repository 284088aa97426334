"""What the tests of `ingest` share: a workspace, one call per step, and readers of what it left."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import botocore.session
import msgspec
import pandas as pd
import pytest

from clients.store import open_store
from pipelines.__main__ import main as stages
from pipelines.carrier.__main__ import main
from pipelines.carrier.snapshot import accept_history
from pipelines.history import Collection
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
    """Both steps of taking new data in; the exit code of the first that fails."""
    return carried("ingest") or carried("merge")


def carried(step: str) -> int:
    """The exit code of a step that is carried, its stage in this process."""
    return main([step, "--challenge", "weather"], lambda stage, run: stages([stage, "--challenge", run.challenge.name]))


def accept() -> None:
    accept_history(open_run("weather", starts=False), open_store())


def collection() -> Collection:
    return msgspec.json.decode(FILES.collection.read_bytes(), type=Collection)


def observations() -> pd.DataFrame:
    return pd.read_parquet(FILES.observations)


def outputs() -> list[str]:
    """What `merge` made, and hidden scratch files of both steps."""
    before = {FILES.run, FILES.raw, FILES.stored, FILES.asked, FILES.accepted}
    return sorted(path.name for path in FILES.root.iterdir() if path not in before and path.suffix != ".lock")
