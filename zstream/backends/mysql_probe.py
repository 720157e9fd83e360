"""Whether the MySQL store's server answers, and what it promises of the disk."""

import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import pymysql

from zstream.backends import mysql_link as link
from zstream.backends.base import PROBE_S, Durability

#: What the server's durability hangs on.
PROMISES: Final = (
    "innodb_flush_log_at_trx_commit", "innodb_doublewrite", "innodb_flush_method", "sync_binlog",
    "log_bin",
)  # fmt: skip
#: Of them, what may be changed while the server runs.
_CHANGES: Final = ("innodb_flush_log_at_trx_commit", "sync_binlog")
#: Ways to write that wait for nothing.
_UNSYNCED: Final = ("nosync", "littlesync")


def weak(promises: Mapping[str, str]) -> list[str]:
    """What the server does not promise, in words."""
    flush = promises.get("innodb_flush_log_at_trx_commit", "1")
    found = [] if flush == "1" else [f"innodb_flush_log_at_trx_commit is {flush}, not 1"]
    return found + _unsafe(promises)


def _unsafe(promises: Mapping[str, str]) -> list[str]:
    found = []
    if promises.get("innodb_doublewrite", "ON") == "OFF":
        found.append("innodb_doublewrite is OFF")
    if (method := promises.get("innodb_flush_method", "")) in _UNSYNCED:
        found.append(f"innodb_flush_method is {method}")
    # With a binary log, recovery rolls back what is not in it.
    synced = promises.get("sync_binlog", "1")
    if promises.get("log_bin") == "ON" and synced != "1":
        found.append(f"log_bin is ON and sync_binlog is {synced}, not 1")
    return found


def durability_of(promises: Mapping[str, str]) -> Durability:
    """What is left of what was committed, after the server's machine lost its power."""
    if _unsafe(promises):
        return "unsynced"
    return "second" if weak(promises) else "synced"


class _Hurried(pymysql.Connection):  # type: ignore[misc]
    """A connection that waits until a moment, and not for so long at each answer.

    Attributes:
        until: That moment, by the monotonic clock.
    """

    until = 0.0

    def _hurry(self) -> None:
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"no answer within {PROBE_S:g} s")
        self._read_timeout = self._write_timeout = self._current_timeout = left_s
        self._sock.settimeout(left_s)

    def _read_bytes(self, count: int) -> Any:
        self._hurry()
        return super()._read_bytes(count)

    def _write_bytes(self, data: bytes) -> None:
        self._hurry()
        super()._write_bytes(data)


class Probe:
    """A session of its own, with which nobody waits longer than he wants to."""

    def __init__(self, address: link.Address) -> None:
        self._address = address
        self._db: _Hurried | None = None
        self._lock = threading.Lock()

    def ask(self, known: Mapping[str, str]) -> dict[str, str]:
        """What the server says of those of `PROMISES` that may have changed.

        Args:
            known: Those that it has.

        Raises:
            pymysql.err.Error, OSError: It did not answer within `PROBE_S`.
        """
        names = [name for name in _CHANGES if name in known]
        asked = ", ".join(("1", *(f"@@GLOBAL.{name}" for name in names)))
        with self._lock:
            until = time.monotonic() + PROBE_S
            try:
                db = self._db = self._db or self._connected(until)
                db.until = until
                with db.cursor() as cursor:
                    cursor.execute(f"SELECT {asked}")
                    row = cursor.fetchone()
            except BaseException:
                self._close()
                raise
        return dict(zip(names, map(str, row[1:]), strict=True))

    def close(self) -> None:
        """Close the session; a next question makes another."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None and db.open:
            db.until = time.monotonic() + PROBE_S
            db.close()

    def _connected(self, until: float) -> _Hurried:
        db = link.driver(self._address, PROBE_S, _Hurried)
        assert isinstance(db, _Hurried)
        db.until = until
        db.connect(link.connected(self._address, PROBE_S))
        return db
