"""A store in one SQLite file: durable, and open to anybody with ``sqlite3``."""

import os
import random
import sqlite3
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
    Producer,
    Query,
    Replay,
    Stats,
    check_batch,
)  # fmt: skip
from zstream.backends.sqlite_errors import translated
from zstream.backends.sqlite_read import Reader
from zstream.backends.sqlite_rows import insert, stored
from zstream.errors import BackendConflict, BackendUnavailable, StoreLocked
from zstream.limits import MAX_INTEGER


class SQLiteBackend(Backend):
    """Rows in one table, appended to in bulk; an index beside them; readers of their own."""

    #: Candidates that one page looks at.
    BUDGET: ClassVar[int] = 20_000
    #: Index entries that a replay sorts by id for one page.
    BY_ID_LIMIT: ClassVar[int] = 50_000
    #: How long to wait for another program's transaction, in seconds.
    BUSY_S: ClassVar[float] = 5.0
    #: Marks of arrival are so far apart, in microseconds.
    MARK_US: ClassVar[int] = 1_000_000
    #: Trimmed rows that are deleted with one transaction.
    SWEEP_ROWS: ClassVar[int] = 5_000

    def __init__(self, url: str) -> None:
        """Take the URL apart; see the base class."""
        super().__init__(url)
        self.path = sqlite_file.path_of(url)
        self.name = url
        self._lock: IO[str] | None = None
        self._db: sqlite3.Connection | None = None
        self._log: sqlite_file.Log | None = None
        self._idle: list[Reader] = []
        self._keys: tuple[str, ...] = ()
        self._next_mark = 0
        self._swept = 0
        self._floor = 0

    # ------------------------------------------------------------ opening and closing

    def open(self, keys: Sequence[str] | None) -> Head:
        """Make or check the store and begin a run; see the base class."""
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
                for statement in sqlite_index.statements():
                    db.execute(statement)
            sqlite_schema.check_schema(db, self.path)
            self._keys = sqlite_schema.stored_keys(db, self.path)
            if wanted is not None:
                sqlite_schema.check_keys(wanted, self._keys, self.path)
        sqlite_file.prepare_writer(db, self.path)
        self._log = sqlite_file.Log(db, self.path, self.BUSY_S)
        with self._transaction():
            head = self._begin_run(db)
        self._floor = head.floor
        self._sweep()
        return head

    def _begin_run(self, db: sqlite3.Connection) -> Head:
        node, last, floor, arrival = db.execute(
            "SELECT node, last, floor, arrival FROM head"
        ).fetchone()
        run = random.SystemRandom().randint(1, MAX_INTEGER)
        db.execute("INSERT INTO runs (run, began_after) VALUES (?, ?)", (run, last))
        rows = db.execute("SELECT run, began_after FROM runs ORDER BY n").fetchall()
        ends = [began for _, began in rows[1:]] + [last]
        runs = tuple((run, end) for (run, _), end in zip(rows, ends, strict=True))
        producers = db.execute("SELECT * FROM producers").fetchall()
        newest = db.execute("SELECT max(arrival) FROM marks").fetchone()[0]
        self._next_mark = 0 if newest is None else newest + self.MARK_US
        self._swept = (db.execute("SELECT min(id) FROM events").fetchone()[0] or last + 1) - 1
        known = {row[0]: Producer(*row) for row in producers}
        return Head(run, runs, node, last, floor, arrival, self._keys, known)

    def close(self) -> None:
        """Close it; see the base class."""
        db, self._db = self._db, None
        lock, self._lock = self._lock, None
        with translated(self.path):
            self._close_idle()
            if db is not None:
                db.close()
            if lock is not None:
                lock.close()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().db.close()

    # ------------------------------------------------------------ writing

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
        db = self._writer()
        check_batch(batch, len(self._keys))
        mark = batch.arrival >= self._next_mark
        with translated(self.path):
            with self._transaction():
                self._append(db, batch, mark)
            if mark:
                self._next_mark = batch.arrival + self.MARK_US
            self._sweep()
            if self._log is not None:
                self._log.check()

    def _append(self, db: sqlite3.Connection, batch: Batch, mark: bool) -> None:
        count = len(batch.ts)
        last = batch.first + count - 1
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
        lists = any(kept is not given for kept, given in zip(columns, batch.columns, strict=True))
        if count:
            rows = {"low": batch.first, "high": last}
            db.execute(sqlite_index.fill(len(columns), lists), rows)
        if batch.producers:
            moved_to = list(zip(*batch.producers, strict=True))
            insert(db, "INSERT OR REPLACE INTO producers", moved_to)
        if mark:
            db.execute(
                "INSERT OR IGNORE INTO marks VALUES (?, ?)", (batch.arrival, batch.first - 1)
            )

    def trim(self, floor: int) -> int:
        """Forget events; see the base class. Their rows are deleted with later appends."""
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
            self._floor = floor
            self._sweep()
        return int(floor - before)

    def _sweep(self) -> None:
        """Delete a slice of the rows that were trimmed."""
        if self._swept >= self._floor:
            return
        db = self._writer()
        high = min(self._swept + self.SWEEP_ROWS, self._floor)
        rows = {"low": self._swept + 1, "high": high}
        with self._transaction():
            db.execute(sqlite_index.clear(len(self._keys)), rows)
            db.execute("DELETE FROM events WHERE id BETWEEN :low AND :high", rows)
        self._swept = high

    # ------------------------------------------------------------ reading

    @contextmanager
    def _reading(self) -> Iterator[Reader]:
        self._writer()
        with translated(self.path):
            try:
                reader = self._idle.pop()
            except IndexError:
                db = sqlite_file.connect_reader(self.path, self.BUSY_S)
                reader = Reader(db, self.BUDGET, self.BY_ID_LIMIT)
            try:
                yield reader
            except BaseException:
                reader.db.close()
                raise
            self._idle.append(reader)
            if self._db is None:  # closed meanwhile
                self._close_idle()

    def last_id(self) -> int:
        """The last id; see the base class."""
        with self._reading() as reader:
            return reader.head()[0]

    def items(self, query: Query) -> Page:
        """Read a page, newest first; see the base class."""
        with self._reading() as reader:
            return reader.items(query)

    def replay(self, query: Query, after: int) -> Replay:
        """Read a page, oldest first; see the base class."""
        with self._reading() as reader:
            return reader.replay(query, after)

    def count(self, query: Query) -> int:
        """Count the events of a slice; see the base class."""
        with self._reading() as reader:
            return reader.count(query)

    def arrived(self, since: int) -> int:
        """The last id before a time; see the base class."""
        with self._reading() as reader:
            return reader.arrived(since)

    def stats(self) -> Stats:
        """Tell the figures; see the base class."""
        with self._reading() as reader:
            last, floor, _ = reader.head()
            log = 0 if self._log is None else self._log.size()
            size = os.stat(self.path).st_size + log
        return Stats(last - floor, size, {"log_bytes": log})
