"""Whether the PostgreSQL store's server answers, and what it promises of the disk."""

import select
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from psycopg import OperationalError, conninfo, pq

from zstream.backends.base import PROBE_S, Durability
from zstream.backends.postgres_link import Address, Connection

#: What durability hangs on, besides what every session that writes sees to itself.
PROMISES: Final = ("fsync", "full_page_writes")
_QUESTION: Final = "SELECT " + ", ".join(f"current_setting('{name}')" for name in PROMISES)


def durability_of(settings: Mapping[str, str]) -> Durability:
    """What is left of what was committed, after the server's machine lost its power.

    Args:
        settings: The server's, with ``synchronous_commit`` as the session that writes has it.
    """
    if any(settings.get(name) == "off" for name in PROMISES):
        return "unsynced"  # nothing was waited for, or a page that is half written stays so
    return "second" if settings.get("synchronous_commit") == "off" else "synced"


class Place(NamedTuple):
    """A server that a connection may be made to, as libpq knows it."""

    host: str
    hostaddr: str
    port: str


def place_of(db: Connection) -> Place:
    """Where a connection goes to."""
    return Place(db.info.host, db.info.hostaddr, str(db.info.port))


class Probe:
    """A connection of its own, with which nobody waits longer than he wants to.

    psycopg's own ones wait two seconds at least to be made. Of several hosts one is asked at a
    time: that of the last connection that writes, then each of the URL.
    """

    def __init__(self, address: Address) -> None:
        self._known = conninfo.conninfo_to_dict(address.conninfo)
        self._places = _places(self._known)
        self._tried = 0
        self._db: pq.abc.PGconn | None = None
        self._lock = threading.Lock()

    def prefer(self, place: Place) -> None:
        """Ask there first."""
        self._places = [place, *_places(self._known)]
        self._tried = 0

    def ask(self) -> dict[str, str]:
        """What the server says of `PROMISES`.

        Raises:
            psycopg.Error: It did not answer within `PROBE_S`.
        """
        with self._lock:
            until = time.monotonic() + PROBE_S
            try:
                if self._db is None:
                    self._db = self._connected(until)
                return dict(zip(PROMISES, _answer(self._db, until), strict=True))
            except BaseException:
                self._close()
                raise

    def close(self) -> None:
        """Close the connection; a next question makes another."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.finish()

    def _connected(self, until: float) -> pq.abc.PGconn:
        place = self._places[self._tried % len(self._places)]
        self._tried += 1
        given = {name: value for name, value in place._asdict().items() if value}
        kept = {name: self._known[name] for name in self._known if name not in place._fields}
        db = pq.PGconn.connect_start(conninfo.make_conninfo("", **kept, **given).encode())
        try:
            while (status := db.connect_poll()) != pq.PollingStatus.OK:
                if status == pq.PollingStatus.FAILED:
                    raise OperationalError(db.get_error_message())
                _wait(db, status == pq.PollingStatus.WRITING, until)
        except BaseException:
            db.finish()
            raise
        db.nonblocking = 1
        self._tried -= 1  # it is good: the next one is made to the same
        return db


def _places(known: Mapping[str, object]) -> list[Place]:
    hosts, addresses, ports = (
        str(known.get(name, "")).split(",") for name in ("host", "hostaddr", "port")
    )
    count = max(len(hosts), len(addresses))

    def nth(values: Sequence[str], number: int) -> str:
        return values[number] if number < len(values) else values[0] if len(values) == 1 else ""

    return [Place(nth(hosts, n), nth(addresses, n), nth(ports, n)) for n in range(count)]


def _answer(db: pq.abc.PGconn, until: float) -> list[str]:
    db.send_query(_QUESTION.encode())
    while db.flush():
        _wait(db, True, until)
        db.consume_input()
    found: list[str] = []
    while True:
        while db.is_busy():
            _wait(db, False, until)
            db.consume_input()
        result = db.get_result()
        if result is None:
            return found
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise OperationalError(result.get_error_message())
        found = [(result.get_value(0, column) or b"").decode() for column in range(len(PROMISES))]


def _wait(db: pq.abc.PGconn, writing: bool, until: float) -> None:
    """Wait until libpq can go on."""
    left_s = until - time.monotonic()
    poller = select.poll()
    poller.register(db.socket, (select.POLLOUT if writing else 0) | select.POLLIN)
    if left_s <= 0 or not poller.poll(left_s * 1000):
        raise OperationalError(f"no answer within {PROBE_S:g} s")
