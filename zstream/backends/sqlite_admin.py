"""What an operator does to a SQLite store: reindex, check, back up, restore."""

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import ClassVar

from zstream.backends import sqlite_copy, sqlite_file, sqlite_index, sqlite_runs, sqlite_schema
from zstream.backends.sqlite_check import check_index, check_rows, interruptible
from zstream.backends.sqlite_errors import translated
from zstream.backends.sqlite_reindex import change_keys, forget_change
from zstream.backends.upkeep import Extract, Progress, Upkeep
from zstream.errors import ConfigError
from zstream.keys import check_keys


class SQLiteAdmin(Upkeep):
    """The jobs of `Upkeep` on the files of a store. None of them begins a run of it."""

    path: str
    BUSY_S: ClassVar[float]
    SEAL_ROWS: ClassVar[int]

    def reindex(self, keys: Sequence[str] | None, extract: Extract, progress: Progress) -> None:
        """Change the keys, or make the index anew; see the base class."""
        wanted = None if keys is None else check_keys(keys)
        with self._locked() as db, interruptible(db):
            sqlite_file.prepare_writer(db, self.path)
            _upgrade(db)
            present = sqlite_schema.stored_keys(db, self.path)
            if wanted is None or sorted(wanted) == sorted(present):
                forget_change(db)
            else:
                change_keys(db, self.path, wanted, extract, progress)
            sqlite_index.remove(self.path)
            self._rebuild(_rows(db, self.path), progress)

    def _rebuild(self, rows: sqlite_index.Rows, progress: Progress) -> None:
        """Index the rows that are there, as far as opening the store would."""
        index = sqlite_index.open_index(self.path, rows, self.BUSY_S)
        with closing(index), interruptible(index):
            for file in sqlite_index.path_of(self.path), sqlite_file.lock_name(self.path):
                sqlite_copy.give_owner(file, self.path)
            done, total = rows.floor, rows.last - rows.floor
            while done + self.SEAL_ROWS <= rows.last:
                progress("indexing events", done - rows.floor, total)
                part = rows._replace(last=done + self.SEAL_ROWS)
                sizes = self.SEAL_ROWS, self.SEAL_ROWS - 1
                done = sqlite_runs.catch_up(index, part, len(rows.keys), *sizes)
            progress("indexing events", total, total)

    def check(self, progress: Progress) -> list[str]:
        """Compare the store with itself and its index; see the base class."""
        with self._locked() as db, interruptible(db):
            wrong = _damage(lambda: check_rows(db, progress), "the file is damaged")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            is_indexed = os.path.exists(sqlite_index.path_of(self.path))
            if wrong or not is_indexed or version < sqlite_schema.SCHEMA:
                return wrong
            rows = _rows(db, self.path)
            wrong = _damage(lambda: self._check_index(rows, progress), "the index is damaged")
            return [f"{text}; zstreamd reindex makes the index anew" for text in wrong]

    def _check_index(self, rows: sqlite_index.Rows, progress: Progress) -> list[str]:
        with closing(sqlite_index.connect(self.path, self.BUSY_S)) as index:
            why = sqlite_index.mismatch(index, rows)
            if why:
                progress(f"the index is not used: {why}", 0, 0)
                return []
            with interruptible(index):
                return check_index(index, progress)

    def backup(self, path: str, progress: Progress) -> int:
        """Copy the rows as they are at one moment; see the base class."""
        self._must_exist()
        with translated(self.path):  # and no look at the file first: this process may have it open
            return sqlite_copy.backup(self.path, path, self.BUSY_S, progress)

    def restore(self, path: str, progress: Progress) -> int:
        """Put a copy in the place of the store; see the base class."""
        with translated(self.path), sqlite_file.lock(self.path):
            last = sqlite_copy.restore(self.path, path, self.BUSY_S, progress)
            with closing(sqlite_file.connect(self.path, "rw", self.BUSY_S)) as db:
                _upgrade(db)
                self._rebuild(_rows(db, self.path), progress)
            return last

    def _must_exist(self) -> None:
        if not os.path.isfile(self.path):
            raise ConfigError(f"there is no store {self.path}")

    @contextmanager
    def _locked(self) -> Iterator[sqlite3.Connection]:
        """The store, for this process alone."""
        self._must_exist()
        with translated(self.path), sqlite_file.lock(self.path):
            sqlite_schema.check_file(self.path)
            with closing(sqlite_file.connect(self.path, "rw", self.BUSY_S)) as db:
                sqlite_schema.check_schema(db, self.path)
                yield db


def _upgrade(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    sqlite_schema.upgrade(db)
    db.execute("COMMIT")


def _damage(look: Callable[[], list[str]], prefix: str) -> list[str]:
    """What a look finds, or that it stumbled over damage."""
    try:
        return look()
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in sqlite_file.DAMAGED:
            return [f"{prefix}: {error}"]
        raise


def _rows(db: sqlite3.Connection, path: str) -> sqlite_index.Rows:
    """What the rows say of themselves, as `sqlite_index.Rows` has it."""
    last, floor = db.execute("SELECT last, floor FROM head").fetchone()
    runs = db.execute("SELECT run, began_after FROM runs ORDER BY n").fetchall()
    ends = [began for _, began in runs[1:]] + [last]
    return sqlite_index.Rows(
        sqlite_schema.stored_identity(db, path),
        sqlite_schema.stored_keys(db, path),
        [(run, end) for (run, _), end in zip(runs, ends, strict=False)],
        last,
        floor,
    )
