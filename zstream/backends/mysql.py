"""A store in MySQL or MariaDB: one table of events with ordinary indexes, open to SQL."""

import logging
import random
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

from zstream import keys as keys_
from zstream.backends import mysql_link as link
from zstream.backends import mysql_rows as rows
from zstream.backends import mysql_schema as schema
from zstream.backends.base import (
    DEFAULT_KEYS,
    Backend,
    Batch,
    Durability,
    Head,
    Page,
    Producer,
    Query,
    Registration,
    Replay,
    Stats,
    check_batch,
)  # fmt: skip
from zstream.backends.mysql_errors import is_lost, translated
from zstream.backends.mysql_probe import PROMISES, Probe, durability_of, weak
from zstream.backends.mysql_read import Reader
from zstream.backends.mysql_search import Limits
from zstream.backends.mysql_upkeep import MySQLUpkeep
from zstream.backends.mysql_writer import Writer
from zstream.backends.wires import Wires
from zstream.errors import BackendConflict, BackendUnavailable, StoreLocked
from zstream.limits import MAX_INTEGER

_Answer = TypeVar("_Answer")
_log = logging.getLogger(__name__)


class MySQLBackend(MySQLUpkeep, Backend):
    """One session that writes and holds the lock; a session for each read under way."""

    #: The work of one query.
    LIMITS: ClassVar[Limits] = Limits(scanned=20_000, gathered=50_000, counted=200_000)
    #: How long to wait for another daemon that is ending, in seconds.
    LOCK_S: ClassVar[int] = 1
    #: How long an answer may take before the connection is given up, in seconds.
    TIMEOUT_S: ClassVar[float] = 60.0
    #: Marks of arrival are so far apart, in microseconds.
    MARK_US: ClassVar[int] = 1_000_000
    #: Trimmed rows that are deleted with one transaction.
    SWEEP_ROWS: ClassVar[int] = 5_000

    def __init__(self, url: str) -> None:
        """Take the URL apart; see the base class."""
        super().__init__(url)
        self._address = link.address_of(url)
        self.name = self._address.name
        self._writer: Writer | None = None
        self._idle: list[Reader] = []
        self._keys: tuple[str, ...] = ()
        self._promises: dict[str, str] = {}
        self._wires = Wires()
        self._probe = Probe(self._address)
        self._lists = 0
        self._next_mark = 0
        self._floor = 0
        self._swept = 0

    # ------------------------------------------------------------ opening and closing

    def open(self, keys: Sequence[str] | None) -> Head:
        """Make or check the store and begin a run; see the base class."""
        wanted = None if keys is None else keys_.check_keys(keys)
        if self._writer is not None:
            raise StoreLocked(f"{self.name} is open already")
        self._writer = writer = Writer(self._address, self.LOCK_S, self.TIMEOUT_S, self._wires)
        try:
            with translated(self.name):
                db = writer.connect()
                schema.prepare(db, self.name, wanted or DEFAULT_KEYS)
                self._keys = schema.stored_keys(db, self.name)
                if wanted is not None:
                    schema.check_keys(wanted, self._keys, self.name)
                self._look_at_promises(db)
                with writer.transaction():
                    return self._begin_run(db, writer)
        except BaseException as error:
            if not isinstance(error, Exception):
                writer.drop()  # in the midst of an answer, maybe
            self.close()
            raise

    def _begin_run(self, db: link.Session, writer: Writer) -> Head:
        node, last, floor, arrival, self._lists = db.row(
            "SELECT node, last, floor, arrival, lists FROM head FOR UPDATE"
        )
        writer.last = last
        writer.run = run = random.SystemRandom().randint(1, MAX_INTEGER)
        db.run(f"INSERT INTO runs (run, began_after) VALUES ({run}, {last})")
        db.run(f"UPDATE head SET run = {run}")
        begun = db.rows("SELECT run, began_after FROM runs ORDER BY n")
        ends = [began for _, began in begun[1:]] + [last]
        runs = tuple((each, end) for (each, _), end in zip(begun, ends, strict=True))
        producers = db.rows("SELECT id, epoch, last, refused, refusals, seen FROM producers")
        filters = db.rows("SELECT name, text, seen FROM filters")
        newest, oldest = db.row(
            "SELECT (SELECT MAX(arrival) FROM marks), (SELECT MIN(id) FROM events)"
        )
        self._next_mark = 0 if newest is None else newest + self.MARK_US
        self._floor, self._swept = floor, (oldest or last + 1) - 1
        known = {row[0]: Producer(*row) for row in producers}
        named = {name: Registration(name, text.decode(), seen) for name, text, seen in filters}
        return Head(run, runs, node, last, floor, arrival, self._keys, known, named)

    def _look_at_promises(self, db: link.Session) -> None:
        self._promises = db.variables(PROMISES)
        for why in weak(self._promises):
            _log.warning("%s: what is confirmed may be lost with the power: %s", self.name, why)

    def close(self) -> None:
        """Close it; see the base class."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        self._close_idle()
        self._probe.close()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().session.close()

    def _opened(self) -> Writer:
        if self._writer is None:
            raise BackendUnavailable(f"{self.name} is not open")
        return self._writer

    # ------------------------------------------------------------ how the server is

    @property
    def durability(self) -> Durability:
        """What the server is set to; see the base class."""
        return durability_of(self._promises)

    def probe(self) -> None:
        """Ask the server, over a session of its own; see the base class."""
        with translated(self.name):
            self._promises |= self._probe.ask(self._promises)

    def interrupt(self) -> None:
        """Cut all other sessions; see the base class."""
        self._wires.cut()

    # ------------------------------------------------------------ writing

    def append(self, batch: Batch) -> None:
        """Store a batch; see the base class."""
        writer = self._opened()
        check_batch(batch, len(self._keys))
        mark = batch.arrival >= self._next_mark
        entries = rows.in_lists(batch)
        for key in {entry[0] for entry in entries}:
            self._lists |= 1 << key  # readers look there from now on
        with translated(self.name), writer.transaction() as db:
            self._move_head(db, batch, writer)
            for statement in rows.inserts(batch):
                db.run(statement)
            for statement in rows.list_inserts(entries):
                db.run(statement)
            for statement in rows.others(batch):
                db.run(statement)
            if mark:
                db.run(f"INSERT IGNORE INTO marks VALUES ({batch.arrival}, {batch.first - 1})")
        writer.last = batch.first + len(batch.ts) - 1
        if mark:
            self._next_mark = batch.arrival + self.MARK_US

    def _move_head(self, db: link.Session, batch: Batch, writer: Writer) -> None:
        last = batch.first + len(batch.ts) - 1
        moved = db.run(
            f"UPDATE head SET last = {last}, arrival = GREATEST(arrival, {batch.arrival}),"
            f" lists = lists | {self._lists}"
            f" WHERE run = {writer.run} AND last = {batch.first - 1}"
        )
        if moved != 1:
            found = writer.check(db)
            raise BackendConflict(
                f"{self.name}: the batch begins with {batch.first}, but the last id is {found}"
            )

    def trim(self, floor: int) -> int:
        """Forget events; see the base class. Their rows are deleted by `tidy`."""
        writer = self._opened()
        with translated(self.name), writer.transaction() as db:
            run, last, before = db.row("SELECT run, last, floor FROM head FOR UPDATE")
            if run != writer.run:
                raise BackendConflict(f"{self.name}: another daemon has the store")
            floor = max(min(floor, last), before)
            db.run(f"UPDATE head SET floor = {floor}")
            kept = db.row(f"SELECT MAX(arrival) FROM marks WHERE id <= {floor}")[0]
            if kept is not None:
                db.run(f"DELETE FROM marks WHERE arrival < {kept}")
        self._floor = floor
        return int(floor - before)

    def tidy(self, idle: bool = True) -> bool:
        """Delete a slice of the rows that were trimmed; see the base class."""
        writer = self._opened()
        if self._swept < self._floor:
            high = min(self._swept + self.SWEEP_ROWS, self._floor)
            below = f"WHERE id > {self._swept} AND id <= {high}"
            with translated(self.name), writer.transaction() as db:
                db.run(f"DELETE FROM lists {below}")
                db.run(f"DELETE FROM events {below}")
            self._swept = high
        return self._swept < self._floor

    # ------------------------------------------------------------ reading

    def _read(self, ask: Callable[[Reader], _Answer]) -> _Answer:
        self._opened()
        while True:
            cuts = self._wires.cuts
            reader, idle = self._idle_reader(), True
            if reader is None:
                with translated(self.name):
                    session = link.Session(self._address, self.TIMEOUT_S, self._wires)
                reader, idle = Reader(session, self.LIMITS), False
            try:
                with translated(self.name):
                    answer = ask(reader)
            except BaseException as error:
                reader.session.close()
                # A session that has waited here may have been closed by the server long ago, and
                # so may the others.
                lost = isinstance(error, BackendUnavailable) and is_lost(error)
                if not lost or not idle or self._wires.cuts != cuts:
                    raise
                self._close_idle()
                continue
            self._idle.append(reader)
            if self._writer is None:  # closed meanwhile
                self._close_idle()
            return answer

    def _idle_reader(self) -> Reader | None:
        while True:
            try:
                reader = self._idle.pop()
            except IndexError:
                return None
            if not reader.session.is_cut:
                return reader
            reader.session.close()

    def last_id(self) -> int:
        """The last id; see the base class."""
        writer = self._opened()
        if writer.lost:
            # The session may still be committing: only who has its lock knows.
            with translated(self.name):
                writer.session()
        return self._read(lambda reader: reader.head().last)

    def items(self, query: Query) -> Page:
        """Read a page, newest first; see the base class."""
        return self._read(lambda reader: reader.items(query, self._lists))

    def replay(self, query: Query, after: int) -> Replay:
        """Read a page, oldest first; see the base class."""
        return self._read(lambda reader: reader.replay(query, after, self._lists))

    def count(self, query: Query) -> int:
        """Count the events of a slice; see the base class."""
        return self._read(lambda reader: reader.count(query, self._lists))

    def arrived(self, since: int) -> int:
        """The last id before a time; see the base class."""
        return self._read(lambda reader: reader.arrived(since))

    def stats(self) -> Stats:
        """Tell the figures; see the base class."""
        return self._read(self._stats)

    def _stats(self, reader: Reader) -> Stats:
        last, floor, _ = reader.head()
        size = reader.session.row(
            "SELECT SUM(DATA_LENGTH + INDEX_LENGTH) FROM information_schema.TABLES"
            " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_COMMENT = 'zstream'"
        )[0]
        known = self._promises
        more = {"server": reader.session.server, **known, "durable": not weak(known)}
        return Stats(last - floor, None if size is None else int(size), more)
