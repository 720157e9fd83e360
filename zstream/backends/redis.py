"""A store in Redis or Valkey: bodies in lists, sealed runs of an index, one Lua call a batch."""

import logging
from collections.abc import Sequence
from typing import ClassVar

from zstream import keys as keys_
from zstream.backends import redis_link as link
from zstream.backends import redis_newest, redis_server
from zstream.backends.base import (
    PROBE_S,
    Backend,
    Batch,
    Durability,
    Head,
    Page,
    Query,
    Replay,
    Stats,
    check_batch,
)  # fmt: skip
from zstream.backends.redis_open import open_store
from zstream.backends.redis_store import OpenStore
from zstream.backends.redis_upkeep import RedisUpkeep
from zstream.backends.redis_writer import Lock, Writer
from zstream.errors import BackendError, BackendUnavailable, StoreLocked

_log = logging.getLogger(__name__)


class RedisBackend(RedisUpkeep, Backend):
    """The store; see `docs/backends.md`."""

    #: Rows, and bytes of what is kept to index them, that make a run.
    SEAL_ROWS: ClassVar[int] = 1 << 18
    SEAL_BYTES: ClassVar[int] = 32 << 20
    #: The work of one page, in values looked up and rows looked at.
    BUDGET: ClassVar[int] = 20_000
    #: How long to wait for another daemon that is ending, in seconds.
    LOCK_S: ClassVar[float] = 1.0
    #: How long an answer may take, when something is read and when it is written, in seconds.
    READ_S: ClassVar[float] = 1.5
    WRITE_S: ClassVar[float] = 5.0
    #: Marks of arrival are so far apart, in microseconds.
    MARK_US: ClassVar[int] = 1_000_000

    def __init__(self, url: str) -> None:
        """Take the URL apart; see the base class."""
        super().__init__(url)
        self._address = link.address_of(url)
        self.name = self._address.name
        self._open: OpenStore | None = None
        self._keys: tuple[str, ...] = ()
        self._server: redis_server.Server | None = None
        #: One for all openings, so that a connection that was lost does not keep the next one out.
        self._lock = Lock(self.name)
        self._probe: link.Session | None = None

    # ------------------------------------------------------------ opening and closing

    def open(self, keys: Sequence[str] | None) -> Head:
        """Make or check the store and begin a run; see the base class."""
        wanted = None if keys is None else keys_.check_keys(keys)
        if self._open is not None:
            raise StoreLocked(f"{self.name} is open already")
        session = link.Session(self._address, self.WRITE_S)
        try:
            self._server = redis_server.check(session, self.name)
            lock = self._lock
            opening = open_store(
                session, self._address, lock, self._server.id, wanted, self.LOCK_S, self.MARK_US
            )
            writer = Writer(self._address, session, lock, opening.opened, self.WRITE_S)
        except BaseException:
            session.close()
            raise
        try:
            head = opening.head
            newest = redis_newest.Newest(
                self._address, opening.opened, opening.stored, len(head.keys), self.SEAL_ROWS,
                self.SEAL_BYTES, self.WRITE_S,
            )  # fmt: skip
        except BaseException:
            writer.close()
            raise
        self._keys = head.keys
        if why := self._server.why_not():
            _log.warning("%s: what is confirmed may be lost with the power: %s", self.name, why)
        readers = link.Pool(self._address, self.READ_S)
        self._open = OpenStore(
            self.name, writer, newest, readers, opening.next_mark, self.MARK_US, self.BUDGET
        )
        newest.start()
        return head

    def close(self) -> None:
        """Close it; see the base class."""
        store, self._open = self._open, None
        if store is not None:
            store.close()
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.close()

    def _opened(self) -> OpenStore:
        store = self._open
        if store is None:
            raise BackendUnavailable(f"{self.name} is not open")
        return store

    # ------------------------------------------------------------ writing

    def append(self, batch: Batch) -> None:
        """Store a batch; see the base class."""
        store = self._opened()
        check_batch(batch, len(self._keys))
        store.append(batch)

    def trim(self, floor: int) -> int:
        """Forget events; see the base class."""
        return self._opened().trim(floor)

    def tidy(self, idle: bool = True) -> bool:
        """Index what waits; see the base class."""
        return self._opened().tidy(idle)

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing is left to seal or to free; tell whether it came to that."""
        return self._opened().newest.settle(timeout_s)

    # ------------------------------------------------------------ reading

    def last_id(self) -> int:
        """The last id; see the base class."""
        return self._opened().last_id()

    def items(self, query: Query) -> Page:
        """Read a page, newest first; see the base class."""
        return self._opened().read(lambda reader: reader.items(query))

    def replay(self, query: Query, after: int) -> Replay:
        """Read a page, oldest first; see the base class."""
        return self._opened().read(lambda reader: reader.replay(query, after))

    def count(self, query: Query) -> int:
        """Count the events of a slice; see the base class."""
        return self._opened().read(lambda reader: reader.count(query))

    def arrived(self, since: int) -> int:
        """The last id before a time; see the base class."""
        return self._opened().read(lambda reader: reader.arrived(since))

    # ------------------------------------------------------------ the server

    @property
    def durability(self) -> Durability:
        """What the server promises, as it was set at the last look; see the base class."""
        return "unsynced" if self._server is None else self._server.durability

    def probe(self) -> None:
        """Ask for a sign of life, and how the server is set; see the base class."""
        session, self._probe = self._probe, None
        try:
            session = session or link.Session(self._address, PROBE_S * 0.45)
            self._server = redis_server.look(session)
        except BackendError:
            if session is not None:
                session.close()
            raise
        self._probe = session

    def interrupt(self) -> None:
        """End the calls under way; see the base class."""
        store = self._open
        if store is not None:
            store.interrupt()

    def stats(self) -> Stats:
        """Tell the figures; see the base class."""
        store = self._opened()
        view = store.newest.view
        server = store.read(lambda reader: redis_server.look(reader.session))
        more = {
            "server": server.what,
            "used_memory": server.memory,
            "maxmemory": server.maxmemory,
            "maxmemory_policy": server.policy,
            "appendonly": server.aof,
            "appendfsync": server.fsync,
            "runs": len(store.newest.layouts),
        }
        return Stats(view.head - view.floor, None, more)
