"""Where the MySQL store finds candidates: SQL over its indexes.

An event's value of a key stands in ``events.kN``, with an index (kN, ts, id); what is a list
stands in ``lists`` (k, v, ts, id) instead. Whether any key has ever had a list is known, and what
never had one is not looked for there.
"""

from collections.abc import Sequence
from typing import Final

from zstream.backends.base import Position
from zstream.backends.mysql_rows import COLUMNS, literal, literals
from zstream.limits import MAX_INTEGER

#: Up to so many values of a key are sought one by one, each in the order of its index.
SOUGHT: Final = 64
#: Values of one range of more; beyond about 1,000 the server goes other ways, slower ones.
_RANGES: Final = 500
_ORDER: Final = "ORDER BY ts DESC, id DESC"
#: A place (ts, id) is one decimal number: this times ts, and id.
PLACE: Final = 10**16


def _older(table: str, where: str, place: Position, since: int, limit: int) -> list[str]:
    """Entries older than a place, each part in the order of the index.

    In two parts, because a comparison of (ts, id) would begin at the newest entry of that time,
    and a batch may have one time throughout.
    """
    select = f"SELECT ts, id FROM {table} WHERE {where}"
    # Each range that is bounded on two sides costs the optimizer a look into the index.
    times = [f"ts < {place.ts}"] * (place.ts <= MAX_INTEGER) + [f"ts >= {since}"] * (since > 0)
    parts = [f"{select}{' AND '.join(times) or 'TRUE'} {_ORDER} LIMIT {limit}"]
    if place.id > 0 and place.ts >= since:
        parts.append(f"{select}ts = {place.ts} AND id < {place.id} {_ORDER} LIMIT {limit}")
    return parts


def _merged(parts: Sequence[str], distinct: bool, limit: int) -> str:
    if len(parts) == 1:
        return parts[0]
    glue = " UNION " if distinct else " UNION ALL "
    return f"{glue.join(f'({part})' for part in parts)} {_ORDER} LIMIT {limit}"


def newest(place: Position, since: int, limit: int) -> str:
    """(ts, id) of all events older than a place, newest first."""
    return _merged(_older("events FORCE INDEX (by_ts)", "", place, since, limit), False, limit)


def newest_of(
    key: int, values: Sequence[str], lists: bool, place: Position, since: int, limit: int
) -> str:
    """(ts, id) of the events with one of the values that are older than a place, newest first.

    Each once. The newest of all are among the newest of each part, so every part has the limit.
    """
    size = 1 if len(values) <= SOUGHT else _RANGES
    parts = []
    for begin in range(0, len(values), size):
        piece = values[begin : begin + size]
        if key < COLUMNS:
            table = f"events FORCE INDEX (by_k{key})"
            parts += _older(table, f"{_among(f'k{key}', piece)} AND ", place, since, limit)
        if lists:
            table = "lists FORCE INDEX (PRIMARY)"
            where = f"k = {key} AND {_among('v', piece)} AND "
            found = _older(table, where, place, since, limit)
            if len(piece) > 1:
                found = [part.replace("SELECT", "SELECT DISTINCT", 1) for part in found]
            parts += found
    return _merged(parts, lists and len(values) > 1, limit)


def _among(column: str, values: Sequence[str]) -> str:
    if len(values) == 1:
        return f"{column} = {literal(values[0])}"
    return f"{column} IN ({literals(values)})"


def _of(key: int, values: Sequence[str], lists: bool, bounds: str) -> list[str]:
    """Where the entries of the values are, in no order."""
    found = []
    if key < COLUMNS:
        found.append(
            f"FROM events FORCE INDEX (by_k{key}) WHERE {_among(f'k{key}', values)}{bounds}"
        )
    if lists:
        found.append(
            f"FROM lists FORCE INDEX (PRIMARY) WHERE k = {key} AND {_among('v', values)}{bounds}"
        )
    return found or ["FROM lists WHERE FALSE"]


def bounds(since: int | None, until: int | None) -> str:
    """A time range, to stand behind another condition."""
    return (f" AND ts >= {since}" if since else "") + (
        f" AND ts < {until}" if until is not None else ""
    )


def estimate(key: int, values: Sequence[str], lists: bool, bounds: str, cap: int) -> str:
    """How many entries the values have, each part counted up to a cap."""
    parts = [
        f"(SELECT COUNT(*) FROM (SELECT 1 {found} LIMIT {cap}) c)"
        for found in _of(key, values, lists, bounds)
    ]
    return " + ".join(parts)


def by_id(key: int, values: Sequence[str], lists: bool, after: int) -> str:
    """(id) of the events above an id with one of the values, each once, in no order."""
    above = f" AND id > {after}"
    return " UNION ALL ".join(
        f"SELECT DISTINCT id {found}" if "FROM lists" in found else f"SELECT id {found}"
        for found in _of(key, values, lists, above)
    )


def counted(key: int, values: Sequence[str], lists: bool, bounds: str) -> str:
    """How many events have one of the values; who has a list has no value in its row."""
    parts = [
        f"(SELECT COUNT({'DISTINCT id' if 'FROM lists' in found else '*'}) {found})"
        for found in _of(key, values, lists, bounds)
    ]
    return " + ".join(parts)


def newest_times(key: int, values: Sequence[str], lists: bool, place: Position, since: int) -> str:
    """The time of the newest event that has one of the values and is not newer than a place."""
    parts = []
    below = f" AND ts <= {place.ts} AND ts >= {since} ORDER BY ts DESC LIMIT 1"
    for value in values:
        parts += [f"(SELECT ts {found})" for found in _of(key, (value,), lists, below)]
    return f"SELECT MAX(ts) FROM ({' UNION ALL '.join(parts)}) c"


def tested(key: int, values: Sequence[str], lists: bool) -> str:
    """The condition that an event ``e`` meets if it has one of the values."""
    row = _among(f"e.k{key}", values) if key < COLUMNS else "FALSE"
    if not lists:
        return row
    return (
        f"({row} OR (e.k{key} IS NULL AND EXISTS (SELECT 1 FROM lists l FORCE INDEX (by_id)"
        f" WHERE l.id = e.id AND l.k = {key} AND {_among('l.v', values)})))"
    )
