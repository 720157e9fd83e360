"""How rows of sealed runs are found: SQL texts, each giving one row of lists.

Texts are made once for a shape of query. What differs from run to run stands in parameters
with the run's place behind their name: ``:r`` (see `zstream.backends.sqlite_index`), ``:t`` and
``:d`` (its lowest time and id, from which the index counts), ``:T`` and ``:I`` (only what is
older than this place), ``:s`` (not before this time), ``:f`` and ``:h`` (ids above the one and up
to the other), these five counted from there too. ``:v0 …`` are a key's wanted values one by one,
``:jN`` those of key N as a JSON array.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from zstream.backends.base import Position
from zstream.backends.slices import Run
from zstream.backends.sqlite_index import SLOTS

#: So many (run, value) pairs are looked up one by one in one statement.
MERGED: Final = 64

#: What `bounds` gives, in its order.
_NAMES: Final = ("r", "low_ts", "low_id", "top_ts", "top_id", "since", "floor", "head")
_LISTS: Final = "SELECT group_concat(ts), group_concat(id)"


def bounds(
    place: int, run: Run, slot: int, top: Position, since: int, ids: tuple[int, int]
) -> dict[str, int]:
    """The parameters of one run.

    Args:
        place: What stands behind their names.
        run: The run.
        slot: What to look for in it: 0, or 1 + the position of a key.
        top: Only what is older.
        since: Not before this time.
        ids: Only ids above the first and up to the second.
    """
    return {
        f"r{place}": run.number * SLOTS + slot,
        f"t{place}": run.min_ts,
        f"d{place}": run.first,
        f"T{place}": top.ts - run.min_ts,
        f"I{place}": top.id - run.first,
        f"s{place}": since - run.min_ts,
        f"f{place}": ids[0] - run.first,
        f"h{place}": ids[1] - run.first,
    }


def rounded(count: int) -> int:
    """Up to a power of two, so that few statements are ever compiled."""
    return 1 << (count - 1).bit_length()


def _entries(place: int, value: int | str) -> str:
    return (
        f"SELECT ts, id FROM x WHERE r = :r{place} AND v = :v{value}"
        f" AND (ts, id) < (:T{place}, :I{place}) AND ts >= :s{place}"
    )


@lru_cache
def few(runs: int, values: int) -> str:
    """The newest ``:want`` rows of a few values in a few runs; what is too many is NULL."""
    parts = " UNION ALL ".join(
        f"SELECT ts + :t{place} AS ts, id + :d{place} AS id FROM ({_entries(place, value)}"
        f" AND id > :f{place} AND id <= :h{place} ORDER BY ts DESC, id DESC LIMIT :want)"
        for place in range(runs)
        for value in range(values)
    )
    return (
        f"{_LISTS} FROM (SELECT DISTINCT ts, id FROM ({parts})"
        " ORDER BY ts DESC, id DESC LIMIT :want)"
    )


@lru_cache
def tested(values: int, rest: tuple[int, ...], by_id: bool) -> str:
    """The newest rows of a few values in one run that pass a test, among ``:budget`` looked at.

    Also gives how many were looked at, and the last of them. With ``by_id`` all of them are
    tested, by rising id: it is the better way if they are neighbours in the row table.
    """
    parts = " UNION ".join(_entries(0, value) for value in range(values))
    candidates = f"SELECT ts, id FROM ({parts}) ORDER BY ts DESC, id DESC LIMIT :budget"
    if values == 1:
        candidates = f"{parts} ORDER BY ts DESC, id DESC LIMIT :budget"
    last = "(SELECT %s + :%s0 FROM c ORDER BY ts, c.id LIMIT 1)"
    source = "(SELECT ts, id FROM c ORDER BY c.id LIMIT -1) c" if by_id else "c"
    join = " CROSS JOIN events e ON e.id = c.id + :d0" if rest else ""
    return (
        f"WITH c AS ({candidates}) {_LISTS}, (SELECT count(*) FROM c), {last % ('ts', 't')},"
        f" {last % ('id', 'd')}"
        f" FROM (SELECT c.ts + :t0 AS ts, c.id + :d0 AS id FROM {source}{join}"
        f" WHERE c.id > :f0 AND c.id <= :h0{tests(rest)}"
        " ORDER BY c.ts DESC, c.id DESC LIMIT :want)"
    )


@lru_cache
def gathered(key: int, rest: tuple[int, ...]) -> str:
    """The newest ``:want`` rows of any number of values in some runs, ``:runs``.

    All entries are looked up; of these the newest ``:budget`` are tested. Gives what `tested` does.
    """
    return (
        f"WITH c AS (SELECT DISTINCT ts, id FROM ({_entries_of_many(key)})"
        f" ORDER BY ts DESC, id DESC LIMIT :budget) {_LISTS}, (SELECT count(*) FROM c),"
        " (SELECT ts FROM c ORDER BY ts, c.id LIMIT 1),"
        " (SELECT id FROM c ORDER BY ts, c.id LIMIT 1)"
        f" FROM (SELECT c.ts AS ts, c.id AS id FROM c{_joined(rest)}"
        " ORDER BY c.ts DESC, c.id DESC LIMIT :want)"
    )


@lru_cache
def gathered_by_id(key: int, rest: tuple[int, ...]) -> str:
    """The same by rising id, the oldest ``:want``; only the ids, and how many were looked at."""
    return (
        f"WITH c AS (SELECT DISTINCT id FROM ({_entries_of_many(key)}) ORDER BY id LIMIT -1)"
        " SELECT group_concat(id), (SELECT count(*) FROM c)"
        f" FROM (SELECT c.id AS id FROM c{_joined(rest)} ORDER BY c.id LIMIT :want)"
    )


@lru_cache
def counted(key: int, rest: tuple[int, ...]) -> str:
    """How many rows have any of the values, each counted once."""
    return (
        f"SELECT count(*) FROM (SELECT DISTINCT id FROM ({_entries_of_many(key)})) c{_joined(rest)}"
    )


@lru_cache
def summed(key: int) -> str:
    """How many entries the values have in the runs ``:rs`` (see `estimated`), all of them."""
    entries = f"r = b.value + {key + 1} AND v = j.value"
    return (
        f"SELECT CAST(total(coalesce((SELECT n FROM sums WHERE {entries}),"
        f" (SELECT count(*) FROM x WHERE {entries}))) AS INTEGER)"
        f" FROM json_each(:rs) b CROSS JOIN json_each(:j{key}) j"
    )


#: How many entries one value of one run has between two times, with ids as everywhere.
COUNT_TIMES: Final = (
    "SELECT count(*) FROM x WHERE r = :r0 AND v = '' AND (ts, id) < (:T0, :I0) AND ts >= :s0"
    " AND id > :f0 AND id <= :h0"
)


def _joined(rest: tuple[int, ...]) -> str:
    """What tests candidates ``c``; without a test their rows need not be read."""
    return f" CROSS JOIN events e ON e.id = c.id WHERE 1{tests(rest)}" if rest else ""


def _entries_of_many(key: int) -> str:
    """(ts, id) of the entries of any number of values in the runs ``:runs``."""
    columns = ", ".join(
        f"json_extract(value, '$[{place}]') AS {name}_" for place, name in enumerate(_NAMES)
    )
    return (
        "SELECT x.ts + b.low_ts_ AS ts, x.id + b.low_id_ AS id"
        f" FROM (SELECT {columns} FROM json_each(:runs) LIMIT -1) b"
        f" CROSS JOIN (SELECT value FROM json_each(:j{key}) ORDER BY value LIMIT -1) j"
        f" CROSS JOIN x ON x.r = b.r_ AND x.v = j.value"
        " WHERE (x.ts, x.id) < (b.top_ts_, b.top_id_) AND x.ts >= b.since_"
        f" AND x.id > b.floor_ AND x.id <= b.head_"
    )


@lru_cache
def scanned(rest: tuple[int, ...]) -> str:
    """The newest ``:want`` rows from the id ``:low`` to below ``:high`` that pass a test.

    Also gives the time of the row ``:low``.
    """
    return (
        f"{_LISTS}, (SELECT ts FROM events WHERE id = :low) FROM (SELECT ts, id FROM events e"
        f" WHERE e.id >= :low AND e.id < :high{tests(rest)} ORDER BY e.id DESC LIMIT :want)"
    )


@lru_cache
def scanned_by_id(rest: tuple[int, ...]) -> str:
    """The ids of the oldest ``:want`` rows above ``:after`` and up to ``:upto`` that pass."""
    return (
        "SELECT group_concat(id) FROM (SELECT e.id AS id FROM events e"
        f" WHERE e.id > :after AND e.id <= :upto{tests(rest)} ORDER BY e.id LIMIT :want)"
    )


#: The first id from ``:low`` to below ``:high`` whose row is not older than a place, by halving:
#: the rows rise by (ts, id). ``:high`` if there is none.
BISECT: Final = (
    "WITH RECURSIVE b(low, high) AS (SELECT :low, :high UNION ALL"
    " SELECT CASE WHEN (e.ts, e.id) < (:ts, :id) THEN e.id + 1 ELSE b.low END,"
    " CASE WHEN (e.ts, e.id) < (:ts, :id) THEN b.high ELSE e.id END"
    " FROM b CROSS JOIN events e ON e.id = (b.low + b.high) / 2 WHERE b.low < b.high)"
    " SELECT low FROM b WHERE low >= high"
)


def estimated(keys: Sequence[int]) -> str:
    """For each run of ``:rs`` (the numbers times SLOTS) and each key: rows of its dense values."""
    sums = ", ".join(
        f"(SELECT total(n) FROM json_each(:j{key}) j CROSS JOIN sums"
        f" ON sums.r = b.value + {key + 1} AND sums.v = j.value)"
        for key in keys
    )
    return f"SELECT json_group_array(json_array({sums})) FROM json_each(:rs) b"


def tests(keys: Sequence[int]) -> str:
    """The conditions that a row of ``events e`` meets if it has the wanted values."""
    return "".join(
        f" AND CASE typeof(e.k{key})"
        f" WHEN 'text' THEN e.k{key} IN (SELECT value FROM json_each(:j{key}))"
        f" WHEN 'blob' THEN EXISTS (SELECT 1 FROM json_each(CAST(e.k{key} AS TEXT)) l"
        f" WHERE l.value IN (SELECT value FROM json_each(:j{key}))) ELSE 0 END"
        for key in keys
    )


def places(row: Sequence[Any]) -> list[Position]:
    """Positions from the two lists that every text gives first."""
    if row[0] is None:
        return []
    times, ids = (map(int, text.split(b",")) for text in row[:2])
    return [Position(ts, id) for ts, id in zip(times, ids, strict=True)]
