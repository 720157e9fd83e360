"""All of a SQLite store read and compared with itself: rows, what is known of them, the index."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Final, NamedTuple

from zstream.backends.sqlite_index import DENSE, SLOTS
from zstream.backends.sqlite_runs import Span, describe
from zstream.backends.upkeep import Progress
from zstream.errors import ConfigError
from zstream.keys import check_keys

#: Rows that one statement reads.
_SLICE: Final = 50_000
#: Sentences of one kind.
_MOST: Final = 5
#: Steps of SQLite's machine from one look for signals to the next.
_STEPS: Final = 100_000


@contextmanager
def interruptible(db: sqlite3.Connection) -> Iterator[None]:
    """Let Ctrl-C end a long statement, which Python alone would notice only behind it."""
    db.set_progress_handler(_look, _STEPS)
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from error
        raise
    finally:
        db.set_progress_handler(None, 0)


def _look() -> int:
    return 0  # a signal's handler runs in here, and what it raises stops the statement


# ---------------------------------------------------------------- rows


def check_rows(db: sqlite3.Connection, progress: Progress) -> list[str]:
    """Check the row file; sentences of what is wrong.

    Args:
        db: A connection to it.
        progress: See `Progress`.
    """
    progress("checking the file", 0, 1)
    wrong = [f"the file is damaged: {text}" for text in _integrity(db, "main")]
    if wrong:
        return wrong
    heads = db.execute("SELECT node, last, floor, arrival FROM head").fetchall()
    if len(heads) != 1 or any(type(value) is not int or value < 0 for value in heads[0]):
        return ["the table head has not its one row of four numbers"]
    _, last, floor, arrival = heads[0]
    if floor > last:
        wrong.append(f"the floor, {floor}, is above the last id, {last}")
    wrong += _check_keys(db)
    facts = _facts(last, arrival, _has_filters(db))
    wrong += [text for text, sql in facts if db.execute(sql).fetchone()[0]]
    wrong += _check_ids(db, floor, last, progress)
    return wrong


def _integrity(db: sqlite3.Connection, schema: str) -> list[str]:
    rows = db.execute(f"PRAGMA {schema}.integrity_check({_MOST})").fetchall()
    return [str(text) for (text,) in rows if text != "ok"]


def _has_filters(db: sqlite3.Connection) -> bool:
    """Whether the table is there: a store that only an older version has opened has none."""
    found = "SELECT count(*) FROM main.sqlite_master WHERE type = 'table' AND name = 'filters'"
    return bool(db.execute(found).fetchone()[0])


def _check_keys(db: sqlite3.Connection) -> list[str]:
    row = db.execute("SELECT value FROM meta WHERE name = 'keys'").fetchone()
    try:
        keys = check_keys(json.loads(row[0]))
    except (ConfigError, TypeError, ValueError) as error:
        return [f"the keys in the table meta cannot be read: {error}"]
    columns = [name for _, name, *_ in db.execute("PRAGMA main.table_info(events)")]
    wanted = ["id", "ts", *(f"k{place}" for place in range(len(keys))), "body"]
    if columns != wanted:
        return [f"the table events has the columns {','.join(columns)}, not {','.join(wanted)}"]
    return []


def _facts(last: int, arrival: int, has_filters: bool) -> Iterator[tuple[str, str]]:
    """What must not be, as a sentence and a statement that finds it."""
    numbers = "typeof(%s) <> 'integer' OR %s < 0"
    sixteen = "typeof(%s) <> 'blob' OR length(%s) <> 16"
    for table, columns in (
        ("runs", ("n", "run", "began_after")),
        ("marks", ("arrival", "id")),
        ("producers", ("epoch", "last", "refused", "seen")),
    ):
        any_bad = " OR ".join(numbers % (column, column) for column in columns)
        yield (
            f"the table {table} has what is no number",
            f"SELECT count(*) FROM {table} WHERE " + (any_bad),
        )
    yield (
        "the table producers has an id of other than 16 bytes, or refusals that are none",
        f"SELECT count(*) FROM producers WHERE {sixteen % ('id', 'id')}"
        " OR typeof(refusals) <> 'blob'",
    )
    if has_filters:
        yield (
            "the table filters has a name of other than 16 bytes, or what is no text or no number",
            f"SELECT count(*) FROM filters WHERE {sixteen % ('name', 'name')}"
            f" OR typeof(text) <> 'text' OR {numbers % ('seen', 'seen')}",
        )
    yield (
        "the runs of the store do not follow each other",
        "SELECT count(*) FROM (SELECT began_after, lag(began_after, 1, 0) OVER (ORDER BY n) AS"
        f" earlier FROM runs) WHERE began_after < earlier OR began_after > {last}",
    )
    yield "a run is listed twice", "SELECT count(*) > count(DISTINCT run) FROM runs"
    yield (
        "the marks of arrival do not follow each other",
        "SELECT count(*) FROM (SELECT arrival, id, lag(id, 1, 0) OVER (ORDER BY arrival) AS"
        f" earlier FROM marks) WHERE id < earlier OR id > {last} OR arrival > {arrival}",
    )


def _check_ids(db: sqlite3.Connection, floor: int, last: int, progress: Progress) -> list[str]:
    wrong: list[str] = []
    for low in range(floor + 1, last + 1, _SLICE):
        progress("checking events", low - floor - 1, last - floor)
        high = min(low + _SLICE - 1, last)
        count, odd = db.execute(
            "SELECT count(*), coalesce(sum(typeof(ts) <> 'integer' OR ts NOT BETWEEN 0 AND"
            " 9007199254740991 OR typeof(body) <> 'blob'), 0)"
            " FROM events WHERE id BETWEEN ? AND ?",
            (low, high),
        ).fetchone()
        if count != high - low + 1:
            wrong.append(f"{high - low + 1 - count} events from {low} to {high} are missing")
        if odd:
            wrong.append(f"{odd} events from {low} to {high} have no time or no body")
        if len(wrong) >= _MOST:
            return wrong
    beyond = db.execute("SELECT count(*) FROM events WHERE id > ? OR id < 1", (last,)).fetchone()[0]
    if beyond:
        wrong.append(f"{beyond} events have ids above the last one, {last}, or below 1")
    return wrong


# ---------------------------------------------------------------- index


class _Run(NamedTuple):
    """A run that is looked into; one that others are being merged into is not yet."""

    run: int
    first: int
    last: int
    min_ts: int
    max_ts: int
    ordered: int
    several: str


def check_index(db: sqlite3.Connection, progress: Progress) -> list[str]:
    """Compare the index with the rows, entry by entry; sentences of what is wrong.

    That each row's entries are there, and that there are as many entries as rows have, makes the
    two equal; the memory that it takes does not grow with the store.

    Args:
        db: A connection to the index, with the row file attached as ``rows``.
        progress: See `Progress`.
    """
    progress("checking the index file", 0, 1)
    wrong = [f"the index is damaged: {text}" for text in _integrity(db, "main")]
    if wrong:
        return wrong
    floor, named = db.execute(
        "SELECT floor, (SELECT value FROM rows.meta WHERE name = 'keys') FROM rows.head"
    ).fetchone()
    columns = ", ".join(_Run._fields)
    found = db.execute(f"SELECT {columns} FROM sealed WHERE level >= 0 ORDER BY first").fetchall()
    runs, keys = [_Run(*row) for row in found], json.loads(named)
    for one, other in pairwise(runs):
        if other.first != one.last + 1:
            wrong.append(f"a run of the index ends at {one.last}, and one begins at {other.first}")
    for run in runs:
        wrong += _check_entries(db, run, max(run.first, floor + 1), keys, progress)
        if len(wrong) >= _MOST:
            break
    return wrong + _check_sums(db)


def _check_entries(
    db: sqlite3.Connection, run: _Run, start: int, keys: Sequence[str], progress: Progress
) -> list[str]:
    """Compare a run with its rows from the id ``start``; those before it were trimmed."""
    wrong: list[str] = []
    wanted = 0
    for low in range(start, run.last + 1, _SLICE):
        progress(f"comparing the index from {run.first}", low - start, run.last - start + 1)
        high = min(low + _SLICE - 1, run.last)
        where = f"of events {low} to {high}"
        for place, key in enumerate(keys):
            entries, missing = _compare(db, run, place, low, high)
            wanted += entries
            if missing:
                wrong.append(f"{missing} entries of key {key} are missing {where}")
        missing = 0 if run.ordered else _missing_times(db, run, low, high)
        if missing:
            wrong.append(f"{missing} entries by time are missing {where}")
        if not _fits(run, describe(db, low, high, len(keys))):
            wrong.append(f"the index has another range or order of times {where}, or other lists")
    (found,) = db.execute(
        "SELECT count(*) FROM x WHERE r BETWEEN ? AND ? AND id >= ?",
        (run.run * SLOTS + 1, run.run * SLOTS + SLOTS - 1, start - run.first),
    ).fetchone()
    if found != wanted:
        where = f"of events {start} to {run.last}"
        wrong.append(f"the index has {found} entries {where}, but the rows have {wanted}")
    return wrong


def _fits(run: _Run, span: Span) -> bool:
    """Whether what the index says of a run may be so, by some of its rows."""
    return (
        run.min_ts <= span.min_ts
        and span.max_ts <= run.max_ts
        and (span.ordered or not run.ordered)
        and span.several <= set(json.loads(run.several))
    )


def _compare(db: sqlite3.Connection, run: _Run, key: int, low: int, high: int) -> tuple[int, int]:
    """How many entries some rows have under a key, and how many of them the run has not."""
    rows = f"WHERE e.id BETWEEN :low AND :high AND typeof(e.k{key}) = "
    count, gone = db.execute(
        "SELECT count(*), coalesce(sum(NOT EXISTS (SELECT 1 FROM x WHERE x.r = :r AND x.v = w.v"
        " AND x.ts = w.ts - :ts AND x.id = w.id - :first)), 0) FROM ("
        f"SELECT e.k{key} AS v, e.ts AS ts, e.id AS id FROM rows.events e {rows}'text' UNION ALL"
        " SELECT j.value, e.ts, e.id FROM rows.events e"
        f" CROSS JOIN json_each(CAST(e.k{key} AS TEXT)) j {rows}'blob') w",
        {
            "r": run.run * SLOTS + key + 1, "ts": run.min_ts, "first": run.first,
            "low": low, "high": high,
        },
    ).fetchone()  # fmt: skip
    return count, gone


def _missing_times(db: sqlite3.Connection, run: _Run, low: int, high: int) -> int:
    (found,) = db.execute(
        "SELECT count(*) FROM rows.events e JOIN x ON x.r = ? AND x.v = '' AND x.ts = e.ts - ?"
        " AND x.id = e.id - ? WHERE e.id BETWEEN ? AND ?",
        (run.run * SLOTS, run.min_ts, run.first, low, high),
    ).fetchone()
    return high - low + 1 - int(found)


def _check_sums(db: sqlite3.Connection) -> list[str]:
    (wrong,) = db.execute(
        "SELECT count(*) FROM (SELECT r, v, count(*) AS n FROM x WHERE r % :slots > 0"
        " GROUP BY r, v) g LEFT JOIN sums s ON s.r = g.r AND s.v = g.v"
        f" WHERE ((s.n IS NULL AND g.n >= {DENSE}) OR s.n <> g.n)"
        " AND g.r / :slots IN (SELECT run FROM sealed WHERE level >= 0)",
        {"slots": SLOTS},
    ).fetchone()
    return [f"{wrong} sums of the index are not those of its entries"] if wrong else []
