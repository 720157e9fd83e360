"""Runs of the SQLite index: how they are merged, and dropped.

Each function is a step of a job, one transaction, and after every step the index gives exact
answers. A merge grows beside its sources, unseen, and takes their place in one step: if entries
were moved, one key's would stand in the one and another key's in the other, and who asks for both
would find neither. What it has of a slot tells how far a merge that was cut off has come. Levels
below zero are not seen: -1 is to be dropped, -1 - L is a run of level L in the making.
"""

import json
import sqlite3
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from zstream.backends.sqlite_index import SLOTS
from zstream.backends.sqlite_runs import Span, enlist, next_run, note_sums, step

#: So many runs of one level are merged into one of the next.
FAN: Final = 8
#: One page in so many may stand free.
SPARE: Final = 32


class Merge(NamedTuple):
    """A merge under way: the run that others are copied into, and those."""

    target: int
    span: Span
    sources: Sequence[tuple[int, Span]]


def unfinished(db: sqlite3.Connection) -> Merge | None:
    """The merge that was begun and is not over, if there is one."""
    row = db.execute("SELECT run FROM sealed WHERE level < -1").fetchone()
    if row is None:
        return None
    ((_, span),) = _runs(db, "run = ?", row)
    return Merge(row[0], span, _runs(db, "target = ? AND level >= 0", row))


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
    with step(db):
        target = next_run(db)
        newest = db.execute("SELECT opening FROM sealed WHERE run = ?", (sources[-1][0],))
        enlist(db, target, together, newest.fetchone()[0], -2 - level)
        numbers = ",".join(str(run) for run, _ in sources)
        db.execute(f"UPDATE sealed SET target = ? WHERE run IN ({numbers})", (target,))
    return Merge(target, together, sources)


def move(db: sqlite3.Connection, merge: Merge, slot: int, entries: int) -> bool:
    """Take over about so many more entries a source of one slot; tell whether some are left."""
    r = merge.target * SLOTS + slot
    with step(db):
        # Nothing at first; a step takes all entries of the last value and time that it takes.
        done = db.execute(
            "SELECT v, ts FROM x WHERE r = ? ORDER BY v DESC, ts DESC LIMIT 1", (r,)
        ).fetchone() or ("", -1)
        after = (done[0], done[1] + merge.span.min_ts)
        bound = _bound(db, merge, slot, after, entries)
        parts, args = [], dict[str, Any](r=r, v=after[0], w=bound and bound[0])
        for place, (run, span) in enumerate(merge.sources):
            args |= {
                f"r{place}": run * SLOTS + slot,
                f"ts{place}": span.min_ts - merge.span.min_ts,
                f"id{place}": span.first - merge.span.first,
                f"a{place}": after[1] - span.min_ts,
                f"b{place}": bound and bound[1] - span.min_ts,
            }
            upto = f" AND (v, ts) <= (:w, :b{place})" if bound else ""
            parts.append(
                f"SELECT :r, v, ts + :ts{place}, id + :id{place} FROM x"
                f" WHERE r = :r{place} AND (v, ts) > (:v, :a{place}){upto}"
            )
        if parts:
            db.execute(f"INSERT INTO x {' UNION ALL '.join(parts)} ORDER BY 2, 3, 4", args)
        if bound is None and slot > 0:
            note_sums(db, r)
    return bound is not None


def _bound(
    db: sqlite3.Connection, merge: Merge, slot: int, after: tuple[str, int], entries: int
) -> tuple[str, int] | None:
    """The value and the time up to which one step copies; None if it copies all that is left."""
    for run, span in merge.sources:
        row = db.execute(
            "SELECT v, ts FROM x WHERE r = ? AND (v, ts) > (?, ?) ORDER BY v, ts, id"
            " LIMIT 1 OFFSET ?",
            (run * SLOTS + slot, after[0], after[1] - span.min_ts, entries),
        ).fetchone()
        if row is not None:
            return row[0], row[1] + span.min_ts
    return None


def end_merge(db: sqlite3.Connection, merge: Merge) -> None:
    """Put the run in the place of its sources, of which everything was copied."""
    with step(db):
        if not merge.span.ordered:
            for _, span in merge.sources:
                if span.ordered:
                    _index_source_times(db, merge, span)
        db.execute("UPDATE sealed SET level = -1, target = 0 WHERE target = ?", (merge.target,))
        db.execute("UPDATE sealed SET level = -1 - level WHERE run = ?", (merge.target,))


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


def drop(db: sqlite3.Connection, entries: int) -> bool:
    """Delete some entries of runs that are to go; tell whether there was something to do."""
    row = db.execute("SELECT run FROM sealed WHERE level = -1 ORDER BY run LIMIT 1").fetchone()
    if row is None:
        return False
    low, high = row[0] * SLOTS, row[0] * SLOTS + SLOTS - 1
    bound = db.execute(
        "SELECT r, v, ts, id FROM x WHERE r BETWEEN ? AND ? ORDER BY r, v, ts, id LIMIT 1 OFFSET ?",
        (low, high, entries),
    ).fetchone()
    with step(db):
        if bound is not None:
            db.execute(
                "DELETE FROM x WHERE r >= ? AND (r, v, ts, id) < (?, ?, ?, ?)", (low, *bound)
            )
        else:
            db.execute("DELETE FROM x WHERE r BETWEEN ? AND ?", (low, high))
            db.execute("DELETE FROM sums WHERE r BETWEEN ? AND ?", (low, high))
            db.execute("DELETE FROM sealed WHERE run = ?", row)
    return True


def shrink(db: sqlite3.Connection, pages: int) -> bool:
    """Give so many free pages back to the file system, if many are free; tell whether it did.

    Some are left, because the next runs need them.
    """
    (all,) = db.execute("PRAGMA page_count").fetchone()
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    if free * SPARE <= all:
        return False
    # As a script: it gives rows without columns, and `execute` would end with the first of them.
    db.executescript(f"PRAGMA incremental_vacuum({pages})")
    return bool(db.execute("PRAGMA freelist_count").fetchone()[0] < free)
