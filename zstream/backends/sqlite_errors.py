"""The one place where errors of SQLite and of the file system become zstream's."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from zstream.backends.sqlite_file import DAMAGED
from zstream.errors import BackendConflict, BackendCorrupt, BackendError, BackendUnavailable

_UNAVAILABLE: Final = {
    sqlite3.SQLITE_BUSY: "another program is writing to it and holds it locked",
    sqlite3.SQLITE_LOCKED: "another program holds it locked",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "reading or writing it failed",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_PERM: "access is denied",
    sqlite3.SQLITE_AUTH: "access is denied",
    sqlite3.SQLITE_NOMEM: "there is no memory left",
    sqlite3.SQLITE_PROTOCOL: "locking it failed",
    sqlite3.SQLITE_INTERRUPT: "it was interrupted",
}


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn whatever the driver or the file system raises into a `BackendError`."""
    try:
        yield
    except sqlite3.Error as error:
        if isinstance(error, sqlite3.ProgrammingError) and "closed" not in str(error):
            raise  # a value that SQLite cannot hold: the caller's defect, not the store's
        raise _translate(error, path) from error
    except OSError as error:
        raise BackendUnavailable(f"{path}: {error.strerror or error}") from error


def _translate(error: sqlite3.Error, path: str) -> BackendError:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        # The Python module's own: a connection that was closed meanwhile.
        return BackendUnavailable(f"{path}: {error}")
    primary = code & 0xFF
    if primary in _UNAVAILABLE:
        return BackendUnavailable(f"{path}: {_UNAVAILABLE[primary]} ({error})")
    if primary == sqlite3.SQLITE_CONSTRAINT:
        return BackendConflict(f"{path}: somebody else wrote to it ({error})")
    if primary in DAMAGED:
        return BackendCorrupt(f"{path}: it is damaged ({error})")
    # What is left are statements that do not fit the tables: somebody changed the schema.
    return BackendCorrupt(f"{path}: it is not as zstream left it ({error})")
