"""Runs of the SQLite index: how they are made of rows, moved together and dropped.

Each function is one transaction, or a step of a job whose every step leaves an index that gives
exact answers: entries are moved from run to run, and whoever reads looks into all runs. A job
that was cut off is found again by what is left to move. All of it is SQL, so that the rows are
sorted and written without the GIL.
"""

import json
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Final, NamedTuple

from zstream.backends.sqlite_index import DENSE, SLOTS, Rows, sealed_upto

#: So many runs of one level are merged into one of the next.
FAN: Final = 8
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
def _step(db: sqlite3.Connection) -> Iterator[None]:
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


# ---------------------------------------------------------------- sealing


def catch_up(db: sqlite3.Connection, rows: Rows, keys: int, size: int) -> int:
    """Seal the rows that stand in no run, run by run, but for the last, incomplete one.

    Args:
        db: As `sqlite_index.connect` makes it.
        rows: What the row file says of itself.
        keys: How many keys the store has.
        size: Rows of a run.

    Returns:
        The id up to which rows are sealed, or were trimmed.
    """
    retire(db, rows.floor)
    opening = rows.runs[-1][0]
    done = told = sealed_upto(db, rows.floor)
    while rows.last - done >= size:
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
    with _step(db):
        run = _next(db)
        args = {"first": span.first, "last": span.last, "ts": span.min_ts}
        if not span.ordered:
            _index_times(db, run, args)
        for key in range(keys):
            args["r"] = run * SLOTS + key + 1
            db.execute(_entries(key, key in span.several), args)
            _sum(db, args["r"])
        _note(db, run, span, opening, 0)


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


def _sum(db: sqlite3.Connection, r: int) -> None:
    db.execute(
        "INSERT OR REPLACE INTO sums SELECT r, v, count(*) FROM x WHERE r = ?"
        f" GROUP BY v HAVING count(*) >= {DENSE}",
        (r,),
    )


def _next(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(max(run), 0) + 1 FROM sealed").fetchone()[0])


def _note(db: sqlite3.Connection, run: int, span: Span, opening: int, level: int) -> None:
    db.execute(
        "INSERT INTO sealed (run, first, last, min_ts, max_ts, ordered, opening, level, target,"
        " several) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
        (run, *span[:4], int(span.ordered), opening, level, json.dumps(sorted(span.several))),
    )


# ---------------------------------------------------------------- merging


class Merge(NamedTuple):
    """A merge under way: the run that others are moved into, and those."""

    target: int
    span: Span
    sources: Sequence[tuple[int, Span]]


def unfinished(db: sqlite3.Connection) -> Merge | None:
    """The merge that was begun and is not over, if there is one."""
    row = db.execute("SELECT max(target) FROM sealed WHERE target > 0").fetchone()
    if not row[0]:
        return None
    ((_, span),) = _runs(db, "run = ?", row)
    return Merge(row[0], span, _runs(db, "target = ? AND level >= 0", row))


def count(db: sqlite3.Connection) -> int:
    """How many runs there are to look into."""
    return int(db.execute("SELECT count(*) FROM sealed WHERE level >= 0").fetchone()[0])


def _lowest_full(db: sqlite3.Connection) -> int | None:
    row = db.execute(
        "SELECT level FROM sealed WHERE level >= 0 AND target = 0 GROUP BY level"
        f" HAVING count(*) >= {FAN} ORDER BY level LIMIT 1"
    ).fetchone()
    return None if row is None else int(row[0])


def begin_merge(db: sqlite3.Connection) -> Merge | None:
    """Begin to merge the oldest runs of the lowest level that has enough of them."""
    level = _lowest_full(db)
    if level is None:
        return None
    sources = _runs(db, "level = ? AND target = 0", (level,))[:FAN]
    spans = [span for _, span in sources]
    together = Span(
        spans[0].first,
        spans[-1].last,
        min(span.min_ts for span in spans),
        max(span.max_ts for span in spans),
        all(span.ordered for span in spans)
        and all(a.max_ts <= b.min_ts for a, b in pairwise(spans)),
        frozenset().union(*(span.several for span in spans)),
    )
    with _step(db):
        target = _next(db)
        newest = db.execute("SELECT opening FROM sealed WHERE run = ?", (sources[-1][0],))
        _note(db, target, together, newest.fetchone()[0], level + 1)
        numbers = ",".join(str(run) for run, _ in sources)
        db.execute(f"UPDATE sealed SET target = ? WHERE run IN ({numbers})", (target,))
    return Merge(target, together, sources)


def move(db: sqlite3.Connection, merge: Merge, slot: int, entries: int) -> bool:
    """Move about so many entries a source of one slot; tell whether some are left."""
    with _step(db):
        bound = _bound(db, merge, slot, entries)
        parts, args = [], dict[str, Any](bound or {})
        for place, (run, span) in enumerate(merge.sources):
            args |= {
                f"r{place}": run * SLOTS + slot,
                f"ts{place}": span.min_ts - merge.span.min_ts,
                f"id{place}": span.first - merge.span.first,
                f"b{place}": args.get("ts", 0) - span.min_ts,
            }
            below = f" AND (v, ts) <= (:v, :b{place})" if bound else ""
            parts.append((place, f"x WHERE r = :r{place}{below}"))
        args["r"] = merge.target * SLOTS + slot
        moved = " UNION ALL ".join(
            f"SELECT :r, v, ts + :ts{place}, id + :id{place} FROM {rows}" for place, rows in parts
        )
        if parts:
            db.execute(f"INSERT INTO x {moved} ORDER BY 2, 3, 4", args)
        for place, rows in parts:
            db.execute(f"DELETE FROM {rows}", args)
            db.execute(f"DELETE FROM sums WHERE r = :r{place}", args)
        if bound is None and slot > 0:
            _sum(db, args["r"])
    return bound is not None


def _bound(db: sqlite3.Connection, merge: Merge, slot: int, entries: int) -> dict[str, Any] | None:
    """The value and the time up to which one step moves; None if it moves all that is left."""
    for run, span in merge.sources:
        row = db.execute(
            "SELECT v, ts FROM x WHERE r = ? ORDER BY v, ts, id LIMIT 1 OFFSET ?",
            (run * SLOTS + slot, entries),
        ).fetchone()
        if row is not None:
            return {"v": row[0], "ts": row[1] + span.min_ts}
    return None


def end_merge(db: sqlite3.Connection, merge: Merge) -> None:
    """Forget the sources, of which everything was moved."""
    with _step(db):
        if not merge.span.ordered:
            for _, span in merge.sources:
                if span.ordered:
                    _index_source_times(db, merge, span)
        db.execute("DELETE FROM sealed WHERE target = ? AND level >= 0", (merge.target,))
        db.execute("UPDATE sealed SET target = 0 WHERE target = ?", (merge.target,))


def _index_source_times(db: sqlite3.Connection, merge: Merge, span: Span) -> None:
    """Its rows were in the order of time, those of the whole are not."""
    db.execute(
        "INSERT OR IGNORE INTO x SELECT ?, '', ts - ?, id - ? FROM events"
        " WHERE id BETWEEN ? AND ? ORDER BY 3, 4",
        (merge.target * SLOTS, merge.span.min_ts, merge.span.first, span.first, span.last),
    )


def _runs(db: sqlite3.Connection, where: str, args: Sequence[Any]) -> list[tuple[int, Span]]:
    rows = db.execute(
        "SELECT run, first, last, min_ts, max_ts, ordered, several FROM sealed"
        f" WHERE {where} ORDER BY first",
        args,
    ).fetchall()
    return [
        (run, Span(first, last, low, high, bool(ordered), frozenset(json.loads(several))))
        for run, first, last, low, high, ordered, several in rows
    ]


# ---------------------------------------------------------------- dropping


def retire(db: sqlite3.Connection, floor: int) -> bool:
    """Take the runs that were trimmed whole out of the list; tell whether there are any."""
    dead = "last <= ? AND level >= 0"
    if db.execute(f"SELECT 1 FROM sealed WHERE {dead} LIMIT 1", (floor,)).fetchone() is None:
        return False
    with _step(db):
        db.execute(f"UPDATE sealed SET level = -1 WHERE {dead}", (floor,))
    return True


def drop(db: sqlite3.Connection, entries: int) -> bool:
    """Delete some entries of runs that were retired; tell whether there was something to do."""
    row = db.execute("SELECT run FROM sealed WHERE level < 0 ORDER BY run LIMIT 1").fetchone()
    if row is None:
        return False
    low, high = row[0] * SLOTS, row[0] * SLOTS + SLOTS - 1
    bound = db.execute(
        "SELECT r, v, ts, id FROM x WHERE r BETWEEN ? AND ? ORDER BY r, v, ts, id LIMIT 1 OFFSET ?",
        (low, high, entries),
    ).fetchone()
    with _step(db):
        if bound is not None:
            db.execute(
                "DELETE FROM x WHERE r >= ? AND (r, v, ts, id) < (?, ?, ?, ?)", (low, *bound)
            )
        else:
            db.execute("DELETE FROM x WHERE r BETWEEN ? AND ?", (low, high))
            db.execute("DELETE FROM sums WHERE r BETWEEN ? AND ?", (low, high))
            db.execute("DELETE FROM sealed WHERE run = ?", row)
    return True
