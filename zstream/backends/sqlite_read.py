"""Reading the SQLite store: pages, replays and counts, each in one snapshot of both files.

Every result is one row, its columns joined to one text or blob in SQL: each row that is stepped
to hands the GIL over, and beside a busy thread a thousand of them take a quarter of a second.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from zstream.backends import slices
from zstream.backends.base import Page, Position, Query, Replay
from zstream.backends.index import View
from zstream.backends.slices import Run
from zstream.backends.sqlite_count import count
from zstream.backends.sqlite_index import RUNS, runs_in
from zstream.backends.sqlite_look import Look
from zstream.backends.sqlite_replay import find_by_id
from zstream.errors import BackendCorrupt


class Snapshot(NamedTuple):
    """What one read sees: rows in memory, and sealed runs of the others."""

    view: View
    runs: Sequence[Run]


class Reader:
    """One connection that reads."""

    def __init__(self, db: sqlite3.Connection, budget: int) -> None:
        """Take a connection to rows and index whose texts are bytes.

        Args:
            db: It is this reader's alone.
            budget: Rows that one page looks at.
        """
        self.db = db
        self._budget = budget
        self._version = 0
        self._runs: tuple[Run, ...] = ()

    def _ask(self, sql: str, args: Mapping[str, Any]) -> Sequence[Any]:
        row: Sequence[Any] = self.db.execute(sql, args).fetchone()
        return row

    @contextmanager
    def _snapshot(self, view: View) -> Iterator[Snapshot]:
        """Begin a snapshot that is not older than a view of the rows in memory."""
        # Whoever gets an error from here throws the connection away, its transaction with it.
        self.db.execute("BEGIN")
        floor, version = self._ask("SELECT floor, version FROM head, state", {})
        if version != self._version:
            self._runs = runs_in(self._ask(f"SELECT {RUNS}", {})[0])
            self._version = version
        # A segment that was sealed since the view was taken stands in a run of the snapshot.
        sealed = max((run.last for run in self._runs), default=0)
        segments = tuple(segment for segment in view.segments if segment.first > sealed)
        yield Snapshot(View(segments, view.head, max(floor, view.floor)), self._runs)
        self.db.execute("COMMIT")

    def last_id(self) -> int:
        """The last id that is stored."""
        return int(self._ask("SELECT last FROM head", {})[0])

    def arrived(self, since: int) -> int:
        """The last id before a time, by the marks."""
        sql = (
            "SELECT last, arrival, (SELECT id FROM marks WHERE arrival <= :since"
            " ORDER BY arrival DESC LIMIT 1) FROM head"
        )
        last, arrival, id = self._ask(sql, {"since": since})
        return int(last if since > arrival else id or 0)

    def items(self, view: View, query: Query) -> Page:
        """Read a page, newest first."""
        if not all(values for _, values in query.filter):
            return Page([], [], [], None, 0, view.head)
        with self._snapshot(view) as seen:
            head = view.head if query.head is None else min(query.head, view.head)
            look = Look(self._ask, query, head, seen.view.floor)
            places, next, skipped = slices.find(seen.view, seen.runs, look, query, self._budget)
            ids, ts, bodies = self._events([place.id for place in places], query.max_bytes)
        if len(ids) < len(places):
            next = Position(ts[-1], ids[-1])
        return Page(ids, ts, bodies, next, skipped, view.head)

    def replay(self, view: View, query: Query, after: int) -> Replay:
        """Read a page, oldest first by id."""
        with self._snapshot(view) as seen:
            after = max(after, seen.view.floor)
            found, upto = list[int](), view.head
            if all(values for _, values in query.filter):
                found, upto = find_by_id(
                    self._ask, seen.view, seen.runs, query, after, self._budget
                )
            ids, ts, bodies = self._events(found, query.max_bytes)
        if len(ids) < len(found):
            upto = ids[-1]
        return Replay(ids, ts, bodies, upto, view.head)

    def count(self, view: View, query: Query) -> int:
        """Count the events of a slice."""
        if not all(values for _, values in query.filter):
            return 0
        with self._snapshot(view) as seen:
            return count(self._ask, seen.view, seen.runs, query)

    def _events(
        self, wanted: Sequence[int], max_bytes: int
    ) -> tuple[list[int], list[int], list[bytes]]:
        """As many of the events as fit, one at least: ids, times and bodies."""
        if not wanted:
            return [], [], []
        args = {"ids": f"[{','.join(map(str, wanted))}]", "bytes": max_bytes}
        *lists, joined = self._ask(_EVENTS, args)
        ids, ts, sizes = ([int(n) for n in text.split(b",")] if text else [] for text in lists)
        if ids != list(wanted[: len(ids)]) or not ids or len(joined) != sum(sizes):
            raise BackendCorrupt(
                "the index names events that are not there: stop the daemon and run"
                " 'zstreamd reindex'"
            )
        return ids, ts, [joined[a:b] for a, b in pairwise(accumulate(sizes, initial=0))]


_EVENTS = (
    # CROSS JOIN keeps the order of the list.
    "WITH p AS (SELECT j.key AS n, e.id AS id, length(e.body) AS size"
    " FROM json_each(:ids) j CROSS JOIN events e ON e.id = j.value),"
    " f AS (SELECT n, id, size, sum(size) OVER (ORDER BY n ROWS UNBOUNDED PRECEDING) AS upto"
    " FROM p)"
    " SELECT group_concat(e.id), group_concat(e.ts), group_concat(f.size),"
    " CAST(group_concat(e.body, '') AS BLOB)"
    " FROM f CROSS JOIN events e ON e.id = f.id WHERE f.upto <= :bytes OR f.n = 0"
)
