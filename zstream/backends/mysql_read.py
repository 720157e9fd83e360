"""Reading the MySQL store: ids by one statement or a few, then the bodies by another.

Every result is one row, its columns joined to one text or blob in SQL: rows are taken apart in
Python, and a thousand of them would keep everybody else from running. No transaction is open
between two statements: events never change, so a later statement that keeps to the ids of the
first one sees the same state, but for what was trimmed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Final, NamedTuple

from zstream.backends import mysql_index as index
from zstream.backends.base import Page, Query, Replay
from zstream.backends.mysql_link import Session
from zstream.backends.mysql_search import Limits, Search
from zstream.errors import BackendCorrupt, BackendUnavailable

#: How often a page is begun anew because events of it were trimmed and deleted meanwhile.
_TRIES: Final = 5


class Head(NamedTuple):
    """The moving part of the head, as one statement saw it."""

    last: int
    floor: int
    arrival: int


@dataclass(frozen=True, slots=True)
class _Bodies:
    """As many events of a page as fit, in its order."""

    ids: list[int]
    ts: list[int]
    bodies: list[bytes]


class Reader:
    """One session that reads."""

    def __init__(self, session: Session, limits: Limits) -> None:
        """Take a session, which is this reader's alone."""
        self.session = session
        self._limits = limits

    def head(self) -> Head:
        """Last id, floor and newest arrival."""
        return Head(*self.session.row("SELECT last, floor, arrival FROM head"))

    def arrived(self, since: int) -> int:
        """The last id before a time, by the marks."""
        last, arrival, id = self.session.row(
            "SELECT last, arrival, (SELECT id FROM marks"
            f" WHERE arrival <= {since} ORDER BY arrival DESC LIMIT 1) FROM head"
        )
        return int(last if since > arrival else id or 0)

    # ------------------------------------------------------------ pages

    def items(self, query: Query, lists: int) -> Page:
        """Read a page, newest first.

        Args:
            query: What is asked for.
            lists: A bit for each key that may have lists.
        """
        if not all(values for _, values in query.filter):
            return Page([], [], [], None, 0, self.head().last)
        for _ in range(_TRIES):
            search = Search(self.session, self._limits, query, lists)
            search.run()
            found = search.found
            places = found[query.offset : query.offset + query.limit]
            next = search.next
            if len(found) > query.offset + query.limit:
                next = places[-1]
            read = self._bodies([place.id for place in places], "ts DESC, id DESC", query.max_bytes)
            if read is not None:
                if len(read.ids) < len(places):
                    next = places[len(read.ids) - 1]
                skipped = min(query.offset, len(found))
                return Page(read.ids, read.ts, read.bodies, next, skipped, search.last)
        raise BackendUnavailable("events are trimmed faster than they are read")

    def _bodies(self, ids: Sequence[int], order: str, max_bytes: int) -> _Bodies | None:
        """Fetch events; None if some of them were trimmed and deleted meanwhile."""
        if not ids:
            return _Bodies([], [], [])
        row = self.session.row(
            "SELECT GROUP_CONCAT(e.id), GROUP_CONCAT(e.ts), GROUP_CONCAT(e.size),"
            " GROUP_CONCAT(e.body SEPARATOR '') FROM"
            f" (SELECT id, SUM(size) OVER (ORDER BY {order}) AS total FROM events"
            f" WHERE id IN ({','.join(map(str, ids))})) w JOIN events e ON e.id = w.id"
            f" WHERE w.total <= {max_bytes} OR w.id = {ids[0]}"
        )
        found, ts, sizes = (numbers(text) for text in row[:3])
        joined = row[3] or b""
        if len(joined) != sum(sizes):
            raise BackendCorrupt("events have other sizes than the table says")
        cuts = pairwise(accumulate(sizes, initial=0))
        events = {id: (at, joined[a:b]) for id, at, (a, b) in zip(found, ts, cuts, strict=True)}
        kept = list(ids[: len(events)])
        if not set(kept) <= set(events):
            if min(set(kept) - set(events)) <= self.head().floor:
                return None
            raise BackendCorrupt("the index names events that are not there")
        return _Bodies(kept, [events[id][0] for id in kept], [events[id][1] for id in kept])

    # ------------------------------------------------------------ by id

    def replay(self, query: Query, after: int, lists: int) -> Replay:
        """Read a page, oldest first by id; see `items`."""
        if not all(values for _, values in query.filter):
            last = self.head().last
            return Replay([], [], [], max(last, after), last)
        for _ in range(_TRIES):
            last, floor, _arrival = self.head()
            ids, upto = self._by_id(query, max(after, floor), last, lists)
            if len(ids) > query.limit:
                ids = ids[: query.limit]
                upto = ids[-1]
            read = self._bodies(ids, "id", query.max_bytes)
            if read is not None:
                if len(read.ids) < len(ids):
                    upto = read.ids[-1]
                return Replay(read.ids, read.ts, read.bodies, upto, last)
        raise BackendUnavailable("events are trimmed faster than they are read")

    def _by_id(self, query: Query, after: int, last: int, lists: int) -> tuple[list[int], int]:
        """Some more ids than the page takes, and the id up to which they are complete."""
        upto = min(after + self._limits.scanned, last)
        source = f"SELECT id FROM events WHERE id > {after} AND id <= {upto}"
        rest = query.filter
        if rest:
            cap = self._limits.gathered + 1
            sizes = self._estimates(query, f" AND id > {after}", cap, lists)
            size, place = min(zip(sizes, range(len(rest)), strict=True))
            if size < cap:
                key, values = rest[place]
                source = index.by_id(key, values, bool(lists >> key & 1), after)
                rest = rest[:place] + rest[place + 1 :]
                upto = last
        tests = "".join(f" AND {index.tested(k, v, bool(lists >> k & 1))}" for k, v in rest)
        join = "JOIN events e ON e.id = c.id" if rest else ""
        found = self.session.row(
            f"SELECT GROUP_CONCAT(p.id) FROM (SELECT c.id FROM ({source}) c {join}"
            f" WHERE c.id <= {upto}{tests} ORDER BY c.id LIMIT {query.limit + 1}) p"
        )
        return sorted(numbers(found[0])), upto

    def _estimates(self, query: Query, bounds: str, cap: int, lists: int) -> tuple[Any, ...]:
        return self.session.row(
            "SELECT "
            + ", ".join(
                index.estimate(key, values, bool(lists >> key & 1), bounds, cap)
                for key, values in query.filter
            )
        )

    # ------------------------------------------------------------ counts

    def count(self, query: Query, lists: int) -> int:
        """Count the events of a slice; see `items`."""
        if not all(values for _, values in query.filter):
            return 0
        bounds = index.bounds(query.since, query.until)
        above = "id > (SELECT floor FROM head)"
        if not query.filter:
            if not bounds:
                last, floor, _ = self.head()
                return last - floor
            sql = f"SELECT COUNT(*) FROM events FORCE INDEX (by_ts) WHERE {above}{bounds}"
        elif len(query.filter) == 1:
            key, values = query.filter[0]
            sql = "SELECT " + index.counted(
                key, values, bool(lists >> key & 1), f"{bounds} AND {above}"
            )
        else:
            sizes = self._estimates(query, bounds, self._limits.counted, lists)
            _, place = min(zip(sizes, range(len(query.filter)), strict=True))
            rest = query.filter[:place] + query.filter[place + 1 :]
            key, values = query.filter[place]
            source = index.by_id(key, values, bool(lists >> key & 1), 0)
            tests = " AND ".join(index.tested(k, v, bool(lists >> k & 1)) for k, v in rest)
            sql = (
                f"SELECT COUNT(*) FROM ({source}) c STRAIGHT_JOIN events e ON e.id = c.id"
                f" WHERE e.{above}{bounds} AND {tests}"
            )
        return int(self.session.row(sql)[0])


def numbers(text: bytes | None) -> list[int]:
    """A list of integers that SQL joined."""
    return [int(number) for number in text.split(b",")] if text else []
