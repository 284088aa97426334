"""`ingest` on a real S3 and the replay over HTTP: what it asks for, stores and hands on."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pandas as pd
import pytest

from pipelines.__main__ import main
from pipelines.files import Files
from pipelines.history import Collection, accept_history, fingerprint, snapshot_key
from pipelines.raw import collected_at_of, raw_key, raw_keys
from pipelines.run import open_run
from pipelines.sources import Answer
from pipelines.store import open_store
from tests.replay_fixture import END, ROOT, Replay

FILES = Files(Path("data/weather"))


@pytest.fixture
def workspace(tmp_path: Path, store_env: dict[str, str], replay: Replay, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the challenge in it, a year of the replay to ask for, an empty store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RPS_RUN_ID", raising=False)
    monkeypatch.delenv("RPS_AS_OF", raising=False)
    challenge = (ROOT / "challenges/weather.toml").read_text()
    (tmp_path / "challenges").mkdir()
    (tmp_path / "challenges/weather.toml").write_text(challenge)
    return tmp_path


def change_challenge(workspace: Path, old: str, new: str) -> None:
    path = workspace / "challenges/weather.toml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def ingest() -> int:
    return main(["ingest", "--challenge", "weather"])


def accept() -> None:
    accept_history(open_run("weather", starts=False))


def collection() -> Collection:
    import msgspec

    return msgspec.json.decode(FILES.collection.read_bytes(), type=Collection)


def observations() -> pd.DataFrame:
    return pd.read_parquet(FILES.observations)


def test_the_first_ingest_brings_the_whole_history(workspace: Path) -> None:
    assert ingest() == 0
    table = observations()
    assert list(table.columns)[:2] == ["unique_id", "ds"]
    assert str(table["ds"].dtype) == "datetime64[us, UTC]"
    assert set(table.dtypes.iloc[2:].astype(str)) == {"float64"}
    assert not table.duplicated(["unique_id", "ds"]).any()
    assert table[["unique_id", "ds"]].equals(table[["unique_id", "ds"]].sort_values(["unique_id", "ds"]))
    assert table["ds"].max() == pd.Timestamp(END)
    assert len(table) == collection().rows == collection().rows_new == 26115
    assert collection().rows_by_series == {"EWR": 8703, "JFK": 8706, "LGA": 8706}
    first = table.loc[(table["unique_id"] == "EWR") & (table["ds"] == "2013-01-01T06:00Z")].iloc[0]
    assert first["temperature"] == pytest.approx(3.9)
    assert first["wind_speed"] == pytest.approx(4.63, abs=1e-4)
    assert table["pressure"].isna().sum() == 2729
