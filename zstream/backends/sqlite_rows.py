"""Rows into SQLite in bulk, and out of it into memory."""

import json
import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from zstream.backends.base import Batch
from zstream.keys import Value

#: Parameters of one statement that every SQLite takes.
_PARAMETERS: Final = 32_766


def stored(column: Sequence[Value]) -> Sequence[Any]:
    """A key's column as it is kept: a list as JSON in a blob, which no text can be equal to."""
    if tuple not in set(map(type, column)):
        return column
    return [
        json.dumps(value, ensure_ascii=False).encode() if type(value) is tuple else value
        for value in column
    ]


def insert(db: sqlite3.Connection, head: str, columns: Sequence[Sequence[Any]]) -> None:
    """Insert rows, thousands a statement: a statement a row would hand the GIL over for each."""
    width, count = len(columns), len(columns[0])
    most = 1 << (_PARAMETERS // width).bit_length() - 1
    done = 0
    while done < count:
        rows = min(most, 1 << (count - done).bit_length() - 1)
        flat: list[Any] = [None] * (rows * width)
        for position, column in enumerate(columns):
            flat[position::width] = column[done : done + rows]
        db.execute(_values(head, width, rows), flat)
        done += rows


def write_others(db: sqlite3.Connection, batch: Batch) -> None:
    """Write and forget what a batch has beside its events."""
    for table, rows in (("producers", batch.producers), ("filters", batch.filters)):
        if rows:
            insert(db, f"INSERT OR REPLACE INTO {table}", list(zip(*rows, strict=True)))
    for table, key, gone in (
        ("producers", "id", batch.forgotten_producers),
        ("filters", "name", batch.forgotten_filters),
    ):
        for start in range(0, len(gone), _PARAMETERS):
            some = gone[start : start + _PARAMETERS]
            places = ",".join("?" * len(some))
            db.execute(f"DELETE FROM {table} WHERE {key} IN ({places})", some)


@lru_cache
def _values(head: str, width: int, rows: int) -> str:
    # The number of rows is a power of two, so that few statements are ever compiled.
    row = f"({','.join('?' * width)})"
    return f"{head} VALUES {','.join([row] * rows)}"


class Loaded(NamedTuple):
    """Rows without their bodies, as columns; which keys have lists."""

    ids: Sequence[int]
    ts: Sequence[int]
    size: int
    columns: Sequence[Sequence[Value]]
    several: Sequence[int]


def load(db: sqlite3.Connection, first: int, last: int, keys: int) -> Loaded:
    """Read rows to index them in memory.

    Args:
        db: Where they stand.
        first, last: Their ids; rows that were trimmed may be missing.
        keys: How many keys the store has.
    """
    columns = ", ".join(f"k{key}" for key in range(keys))
    rows = db.execute(
        f"SELECT id, ts, length(body), {columns} FROM events WHERE id BETWEEN ? AND ? ORDER BY id",
        (first, last),
    ).fetchall()
    if not rows:
        return Loaded((), (), 0, [()] * keys, ())
    ids, ts, sizes, *found = zip(*rows, strict=True)
    taken: list[Sequence[Value]] = []
    several = []
    for key, column in enumerate(found):
        if bytes in set(map(type, column)):
            lists = [tuple(json.loads(each)) if type(each) is bytes else each for each in column]
            several.append(key)
            taken.append(lists)
        else:
            taken.append(column)
    return Loaded(ids, ts, sum(sizes), taken, several)
