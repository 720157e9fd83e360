"""The plain index of the SQLite store: one table of (key, value, ts, id) in the same file.

It is filled in the transaction that stores the rows. Everything that knows the table ``x`` or
the index ``events_ts`` is here, as SQL texts over these parameters: ``:top_ts, :top_id`` (only
what is older), ``:since``, ``:fN`` (the wanted values of key N, a JSON array), ``:v0 …`` (the
same one by one), ``:cap``.
"""

from functools import lru_cache
from typing import Final

from sqlalchemy import Column, Index, Integer, MetaData, Table, Text
from sqlalchemy.dialects import sqlite as dialect
from sqlalchemy.schema import CreateIndex, CreateTable

#: Up to so many values of a key are merged in order, each from its own place in the index.
MERGED_VALUES: Final = 64


def statements() -> list[str]:
    """The statements that make the index."""
    meta = MetaData()
    entries = Table(
        "x",
        meta,
        *(
            Column(name, Text if name == "v" else Integer, primary_key=True, autoincrement=False)
            for name in ("k", "v", "ts", "id")
        ),
        sqlite_with_rowid=False,
    )
    events = Table("events", MetaData(), Column("ts", Integer))
    made = CreateTable(entries), CreateIndex(Index("events_ts", events.c.ts))
    return [str(item.compile(dialect=dialect.dialect())) for item in made]


@lru_cache
def _entries(keys: int, lists: bool) -> str:
    """The index entries of the rows from ``:low`` to ``:high``."""
    rows = "e.id BETWEEN :low AND :high"
    parts = [
        f"SELECT {k} AS k, e.k{k} AS v, e.ts AS ts, e.id AS id FROM events e"
        f" WHERE {rows} AND typeof(e.k{k}) = 'text'"
        for k in range(keys)
    ]
    if lists:
        parts += [
            f"SELECT {k}, j.value, e.ts, e.id"
            f" FROM events e CROSS JOIN json_each(CAST(e.k{k} AS TEXT)) j"
            f" WHERE {rows} AND typeof(e.k{k}) = 'blob'"
            for k in range(keys)
        ]
    return " UNION ALL ".join(parts)


def fill(keys: int, lists: bool) -> str:
    """Index the rows from ``:low`` to ``:high``; ``lists`` if some of them has one.

    In the order of the index: a page of it is then visited once a batch and not once a row.
    """
    return f"INSERT INTO x {_entries(keys, lists)} ORDER BY 1, 2, 3, 4"


def clear(keys: int) -> str:
    """Take the rows from ``:low`` to ``:high``, which are still there, out of the index."""
    return f"DELETE FROM x WHERE (k, v, ts, id) IN ({_entries(keys, True)})"


def newest() -> str:
    """(ts, id) of all events, newest first."""
    # In two parts, because the index holds the rows of one time by id but does not let a
    # comparison of (ts, id) begin in the midst of them: a batch may have one time throughout.
    return (
        "SELECT ts, id FROM events INDEXED BY events_ts"
        " WHERE ts = :top_ts AND id < :top_id AND ts >= :since"
        " UNION ALL SELECT ts, id FROM events INDEXED BY events_ts"
        " WHERE ts < :top_ts AND ts >= :since"
        " ORDER BY ts DESC, id DESC"
    )


@lru_cache
def newest_of(key: int, values: int) -> str:
    """(ts, id) of the events with one of a few values, newest first, each once.

    SQLite merges the parts as they are asked for. Their number is rounded up to a power of two,
    so that few statements are ever compiled; what is too many is NULL and matches nothing.
    """
    part = (
        f"SELECT ts, id FROM x WHERE k = {key} AND v = :v%d"
        " AND (ts, id) < (:top_ts, :top_id) AND ts >= :since"
    )
    parts = " UNION ".join(part % number for number in range(rounded(values)))
    return f"{parts} ORDER BY ts DESC, id DESC"


def rounded(values: int) -> int:
    """So many parameters ``:v0 …`` the statement for this number of values has."""
    return 1 << (values - 1).bit_length()


def _matching(key: int) -> str:
    return f"json_each(:f{key}) j CROSS JOIN x ON x.k = {key} AND x.v = j.value"


def gathered(key: int) -> str:
    """The same for any number of values; all are found before the first is there."""
    return (
        f"SELECT DISTINCT x.ts, x.id FROM {_matching(key)}"
        " WHERE (x.ts, x.id) < (:top_ts, :top_id) AND x.ts >= :since"
        " ORDER BY x.ts DESC, x.id DESC"
    )


def gathered_by_id(key: int) -> str:
    """(id) of the events above ``:after`` with one of the values, oldest first."""
    return f"SELECT DISTINCT x.id FROM {_matching(key)} WHERE x.id > :after ORDER BY x.id"


def all_of(key: int) -> str:
    """(id) of the events with one of the values, in no order."""
    return (
        f"SELECT DISTINCT x.id FROM {_matching(key)}"
        " WHERE (x.ts, x.id) < (:top_ts, :top_id) AND x.ts >= :since"
    )


def all_of_one(key: int) -> str:
    """The same for one value, ``:v0``."""
    return (
        f"SELECT id FROM x WHERE k = {key} AND v = :v0"
        " AND (ts, id) < (:top_ts, :top_id) AND ts >= :since"
    )


def estimate(key: int) -> str:
    """How many entries the values have, counted up to ``:cap``."""
    return (
        f"(SELECT count(*) FROM (SELECT 1 FROM {_matching(key)}"
        " WHERE (x.ts, x.id) < (:top_ts, :top_id) AND x.ts >= :since LIMIT :cap))"
    )
