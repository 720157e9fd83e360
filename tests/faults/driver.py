"""The part of `sqlite3` that the store uses, over apsw: so that a VFS in Python can watch it."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import apsw

_ERRORS: Final = {
    sqlite3.SQLITE_CONSTRAINT: sqlite3.IntegrityError,
    sqlite3.SQLITE_CORRUPT: sqlite3.DatabaseError,
    sqlite3.SQLITE_NOTADB: sqlite3.DatabaseError,
    sqlite3.SQLITE_MISUSE: sqlite3.ProgrammingError,
}
_FLAGS: Final = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI


@contextlib.contextmanager
def _as_sqlite3() -> Iterator[None]:
    try:
        yield
    except apsw.ConnectionClosedError as error:
        raise sqlite3.ProgrammingError("Cannot operate on a closed database.") from error
    except apsw.Error as error:
        code = getattr(error, "extendedresult", sqlite3.SQLITE_ERROR)
        told = _ERRORS.get(code & 0xFF, sqlite3.OperationalError)(str(error))
        told.sqlite_errorcode = code
        raise told from error


class Cursor:
    """A statement that was begun."""

    def __init__(self, db: "Connection") -> None:
        self._db, self._cursor = db, db.apsw.cursor()
        self.rowcount, self.lastrowid = -1, None

    def execute(self, sql: str, args: Any = ()) -> "Cursor":
        with _as_sqlite3():
            before = self._db.apsw.total_changes()
            try:
                self._cursor.execute(self._db.rewrite(sql), args or None)
            except BaseException:
                # As in sqlite3: what failed is reset, however long its traceback is kept.
                self._cursor.close(True)
                raise
            if sql.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE", "REPLAC"):
                self.rowcount = self._db.apsw.total_changes() - before
                self.lastrowid = self._db.apsw.last_insert_rowid()
        return self

    def executemany(self, sql: str, many: Any) -> "Cursor":
        with _as_sqlite3():
            self._cursor.executemany(self._db.rewrite(sql), many)
        return self

    def fetchone(self) -> Any:
        return next(self, None)

    def fetchall(self) -> list[Any]:
        return list(self)

    def __iter__(self) -> "Cursor":
        return self

    def __next__(self) -> tuple[Any, ...]:
        with _as_sqlite3():
            row = next(self._cursor)
        factory = self._db.text_factory
        if factory is str:
            return row
        return tuple(factory(each.encode()) if isinstance(each, str) else each for each in row)

    def close(self) -> None:
        self._cursor.close(True)


class Connection:
    """A connection through the VFS of a name."""

    def __init__(self, database: str, vfs: str, rewrite: Callable[[str], str]) -> None:
        with _as_sqlite3():
            self.apsw = apsw.Connection(database, flags=_FLAGS, vfs=vfs)
        self.rewrite = rewrite
        self.text_factory: Callable[[bytes], Any] | type[str] = str
        self.isolation_level = None

    @property
    def in_transaction(self) -> bool:
        return self.apsw.in_transaction

    @property
    def total_changes(self) -> int:
        return self.apsw.total_changes()

    def cursor(self) -> Cursor:
        with _as_sqlite3():
            return Cursor(self)

    def execute(self, sql: str, args: Sequence[Any] | dict[str, Any] = ()) -> Cursor:
        return self.cursor().execute(sql, args)

    def executemany(self, sql: str, many: Any) -> Cursor:
        return self.cursor().executemany(sql, many)

    def executescript(self, sql: str) -> Cursor:
        cursor = self.execute(sql)
        cursor.fetchall()
        return cursor

    def interrupt(self) -> None:
        self.apsw.interrupt()

    def set_progress_handler(self, handler: Callable[[], int] | None, steps: int) -> None:
        self.apsw.set_progress_handler(handler, steps or 1)

    def set_busy(self, seconds: float) -> None:
        self.apsw.set_busy_timeout(round(seconds * 1000))

    def close(self) -> None:
        with _as_sqlite3():
            self.apsw.close(True)


def connect(
    database: str, vfs: str, rewrite: Callable[[str], str], *, timeout: float = 5.0, **_: Any
) -> Connection:
    """As `sqlite3.connect` of a URI in autocommit mode."""
    made = Connection(database, vfs, rewrite)
    made.set_busy(timeout)
    return made
