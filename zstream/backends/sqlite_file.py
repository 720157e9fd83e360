"""The SQLite store's file: its URL, its lock, its connections and its write-ahead log."""

import fcntl
import os
import sqlite3
from typing import IO, Final
from urllib.parse import quote, unquote

from zstream.errors import BackendUnavailable, ConfigError, StoreLocked

#: Primary codes of errors that say that a file is damaged.
DAMAGED: Final = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT))

_PREFIX: Final = "sqlite:///"
#: Pages of the write-ahead log after which SQLite itself writes them back (16 MiB).
CHECKPOINT_PAGES: Final = 4_096
#: Bytes of the log above which the writer waits for readers, so that it can begin anew.
_LOG_BYTES: Final = 64 << 20
#: Bytes of the log that may stay while nothing is written.
_REST_BYTES: Final = 4 << 20
#: How long it waits for them, in milliseconds.
_CHECKPOINT_WAIT_MS: Final = 100


def path_of(url: str) -> str:
    """The path in a URL: ``sqlite:///relative`` or ``sqlite:////absolute``.

    ``%`` and two hex digits are a byte of it, as in every URL.

    Raises:
        ConfigError: It has no path, or more than a path.
    """
    hint = "write sqlite:///relative/path or sqlite:////absolute/path"
    if not url.startswith(_PREFIX) or "?" in url:
        raise ConfigError(f"{url!r}: a store in a file has a path and nothing else; {hint}")
    # By hand, because one version of SQLAlchemy decodes the path and another does not.
    path = unquote(url.removeprefix(_PREFIX))
    if not path or path.startswith(":") or "\0" in path:
        raise ConfigError(f"{url!r} names no file; {hint}, or memory: for none")
    return path


def lock_name(path: str) -> str:
    """The file that stands for the lock of a store."""
    return f"{os.path.realpath(path)}-lock"


def lock(path: str) -> IO[str]:
    """Keep other daemons away from the store until the returned file is closed.

    The lock file stays: to remove it would let two daemons lock two files of one name.

    Raises:
        StoreLocked: Another one has it.
        OSError: The lock file cannot be made.
    """
    name = lock_name(path)
    file = open(name, "a+", encoding="utf-8")  # noqa: SIM115  # kept open by the caller
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read(32).strip() or "unknown"
        file.close()
        raise StoreLocked(
            f"{path} is open in another daemon (process {owner}, which holds {name})"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def connect(path: str, mode: str, busy_s: float) -> sqlite3.Connection:
    """Connect without touching the file yet.

    Args:
        path: The file.
        mode: ``rw``, or ``rwc`` to make the file if it is not there.
        busy_s: How long to wait for another program's transaction, in seconds.
    """
    return sqlite3.connect(
        uri(path, mode),
        uri=True,
        timeout=busy_s,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )


def uri(path: str, mode: str) -> str:
    """A file as SQLite takes it in ``connect`` and ``ATTACH``; for the mode see `connect`."""
    return f"file:{quote(os.path.abspath(path))}?mode={mode}"


def connect_reader(path: str, index_path: str, busy_s: float) -> sqlite3.Connection:
    """A connection to rows and index that only reads, and whose texts are bytes."""
    db = connect(path, "rw", busy_s)
    db.execute("ATTACH ? AS idx", (uri(index_path, "rw"),))
    db.execute("PRAGMA query_only = 1")
    db.execute("PRAGMA cache_size = -8192")
    db.execute("PRAGMA idx.cache_size = -16384")
    db.text_factory = bytes
    return db


def prepare_writer(db: sqlite3.Connection, path: str) -> None:
    """Set a connection up to write durably, with a write-ahead log.

    Raises:
        BackendUnavailable: The file system has no shared memory for the log.
    """
    if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise BackendUnavailable(f"{path}: its file system cannot hold a write-ahead log")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA cache_size = -16384")
    db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")


class Log:
    """Keeps the write-ahead log bounded.

    SQLite writes the log back by itself, but begins it anew only when no reader is in it; with
    readers that overlap it would grow for ever. Beyond a size the writer waits for a moment
    without them.
    """

    def __init__(self, db: sqlite3.Connection, path: str, busy_s: float) -> None:
        """Look after the log of one writing connection."""
        self._db = db
        self._path = f"{os.path.realpath(path)}-wal"
        self._busy_ms = int(busy_s * 1000)
        self._limit = _LOG_BYTES

    def size(self) -> int:
        """Its bytes."""
        try:
            return os.stat(self._path).st_size
        except FileNotFoundError:  # not written to yet
            return 0

    def check(self, patient: bool = False) -> None:
        """Begin the log anew if it is too large; call it after a commit.

        Args:
            patient: A reader of one's own is known to be in it for a while: wait for it only
                when the log has become four times as large.
        """
        size = self.size()
        if size <= self._limit or (patient and size <= 4 * _LOG_BYTES):
            return
        busy = self._begin_anew(_CHECKPOINT_WAIT_MS)
        # A reader that stays is waited for again only after as much more has been written.
        self._limit = size + _LOG_BYTES // 4 if busy else _LOG_BYTES

    def rest(self) -> None:
        """Begin the log anew while nothing is written, if nobody reads in it."""
        if self.size() > _REST_BYTES:
            self._begin_anew(0)

    def _begin_anew(self, wait_ms: int) -> bool:
        self._db.execute(f"PRAGMA busy_timeout = {wait_ms}")
        try:
            return bool(self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {self._busy_ms}")
