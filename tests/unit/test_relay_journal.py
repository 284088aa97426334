"""The journal: all or nothing at every fault, and whatever a crash leaves is mended at the next start."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from clients.errors import ConfigurationError
from clients.progress import Log
from monitoring.relay.__main__ import known_challenges
from monitoring.relay.decisions import Event
from monitoring.relay.journal import Journal

CHALLENGES = Path(__file__).parents[2] / "challenges"


def event(challenge: str = "weather", identity: str = "one", created: float = 100.0) -> Event:
    return Event(
        id=identity, challenge=challenge, alert="", drift="concept", summary="", version="", started="", created=created
    )


def lines(home: Path) -> list[bytes]:
    """Of the file and those before it, oldest first."""
    aside = sorted(home.glob("alerts.*.jsonl"), key=lambda path: -int(path.name.split(".")[1]))
    return b"".join(path.read_bytes() for path in [*aside, home / "alerts.jsonl"] if path.exists()).splitlines()


def test_lines_and_events_are_there_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record([b"1\n", b"2\n"], [event()])
    journal.record([b"3\n"], [event("harbour", "two", 200.0)])
    again = Journal(tmp_path)
    assert lines(tmp_path) == [b"1", b"2", b"3"]
    assert [each.id for each in again.waiting()] == ["one", "two"]
    again.settle(again.events["weather"], 300.0)
    third = Journal(tmp_path)
    assert [each.id for each in third.waiting()] == ["two"]
    assert (third.events["weather"].sent, third.latest()) == (300.0, 300.0)


def test_a_part_of_a_line_that_a_crash_has_left_is_cut_off(tmp_path: Path) -> None:
    Journal(tmp_path).record([b"1\n"], [event()])
    for name in ("alerts.jsonl", "events.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write(b'{"id": "tw')
    journal = Journal(tmp_path)
    journal.record([b"2\n"], [event("harbour", "two")])
    assert lines(tmp_path) == [b"1", b"2"]
    assert len(Journal(tmp_path).waiting()) == 2


@pytest.mark.parametrize("broken", ["alerts.jsonl", "events.jsonl"])
def test_when_either_file_cannot_be_written_nothing_is_taken_and_the_fault_is_reported_until_it_passes(
    tmp_path: Path, broken: str
) -> None:
    journal = Journal(tmp_path)
    journal.record([b"1\n"])
    (tmp_path / broken).rename(tmp_path / "away")
    (tmp_path / broken).mkdir()
    with pytest.raises(OSError, match=broken):
        journal.record([b"2\n"], [event()])
    assert journal.fault == f"{tmp_path} cannot be written: Is a directory"
    assert journal.events == {}
    (tmp_path / broken).rmdir()
    (tmp_path / "away").rename(tmp_path / broken)
    journal.record([b"3\n"], [event()])
    assert (journal.fault, lines(tmp_path)) == ("", [b"1", b"3"])
    assert [each.id for each in Journal(tmp_path).waiting()] == ["one"]


def test_that_an_event_was_sent_is_remembered_while_the_disk_cannot_be_written_and_written_later(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path)
    journal.record([], [event()])
    (tmp_path / "events.jsonl").rename(tmp_path / "away")
    (tmp_path / "events.jsonl").mkdir()
    journal.settle(event(), 200.0)
    assert journal.waiting() == []
    assert journal.fault
    (tmp_path / "events.jsonl").rmdir()
    (tmp_path / "away").rename(tmp_path / "events.jsonl")
    journal.record(())
    assert journal.fault == ""
    assert Journal(tmp_path).events["weather"].sent == 200.0


def test_a_full_file_is_rotated_and_so_many_are_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path, file_bytes=40, files=3)
    for number in range(60):
        journal.record([f"{number:04}\n".encode()])
    assert sorted(path.name for path in tmp_path.glob("alerts*")) == [
        "alerts.1.jsonl", "alerts.2.jsonl", "alerts.jsonl",
    ]  # fmt: skip
    found = [int(line) for line in lines(tmp_path)]
    assert found == list(range(found[0], 60))


def test_files_move_up_to_the_first_gap_only(tmp_path: Path) -> None:
    for name in ("alerts.jsonl", "alerts.2.jsonl", "alerts.3.jsonl"):
        (tmp_path / name).write_text(f"{name}\n")
    Journal(tmp_path, file_bytes=1, files=4).record([b"new\n"])
    assert {path.name: path.read_text().strip() for path in tmp_path.glob("alerts*")} == {
        "alerts.jsonl": "new", "alerts.1.jsonl": "alerts.jsonl", "alerts.2.jsonl": "alerts.2.jsonl",
        "alerts.3.jsonl": "alerts.3.jsonl",
    }  # fmt: skip


@pytest.mark.parametrize("damage", [lambda path: path.write_text(""), Path.unlink], ids=["emptied", "removed"])
def test_a_file_that_somebody_has_emptied_or_removed_is_begun_anew(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    journal = Journal(tmp_path)
    journal.record([b"1\n"])
    damage(tmp_path / "alerts.jsonl")
    journal.record([b"2\n"])
    assert lines(tmp_path) == [b"2"]


def test_damaged_events_are_refused(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"id": 7}\n')
    with pytest.raises(ConfigurationError, match=r"events\.jsonl is damaged"):
        Journal(tmp_path)


def test_a_wrong_challenge_file_is_reported_and_the_others_are_known(tmp_path: Path) -> None:
    (tmp_path / "crypto.toml").write_text("name = 7")
    message = io.StringIO()
    with pytest.raises(ConfigurationError, match="--challenges"):
        known_challenges(tmp_path, Log(message, grouped=False))
    assert "crypto.toml" in message.getvalue()
    (tmp_path / "weather.toml").write_text((CHALLENGES / "weather.toml").read_text(encoding="utf-8"))
    assert known_challenges(tmp_path, Log(message, grouped=False)) == {"weather"}
