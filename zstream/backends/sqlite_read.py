"""Reading the SQLite store: a page is found in one statement and fetched in another.

Every result is one row, its columns joined to one text or blob in SQL: each row that is stepped
to hands the GIL over, and beside a busy thread a thousand of them take a quarter of a second.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from zstream.backends import sqlite_index as index
from zstream.backends.base import Page, Position, Query, Replay
from zstream.errors import BackendCorrupt
from zstream.limits import MAX_INTEGER

_NO_LIMIT = -1
#: A row of `_FOUND`: ids, times and sizes of bodies.
_Columns = tuple[list[int], list[int], list[int]]


class _Plan(NamedTuple):
    """Where candidates come from and what they are still to be tested by.

    Attributes:
        source: Gives (ts, id), newest first.
        rest: Positions of the keys to test.
        bounded: Whether there may be so many candidates that only some are looked at.
    """

    source: str
    rest: tuple[int, ...]
    bounded: bool


class Reader:
    """One connection that reads."""

    def __init__(self, db: sqlite3.Connection, budget: int, by_id_limit: int) -> None:
        """Take a connection whose texts are bytes.

        Args:
            db: It is this reader's alone.
            budget: Candidates that one page looks at.
            by_id_limit: Entries of a key's values that a replay sorts by id for one page.
        """
        self.db = db
        self._budget = budget
        self._by_id_limit = by_id_limit

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        # Whoever gets an error from here throws the connection away, its transaction with it.
        self.db.execute("BEGIN")
        yield
        self.db.execute("COMMIT")

    def _row(self, sql: str, args: dict[str, Any] | None = None) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self.db.execute(sql, args or {}).fetchone()
        return row

    def head(self) -> tuple[int, int, int]:
        """Last id, floor and newest arrival."""
        last, floor, arrival = self._row("SELECT last, floor, arrival FROM head")
        return last, floor, arrival

    def arrived(self, since: int) -> int:
        """The last id before a time, by the marks."""
        with self._snapshot():
            last, _, arrival = self.head()
            if since > arrival:
                return last
            sql = "SELECT max(arrival), id FROM marks WHERE arrival <= :since"
            return self._row(sql, {"since": since})[1] or 0

    def items(self, query: Query) -> Page:
        """Read a page, newest first."""
        args = _arguments(query, self._budget)
        with self._snapshot():
            last, floor, _ = self.head()
            page, next, skipped = ([], [], []), None, 0  # type: _Columns, Position | None, int
            if all(values for _, values in query.filter):
                for plan in self._plans(query, args, last - floor):
                    page, next, skipped = self._find(plan, query, args)
                    if next is None or len(page[0]) == query.limit:
                        break
            kept = _fitting(page[2], query.max_bytes)
            ids, ts, sizes = (column[:kept] for column in page)
            if kept < len(page[0]):
                next = Position(ts[-1], ids[-1])
            bodies = self._bodies(ids, sizes)
        return Page(ids, ts, bodies, next, skipped, last)

    def _plans(self, query: Query, args: dict[str, Any], events: int) -> list[_Plan]:
        """How to find the page: the first way, and what to do if it falls short."""
        if not query.filter:
            return [_Plan(index.newest(), (), True)]
        terms = query.filter
        if len(terms) == 1 and len(terms[0][1]) <= index.MERGED_VALUES:
            sizes = [0]
        else:
            sizes = self._estimates(query, args, self._budget + 1)
        size, many, key = min(
            (size, len(values), key) for size, (key, values) in zip(sizes, terms, strict=True)
        )
        rest = tuple(other for other, _ in terms if other != key)
        if many <= index.MERGED_VALUES:
            values = dict(terms)[key]
            for number in range(index.rounded(many)):
                args[f"v{number}"] = values[number] if number < many else None
            return [_Plan(index.newest_of(key, many), rest, True)]
        scan = _Plan(index.newest(), tuple(other for other, _ in terms), True)
        gather = _Plan(index.gathered(key), rest, False)
        if size > self._budget:
            return [scan]
        # So many rows a scan looks through for the page, if the values are spread evenly.
        expected = (query.offset + query.limit) * events // max(size, 1)
        return [scan, gather] if expected * 2 < size else [gather]

    def _estimates(self, query: Query, args: dict[str, Any], cap: int) -> list[int]:
        parts = ", ".join(index.estimate(key) for key, _ in query.filter)
        return list(self._row(f"SELECT {parts}", args | {"cap": cap}))

    def _find(
        self, plan: _Plan, query: Query, args: dict[str, Any]
    ) -> tuple[_Columns, Position | None, int]:
        args["budget"] = self._budget if plan.bounded else _NO_LIMIT
        page = _columns(self._row(_found(plan.source, plan.rest), args))
        ids, ts, _ = page
        if len(ids) > query.limit:
            for column in page:
                column.pop()
            return page, Position(ts[-1], ids[-1]), query.offset
        next, skipped = None, query.offset
        if query.offset and not ids:
            skipped = self._row(_passed_over(plan.source, plan.rest), args)[0]
        if plan.bounded:
            place = self._row(_last_candidate(plan.source), args | {"skip": self._budget - 1})
            if place[0] is not None:
                next = Position(*place)
        return page, next, skipped

    def _bodies(self, ids: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        if not ids:
            return []
        wanted = ",".join(map(str, ids))
        found, joined = self._row(_BODIES, {"ids": f"[{wanted}]"})
        if found != wanted.encode() or len(joined) != sum(sizes):
            raise BackendCorrupt("the index names events that are not there")
        return [joined[a:b] for a, b in pairwise(accumulate(sizes, initial=0))]

    def replay(self, query: Query, after: int) -> Replay:
        """Read a page, oldest first by id."""
        args = _arguments(query, self._budget)
        with self._snapshot():
            last, floor, _ = self.head()
            args["after"] = after = max(after, floor)
            source, rest, upto = self._by_id(query, args, after, last)
            page = _columns(self._row(_replayed(source, rest), args))
            if len(page[0]) > query.limit:
                for column in page:
                    column.pop()
                upto = page[0][-1]
            kept = _fitting(page[2], query.max_bytes)
            ids, ts, sizes = (column[:kept] for column in page)
            if kept < len(page[0]):
                upto = ids[-1]
            bodies = self._bodies(ids, sizes)
        return Replay(ids, ts, bodies, upto, last)

    def _by_id(
        self, query: Query, args: dict[str, Any], after: int, last: int
    ) -> tuple[str, tuple[int, ...], int]:
        """The candidates by id, the keys to test, and the id up to which they reach."""
        rest = tuple(key for key, _ in query.filter)
        if query.filter:
            sizes = self._estimates(query, args, self._by_id_limit + 1)
            size, key = min(zip(sizes, rest, strict=True))
            if size <= self._by_id_limit:
                others = tuple(other for other in rest if other != key)
                return index.gathered_by_id(key), others, last
        upto = min(after + self._budget, last)
        args["upto"] = upto
        return "SELECT id FROM events WHERE id > :after AND id <= :upto ORDER BY id", rest, upto

    def count(self, query: Query) -> int:
        """Count the events of a slice."""
        args = _arguments(query, self._budget)
        if not all(values for _, values in query.filter):
            return 0
        with self._snapshot():
            last, floor, _ = self.head()
            if not query.filter and query.since is None and query.until is None:
                return last - floor
            source, rest = index.newest(), ()  # type: str, tuple[int, ...]
            if query.filter:
                sizes = self._estimates(query, args, self._by_id_limit + 1)
                _, many, key = min(
                    (size, len(values), key)
                    for size, (key, values) in zip(sizes, query.filter, strict=True)
                )
                args["v0"] = dict(query.filter)[key][0]
                source = index.all_of_one(key) if many == 1 else index.all_of(key)
                rest = tuple(other for other, _ in query.filter if other != key)
            counted: int = self._row(_counted(source, rest), args)[0]
        return counted


def _arguments(query: Query, budget: int) -> dict[str, Any]:
    top = query.before or Position(MAX_INTEGER + 1, 0)
    if query.until is not None:
        top = min(top, Position(query.until, 0))
    args = {
        "top_ts": top.ts,
        "top_id": top.id,
        "since": query.since or 0,
        "head": MAX_INTEGER if query.head is None else query.head,
        "limit": query.limit + 1,
        "offset": query.offset,
        "budget": budget,
        "after": 0,
    }
    return args | {f"f{key}": json.dumps(values) for key, values in query.filter}


def _columns(row: Sequence[Any]) -> _Columns:
    ids, ts, sizes = ([int(n) for n in text.split(b",")] if text else [] for text in row)
    return ids, ts, sizes


def _fitting(sizes: Sequence[int], max_bytes: int) -> int:
    """How many bodies fit; one always does."""
    return max(sum(1 for total in accumulate(sizes) if total <= max_bytes), 1)


_BODIES = (
    # CROSS JOIN keeps the order of the list.
    "SELECT group_concat(e.id), CAST(group_concat(e.body, '') AS BLOB)"
    " FROM json_each(:ids) j CROSS JOIN events e ON e.id = j.value"
)
_ONE_ROW = "SELECT group_concat(e.id), group_concat(e.ts), group_concat(length(e.body))"


def _tested(rest: Sequence[int]) -> str:
    """The conditions that a row of ``events e`` meets if it has the wanted values."""
    return "".join(
        f" AND CASE typeof(e.k{key})"
        f" WHEN 'text' THEN e.k{key} IN (SELECT value FROM json_each(:f{key}))"
        f" WHEN 'blob' THEN EXISTS (SELECT 1 FROM json_each(CAST(e.k{key} AS TEXT)) l"
        f" WHERE l.value IN (SELECT value FROM json_each(:f{key}))) ELSE 0 END"
        for key in rest
    )


def _matching(source: str, rest: tuple[int, ...], columns: str) -> str:
    join = " CROSS JOIN events e ON e.id = c.id" if rest else ""
    return (
        f"SELECT {columns} FROM ({source} LIMIT :budget) c{join}"
        f" WHERE c.id > (SELECT floor FROM head) AND c.id <= :head{_tested(rest)}"
    )


@lru_cache(maxsize=512)
def _found(source: str, rest: tuple[int, ...]) -> str:
    page = f"{_matching(source, rest, 'c.id')} LIMIT :limit OFFSET :offset"
    return f"{_ONE_ROW} FROM ({page}) p CROSS JOIN events e ON e.id = p.id"


@lru_cache(maxsize=512)
def _passed_over(source: str, rest: tuple[int, ...]) -> str:
    return f"SELECT count(*) FROM ({_matching(source, rest, 'c.id')} LIMIT :offset)"


@lru_cache(maxsize=512)
def _last_candidate(source: str) -> str:
    return f"SELECT max(ts), max(id) FROM ({source} LIMIT 1 OFFSET :skip)"


@lru_cache(maxsize=512)
def _replayed(source: str, rest: tuple[int, ...]) -> str:
    join = " CROSS JOIN events e ON e.id = c.id" if rest else ""
    # Without a limit of its own the source would lose its order in a join.
    candidates = f"({source} LIMIT {_NO_LIMIT})"
    page = f"SELECT c.id FROM {candidates} c{join} WHERE 1{_tested(rest)} LIMIT :limit"
    return f"{_ONE_ROW} FROM ({page}) p CROSS JOIN events e ON e.id = p.id"


@lru_cache(maxsize=512)
def _counted(source: str, rest: tuple[int, ...]) -> str:
    join = " CROSS JOIN events e ON e.id = c.id" if rest else ""
    return (
        f"SELECT count(*) FROM ({source}) c{join}"
        f" WHERE c.id > (SELECT floor FROM head){_tested(rest)}"
    )
