"""The partitions of the PostgreSQL store: attached ahead of the rows, indexed when full, dropped.

A partition is the table ``events_FIRST`` for the ids from FIRST on, and has a row in
``partitions`` that is written in the same transaction. A new one is attached while the one before
it still has room: that waits for nobody who only reads or writes, not even for ``pg_dump``. One
that is full gets its indexes in one transaction that waits for nobody who only reads. So a crash
at any moment leaves whole steps, and what is not done yet is done after the next opening.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from zstream.backends.postgres_link import Connection
from zstream.backends.slices import Run

#: Rows of one value in one partition from which on their number is kept.
DENSE_ROWS: Final = 1_000
#: Memory to sort a partition's rows into an index, or to count them, and how many rows tell
#: which values are frequent (300 times as many).
SETTINGS: Final = (
    "SET maintenance_work_mem = '128MB'; SET work_mem = '64MB'; SET default_statistics_target = 20"
)


class Part(NamedTuple):
    """A partition that is not sealed: it holds the ids from ``first`` to ``last``, or will."""

    first: int
    last: int


class Sealed(NamedTuple):
    """A sealed partition.

    Attributes:
        run: What readers have to know of it.
        sums: By key: how many rows the frequent values have.
    """

    run: Run
    sums: Mapping[int, Mapping[str, int]]


def load(db: Connection, only: int | None = None) -> tuple[list[Part], list[Sealed]]:
    """Read which partitions there are, or the one that begins with an id, by rising ids."""
    parts, sealed = [], []
    rows = db.execute(
        "SELECT first, last, sealed, min_ts, max_ts, several, sums FROM partitions"
        " WHERE first = coalesce(%s, first) ORDER BY first",
        (only,),
    ).fetchall()
    for first, last, is_sealed, min_ts, max_ts, several, sums in rows:
        if is_sealed:
            run = Run(first, first, last, min_ts, max_ts, False, frozenset(several))
            sealed.append(Sealed(run, {int(key): known for key, known in sums.items()}))
        else:
            parts.append(Part(first, last))
    return parts, sealed


def attach(db: Connection, part: Part) -> None:
    """Make room for more ids, directly above those that there is room for."""
    table = f"events_{part.first}"
    with db.transaction():
        # There is nothing to clean up before it is sealed, and then it is done at once.
        db.execute(f"CREATE TABLE {table} (LIKE events) WITH (autovacuum_enabled = false)")
        db.execute(
            f"ALTER TABLE events ATTACH PARTITION {table}"
            f" FOR VALUES FROM ({part.first}) TO ({part.last + 1})"
        )
        db.execute(f"INSERT INTO partitions VALUES ({part.first}, {part.last}, false)")


def seal(db: Connection, part: Part, keys: int) -> Sealed:
    """Index a partition that is full."""
    for known in load(db, part.first)[1]:
        return known  # the commit was not heard of
    table = f"events_{part.first}"
    # First, because rows that everybody sees need not be looked at by who reads an index.
    columns = ", ".join(["ts", *(f"k{key}" for key in range(keys))])
    db.execute(f"VACUUM (FREEZE, ANALYZE) {table} ({columns})")
    with db.transaction():
        sealed = _index(db, part, keys)
    if sealed.run.several:
        db.execute(f"VACUUM (FREEZE, ANALYZE) lists_{part.first}")
    return sealed


def rebuild(db: Connection, part: Part, keys: int) -> None:
    """Index a sealed partition anew."""
    table = f"events_{part.first}"
    with db.transaction():
        for name in ("ts", *(f"k{key}" for key in range(keys))):
            db.execute(f"DROP INDEX IF EXISTS {table}_{name}")
        db.execute(f"DROP TABLE IF EXISTS lists_{part.first}")
        db.execute(f"REINDEX TABLE {table}")  # the index of ids is left
        _index(db, part, keys)


def _index(db: Connection, part: Part, keys: int) -> Sealed:
    """Make the indexes of a partition and note it as sealed, within the caller's transaction."""
    table = f"events_{part.first}"
    found = _all(
        db, f"SELECT DISTINCT jsonb_object_keys(lists) FROM {table} WHERE lists IS NOT NULL"
    )
    several = frozenset(int(row[0]) for row in found)
    for key in range(keys):
        if key not in several:
            db.execute(
                f"CREATE INDEX {table}_k{key} ON {table} (k{key}, ts, id)"
                f" WITH (fillfactor = 100) WHERE k{key} IS NOT NULL"
            )
    db.execute(f"CREATE INDEX {table}_ts ON {table} (ts, id) WITH (fillfactor = 100)")
    if several:
        _index_lists(db, part.first, several)
    dense = _dense(db, table) | several
    known = {key: sums(db, part.first, key, key in several) for key in dense}
    [(low, high)] = _all(db, f"SELECT min(ts), max(ts) FROM {table}")
    if low is None:  # all of it was trimmed
        low = high = 0
    db.execute(
        "UPDATE partitions SET sealed = true, min_ts = %s, max_ts = %s, several = %s,"
        " sums = %s WHERE first = %s",
        (low, high, sorted(several), json.dumps(known), part.first),
    )
    return Sealed(Run(part.first, part.first, part.last, low, high, False, several), known)


def _index_lists(db: Connection, first: int, several: Iterable[int]) -> None:
    """All entries of the keys that have lists stand in a table of their own."""
    table = f"lists_{first}"
    db.execute(
        f'CREATE TABLE {table} (k smallint NOT NULL, v text COLLATE "C" NOT NULL,'
        " ts bigint NOT NULL, id bigint NOT NULL) WITH (autovacuum_enabled = false)"
    )
    rows = entries(f"events_{first}", several)
    db.execute(f"INSERT INTO {table} {rows} ORDER BY 1, 2, 3, 4")
    db.execute(f"CREATE INDEX {table}_x ON {table} (k, v, ts, id) WITH (fillfactor = 100)")


def entries(rows: str, several: Iterable[int]) -> str:
    """(k, v, ts, id) of the keys that have lists."""
    parts = [
        f"SELECT {key}::smallint AS k, k{key} AS v, ts, id FROM {rows} WHERE k{key} IS NOT NULL"
        f" UNION ALL SELECT {key}::smallint, jsonb_array_elements_text(lists->'{key}'), ts, id"
        f" FROM {rows} WHERE lists ? '{key}'"
        for key in sorted(several)
    ]
    return " UNION ALL ".join(parts)


def _dense(db: Connection, table: str) -> frozenset[int]:
    """The keys of which some value seems to be frequent; to count all of the others takes long."""
    rows = _all(
        db,
        "SELECT substr(attname, 2)::int FROM pg_stats"
        f" WHERE schemaname = current_schema AND tablename = '{table}' AND attname ~ '^k[0-9]+$'"
        " AND most_common_freqs[1] * (SELECT reltuples FROM pg_class"
        f" WHERE oid = '{table}'::regclass) >= {DENSE_ROWS} / 2",
    )
    return frozenset(row[0] for row in rows)


def sums(db: Connection, first: int, key: int, several: bool) -> dict[str, int]:
    """How many rows of a partition the frequent values of a key have."""
    value, rows = f"k{key}", f"events_{first} WHERE k{key} IS NOT NULL"
    if several:
        value, rows = "v", f"lists_{first} WHERE k = {key}"
    return dict(
        _all(
            db,
            f"SELECT {value}, count(*) FROM {rows} GROUP BY 1 HAVING count(*) >= {DENSE_ROWS}",
        )
    )


def drop(db: Connection, part: Part, wait_ms: int) -> None:
    """Drop a partition whose rows were all trimmed; nobody may be reading any of ``events``."""
    with db.transaction():
        db.execute(f"SET LOCAL lock_timeout = {wait_ms}")
        db.execute(f"DROP TABLE events_{part.first}")
        db.execute(f"DROP TABLE IF EXISTS lists_{part.first}")
        db.execute(f"DELETE FROM partitions WHERE first = {part.first}")


def sweep(db: Connection, first: int, several: Sequence[int], upto: int, wait_ms: int) -> None:
    """Delete the rows of a partition up to an id that were trimmed."""
    columns = ", ".join(["id", "ts", "lists", *(f"k{key}" for key in several)])
    gone = f"DELETE FROM events_{first} WHERE id <= {upto}"
    if several:
        gone = (
            f"WITH gone AS ({gone} RETURNING {columns})"
            f" DELETE FROM lists_{first} WHERE (k, v, ts, id) IN ({entries('gone', several)})"
        )
    with db.transaction():
        db.execute(f"SET LOCAL lock_timeout = {wait_ms}")
        db.execute(gone)


def _all(db: Connection, statement: str) -> list[tuple[Any, ...]]:
    return db.execute(statement).fetchall()
