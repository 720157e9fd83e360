"""A store in one SQLite file: durable, and open to anybody with ``sqlite3``.

Rows are appended to one table without an index. The newest are indexed in memory; once a run of
them is full a thread of its own seals it into a second file (`zstream.backends.sqlite_index`),
which is derived from the rows and can be made anew at any time.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, ClassVar

from zstream import keys as keys_
from zstream.backends import sqlite_file, sqlite_index, sqlite_schema
from zstream.backends.base import (
    DEFAULT_KEYS,
    Backend,
    Batch,
    Head,
    Page,
    Query,
    Replay,
    Stats,
    check_batch,
)  # fmt: skip
from zstream.backends.sqlite_admin import SQLiteAdmin
from zstream.backends.sqlite_errors import translated
from zstream.backends.sqlite_newest import Newest
from zstream.backends.sqlite_read import Reader
from zstream.backends.sqlite_readers import Readers
from zstream.backends.sqlite_rows import insert, stored, write_others
from zstream.errors import BackendConflict, BackendCorrupt, BackendUnavailable, StoreLocked


class SQLiteBackend(SQLiteAdmin, Backend):
    """Rows in one table, appended to in bulk; an index beside them; readers of their own."""

    #: Rows, and bytes of their bodies, after which a run is sealed.
    SEAL_ROWS: ClassVar[int] = 250_000
    SEAL_BYTES: ClassVar[int] = 64 << 20
    #: Rows that one page looks at.
    BUDGET: ClassVar[int] = 20_000
    #: How long to wait for another program's transaction, in seconds.
    BUSY_S: ClassVar[float] = 5.0
    #: Marks of arrival are so far apart, in microseconds.
    MARK_US: ClassVar[int] = 1_000_000
    #: Trimmed rows that are deleted with one transaction: what a commit brings, to keep up with it.
    SWEEP_ROWS: ClassVar[int] = 20_000

    def __init__(self, url: str) -> None:
        """Take the URL apart; see the base class."""
        super().__init__(url)
        self.path = sqlite_file.path_of(url)
        self.name = url
        self._lock: IO[str] | None = None
        self._db: sqlite3.Connection | None = None
        self._log: sqlite_file.Log | None = None
        self._newest: Newest | None = None
        self._readers = Readers(self.path, self.BUSY_S, self.BUDGET)
        self._keys: tuple[str, ...] = ()
        self._next_mark = 0
        self._swept = 0
        #: Whether the last append failed, and may have been committed all the same.
        self._unsure = False
        self._appender = 0

    # ------------------------------------------------------------ opening and closing

    def open(self, keys: Sequence[str] | None) -> Head:
        """Make, upgrade or check the store and begin a run; see the base class."""
        wanted = None if keys is None else keys_.check_keys(keys)
        if self._db is not None:
            raise StoreLocked(f"{self.path} is open already")
        try:
            with translated(self.path):
                if not os.path.exists(sqlite_file.lock_name(self.path)):
                    sqlite_schema.check_file(self.path)  # before a lock is left beside it
                self._lock = sqlite_file.lock(self.path)
                sqlite_schema.check_file(self.path)
                return self._open(wanted)
        except BaseException:
            self.close()
            raise

    def _open(self, wanted: tuple[str, ...] | None) -> Head:
        self._db = db = sqlite_file.connect(self.path, "rwc", self.BUSY_S)
        with self._transaction():
            if sqlite_schema.is_empty(db):
                sqlite_schema.create(db, wanted or DEFAULT_KEYS)
            sqlite_schema.check_schema(db, self.path)
            sqlite_schema.upgrade(db)
            self._keys = sqlite_schema.stored_keys(db, self.path)
            if wanted is not None:
                sqlite_schema.check_keys(wanted, self._keys, self.path)
            store = sqlite_schema.stored_identity(db, self.path)
        sqlite_file.prepare_writer(db, self.path)
        self._log = sqlite_file.Log(db, self.path, self.BUSY_S)
        with self._transaction():
            head = sqlite_schema.begin_run(db, self._keys)
        newest = db.execute("SELECT max(arrival) FROM marks").fetchone()[0]
        self._next_mark = 0 if newest is None else newest + self.MARK_US
        oldest = db.execute("SELECT min(id) FROM events").fetchone()[0]
        self._swept = (oldest or head.id + 1) - 1
        rows = sqlite_index.Rows(store, self._keys, head.runs, head.id, head.floor)
        self._readers, self._unsure = Readers(self.path, self.BUSY_S, self.BUDGET), False
        sizes = self.SEAL_ROWS, self.SEAL_BYTES
        self._newest = Newest(self.path, db, rows, *sizes, self.BUSY_S)
        return head

    def close(self) -> None:
        """Close it; see the base class."""
        db, self._db = self._db, None
        lock, self._lock = self._lock, None
        newest, self._newest = self._newest, None
        with translated(self.path):
            self._readers.close()
            if newest is not None:
                newest.close()
            if db is not None:
                db.close()
            if lock is not None:
                lock.close()

    # ------------------------------------------------------------ writing

    def _view(self) -> Newest:
        if self._newest is None:
            raise BackendUnavailable(f"{self.path} is not open")
        return self._newest

    def _writer(self) -> sqlite3.Connection:
        if self._db is None:
            raise BackendUnavailable(f"{self.path} is not open")
        return self._db

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        db = self._writer()
        if db.in_transaction:  # a roll-back failed before
            db.execute("ROLLBACK")
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def append(self, batch: Batch) -> None:
        """Store a batch; see the base class."""
        db, newest = self._writer(), self._view()
        check_batch(batch, len(self._keys))
        self._appender = threading.get_ident()
        newest.await_room()
        self._find_out()
        mark = batch.arrival >= self._next_mark
        with translated(self.path):
            try:
                with self._transaction():
                    listed = self._append(db, batch, mark)
            except sqlite3.Error:
                self._unsure = True
                raise
            if mark:
                self._next_mark = batch.arrival + self.MARK_US
            newest.add_batch(batch, listed)
            if self._log is not None:
                self._log.check(patient=newest.is_read_by_keeper)

    def _find_out(self) -> None:
        """After an append that failed: take what is stored all the same into memory."""
        if not self._unsure or threading.get_ident() != self._appender:
            return
        db = self._writer()
        with translated(self.path):
            if db.in_transaction:
                db.execute("ROLLBACK")
            self._view().load(db, db.execute("SELECT last FROM head").fetchone()[0])
        self._unsure = False

    def _append(self, db: sqlite3.Connection, batch: Batch, mark: bool) -> list[int]:
        """Write a batch; return the keys of which it has lists."""
        last = batch.first + len(batch.ts) - 1
        moved = db.execute(
            "UPDATE head SET last = ?, arrival = max(arrival, ?) WHERE last = ?",
            (last, batch.arrival, batch.first - 1),
        )
        if moved.rowcount != 1:
            found = db.execute("SELECT last FROM head").fetchone()
            raise BackendConflict(
                f"{self.path}: the batch begins with {batch.first}, but the last id is {found}"
            )
        columns = [stored(column) for column in batch.columns]
        ids = range(batch.first, last + 1)
        insert(db, "INSERT INTO events", [ids, batch.ts, *columns, batch.bodies])
        write_others(db, batch)
        if mark:
            db.execute(
                "INSERT OR IGNORE INTO marks VALUES (?, ?)", (batch.arrival, batch.first - 1)
            )
        pairs = zip(columns, batch.columns, strict=True)
        return [key for key, (kept, given) in enumerate(pairs) if kept is not given]

    def trim(self, floor: int) -> int:
        """Forget events; see the base class. Their rows are deleted by ``tidy``."""
        db = self._writer()
        with translated(self.path):
            with self._transaction():
                last, before = db.execute("SELECT last, floor FROM head").fetchone()
                floor = max(min(floor, last), before)
                db.execute("UPDATE head SET floor = ?", (floor,))
                db.execute(
                    "DELETE FROM marks WHERE arrival <"
                    " (SELECT max(arrival) FROM marks WHERE id <= ?)",
                    (floor,),
                )
            self._view().trim(floor)
        return int(floor - before)

    def tidy(self, idle: bool = True) -> bool:
        """Delete a slice of the rows that were trimmed, or index what waits in memory."""
        db, newest = self._writer(), self._view()
        floor = newest.view.floor
        if self._swept < floor:
            high = min(self._swept + self.SWEEP_ROWS, floor)
            with translated(self.path), self._transaction():
                db.execute("DELETE FROM events WHERE id BETWEEN ? AND ?", (self._swept + 1, high))
            self._swept = high
            return True
        if newest.tidy(idle):
            return True
        if idle and self._log is not None:
            with translated(self.path):
                self._log.rest()
        return False

    def settle(self, timeout_s: float) -> bool:
        """Wait until the index is as it will be, if nothing more is appended or trimmed."""
        return self._view().settle(timeout_s)

    # ------------------------------------------------------------ reading

    @contextmanager
    def _reading(self) -> Iterator[Reader]:
        self._writer()
        readers, newest = self._readers, self._view()
        try:
            with translated(self.path), readers.lend() as reader:
                yield reader
        except BackendCorrupt as error:
            newest.distrust()
            why = f"{error}; if it is the index, it is made anew when the store is opened again"
            raise BackendCorrupt(why) from error

    def last_id(self) -> int:
        """The last id; see the base class."""
        self._find_out()
        with self._reading() as reader:
            return reader.last_id()

    def items(self, query: Query) -> Page:
        """Read a page, newest first; see the base class."""
        with self._reading() as reader:
            return reader.items(self._view().view, query)

    def replay(self, query: Query, after: int) -> Replay:
        """Read a page, oldest first; see the base class."""
        with self._reading() as reader:
            return reader.replay(self._view().view, query, after)

    def count(self, query: Query) -> int:
        """Count the events of a slice; see the base class."""
        with self._reading() as reader:
            return reader.count(self._view().view, query)

    def arrived(self, since: int) -> int:
        """The last id before a time; see the base class."""
        with self._reading() as reader:
            return reader.arrived(since)

    def stats(self) -> Stats:
        """Tell the figures; see the base class."""
        newest = self._view()
        view, trouble = newest.view, newest.trouble
        log = 0 if self._log is None else self._log.size()
        with translated(self.path):
            rows = os.stat(self.path).st_size
            index = os.stat(sqlite_index.path_of(self.path)).st_size
        more = {
            "log_bytes": log,
            "index_bytes": index,
            "rows_in_memory": sum(map(len, view.segments)),
            "index_trouble": None if trouble is None else str(trouble),
        }
        return Stats(view.head - view.floor, rows + index + log, more)
