"""The index of the SQLite store: a second file, derived from the rows and never missed.

It stands beside the row file under the same name and ``-index``. Rows are indexed a run at a
time (`zstream.backends.sqlite_runs`); what is not in a run yet is indexed in memory. Whatever is
wrong with the file at opening (missing, of another store, of a later life of this one, torn), it
is thrown away and made anew from the rows.

``x(r, v, ts, id)`` holds an entry for each value of each row of a run. ``r`` is the number of
the run times `SLOTS` plus the slot: 0 for an entry a row by time, of runs whose rows are not in
the order of time; k + 1 for the key k. ``ts`` and ``id`` count from the run's lowest, which
saves a fifth of the file.
"""

import json
import logging
import os
import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import Column, Integer, MetaData, Table, Text
from sqlalchemy.dialects import sqlite as dialect
from sqlalchemy.schema import CreateTable

from zstream.backends import sqlite_file
from zstream.backends.slices import Run

#: Of this file's tables; another one's are made anew.
SCHEMA: Final = 1
#: "zstx", in the header of the file.
APPLICATION_ID: Final = 0x7A737478
#: So many numbers ``r`` a run has: more than a store has keys.
SLOTS: Final = 128
#: A value that fewer rows of a run have is counted when it is asked for.
DENSE: Final = 64

_log = logging.getLogger(__name__)


class Rows(NamedTuple):
    """What the row file says of itself, by which its index is known.

    Attributes:
        store: Its identity.
        keys: Its keys.
        runs: Its openings and the last id that each may have given, as in `Head.runs`.
        last, floor: As in `Head`.
    """

    store: str
    keys: tuple[str, ...]
    runs: Sequence[tuple[int, int]]
    last: int
    floor: int


def path_of(path: str) -> str:
    """The index file of a row file."""
    return f"{os.path.realpath(path)}-index"


def remove(path: str) -> None:
    """Remove the index of a row file that nobody has open."""
    for suffix in ("", "-wal", "-shm"):
        try:
            os.unlink(path_of(path) + suffix)
        except FileNotFoundError:
            continue


def connect(path: str, busy_s: float) -> sqlite3.Connection:
    """Connect to a row file's index to write to it, with the rows attached."""
    db = sqlite_file.connect(path_of(path), "rwc", busy_s)
    try:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        # What a power cut takes is indexed again; the file is whole all the same.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA cache_size = -16384")
        db.execute(f"PRAGMA wal_autocheckpoint = {sqlite_file.CHECKPOINT_PAGES}")
        db.execute("ATTACH ? AS rows", (sqlite_file.uri(path, "rw"),))
    except BaseException:
        db.close()
        raise
    return db


def open_index(path: str, rows: Rows, busy_s: float) -> sqlite3.Connection:
    """Open the index of a row file, or begin a new one if it is not this file's.

    Args:
        path: The row file.
        rows: What it says of itself.
        busy_s: How long to wait for another program's transaction, in seconds.
    """
    existed = os.path.exists(path_of(path))
    why = "it is missing"
    if existed:
        db = None
        try:
            db = connect(path, busy_s)
            why = mismatch(db, rows)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in sqlite_file.DAMAGED:
                raise
            why = f"it is damaged ({error})"
        if db is not None:
            if not why:
                return db
            db.close()
    if rows.last > rows.floor:
        _log.warning("%s: the index is made anew from the rows: %s", path, why)
    remove(path)
    db = connect(path, busy_s)
    _create(db, rows)
    return db


def _create(db: sqlite3.Connection, rows: Rows) -> None:
    meta = MetaData()
    entries = Table(
        "x",
        meta,
        *(
            Column(name, Text if name == "v" else Integer, primary_key=True, autoincrement=False)
            for name in ("r", "v", "ts", "id")
        ),
        sqlite_with_rowid=False,
    )
    numbers = ("first", "last", "min_ts", "max_ts", "ordered", "opening", "level", "target")
    runs = Table(
        "sealed", meta, Column("run", Integer, primary_key=True),
        *(Column(name, Integer, nullable=False) for name in numbers),
        Column("several", Text, nullable=False),
    )  # fmt: skip
    sums = Table(
        "sums", meta, Column("r", Integer, primary_key=True, autoincrement=False),
        Column("v", Text, primary_key=True), Column("n", Integer, nullable=False),
        sqlite_with_rowid=False,
    )  # fmt: skip
    state = Table(
        "state", meta, Column("version", Integer, nullable=False),
        Column("store", Text, nullable=False), Column("keys", Text, nullable=False),
    )  # fmt: skip
    db.execute("BEGIN IMMEDIATE")
    for table in (entries, runs, sums, state):
        db.execute(str(CreateTable(table).compile(dialect=dialect.dialect())))
    db.execute("INSERT INTO state VALUES (1, ?, ?)", (rows.store, json.dumps(rows.keys)))
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {SCHEMA}")
    db.execute("COMMIT")


def mismatch(db: sqlite3.Connection, rows: Rows) -> str:
    """Why this is not the index of these rows; empty if it is."""
    if _number(db, "PRAGMA application_id") != APPLICATION_ID:
        return "it is no index"
    if _number(db, "PRAGMA user_version") != SCHEMA:
        return "it has another schema"
    store, keys = db.execute("SELECT store, keys FROM state").fetchone()
    if store != rows.store:
        return "it is another store's"
    if json.loads(keys) != list(rows.keys):
        return "it has other keys"
    ends = dict(rows.runs)
    found = db.execute("SELECT first, last, opening FROM sealed WHERE level >= 0").fetchall()
    if any(opening not in ends or last > ends[opening] for _, last, opening in found):
        # A row file that was put back from a copy; its ids were given anew since.
        return "it knows rows of a life of the store that was lost"
    upto = rows.floor
    for first, last, _ in sorted(found):
        if first > upto + 1:
            return "it lacks rows"
        upto = max(upto, last)
    return "" if upto <= rows.last else "it knows rows that are not there"


def sealed_upto(db: sqlite3.Connection, floor: int) -> int:
    """The id up to which rows stand in runs, or were trimmed."""
    return max(floor, _number(db, "SELECT coalesce(max(last), 0) FROM sealed WHERE level >= 0"))


def runs_in(text: bytes | str) -> tuple[Run, ...]:
    """Runs from what `RUNS` selects."""
    return tuple(
        Run(number, first, last, low, high, bool(ordered), frozenset(json.loads(several)))
        for number, first, last, low, high, ordered, several in json.loads(text)
    )


#: The runs that can be looked into, as JSON, in a subquery.
RUNS: Final = (
    "(SELECT json_group_array(json_array(run, first, last, min_ts, max_ts, ordered, several))"
    " FROM sealed WHERE level >= 0)"
)


def _number(db: sqlite3.Connection, sql: str) -> int:
    return int(db.execute(sql).fetchone()[0])
