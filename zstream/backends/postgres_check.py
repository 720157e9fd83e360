"""All of a PostgreSQL store read and compared with itself: rows, what is known of them, indexes."""

from collections.abc import Iterator
from typing import Any, Final

from zstream.backends import postgres_parts as parts
from zstream.backends.postgres_link import Connection
from zstream.backends.postgres_parts import Part, Sealed
from zstream.backends.upkeep import Progress

#: Read the rows themselves, or nothing but an index.
_BY_ROWS: Final = (
    "SET enable_seqscan = on; SET enable_indexscan = off; SET enable_indexonlyscan = off;"
    " SET enable_bitmapscan = off"
)
_BY_INDEX: Final = (
    "SET enable_seqscan = off; SET enable_indexscan = on; SET enable_indexonlyscan = on;"
    " SET enable_bitmapscan = off"
)


def check(db: Connection, keys: int, progress: Progress) -> list[str]:
    """Check a store that no daemon has open.

    Args:
        db: A connection to it.
        keys: How many keys it has.
        progress: See `Progress`.

    Returns:
        What is wrong, a sentence each.
    """
    heads = db.execute("SELECT last, floor FROM head").fetchall()
    if len(heads) != 1:
        return ["the table head has not its one row"]
    [(last, floor)] = heads
    wrong = [text for text, sql in _facts(last) if _row(db, sql)[0]]
    if floor > last:
        wrong.append(f"the floor, {floor}, is above the last id, {last}")
    open_parts, sealed = parts.load(db)
    known = {each.run.first: each for each in sealed}
    everything = sorted([*open_parts, *(Part(each.run.first, each.run.last) for each in sealed)])
    wrong += _gaps(everything, floor, last)
    for number, part in enumerate(everything):
        progress("checking partitions", number, len(everything))
        wrong += _rows(db, part, floor, last)
        if part.first in known and part.last > floor:
            wrong += _indexes(db, known[part.first], keys, floor)
    progress("checking partitions", len(everything), len(everything))
    return wrong


def _facts(last: int) -> Iterator[tuple[str, str]]:
    """What must not be, as a sentence and a statement that finds it."""
    yield "a run is listed twice", "SELECT count(*) > count(DISTINCT run) FROM runs"
    yield (
        "the runs of the store do not follow each other",
        "SELECT count(*) FROM (SELECT began_after, lag(began_after, 1, 0::int8) OVER (ORDER BY n)"
        f" AS earlier FROM runs) r WHERE began_after < earlier OR began_after > {last}",
    )
    yield (
        "the marks of arrival do not follow each other",
        "SELECT count(*) FROM (SELECT id, lag(id, 1, 0::int8) OVER (ORDER BY arrival)"
        f" AS earlier FROM marks) m WHERE id < earlier OR id > {last}",
    )


def _gaps(everything: list[Part], floor: int, last: int) -> Iterator[str]:
    end = floor
    for part in everything:
        if part.first > end + 1:
            yield f"there is no partition for the ids from {end + 1} to {part.first - 1}"
        end = max(end, part.last)
    if end < last:
        yield f"there is no partition for the ids from {end + 1} to {last}"


def _rows(db: Connection, part: Part, floor: int, last: int) -> Iterator[str]:
    low, high = max(part.first, floor + 1), min(part.last, last)
    expected = max(high - low + 1, 0)
    count = f"SELECT count(*) FROM events_{part.first} WHERE id"
    found = _by(db, _BY_ROWS, f"{count} BETWEEN {low} AND {high}")[0]
    if found != expected:
        yield f"of the events from {low} to {high} there are {found}, not {expected}"
    elif _by(db, _BY_INDEX, f"{count} BETWEEN {low} AND {high}")[0] != found:
        yield f"the index of ids of events_{part.first} does not fit its rows"
    if _by(db, _BY_ROWS, f"{count} > {last}")[0]:
        yield f"events_{part.first} has events above the last id, {last}"


def _indexes(db: Connection, sealed: Sealed, keys: int, floor: int) -> Iterator[str]:
    run, table = sealed.run, f"events_{sealed.run.first}"
    low, high = _by(db, _BY_ROWS, f"SELECT min(ts), max(ts) FROM {table} WHERE id > {floor}")
    if low is not None and (low < run.min_ts or high > run.max_ts):
        yield f"{table} has events outside the times that are noted of it"
    times = f"SELECT count(*), sum(hashint8extended(ts, id)::numeric) FROM {table} WHERE ts >= 0"
    if _by(db, _BY_ROWS, times) != _by(db, _BY_INDEX, times):
        yield f"the index of times of {table} does not fit its rows"
    for key in range(keys):
        rows = f"{table} WHERE k{key} IS NOT NULL"
        values = f"SELECT k{key} AS v, ts, id FROM {rows}"
        if key in run.several:
            entries = parts.entries(table, [key])
            if _by(db, _BY_ROWS, _sum(entries)) != _by(
                db, _BY_ROWS, _sum(f"SELECT v, ts, id FROM lists_{run.first} WHERE k = {key}")
            ):
                yield f"lists_{run.first} does not fit the rows of {table}"
            values = f"SELECT v, ts, id FROM lists_{run.first} WHERE k = {key}"
        if _by(db, _BY_ROWS, _sum(values)) != _by(db, _BY_INDEX, _sum(values)):
            yield f"the index of the key {key} of {table} does not fit its rows"
        if run.first > floor and key in sealed.sums:
            found = parts.sums(db, run.first, key, key in run.several)
            if found != sealed.sums[key]:
                yield f"the sums of the key {key} of {table} are not those of its rows"


def _sum(entries: str) -> str:
    """A number that entries in another order have, too, and others hardly."""
    return f"SELECT count(*), sum(hashtextextended(v, id # ts)::numeric) FROM ({entries}) x"


def _by(db: Connection, how: str, statement: str) -> tuple[Any, ...]:
    db.execute(how)
    return _row(db, statement)


def _row(db: Connection, statement: str) -> tuple[Any, ...]:
    row = db.execute(statement).fetchone()
    assert row is not None  # each of them is an aggregate, or of a table with one row
    return row
