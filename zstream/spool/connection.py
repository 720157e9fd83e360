"""Connections to lane files: locked, forks kept away, errors translated.

SQLite survives no fork in the middle of a call: its global locks would stay locked in the child.
So a fork waits for the call that is under way. In the child the parent's connections are neither
used nor closed, because to close one writes the log back and removes it under the parent.
"""

import ctypes
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

from zstream.errors import BackendCorrupt, BackendUnavailable, StoreLocked

#: Pages of 4 KiB in the write-ahead log after which SQLite writes them back, and sizes that the
#: log and the cache may keep.
_CHECKPOINT_PAGES: Final = 2_048
_LOG_BYTES: Final = 16 << 20
_CACHE_KIB: Final = 4_096

_HELD: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_DAMAGED: Final = (
    sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT,
    # SQL that does not fit the tables: somebody changed them.
    sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH,
)  # fmt: skip

#: Around whatever this process does in SQLite for its spools.
_lock = threading.RLock()
_connections: set[sqlite3.Connection] = set()


@contextmanager
def guarded(path: str) -> Iterator[None]:
    """Keep forks away from what is done inside, and turn what fails into zstream's errors.

    Raises:
        StoreLocked: Another process has the file.
        BackendCorrupt: It is damaged.
        BackendUnavailable: It cannot be read or written just now: the disk is full, access is
            denied.
    """
    with _lock:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF
            if code in _HELD:
                raise StoreLocked(f"{path} belongs to a process that runs") from error
            if code in _DAMAGED:
                raise BackendCorrupt(f"{path} is damaged ({error})") from error
            raise BackendUnavailable(f"{path} cannot be used just now ({error})") from error
        except OSError as error:
            raise BackendUnavailable(
                f"{path} cannot be used just now ({error.strerror or error})"
            ) from error


def connect(path: str) -> sqlite3.Connection:
    """Connect to a file that exists; under ``guarded``."""
    db = sqlite3.connect(
        f"file:{quote(os.path.abspath(path))}?mode=rw", uri=True, timeout=0, isolation_level=None,
        check_same_thread=False, cached_statements=32,
    )  # fmt: skip
    _connections.add(db)
    return db


def connect_locked(path: str) -> sqlite3.Connection:
    """Connect to a file that exists and lock it for as long as the connection lives.

    SQLite's lock goes with the process: its death frees it, and a forked child has no part in it.
    """
    db = connect(path)
    try:
        # In this order: so the log's index is not in memory that is shared, and one lock is all.
        value(db, "PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        db.execute("COMMIT")
        if value(db, "PRAGMA journal_mode = WAL") != "wal":
            raise BackendUnavailable(f"{path}: its file system cannot hold a write-ahead log")
        db.execute("PRAGMA synchronous = NORMAL")
        value(db, f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        value(db, f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    except BaseException:
        disconnect(db)
        raise
    return db


def disconnect(db: sqlite3.Connection) -> None:
    """Close a connection; under ``guarded``."""
    _connections.discard(db)
    db.close()


def value(db: sqlite3.Connection, statement: str) -> Any:
    """The one value that a statement gives."""
    return db.execute(statement).fetchall()[0][0]


def flush(descriptor: int) -> None:
    """Have the disk keep a file's content."""
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: its fsync leaves the drive's own cache alone
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


def flush_folder(path: str) -> None:
    """Have the disk keep the names of the files beside this one."""
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _before_fork() -> None:
    _lock.acquire()


def _after_in_parent() -> None:
    _lock.release()


def _after_in_child() -> None:
    # A reference for ever, because even the end of the interpreter would close them.
    for db in _connections:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))
    _connections.clear()
    _lock.release()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
