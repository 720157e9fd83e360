"""Looking for rows in sealed partitions: the statements, and which of them is the right one.

Every result is one row, its columns joined to one value in SQL: each row that is fetched hands
the GIL over, and beside a busy thread a thousand of them take a quarter of a second. Partitions
are named in the statements, several in each, since planning over all of ``events`` takes the
longer the more there are.
"""

from array import array
from collections.abc import Sequence
from sys import byteorder
from typing import Any, Final, NamedTuple

from zstream.backends.base import Position, Query
from zstream.backends.postgres_link import Connection, row_of
from zstream.backends.postgres_parts import DENSE_ROWS, Sealed
from zstream.backends.slices import Looked, Run

#: Up to so many values of a key are looked up one by one before anything else is tried.
FEW_VALUES: Final = 16
#: Rows that are looked through, newest first, to learn how dense the wanted ones are.
_TRIED: Final = 1_000
#: Rows that are looked through in the time that a value is looked up.
_SEEK: Final = 8
#: Rows that are looked at in the time in which a value is found not to be there.
_SOUGHT: Final = 3
#: What a value is taken to have in a partition whose sums do not name it.
_RARE: Final = DENSE_ROWS // 20
#: Candidates of a value that the first try looks at, beyond those that are wanted.
_SPARE: Final = 50
#: And so many at the least, however many values there are.
_LEAST: Final = 16


class Arguments(NamedTuple):
    """What statements are told.

    Attributes:
        values: Parameters: ``fN``, the wanted values of key N, and places.
        terms: The keys of the filter.
        few: Whether each of them has few values, so that a statement need not know them to be
            planned.
    """

    values: dict[str, Any]
    terms: tuple[int, ...]
    few: bool


def arguments(query: Query, floor: int, head: int) -> Arguments:
    """The parameters of a query."""
    values: dict[str, Any] = {f"f{key}": list(texts) for key, texts in query.filter}
    values["since"] = query.since or 0
    values["floor"] = floor
    values["head"] = head if query.head is None else min(query.head, head)
    few = all(len(texts) <= FEW_VALUES for _, texts in query.filter)
    return Arguments(values, tuple(key for key, _ in query.filter), few)


def tests(run: Run, keys: Sequence[int], row: str) -> str:
    """The conditions that a row of ``events`` meets if it has the wanted values."""
    parts = []
    for key in keys:
        test = f"{row}.k{key} = ANY (%(f{key})s::text[])"
        if key in run.several:
            test = f"({test} OR {row}.lists->'{key}' ?| %(f{key})s::text[])"
        parts.append(f" AND {test}")
    return "".join(parts)


def integers(joined: bytes | None) -> "array[int]":
    """Integers as PostgreSQL sends them, joined."""
    found = array("q", joined or b"")
    if byteorder == "little":
        found.byteswap()
    return found


class Source:
    """Looks into sealed partitions for one query; see `zstream.backends.slices.Runs`."""

    def __init__(self, db: Connection, sealed: Sequence[Sealed], query: Query, args: Arguments):
        self._db = db
        self._sums = {each.run.number: each.sums for each in sealed}
        self._query = query
        self._args = args
        self._wanted = {key: frozenset(values) for key, values in query.filter}

    def newest(self, runs: Sequence[Run], top: Position, want: int, budget: int) -> Looked:
        """Find matching rows, newest first."""
        self._args.values.update(top_ts=top.ts, top_id=top.id, want=want)
        if not self._query.filter:
            return self._scan(runs, want, want + _SPARE, budget)
        size, values, key = self.rarest(runs)
        if values <= FEW_VALUES or size <= _TRIED:
            return self._seek(runs, key, values, want, budget)
        looked = self._look([self._scanned(run) for run in runs], _TRIED, want)
        if len(looked.places) >= want or looked.stop is None:
            return looked
        # So many rows would have to be looked through, if they go on as they began.
        expected = want * looked.spent // max(len(looked.places), 1)
        if expected <= values * len(runs) * _SEEK:
            return self._scan(runs, want, 2 * expected // len(runs), budget)
        return self._seek(runs, key, values, want, budget)

    def rarest(self, runs: Sequence[Run]) -> tuple[int, int, int]:
        """Of the filter's keys the one with the fewest rows: about how many, values, the key."""
        return min(
            (sum(self._size(run, key) for run in runs), len(values), key)
            for key, values in self._query.filter
        )

    def _size(self, run: Run, key: int) -> int:
        known, wanted = self._sums[run.number].get(key, {}), self._wanted[key]
        frequent = sum(count for value, count in known.items() if value in wanted)
        return frequent + _RARE * len(wanted)

    def _scan(self, runs: Sequence[Run], want: int, depth: int, budget: int) -> Looked:
        sources = [self._scanned(run) for run in runs]
        return self._deeper(sources, min(depth, budget), budget // len(runs), want)

    def _seek(self, runs: Sequence[Run], key: int, values: int, want: int, budget: int) -> Looked:
        runs = runs[: max(_TRIED // values, 1)]
        most = max(budget // (values * len(runs)), _LEAST)
        sources = [self._sought(run, key) for run in runs]
        looked = self._deeper(sources, min(want + _SPARE, most), most, want)
        return looked._replace(spent=looked.spent + values * len(runs) * _SOUGHT)

    def _deeper(self, sources: Sequence[str], depth: int, most: int, want: int) -> Looked:
        """Look at more and more candidates until there are enough, or all were looked at."""
        spent = 0
        while True:
            looked = self._look(sources, depth, want)
            spent += looked.spent
            if len(looked.places) >= want or looked.stop is None or depth >= most:
                return looked._replace(spent=spent)
            depth = min(depth * 8, most)

    def _look(self, sources: Sequence[str], depth: int, want: int) -> Looked:
        candidates = " UNION ALL ".join(sources)
        joined, stop, spent = row_of(
            self._db,
            f"WITH c AS MATERIALIZED ({candidates})"
            " SELECT (SELECT string_agg(int8send(ts) || int8send(id), '') FROM (SELECT DISTINCT"
            " ts, id FROM c WHERE ok ORDER BY ts DESC, id DESC LIMIT %(want)s) p),"
            " (SELECT int8send(ts) || int8send(id) FROM c WHERE n = %(depth)s"
            " ORDER BY ts DESC, id DESC LIMIT 1), (SELECT count(*) FROM c)",
            self._args.values | {"depth": depth},
            self._args.few,
        )
        flat = integers(joined)
        places = list(map(Position, flat[::2], flat[1::2]))
        last = None if stop is None else Position(*integers(stop))
        return Looked(places, last, spent + len(sources) * _SEEK, len(sources))

    # ------------------------------------------------------------ candidates: ts, id, ok, n

    def _scanned(self, run: Run) -> str:
        """The newest rows of a partition."""
        ok = tests(run, self._args.terms, "e")
        return (
            f"(SELECT ts, id, id > %(floor)s AND id <= %(head)s{ok} AS ok, {_NUMBER} AS n"
            f" FROM events_{run.number} e WHERE {_OLDER} {_NEWEST})"
        )

    def _sought(self, run: Run, key: int) -> str:
        """The newest rows of a partition for each value of a key."""
        rest = [other for other in self._args.terms if other != key]
        ok = f"e.id > %(floor)s AND e.id <= %(head)s{tests(run, rest, 'e')} AS ok"
        if key not in run.several:
            rows = (
                f"SELECT ts, id, {ok}, {_NUMBER} AS n FROM events_{run.number} e"
                f" WHERE k{key} = w.v AND {_OLDER} {_NEWEST}"
            )
        else:
            entries = (
                f"SELECT ts, id, {_NUMBER} AS n FROM lists_{run.number} x"
                f" WHERE x.k = {key} AND x.v = w.v AND {_OLDER} {_NEWEST}"
            )
            row = f"SELECT {ok} FROM events_{run.number} e WHERE e.id = l.id"
            rows = f"SELECT l.ts, l.id, ({row}) AS ok, l.n FROM ({entries}) l"
        return f"(SELECT s.* FROM unnest(%(f{key})s::text[]) w(v) CROSS JOIN LATERAL ({rows}) s)"


_NUMBER: Final = "row_number() OVER (ORDER BY ts DESC, id DESC)"
_OLDER: Final = "(ts, id) < (%(top_ts)s, %(top_id)s) AND ts >= %(since)s"
_NEWEST: Final = "ORDER BY ts DESC, id DESC LIMIT %(depth)s"
