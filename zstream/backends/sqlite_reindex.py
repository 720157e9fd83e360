"""Other keys for a SQLite store: its rows written anew, a slice at a time, from their bodies.

The new rows grow in a table beside the old ones, and a note in ``meta`` says how far they are; a
last transaction puts them in the place of the old. Until then the store is what it was, for
whoever opens it, and afterwards its index is another store's, and is made anew.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import MetaData
from sqlalchemy.dialects import sqlite as dialect
from sqlalchemy.schema import CreateTable

from zstream.backends import sqlite_schema
from zstream.backends.sqlite_rows import stored
from zstream.backends.upkeep import Extract, Progress
from zstream.errors import BackendCorrupt

#: What one transaction takes: rows, and bytes of their bodies.
_SLICE_ROWS: Final = 10_000
_SLICE_BYTES: Final = 8 << 20
_NEW: Final = "events_new"
_NOTE: Final = "reindex"


def change_keys(
    db: sqlite3.Connection, path: str, keys: Sequence[str], extract: Extract, progress: Progress
) -> None:
    """Give a store other keys, or go on with it where another call was cut off.

    Args:
        db: A connection that writes, the only one.
        path: What errors call it.
        keys: The keys that it is to have.
        extract, progress: See `Upkeep.reindex`.
    """
    # What is dropped at the end stands in the new table, too: some builds of SQLite would write
    # zeros over all of it.
    db.execute("PRAGMA secure_delete = 0")
    change = _Change(db, path, keys, extract)
    last, floor = db.execute("SELECT last, floor FROM head").fetchone()
    change.begin(floor)
    while change.upto < last:
        progress("writing events anew", change.upto - floor, last - floor)
        change.slice()
    progress("putting them in place", last - floor, last - floor)
    change.end()


def forget_change(db: sqlite3.Connection) -> None:
    """Give up a change of keys that was cut off, if there is one."""
    with _transaction(db):
        db.execute(f"DROP TABLE IF EXISTS {_NEW}")
        db.execute("DELETE FROM meta WHERE name = ?", (_NOTE,))


class _Change:
    """The work; ``upto`` is the id up to which it is done."""

    upto: int

    def __init__(
        self, db: sqlite3.Connection, path: str, keys: Sequence[str], extract: Extract
    ) -> None:
        self._db, self._path, self._keys, self._extract = db, path, tuple(keys), extract
        old = sqlite_schema.stored_keys(db, path)
        self._added = [key for key in self._keys if key not in old]
        columns = [f"e.k{old.index(key)}" if key in old else "?" for key in self._keys]
        self._copy = (
            f"INSERT INTO {_NEW} SELECT e.id, e.ts, {', '.join(columns)}, e.body FROM events e"
        )

    def begin(self, floor: int) -> None:
        """Find what was done before, or begin; what was trimmed since does not matter."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (_NOTE,)).fetchone()
        note = json.loads(row[0]) if row else {}
        if note.get("keys") == list(self._keys):
            self.upto = max(note["upto"], floor)
            return
        forget_change(self._db)
        self.upto = floor
        with _transaction(self._db):
            table = sqlite_schema.events_table(len(self._keys), _NEW, MetaData())
            self._db.execute(str(CreateTable(table).compile(dialect=dialect.dialect())))
            self._note()

    def _note(self) -> None:
        text = json.dumps({"keys": self._keys, "upto": self.upto}, ensure_ascii=False)
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_NOTE, text))

    def slice(self) -> None:
        """Write some rows anew."""
        db = self._db
        upto = self._end_of_slice()
        rows = (self.upto + 1, upto)
        with _transaction(db):
            if self._added:
                found = db.execute(
                    "SELECT id, body FROM events WHERE id BETWEEN ? AND ? ORDER BY id", rows
                ).fetchall()
                bodies = [body for _, body in found]
                columns = self._extract(bodies, self._added)
                values: list[Sequence[Any]] = [stored(column) for column in columns]
                db.executemany(
                    f"{self._copy} WHERE e.id = ?",
                    zip(*values, (id for id, _ in found), strict=True),
                )
            else:
                db.execute(f"{self._copy} WHERE e.id BETWEEN ? AND ? ORDER BY e.id", rows)
            self.upto = upto
            self._note()

    def _end_of_slice(self) -> int:
        sizes = self._db.execute(
            "SELECT id, length(body) FROM events WHERE id > ? ORDER BY id LIMIT ?",
            (self.upto, _SLICE_ROWS),
        ).fetchall()
        if not sizes:
            raise BackendCorrupt(f"{self._path}: the events above {self.upto} are missing")
        total = 0
        for id, size in sizes:
            total += size
            if total > _SLICE_BYTES:
                return int(id)
        return int(sizes[-1][0])

    def end(self) -> None:
        """Put the new rows in the place of the old: all of it or nothing."""
        db = self._db
        with _transaction(db):
            db.execute("DROP VIEW stream")
            db.execute("DROP TABLE events")
            db.execute(f"ALTER TABLE {_NEW} RENAME TO events")
            db.execute(sqlite_schema.view(self._keys))
            keys = json.dumps(self._keys, ensure_ascii=False)
            db.execute("UPDATE meta SET value = ? WHERE name = 'keys'", (keys,))
            db.execute("DELETE FROM meta WHERE name = ?", (_NOTE,))


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
