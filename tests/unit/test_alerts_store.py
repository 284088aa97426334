"""The store and the file: whatever moment a crash takes, each alert is in the file once."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ci.alerts.alert_file import AlertFile
from ci.alerts.challenges import Challenges
from ci.alerts.intake import MOST_LINES_WAITING, Intake
from ci.alerts.metrics import Metrics
from ci.alerts.settings import AlertSettings, alert_settings
from ci.alerts.store import Store, StoreBroken
from ci.progress import Log

CHALLENGES = Path(__file__).parents[2] / "challenges"


def settings(home: Path, **changes: object) -> AlertSettings:
    given = {f"RPS_ALERTS_{name}": str(value) for name, value in changes.items()}
    return alert_settings({"RPS_ALERTS_SECRET": "s" * 16, "RPS_ALERTS_HOME": str(home), **given})


@contextmanager
def opened(home: Path, **changes: object) -> Iterator[tuple[Intake, Store, AlertFile]]:
    """What a process opens; leaving it without another word is a crash."""
    found, log = settings(home, **changes), Log(io.StringIO(), grouped=False)
    store = Store(home)
    file = AlertFile(home, most_bytes=found.file_bytes, files=found.files)
    yield Intake(found, store, file, challenges=Challenges(CHALLENGES, log), metrics=Metrics(), log=log), store, file
    store.close()


def webhook(*numbers: int) -> bytes:
    alerts = [
        {"status": "firing", "labels": {"number": str(number)}, "startsAt": "2026-11-23T00:00:00Z"}
        for number in numbers
    ]
    return json.dumps({"alerts": alerts}).encode()


def numbers(home: Path) -> list[int]:
    """Of the alerts in the file and those before it, oldest first."""
    aside = sorted(home.glob("alerts.*.jsonl"), key=lambda path: -int(path.name.split(".")[1]))
    texts = [path.read_text(encoding="utf-8") for path in [*aside, home / "alerts.jsonl"] if path.exists()]
    return [int(json.loads(line)["labels"]["number"]) for text in texts for line in text.splitlines()]


def write_all(intake: Intake) -> None:
    while intake.write_lines():
        pass


def test_a_crash_before_the_lines_are_written_loses_none(tmp_path: Path) -> None:
    with opened(tmp_path) as (intake, _, _):
        intake.take([webhook(1, 2), webhook(3)])
    with opened(tmp_path) as (intake, _, _):
        write_all(intake)
    assert numbers(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("written", [0.3, 0.5, 1.0])
def test_a_crash_between_file_and_store_doubles_none_and_leaves_no_torn_line(tmp_path: Path, written: float) -> None:
    with opened(tmp_path) as (intake, store, _):
        intake.take([webhook(1)])
        write_all(intake)
        intake.take([webhook(2, 3)])
        lines = b"".join(line for _, line in store.lines(10))
        with (tmp_path / "alerts.jsonl").open("ab") as file:
            file.write(lines[: round(written * len(lines))])
    with opened(tmp_path) as (intake, _, _):
        intake.take([webhook(4)])
        write_all(intake)
    assert numbers(tmp_path) == [1, 2, 3, 4]


def test_a_file_is_put_aside_when_it_is_full_and_so_many_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path, FILE_BYTES=1024, FILES=3) as (intake, _, _):
        for number in range(60):
            intake.take([webhook(number)])
            write_all(intake)
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [
        "alerts.1.jsonl",
        "alerts.2.jsonl",
        "alerts.jsonl",
    ]
    found = numbers(tmp_path)
    assert found == list(range(found[0], 60))
    assert all(path.stat().st_size < 1024 + 400 for path in tmp_path.glob("*.jsonl"))


def test_a_crash_while_a_file_is_put_aside_loses_and_doubles_none(tmp_path: Path) -> None:
    with opened(tmp_path, FILE_BYTES=1024, FILES=50) as (intake, store, file):
        number = 0
        while not file.full(store.file_bytes() or 0):
            intake.take([webhook(number)])
            write_all(intake)
            number += 1
        intake.take([webhook(number)])
        file.put_aside()  # and no word of it to the store
    with opened(tmp_path, FILE_BYTES=1024, FILES=50) as (intake, _, _):
        write_all(intake)
    assert numbers(tmp_path) == list(range(number + 1))
    assert len(list(tmp_path.glob("*.jsonl"))) == 2


def test_a_fault_after_the_first_line_of_a_new_file_doubles_none(tmp_path: Path) -> None:
    with opened(tmp_path, FILE_BYTES=1024, FILES=50) as (intake, store, file):
        number = 0
        while not file.full(store.file_bytes() or 0):
            intake.take([webhook(number)])
            write_all(intake)
            number += 1
        intake.take([webhook(number)])
        with closing(sqlite3.connect(tmp_path / "alerts.sqlite", isolation_level=None)) as database:
            database.execute("CREATE TRIGGER fault BEFORE DELETE ON lines BEGIN SELECT RAISE(ABORT, 'fault'); END")
            with pytest.raises(StoreBroken, match="fault"):
                intake.write_lines()
            database.execute("DROP TRIGGER fault")
    with opened(tmp_path, FILE_BYTES=1024, FILES=50) as (intake, _, _):
        write_all(intake)
    assert numbers(tmp_path) == list(range(number + 1))


def test_files_move_up_to_the_first_gap_only(tmp_path: Path) -> None:
    file = AlertFile(tmp_path, most_bytes=1024, files=4)
    for name in ("alerts.jsonl", "alerts.2.jsonl", "alerts.3.jsonl"):
        (tmp_path / name).write_text(name)
    file.put_aside()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "alerts.1.jsonl": "alerts.jsonl", "alerts.2.jsonl": "alerts.2.jsonl", "alerts.3.jsonl": "alerts.3.jsonl",
    }  # fmt: skip


def test_a_file_that_somebody_has_emptied_or_removed_is_begun_anew(tmp_path: Path) -> None:
    with opened(tmp_path) as (intake, _, _):
        for number in range(3):
            intake.take([webhook(number)])
            write_all(intake)
            (tmp_path / "alerts.jsonl").write_text("") if number == 0 else (tmp_path / "alerts.jsonl").unlink()
        intake.take([webhook(3)])
        write_all(intake)
    assert numbers(tmp_path) == [3]


def test_without_its_store_the_receiver_goes_on_behind_the_last_whole_line(tmp_path: Path) -> None:
    (tmp_path / "alerts.jsonl").write_text('{"labels": {"number": "0"}}\n{"labels": {"numb')
    with opened(tmp_path) as (intake, _, _):
        intake.take([webhook(1)])
        write_all(intake)
    assert numbers(tmp_path) == [0, 1]


def test_a_file_that_cannot_be_written_is_told_and_its_lines_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as (intake, _, _):
        (tmp_path / "alerts.jsonl").mkdir()
        intake.take([webhook(1)])
        write_all(intake)
        assert "alerts.jsonl cannot be written" in intake.fault
        (tmp_path / "alerts.jsonl").rmdir()
        write_all(intake)
        assert intake.fault == ""
    assert numbers(tmp_path) == [1]


def test_only_so_many_lines_wait_for_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    waiting = list(range(MOST_LINES_WAITING + 1))
    with opened(tmp_path, MAX_ALERTS=len(waiting)) as (intake, store, _):
        (tmp_path / "alerts.jsonl").mkdir()
        intake.take([webhook(*waiting)])
        write_all(intake)
        with pytest.raises(StoreBroken, match="cannot be written"):
            intake.take([webhook(len(waiting))])
        assert store.count_lines() == len(waiting)
        (tmp_path / "alerts.jsonl").rmdir()
        write_all(intake)
        intake.take([webhook(len(waiting))])
        write_all(intake)
    assert numbers(tmp_path) == [*waiting, len(waiting)]


def test_repetitions_are_forgotten_after_the_cooldown_and_no_earlier(tmp_path: Path) -> None:
    with opened(tmp_path, COOLDOWN_HOURS=2) as (_, store, _):
        with store.transaction():
            assert store.see(b"a", 1000.0, 7200.0)
            assert not store.see(b"a", 8199.0, 7200.0)
            assert store.see(b"a", 8200.0, 7200.0)
        store.tidy(8200.0 + 7199.0, 7200.0)
        with store.transaction():
            assert not store.see(b"a", 8200.0 + 7199.0, 7200.0)


def test_what_is_no_store_is_refused_as_damaged(tmp_path: Path) -> None:
    (tmp_path / "alerts.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StoreBroken) as raised:
        Store(tmp_path)
    assert raised.value.damaged
    (tmp_path / "alerts.sqlite").unlink()
    with sqlite3.connect(tmp_path / "alerts.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StoreBroken, match="version 99"):
        Store(tmp_path)


def test_a_store_that_is_taken_away_is_noticed(tmp_path: Path) -> None:
    with opened(tmp_path) as (intake, _, _):
        (tmp_path / "alerts.sqlite").unlink()
        with pytest.raises(StoreBroken):
            intake.take([webhook(1)])


def test_a_wrong_challenge_file_is_told_and_a_mended_one_is_known(tmp_path: Path) -> None:
    text = (CHALLENGES / "weather.toml").read_text(encoding="utf-8")
    told = io.StringIO()
    challenges = Challenges(tmp_path, Log(told, grouped=False))
    assert challenges.known() == frozenset()
    (tmp_path / "weather.toml").write_text("name = 7")
    assert challenges.known() == frozenset()
    assert "weather.toml" in told.getvalue()
    (tmp_path / "weather.toml").write_text(text)
    assert challenges.known() == {"weather"}
