"""A lock is one process's at a time, and a file appears whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clients.disk import locked, whole_directory, whole_file, write_whole
from clients.errors import PassingFault
from tests.runs import ROOT

HOLDER = """
import sys
from pathlib import Path
from clients.disk import locked
with locked(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_lock_is_waited_for_and_a_killed_holder_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        notes = []

        def note(text: str) -> None:
            notes.append(text)
            holder.kill()

        with locked(path, "the mirror", note):
            assert notes == ["waiting for the mirror, which another process holds"]
    with locked(path, "the mirror", note):
        assert len(notes) == 1


def test_a_write_that_fails_leaves_the_old_content_and_nothing_beside_it(tmp_path: Path) -> None:
    file, directory = tmp_path / "a" / "file", tmp_path / "a" / "directory"
    write_whole(file, b"old")
    with whole_directory(directory) as scratch:
        (scratch / "content").write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(file) as scratch:
        scratch.write_text(str(1 / 0))
    with pytest.raises(ZeroDivisionError), whole_directory(directory) as scratch:
        (scratch / "content").write_text(str(1 / 0))
    assert (file.read_text(), (directory / "content").read_text()) == ("old", "old")
    assert sorted(path.name for path in file.parent.iterdir()) == ["directory", "file"]


def test_a_disk_that_cannot_be_written_is_a_passing_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PassingFault, match=r"file/x could not be written: .* Free or repair the disk"):
        write_whole(tmp_path / "file" / "x", b"")
    with pytest.raises(PassingFault, match="file/lock could not be written"), locked(tmp_path / "file" / "lock", "it"):
        pass
