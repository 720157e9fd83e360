"""One lane file: the batches of one producer, in SQLite, until they are stored in the daemon.

The process that has the file open holds it locked, and its death frees it. A commit survives the
death of the process; `LaneFile.sync` makes it survive that of the machine.

Batch n of the producer is the row seq = base + n. Rows never change and numbers are never given
twice, so whoever sends a row again sends what the daemon knows under that number.
"""

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple, Self

from zstream import errors, times
from zstream.spool.connection import connect_locked, disconnect, flush, guarded, value

#: What ``PRAGMA user_version`` says.
FORMAT: Final = 1
#: Bytes of a file from which it is made small again once it is empty.
_LARGE_BYTES: Final = 16 << 20

_TABLES: Final = (
    "CREATE TABLE meta (url TEXT NOT NULL, producer BLOB NOT NULL, epoch INTEGER NOT NULL,"
    " base INTEGER NOT NULL, contact INTEGER, made INTEGER NOT NULL, pid INTEGER NOT NULL)",
    "CREATE TABLE batches (seq INTEGER PRIMARY KEY, events INTEGER NOT NULL,"
    " at INTEGER NOT NULL, body BLOB NOT NULL)",
    f"PRAGMA user_version = {FORMAT}",
)


class Row(NamedTuple):
    """A batch in the file: its place, how many events it has, and the packed array of them."""

    seq: int
    events: int
    body: bytes


class LaneFile:
    """An open and locked lane file. One thread writes; ``restart`` may come from another.

    Attributes:
        path: Of the file.
        url: The daemon's query endpoint; empty if nothing was ever in the file.
        producer: The 16 bytes that name the producer.
        epoch: Of the producer.
        base: The seq before the one of batch 1.
        contact: When batches may last have reached the daemon, in µs since 1970; None if never.
        first: The seq of the oldest batch that is kept, or that will be.
        last: The seq of the newest batch ever.
        events, bytes: Of the kept batches.
        oldest: When the oldest of them was written, in µs since 1970, or None.
    """

    def __init__(self, path: str) -> None:
        """Open and lock a file that exists; under ``guarded``."""
        self.path = path
        self.url, self.producer, self.epoch, self.base = "", bytes(16), 0, 0
        self.contact: int | None = None
        self.first, self.last, self.events, self.bytes = 1, 0, 0, 0
        self.oldest: int | None = None
        self._log: int | None = None
        self._is_noted = True
        try:
            self._db = connect_locked(path)
        except sqlite3.OperationalError as error:
            if os.path.exists(path):
                raise
            raise errors.StoreLocked(f"{path} is gone") from error

    @classmethod
    def open(cls, path: str) -> Self:
        """Open and lock a file that a process left behind.

        Raises:
            StoreLocked: Its process runs, or it is gone.
            StoreMismatch: A newer version of zstream made it.
            BackendCorrupt: It is damaged.
            BackendUnavailable: It cannot be read just now, or access is denied.
        """
        with guarded(path):
            self = cls(path)
            try:
                if not os.path.exists(path):
                    raise errors.StoreLocked(f"{path} is gone")  # and no new file has its name
                self._load()
            except BaseException:
                disconnect(self._db)
                raise
            return self

    def begin(self, url: str, producer: bytes) -> None:
        """Make the tables of a new file; under ``guarded``."""
        self.url, self.producer, self.epoch = url, producer, 1
        self._db.execute("BEGIN IMMEDIATE")
        for statement in _TABLES:
            self._db.execute(statement)
        self._db.execute(
            "INSERT INTO meta VALUES (?, ?, 1, 0, NULL, ?, ?)",
            (url, self.producer, times.now(), os.getpid()),
        )
        self._db.execute("COMMIT")

    def _load(self) -> None:
        version = value(self._db, "PRAGMA user_version")
        if version > FORMAT:
            raise errors.StoreMismatch(f"{self.path}: a newer zstream made it (format {version})")
        if not version and not value(self._db, "SELECT count(*) FROM sqlite_master"):
            return
        rows = self._db.execute("SELECT url, producer, epoch, base, contact FROM meta").fetchall()
        if [list(map(type, row[:4])) for row in rows] != [[str, bytes, int, int]]:
            raise errors.BackendCorrupt(f"{self.path} is damaged: it does not say whose it is")
        self.url, self.producer, self.epoch, self.base, self.contact = rows[0]
        newest = value(self._db, "SELECT coalesce(max(seq), 0) FROM batches")
        self.last = max(self.base, newest)
        self.events, self.bytes, first, self.oldest = self._db.execute(
            "SELECT coalesce(sum(events), 0), coalesce(sum(length(body)), 0), min(seq), min(at)"
            " FROM batches WHERE seq > ?", (self.base,)
        ).fetchone()  # fmt: skip
        self.first = self.last + 1 if first is None else first
        if len(self.producer) != 16 or not 0 <= self.base <= (newest or self.base):
            raise errors.BackendCorrupt(f"{self.path} is damaged: its numbers cannot be")

    # ------------------------------------------------------------ batches

    def append(self, batches: Sequence[tuple[int, bytes]]) -> list[Row]:
        """Write batches, each a number of events and a body, in one commit.

        Raises:
            BackendUnavailable: None was written; the disk may be full.
            BackendCorrupt: The file is damaged.
        """
        rows = [Row(seq, *batch) for seq, batch in enumerate(batches, self.last + 1)]
        at = times.now()
        values = [each for seq, events, body in rows for each in (seq, events, at, body)]
        self._write(f"INSERT INTO batches VALUES {','.join(['(?,?,?,?)'] * len(rows))}", values)
        self.last += len(rows)
        self.events += sum(row.events for row in rows)
        self.bytes += sum(len(row.body) for row in rows)
        self.oldest = at if self.oldest is None else self.oldest
        return rows

    def read(self, after: int, most: int) -> list[Row]:
        """Batches behind a seq, oldest first: at least one if there is any, about ``most`` bytes.

        Raises:
            BackendUnavailable, BackendCorrupt: It cannot be read.
        """
        rows: list[Row] = []
        with guarded(self.path):
            found = self._db.execute(
                "SELECT seq, events, body FROM batches WHERE seq > ? ORDER BY seq", (after,)
            )
            try:
                for row in found:
                    rows.append(Row(*row))
                    most -= len(row[2])
                    if most <= 0:
                        break
            finally:
                found.close()
        return rows

    def forget(self, upto: int) -> None:
        """Delete the batches up to a seq: what becomes of them is known.

        Raises:
            BackendUnavailable, BackendCorrupt: It cannot be written.
        """
        if upto < self.first:
            return
        with guarded(self.path):
            gone = self._db.execute(
                "SELECT coalesce(sum(events), 0), coalesce(sum(length(body)), 0) FROM batches"
                " WHERE seq BETWEEN ? AND ?", (self.first, upto),
            ).fetchone()  # fmt: skip
            self._write("DELETE FROM batches WHERE seq <= ?", (upto,))
            self.events, self.bytes = self.events - gone[0], self.bytes - gone[1]
            self.first = min(upto, self.last) + 1
            oldest = self._db.execute("SELECT at FROM batches ORDER BY seq LIMIT 1").fetchone()
            self.oldest = oldest and oldest[0]
            if oldest is None and os.stat(self.path).st_size > _LARGE_BYTES:
                self._db.execute("VACUUM")
                self.checkpoint()

    # ------------------------------------------------------------ whose they are

    def raise_epoch(self) -> None:
        """Fence whoever sent these batches before, durably.

        Raises:
            BackendUnavailable, BackendCorrupt: It cannot be written.
        """
        self.epoch += 1
        self._note()
        self.sync()

    def restart(self, settled: int) -> None:
        """Become a new producer, durably: the batch behind the seq ``settled`` is its first.

        The new name follows from the old one and that seq. Should the note of it be lost, the
        next to restart the lane finds the same one, and the daemon knows its batches.

        Raises:
            BackendUnavailable, BackendCorrupt: It could not be noted; the next commit will do it.
        """
        seed = self.producer + settled.to_bytes(8, "big")
        with guarded(self.path):
            self.producer = hashlib.blake2b(seed, digest_size=16).digest()
            self.epoch, self.base = 1, settled
            self._note()
        self.sync()

    def note_contact(self) -> None:
        """Note that batches may reach the daemon now.

        Raises:
            BackendUnavailable, BackendCorrupt: It cannot be written.
        """
        self.contact = times.now()
        self._note()

    def _note(self) -> None:
        self._is_noted = False
        self._write()

    # ------------------------------------------------------------ the file

    def sync(self) -> None:
        """Make all commits so far survive the machine's death, or raise BackendUnavailable."""
        try:
            with guarded(self.path):
                if self._log is None:
                    # The same file as long as the connection lives; SQLite locks none of it.
                    self._log = os.open(f"{self.path}-wal", os.O_RDWR)
            flush(self._log)
        except OSError as error:
            raise errors.BackendUnavailable(
                f"{self.path} cannot be synced ({error.strerror})"
            ) from error

    def checkpoint(self) -> None:
        """Write the log back and empty it.

        Raises:
            BackendUnavailable, BackendCorrupt: It cannot be written.
        """
        with guarded(self.path):
            value(self._db, "PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file: it is an orphan then, unless it has no name any more."""
        with guarded(self.path):
            if self._log is not None:
                os.close(self._log)
                self._log = None
            disconnect(self._db)

    def leave(self) -> None:
        """Close the file for good: delete it if it is empty, else it is an orphan."""
        if not self.events:
            with suppress(errors.BackendError):  # whoever finds it empty removes it
                self.remove()
                return
        self.close()

    def remove(self) -> None:
        """Delete the file and close it; raises BackendUnavailable if it must not."""
        with guarded(self.path):
            # The name first: a file without a name is nobody's, a log without a file is rubbish.
            for ending in ("", "-wal", "-journal"):
                with suppress(FileNotFoundError):
                    os.unlink(self.path + ending)
                if not ending:
                    self.close()

    def _write(self, statement: str = "", values: Sequence[object] = ()) -> None:
        with guarded(self.path):
            if self._is_noted:
                self._db.execute(statement, values)  # a commit of its own
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.execute(
                    "UPDATE meta SET producer = ?, epoch = ?, base = ?, contact = ?",
                    (self.producer, self.epoch, self.base, self.contact),
                )
                if statement:
                    self._db.execute(statement, values)
                self._db.execute("COMMIT")
            except sqlite3.Error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._is_noted = True
