"""The writing connection of the PostgreSQL store: one transaction a batch, one writer only.

The connection holds an advisory lock for as long as it lives. When it is lost, another one takes
the lock again and looks whether the store is still as this writer left it; and no batch is stored
but upon the last id that this writer knows of.
"""

import random
from collections.abc import Sequence
from typing import Any, Final

from zstream.backends import postgres_link as link
from zstream.backends import postgres_schema as schema
from zstream.backends.base import DEFAULT_KEYS, Batch, Head, Producer, Registration
from zstream.backends.postgres_copy import packed
from zstream.backends.postgres_few import FEW_ROWS, statement
from zstream.backends.postgres_parts import Part
from zstream.backends.wires import Wires
from zstream.errors import BackendConflict, BackendCorrupt, BackendUnavailable, StoreRewound
from zstream.limits import MAX_INTEGER

#: How long a connection that is ended may take for it, in seconds.
_END_S: Final = 1.0
#: Marks of arrival are so far apart, in microseconds.
_MARK_US: Final = 1_000_000


class Writer:
    """The one who writes. All calls come from one thread at a time.

    Attributes:
        lost: Whether the connection is of no more use; what it did last may be committed or not.
        settings: What the server says that its durability hangs on.
    """

    def __init__(self, address: link.Address, lock_timeout_s: float, wires: Wires) -> None:
        """Connect; nothing is locked yet."""
        self._address, self._wires = address, wires
        self._lock_timeout_s = lock_timeout_s
        self._next_mark = 0
        self._run = 0
        self._ours: set[tuple[int, str]] = set()
        self._connect()

    def _connect(self) -> None:
        self.db = link.connect(self._address, self._lock_timeout_s, self._wires)
        try:
            # Before it can have the lock: it may be lost, and live on at the server.
            self._mine = link.identity(self.db)
            self._ours.add(self._mine)
            found: dict[str, str] = dict(self.db.execute(
                "SELECT name, setting FROM pg_settings"
                " WHERE name IN ('synchronous_commit', 'fsync', 'full_page_writes')"
            ).fetchall())  # fmt: skip
            if found["synchronous_commit"] == "off":
                self.db.execute("SET synchronous_commit = on")
                found["synchronous_commit"] = "on"
        except BaseException:
            self.db.close()
            raise
        self.settings = found

    @property
    def lost(self) -> bool:
        """See the class."""
        return link.broken(self.db)

    def lock(self, timeout_s: float = 0.0) -> bool:
        """Keep other daemons away; return whether that went well."""
        return link.lock(self.db, self._address, timeout_s)

    def close(self) -> None:
        """Give the lock back."""
        self.db.close()

    # ------------------------------------------------------------ opening

    def create(self, keys: Sequence[str] | None) -> tuple[str, ...]:
        """Make the tables if there are none; return the store's keys."""
        db, address = self.db, self._address
        schema.check_server(db, address)
        with db.transaction():
            if schema.is_new(db, address):
                schema.create(db, address, keys or DEFAULT_KEYS)
            stored = schema.check_schema(db, address)
            schema.add_filters(db)
        if keys is not None:
            schema.check_keys(keys, stored, address.name)
        return stored

    def begin_run(self, keys: tuple[str, ...]) -> Head:
        """Note a new run."""
        db = self.db
        self._run = random.SystemRandom().randint(1, MAX_INTEGER)
        with db.transaction():
            node, last, floor, arrival = _row(db, "SELECT node, last, floor, arrival FROM head")
            db.execute("INSERT INTO runs (run, began_after) VALUES (%s, %s)", (self._run, last))
            rows = db.execute("SELECT run, began_after FROM runs ORDER BY n").fetchall()
            producers = db.execute(
                "SELECT id, epoch, last, refused, refusals, seen FROM producers"
            ).fetchall()
            filters = db.execute("SELECT name, text, seen FROM filters").fetchall()
            newest = _row(db, "SELECT max(arrival) FROM marks")[0]
        ends = [began for _, began in rows[1:]] + [last]
        runs = tuple((run, end) for (run, _), end in zip(rows, ends, strict=True))
        self._next_mark = 0 if newest is None else newest + _MARK_US
        known = {row[0]: Producer(*row) for row in producers}
        registered = {row[0]: Registration(*row) for row in filters}
        return Head(self._run, runs, node, last, floor, arrival, keys, known, registered)

    def again(self, head: int) -> int:
        """Connect anew after the connection was lost.

        Args:
            head: The last id that is known to be stored.

        Returns:
            The last id that is stored; above the head if a batch was whose outcome was unknown.

        Raises:
            BackendConflict: Another daemon has opened the store meanwhile.
            StoreRewound: It has less than is known to be stored.
            BackendUnavailable: The lock cannot be had yet.
        """
        self.db.close()
        self._connect()
        try:
            # Where nothing told the server that the connection was lost, it lives on there, with
            # the lock, and may still commit. Who has the lock knows that it has ended.
            link.end(self.db, self._ours - {self._mine})
            is_alone = self.lock(_END_S)
            try:
                last = self._check(head)
            except StoreRewound:
                if is_alone:
                    raise
            if not is_alone:
                name = self._address.name
                raise BackendUnavailable(f"{name}: the connection that was lost still has its lock")
            self._ours = {self._mine}
            return last
        except BaseException:
            self.db.close()  # the next try connects anew
            raise

    def _check(self, head: int) -> int:
        """The last id that is stored, if the store is still ours."""
        name = self._address.name
        newest, known, last = _row(
            self.db,
            "SELECT (SELECT run FROM runs ORDER BY n DESC LIMIT 1),"
            f" (SELECT count(*) FROM runs WHERE run = {self._run}), last FROM head",
        )
        if not known or (newest == self._run and last < head):
            raise StoreRewound(f"{name} went back to an earlier state: its last id is {last}")
        if newest != self._run:
            raise BackendConflict(f"{name}: another daemon has opened it meanwhile")
        return int(last)

    def last(self) -> int:
        """The last id that is stored."""
        return int(_row(self.db, "SELECT last FROM head")[0])

    # ------------------------------------------------------------ writing

    def append(self, batch: Batch, pieces: Sequence[tuple[Part, int]], columns: str) -> int:
        """Store a batch; return about how many bytes its rows have.

        Args:
            batch: It.
            pieces: How many of its rows go into which partition.
            columns: Those of ``events``.
        """
        mark = batch.arrival >= self._next_mark
        if len(pieces) == 1 and len(batch.ts) <= FEW_ROWS and not batch.registers:
            size = self._insert(batch, pieces[0][0], columns, mark)
        else:
            size = self._copy(batch, pieces, columns, mark)
        if mark:
            self._next_mark = batch.arrival + _MARK_US
        return size

    def _insert(self, batch: Batch, part: Part, columns: str, mark: bool) -> int:
        sql, args = statement(batch, part, columns, mark)
        row = self.db.execute(sql, args, prepare=True).fetchone()
        if row != (1,):
            raise self._conflict(batch)
        return sum(map(len, batch.bodies)) + sum(len(str(column)) for column in batch.columns)

    def _copy(
        self, batch: Batch, pieces: Sequence[tuple[Part, int]], columns: str, mark: bool
    ) -> int:
        buffers, done = [], 0
        for part, count in pieces:
            end = done + count
            cut = [column[done:end] for column in batch.columns]
            rows = packed(batch.first + done, batch.ts[done:end], cut, batch.bodies[done:end])
            into = f"COPY events_{part.first} ({columns}) FROM STDIN (FORMAT binary)"
            buffers.append((into, rows))
            done = end
        end_of = _producers(batch.producers) + _others(batch) + "COMMIT"
        cursor = self.db.cursor()
        try:
            cursor.execute(_beginning(batch, mark))
            cursor.nextset()
            if cursor.rowcount != 1:
                raise self._conflict(batch)
            for into, rows in buffers:
                with cursor.copy(into) as copy:
                    copy.write(rows)
            cursor.execute(end_of)
        except BaseException:
            self._undo()
            raise
        return sum(len(rows) for _, rows in buffers)

    def _conflict(self, batch: Batch) -> BackendConflict:
        last = self._check(batch.first - 1)
        return BackendConflict(
            f"{self._address.name}: the batch begins with {batch.first}, but the last id is {last}"
        )

    def _undo(self) -> None:
        if not self.lost:
            self.db.execute("ROLLBACK")

    def trim(self, floor: int) -> int:
        """Move the floor up, to the last id at the most; return the one that holds now."""
        with self.db.transaction():
            last, before = _row(self.db, "SELECT last, floor FROM head FOR UPDATE")
            floor = max(min(floor, last), before)
            self.db.execute("UPDATE head SET floor = %s", (floor,))
            self.db.execute(
                "DELETE FROM marks WHERE arrival < (SELECT max(arrival) FROM marks WHERE id <= %s)",
                (floor,),
            )
        return int(floor)


def _beginning(batch: Batch, mark: bool) -> str:
    # As text, for it is only numbers, and several statements in one go have no parameters.
    before, last = int(batch.first) - 1, int(batch.first) - 1 + len(batch.ts)
    arrival = int(batch.arrival)
    marked = f"; INSERT INTO marks VALUES ({arrival}, {before}) ON CONFLICT DO NOTHING"
    return (
        f"BEGIN; UPDATE head SET last = {last}, arrival = greatest(arrival, {arrival})"
        f" WHERE last = {before}{marked if mark else ''}"
    )


def _producers(producers: Sequence[Producer]) -> str:
    if not producers:
        return ""
    newest = {each.id: each for each in producers}  # a row may not be moved twice at once
    rows = ", ".join(
        f"('\\x{each.id.hex()}', {int(each.epoch)}, {int(each.last)}, {int(each.refused)},"
        f" '\\x{each.refusals.hex()}', {int(each.seen)})"
        for each in newest.values()
    )
    return (
        f"INSERT INTO producers VALUES {rows} ON CONFLICT (id) DO UPDATE SET"
        " epoch = excluded.epoch, last = excluded.last, refused = excluded.refused,"
        " refusals = excluded.refusals, seen = excluded.seen; "
    )


def _others(batch: Batch) -> str:
    rows = ", ".join(
        f"('\\x{name.hex()}', convert_from('\\x{text.encode().hex()}', 'UTF8'), {int(seen)})"
        for name, text, seen in batch.filters
    )
    statements = ""
    if rows:
        statements = (
            f"INSERT INTO filters VALUES {rows} ON CONFLICT (name) DO UPDATE SET"
            " text = excluded.text, seen = excluded.seen; "
        )
    for where, gone in (
        ("producers WHERE id", batch.forgotten_producers),
        ("filters WHERE name", batch.forgotten_filters),
    ):
        if gone:
            names = ", ".join(f"'\\x{each.hex()}'" for each in gone)
            statements += f"DELETE FROM {where} IN ({names}); "
    return statements


def _row(db: link.Connection, statement: str) -> tuple[Any, ...]:
    row = db.execute(statement).fetchone()
    if row is None:
        raise BackendCorrupt(f"there is no row where one must be ({statement})")
    return row
