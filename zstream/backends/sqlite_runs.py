"""Runs of the SQLite index: how they are made of rows.

All of it is SQL, so that the rows are sorted and written without the GIL.
"""

import json
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from zstream.backends.sqlite_index import DENSE, SLOTS, Rows, sealed_upto
from zstream.errors import BackendUnavailable

#: How often a long rebuild says how far it is, in rows.
_TELL_ROWS: Final = 2_000_000

_log = logging.getLogger(__name__)


class Span(NamedTuple):
    """Rows that become a run; see `zstream.backends.slices.Run`."""

    first: int
    last: int
    min_ts: int
    max_ts: int
    ordered: bool
    several: frozenset[int]


@contextmanager
def step(db: sqlite3.Connection) -> Iterator[None]:
    """A transaction after which readers look at the list of runs again."""
    if db.in_transaction:  # a roll-back failed before
        db.execute("ROLLBACK")
    db.execute("BEGIN")  # IMMEDIATE would lock the attached rows as well
    try:
        yield
        db.execute("UPDATE state SET version = version + 1")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def version(db: sqlite3.Connection) -> int:
    """The number of the last change."""
    return int(db.execute("SELECT version FROM state").fetchone()[0])


def count(db: sqlite3.Connection) -> int:
    """How many runs there are to look into."""
    return int(db.execute("SELECT count(*) FROM sealed WHERE level >= 0").fetchone()[0])


def catch_up(db: sqlite3.Connection, rows: Rows, keys: int, size: int, most: int) -> int:
    """Seal the rows that stand in no run, run by run, until few enough are left.

    Args:
        db: As `sqlite_index.connect` makes it.
        rows: What the row file says of itself.
        keys: How many keys the store has.
        size: Rows of a run.
        most: So many rows may be left.

    Returns:
        The id up to which rows are sealed, or were trimmed.
    """
    retire(db, rows.floor)
    opening = rows.runs[-1][0]
    done = told = sealed_upto(db, rows.floor)
    while rows.last - done > most:
        seal(db, describe(db, done + 1, done + size, keys), opening, keys)
        done += size
        if done - told >= _TELL_ROWS:
            told = done
            _log.warning("indexing the rows: %d of %d are done", done, rows.last)
    return done


def describe(db: sqlite3.Connection, first: int, last: int, keys: int) -> Span:
    """Look at rows of which nothing is known but their ids."""
    rows = "events WHERE id BETWEEN ? AND ?"
    lists = "".join(f", max(typeof(k{key}) = 'blob')" for key in range(keys))
    low, high, *several = db.execute(
        f"SELECT min(ts), max(ts){lists} FROM {rows}", (first, last)
    ).fetchone()
    late = db.execute(
        f"SELECT 1 FROM (SELECT ts, lag(ts) OVER (ORDER BY id) AS before FROM {rows})"
        " WHERE ts < before LIMIT 1",
        (first, last),
    ).fetchone()
    listed = frozenset(key for key, found in enumerate(several) if found)
    return Span(first, last, low or 0, high or 0, late is None, listed)


def seal(db: sqlite3.Connection, span: Span, opening: int, keys: int) -> None:
    """Index rows as a new run.

    Args:
        db: As `sqlite_index.connect` makes it.
        span: The rows.
        opening: The run of the store, in the sense of `Head`, that this happens in.
        keys: How many keys the store has.
    """
    with step(db):
        if db.execute("SELECT last FROM head").fetchone()[0] < span.last:
            raise BackendUnavailable(f"the rows up to {span.last} are not to be seen yet")
        run = next_run(db)
        args = {"first": span.first, "last": span.last, "ts": span.min_ts}
        if not span.ordered:
            _index_times(db, run, args)
        for key in range(keys):
            args["r"] = run * SLOTS + key + 1
            db.execute(_entries(key, key in span.several), args)
            note_sums(db, args["r"])
        enlist(db, run, span, opening, 0)


def _index_times(db: sqlite3.Connection, run: int, args: dict[str, int]) -> None:
    db.execute(
        "INSERT OR IGNORE INTO x SELECT :r, '', ts - :ts, id - :first FROM events"
        " WHERE id BETWEEN :first AND :last ORDER BY 3, 4",
        args | {"r": run * SLOTS},
    )


def _entries(key: int, several: bool) -> str:
    rows = "events e WHERE e.id BETWEEN :first AND :last"
    plain = (
        f"SELECT :r, e.k{key}, e.ts - :ts, e.id - :first FROM {rows} AND typeof(e.k{key}) = 'text'"
    )
    if several:
        listed = rows.replace(
            "events e", f"events e CROSS JOIN json_each(CAST(e.k{key} AS TEXT)) j"
        )
        plain += (
            f" UNION ALL SELECT :r, j.value, e.ts - :ts, e.id - :first FROM {listed}"
            f" AND typeof(e.k{key}) = 'blob'"
        )
    # In the order of the index, so that each of its pages is written once.
    return f"INSERT INTO x {plain} ORDER BY 2, 3, 4"


def note_sums(db: sqlite3.Connection, r: int) -> None:
    """Note how many entries each dense value of one key of a run has."""
    db.execute(
        "INSERT OR REPLACE INTO sums SELECT r, v, count(*) FROM x WHERE r = ?"
        f" GROUP BY v HAVING count(*) >= {DENSE}",
        (r,),
    )


def next_run(db: sqlite3.Connection) -> int:
    """A number for a new run, above all others."""
    return int(db.execute("SELECT coalesce(max(run), 0) + 1 FROM sealed").fetchone()[0])


def enlist(db: sqlite3.Connection, run: int, span: Span, opening: int, level: int) -> None:
    """Put a run on the list; its level says how often it was merged."""
    db.execute(
        "INSERT INTO sealed (run, first, last, min_ts, max_ts, ordered, opening, level, target,"
        " several) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
        (run, *span[:4], int(span.ordered), opening, level, json.dumps(sorted(span.several))),
    )


def retire(db: sqlite3.Connection, floor: int) -> bool:
    """Take the runs that were trimmed whole out of the list; tell whether there are any."""
    dead = "last <= ? AND level >= 0"
    if db.execute(f"SELECT 1 FROM sealed WHERE {dead} LIMIT 1", (floor,)).fetchone() is None:
        return False
    with step(db):
        db.execute(f"UPDATE sealed SET level = -1 WHERE {dead}", (floor,))
    return True
