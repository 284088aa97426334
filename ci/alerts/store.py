"""What the receiver must not forget, in one SQLite file: alerts seen, lines for the file, events, its clock.

This is the one truth. An alert counts as taken when its transaction is on disk; the file and GitHub follow from here,
so that a crash between any two of them neither loses nor doubles. Why not a journal that is the file itself: what was
written, seen, decided and sent must change together, and a transaction is what does that.

All methods raise StoreBroken when SQLite cannot do what it must, and then have changed nothing.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ci.alerts.decisions import Event, Remembered

NAME = "alerts.sqlite"
_VERSION = 1
_MOST_SEEN = 200_000
_KEEP_SETTLED_SECONDS = 30 * 86400.0
_SCHEMA = """
CREATE TABLE receiver (only INTEGER PRIMARY KEY CHECK (only = 1), clock REAL NOT NULL, file_bytes INTEGER NOT NULL);
CREATE TABLE seen (identity BLOB PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX seen_at ON seen (at);
CREATE TABLE lines (number INTEGER PRIMARY KEY AUTOINCREMENT, line BLOB NOT NULL);
CREATE TABLE events (
    id TEXT PRIMARY KEY, challenge TEXT NOT NULL, told BLOB NOT NULL, created REAL NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'refused', 'delivered', 'given up')),
    settled REAL, attempts INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX events_of_challenge ON events (challenge, created);
CREATE INDEX events_open ON events (state) WHERE state IN ('waiting', 'refused');
"""


class StoreBroken(Exception):
    """The store cannot be read or written; the message says which file, and why.

    damaged: it is no store, or a broken one, which no waiting mends.
    """

    def __init__(self, told: str, *, damaged: bool = False) -> None:
        super().__init__(told)
        self.damaged = damaged


@dataclass(frozen=True)
class OpenEvent:
    """An event that GitHub has not taken yet. created: seconds of the receiver's clock."""

    event: Event
    created: float
    attempts: int
    refused: bool


class Store:
    """The file, opened; it is used by one thread at a time, of one process."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        with self._told():
            # isolation_level=None: transactions are begun and ended here, and nowhere else.
            self._database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")  # a commit is on disk
            found = self._database.execute("PRAGMA user_version").fetchone()[0]
            if found not in {0, _VERSION}:
                told = f"{self.path}: expected a store of version {_VERSION}; found version {found}"
                raise StoreBroken(told, damaged=True)
            damage = self._database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if damage != "ok":
                raise StoreBroken(f"{self.path} is damaged: {damage}", damaged=True)
            if not found:
                self._database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
            self._inode = self.path.stat().st_ino

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._database.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is changed in the block, or nothing; on disk when it ends."""
        with self._told():
            if self._inode != self.path.stat().st_ino:
                raise StoreBroken(f"{self.path} was replaced by another file while it was in use; start again")
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # after some faults SQLite has rolled back by itself
                    self._database.execute("ROLLBACK")
                raise

    def clock(self) -> float:
        """The latest time of the receiver's clock that was remembered; 0 when there is none."""
        with self._told():
            return float(self._receiver("clock") or 0.0)

    def file_bytes(self) -> int | None:
        """How much of the file counts; None when this store has not written to it yet."""
        with self._told():
            found = self._receiver("file_bytes")
            return None if found is None else int(found)

    def _receiver(self, column: str) -> float | None:
        row = self._database.execute(f"SELECT {column} FROM receiver").fetchone()  # noqa: S608 - a name of ours
        return None if row is None else row[0]

    def begin_file(self, now: float, counted: int) -> None:
        """Remember how much of the file there is to begin with."""
        with self.transaction():
            self._database.execute("INSERT INTO receiver VALUES (1, ?, ?)", (now, counted))

    def remember_clock(self, now: float) -> None:
        """To be called in a transaction."""
        self._database.execute("UPDATE receiver SET clock = max(clock, ?)", (now,))

    def see(self, identity: bytes, now: float, within: float) -> bool:
        """Note that an alert has come; whether it is told anew, and no repetition. To be called in a transaction."""
        done = self._database.execute(
            "INSERT INTO seen VALUES (?, ?) ON CONFLICT DO UPDATE SET at = excluded.at WHERE at + ? <= excluded.at",
            (identity, now, within),
        )
        return done.rowcount > 0

    def last_event(self, challenge: str) -> Remembered | None:
        row = self._database.execute(
            "SELECT id, settled FROM events WHERE challenge = ? AND state != 'given up' ORDER BY created DESC LIMIT 1",
            (challenge,),
        ).fetchone()
        return None if row is None else Remembered(row[0], row[1])

    def add_event(self, event: Event, now: float) -> None:
        """To be called in a transaction."""
        self._database.execute(
            "INSERT INTO events (id, challenge, told, created, state) VALUES (?, ?, ?, ?, 'waiting')",
            (event.id, event.challenge, msgspec.json.encode(event), now),
        )

    def add_lines(self, lines: Sequence[bytes]) -> None:
        """To be called in a transaction."""
        self._database.executemany("INSERT INTO lines (line) VALUES (?)", ((line,) for line in lines))

    def lines(self, most: int) -> list[tuple[int, bytes]]:
        """The first of those that are not in the file yet, with their numbers."""
        with self._told():
            return self._database.execute("SELECT number, line FROM lines ORDER BY number LIMIT ?", (most,)).fetchall()

    def count_lines(self) -> int:
        with self._told():
            return int(self._database.execute("SELECT count(*) FROM lines").fetchone()[0])

    def written(self, last: int, counted: int) -> None:
        """The lines up to this number are in the file, of which so many bytes count."""
        with self.transaction():
            self._database.execute("DELETE FROM lines WHERE number <= ?", (last,))
            self._database.execute("UPDATE receiver SET file_bytes = ?", (counted,))

    def open_events(self) -> list[OpenEvent]:
        """Those that GitHub has not taken, oldest first."""
        with self._told():
            rows = self._database.execute(
                "SELECT told, created, attempts, state FROM events WHERE state IN ('waiting', 'refused') "
                "ORDER BY created"
            ).fetchall()
        return [
            OpenEvent(msgspec.json.decode(told, type=Event), created, attempts, state == "refused")
            for told, created, attempts, state in rows
        ]

    def failed(self, event: str, reason: str, *, refused: bool) -> None:
        """An attempt to tell GitHub has not worked."""
        state = "refused" if refused else "waiting"
        with self.transaction():
            self._database.execute(
                "UPDATE events SET attempts = attempts + 1, state = ?, reason = ? WHERE id = ?", (state, reason, event)
            )

    def settle(self, event: str, now: float, *, delivered: bool) -> None:
        """GitHub has taken the event, or it is given up."""
        state = "delivered" if delivered else "given up"
        with self.transaction():
            self.remember_clock(now)
            self._database.execute("UPDATE events SET state = ?, settled = ? WHERE id = ?", (state, now, event))

    def tidy(self, now: float, seen_seconds: float) -> None:
        """Remember the clock, and forget what nothing asks for any more; also a probe of whether the store works."""
        with self.transaction():
            self.remember_clock(now)
            self._database.execute("DELETE FROM seen WHERE at + ? <= ?", (seen_seconds, now))
            self._database.execute(
                "DELETE FROM seen WHERE at <= (SELECT at FROM seen ORDER BY at DESC LIMIT 1 OFFSET ?)", (_MOST_SEEN,)
            )
            kept = max(seen_seconds, _KEEP_SETTLED_SECONDS)
            self._database.execute("DELETE FROM events WHERE settled + ? <= ?", (kept, now))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
            raise StoreBroken(f"{self.path} cannot be used: {error}", damaged=damaged) from error
