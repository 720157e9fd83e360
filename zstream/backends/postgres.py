"""A store in PostgreSQL: durable on a server of its own, and open to anybody with ``psql``."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, TypeVar

from zstream import keys as keys_
from zstream.backends import postgres_rows as rows_
from zstream.backends import postgres_schema as schema
from zstream.backends.base import (
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
from zstream.backends.index import Segment, View
from zstream.backends.postgres_admin import PostgresAdmin
from zstream.backends.postgres_errors import translated
from zstream.backends.postgres_keeper import Keeper, Widths
from zstream.backends.postgres_pool import Pool
from zstream.backends.postgres_probe import PROMISES, Probe, durability_of, place_of
from zstream.backends.postgres_read import MissingRows, Reader
from zstream.backends.postgres_rows import Rows, Snapshot
from zstream.backends.postgres_sweep import Sweeper
from zstream.backends.postgres_write import Writer
from zstream.backends.wires import Wires
from zstream.errors import BackendConflict, BackendCorrupt, BackendUnavailable, StoreLocked

T = TypeVar("T")


class PostgresBackend(PostgresAdmin, Backend):
    """Rows copied into the newest partition; their index in memory until it is full."""

    #: A partition holds so many rows, or bytes of bodies, or bytes of values, about.
    SEAL_ROWS: ClassVar[int] = 250_000
    SEAL_BODY_BYTES: ClassVar[int] = 256 << 20
    SEAL_TEXT_BYTES: ClassVar[int] = 32 << 20
    #: Rows of a new store's first partition, whose rows tell how large the next ones are to be.
    FIRST_ROWS: ClassVar[int] = 25_000
    #: Rows that one page looks at.
    BUDGET: ClassVar[int] = 20_000
    #: The same for whatever changes partitions: meanwhile others wait behind it.
    CHANGE_TIMEOUT_S: ClassVar[float] = 0.2
    #: And how long until it is tried again.
    RETRY_S: ClassVar[float] = 1.0
    #: Full partitions that may wait for their indexes before appends are held back.
    MOST_WAITING: ClassVar[int] = 3
    #: And how long one append is, at the most, in seconds.
    HOLD_BACK_S: ClassVar[float] = 0.2
    #: Trimmed rows that are deleted with one transaction.
    SWEEP_ROWS: ClassVar[int] = 5_000

    def __init__(self, url: str) -> None:
        """Take the URL apart; see the base class."""
        super().__init__(url)
        self._columns = ""
        self._keys: tuple[str, ...] = ()
        self._writer: Writer | None = None
        self._pool: Pool | None = None
        self._keeper: Keeper | None = None
        self._rows = Rows(Snapshot(View((Segment(1, 0),), 0, 0), (), ()), 0)
        self._writing = threading.Lock()
        self._sweeper = Sweeper(self._rows, self.SWEEP_ROWS, self.RETRY_S)
        self._unsure = False
        self._wires = Wires()
        self._probe = Probe(self._address)
        self._settings: dict[str, str] = {}

    # ------------------------------------------------------------ opening and closing

    def open(self, keys: Sequence[str] | None) -> Head:
        """Make or check the store and begin a run; see the base class."""
        wanted = None if keys is None else keys_.check_keys(keys)
        if self._writer is not None:
            raise StoreLocked(f"{self.name} is open already")
        try:
            with translated(self.name):
                return self._open(wanted)
        except BaseException:
            self.close()
            raise

    def _open(self, wanted: tuple[str, ...] | None) -> Head:
        self._writer = writer = Writer(self._address, self.LOCK_TIMEOUT_S, self._wires)
        self._connected(writer)
        if not writer.lock(self.OPEN_TIMEOUT_S):
            raise StoreLocked(f"{self.name} is open in another daemon")
        self._keys = writer.create(wanted)
        self._columns = schema.names(len(self._keys))
        head = writer.begin_run(self._keys)
        count = len(self._keys)
        widths = Widths(self.SEAL_ROWS, self.SEAL_BODY_BYTES, self.SEAL_TEXT_BYTES, self.FIRST_ROWS)
        self._rows = rows_.opened(writer.db, count, head)
        now = self._rows.snapshot
        if now.parts:
            widths.start_from(now.parts[-1].last - now.parts[-1].first + 1)
        self._sweeper = Sweeper(self._rows, self.SWEEP_ROWS, self.RETRY_S)
        self._unsure = False
        self._pool = Pool(self._address, self.LOCK_TIMEOUT_S, self._wires)
        self._widths = widths
        self._keeper = Keeper(
            self._address, self._rows, count, widths,
            lock_timeout_s=self.CHANGE_TIMEOUT_S, retry_s=self.RETRY_S, wires=self._wires,
        )  # fmt: skip
        self._keeper.start()
        return head

    def close(self) -> None:
        """Close it; see the base class."""
        writer, self._writer = self._writer, None
        pool, self._pool = self._pool, None
        keeper, self._keeper = self._keeper, None
        with translated(self.name):
            if keeper is not None:
                keeper.stop()
            if pool is not None:
                pool.close()
            if writer is not None:
                writer.close()
            self._probe.close()

    # ------------------------------------------------------------ how the server is

    def _connected(self, writer: Writer) -> None:
        self._settings = dict(writer.settings)
        self._probe.prefer(place_of(writer.db))

    @property
    def durability(self) -> Durability:
        """What the server is set to; see the base class."""
        return durability_of(self._settings)

    def probe(self) -> None:
        """Ask the server, over a connection of its own; see the base class."""
        with translated(self.name):
            self._settings |= self._probe.ask()

    def interrupt(self) -> None:
        """Cut all other connections; see the base class."""
        self._wires.cut()

    # ------------------------------------------------------------ writing

    @contextmanager
    def _as_writer(self) -> Iterator[tuple[Writer, Keeper]]:
        """Write; first of all find out what became of a batch whose outcome is unknown."""
        with self._writing, translated(self.name):
            writer, keeper = self._writer, self._keeper
            if writer is None or keeper is None:
                raise BackendUnavailable(f"{self.name} is not open")
            if self._unsure or writer.lost:
                head = self._rows.snapshot.view.head
                if writer.lost:
                    self._unsure = True
                    last = writer.again(head)
                    self._connected(writer)
                else:
                    last = writer.last()
                rows_.load(writer.db, self._rows, len(self._keys), last)
                self._unsure = False
            yield writer, keeper

    def append(self, batch: Batch) -> None:
        """Store a batch; see the base class."""
        check_batch(batch, len(self._keys) if self._writer else len(batch.columns))
        with self._as_writer() as (writer, keeper):
            count = len(batch.ts)
            head = self._rows.snapshot.view.head
            if batch.first != head + 1:
                raise BackendConflict(
                    f"{self.name}: the batch begins with {batch.first}, but the last id is {head}"
                )
            keeper.hold_back(self.MOST_WAITING, self.HOLD_BACK_S)
            if self._rows.snapshot.room < head + count:
                keeper.reserve(writer.db, head + count)
            pieces = rows_.pieces(self._rows.snapshot, count)
            self._unsure = True
            try:
                sent = writer.append(batch, pieces, self._columns)
            except BackendConflict:
                self._unsure = False  # nothing of it is stored
                raise
            self._rows.append(batch.ts, batch.columns)
            self._unsure = False
            bodies = sum(map(len, batch.bodies))
            self._widths.note(count, bodies, sent - bodies)
            if keeper.lacks_room():
                keeper.wake()

    def last_id(self) -> int:
        """The last id; see the base class."""
        writer = self._writer
        if writer is None:
            raise BackendUnavailable(f"{self.name} is not open")
        if self._unsure or writer.lost:
            with self._as_writer():
                pass
        return self._rows.snapshot.view.head

    def trim(self, floor: int) -> int:
        """Forget events; see the base class. What they occupied is freed by ``tidy``."""
        with self._as_writer() as (writer, _):
            # Not from the table: it may have been moved by a call whose outcome is unknown.
            before = self._rows.snapshot.view.floor
            floor = writer.trim(floor)
            if floor > before:
                self._rows.trim(floor)
        return floor - before

    def tidy(self, idle: bool = True) -> bool:
        """Drop a partition that was trimmed, delete some rows, or index what waits in memory."""
        if self._sweeper.is_due():
            with self._as_writer() as (writer, _):
                if self._sweeper.step(writer.db):
                    return True
        view = self._rows.snapshot.view
        return idle and any(segment.settle(1) for segment in view.segments)

    def settle(self, timeout_s: float) -> bool:
        """Wait until every partition that is full is sealed; return whether that is so.

        Args:
            timeout_s: How long to wait, in seconds.
        """
        keeper = self._keeper
        if keeper is None:
            raise BackendUnavailable(f"{self.name} is not open")
        return keeper.settle(timeout_s)

    # ------------------------------------------------------------ reading

    def _read(self, read: Callable[[Reader], T]) -> T:
        pool = self._pool
        if pool is None:
            raise BackendUnavailable(f"{self.name} is not open")
        while True:
            snapshot, idle, cuts = self._rows.snapshot, pool.idle, self._wires.cuts
            try:
                with translated(self.name), pool.connection() as db:
                    return read(Reader(db, snapshot, self.BUDGET))
            except (MissingRows, BackendCorrupt) as error:
                # Rows may have been trimmed and dropped since the snapshot was taken.
                if self._rows.snapshot.all_parts() == snapshot.all_parts() and (
                    self._rows.snapshot.view.floor == snapshot.view.floor
                ):
                    raise BackendCorrupt(f"{self.name}: {error}") from error
            except BackendUnavailable:
                if not idle or self._wires.cuts != cuts:
                    raise
                pool.forget()  # the server may have closed those that nobody used

    def items(self, query: Query) -> Page:
        """Read a page, newest first; see the base class."""
        return self._read(lambda reader: reader.items(query))

    def replay(self, query: Query, after: int) -> Replay:
        """Read a page, oldest first; see the base class."""
        return self._read(lambda reader: reader.replay(query, after))

    def count(self, query: Query) -> int:
        """Count the events of a slice; see the base class."""
        return self._read(lambda reader: reader.count(query))

    def arrived(self, since: int) -> int:
        """The last id before a time; see the base class."""
        return self._read(lambda reader: reader.arrived(since))

    def stats(self) -> Stats:
        """Tell the figures; see the base class."""
        now, keeper, writer = self._rows.snapshot, self._keeper, self._writer
        view = now.view
        try:
            size = self._read(lambda reader: reader.size_bytes(self._address.schema))
        except BackendUnavailable:
            if writer is None:
                raise
            size = None  # the other figures can be told all the same
        more: dict[str, object] = {
            "sealed_partitions": len(now.sealed),
            "rows_in_memory": sum(map(len, view.segments)),
        }
        if keeper is not None and keeper.failure is not None:
            more["waiting"] = keeper.failure
        more |= {name: "off" for name in PROMISES if self._settings.get(name) == "off"}
        return Stats(view.head - view.floor, size, more)
