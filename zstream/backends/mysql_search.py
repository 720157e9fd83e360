"""How a page is found: candidates in order, tested, with the work of a page bounded."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from zstream.backends import mysql_index as index
from zstream.backends.base import Position, Query
from zstream.backends.mysql_link import Session
from zstream.keys import Filter
from zstream.limits import MAX_INTEGER

#: Newest events that are looked through before anything is known about a filter.
_GLANCE: Final = 2_000
#: Candidates of the first stage where some of them will not match.
_FIRST: Final = 250
#: Entries that are so few that a key that has no more is the best one.
_FEW: Final = 500
#: Values for which an empty page looks where the next event is.
_JUMPED: Final = 1_000


class Limits(NamedTuple):
    """Bounds of the work of one query.

    Attributes:
        scanned: Candidates that one page looks at.
        gathered: Entries of a key's values that are all read for one page.
        counted: Entries up to which the keys of a filter are compared before a count.
    """

    scanned: int
    gathered: int
    counted: int


class Search:
    """Finds the places of one page; what it found is in its attributes.

    Attributes:
        found: Places that match, newest first: ``offset + limit + 1`` of them or fewer.
        next: Where to go on, if the work was spent before the end; else None.
        last: The last id in the snapshot of the first stage.
    """

    def __init__(self, session: Session, limits: Limits, query: Query, lists: int) -> None:
        """Take a query; each of its keys has values."""
        self._session, self._limits, self._query, self._lists = session, limits, query, lists
        self.found: list[Position] = []
        self.next: Position | None = None
        self.last = 0
        top = query.before or Position(MAX_INTEGER + 1, 0)
        if query.until is not None:
            top = min(top, Position(query.until, 0))
        self._place = top
        self._since = query.since or 0
        self._head: int | None = query.head
        self._need = query.offset + query.limit + 1
        self._begun = False
        self._ended = False

    def run(self) -> None:
        """Find them."""
        terms = self._query.filter
        if not terms:
            self._stages(None, (), self._limits.scanned, self._need)
        elif len(terms) == 1 and len(terms[0][1]) <= index.SOUGHT:
            self._seek(0)
        elif len(terms) == 1:
            self._feed()
        else:
            self._intersect()
        if not self._ended and len(self.found) < self._need:
            self.next = self._place

    def _done(self) -> bool:
        return self._ended or len(self.found) >= self._need

    # ------------------------------------------------------------ plans

    def _seek(self, term: int) -> None:
        """Few values: each in the order of its index, merged."""
        rest = self._rest(term)
        values = len(self._query.filter[term][1])
        budget = max(self._limits.scanned // max(values // 4, 1), 1)
        self._stages(term, rest, budget, max(self._need, _FIRST) if rest else self._need)

    def _feed(self) -> None:
        """Many values of one key: a glance at the newest events, and more if it is promising."""
        scanned, terms = self._limits.scanned, self._query.filter
        glance = min(_GLANCE, scanned)
        looked = self._stages(None, terms, glance, glance)
        if self._done():
            return
        missing = self._need - len(self.found)
        if missing * glance <= len(self.found) * (scanned - glance):
            first = missing * glance * 5 // (len(self.found) * 4)
            looked += self._stages(None, terms, scanned - looked, first)
        elif self._sizes(self._limits.gathered + 1)[0] <= self._limits.gathered:
            # Nothing is to be tested: the order by time ends where there is enough.
            self._stages(0, (), missing, missing)
        else:
            self._stages(None, terms, scanned - looked, scanned - looked)
        if not self.found and not self._done():
            self._jump()

    def _intersect(self) -> None:
        """Several keys: the one with the fewest entries, if that is few enough."""
        terms = self._query.filter
        sizes = self._sizes(_FEW + 1)
        if min(sizes) > _FEW:
            sizes = self._sizes(self._limits.gathered + 1)
        size, many, term = min(
            (size, len(values), term)
            for term, (size, (_, values)) in enumerate(zip(sizes, terms, strict=True))
        )
        if many <= index.SOUGHT:
            self._seek(term)
        elif size <= self._limits.gathered:
            # An event may stand in it under each of its values: there are no more than these.
            self._stages(term, self._rest(term), size + 1, size + 1)
        else:
            self._stages(None, terms, self._limits.scanned, min(_GLANCE, self._limits.scanned))

    def _rest(self, term: int) -> Filter:
        return self._query.filter[:term] + self._query.filter[term + 1 :]

    def _has_lists(self, key: int) -> bool:
        return bool(self._lists >> key & 1)

    def _sizes(self, cap: int) -> Sequence[int]:
        older = index.bounds(self._since, self._place.ts + 1)
        return self._session.row(
            "SELECT "
            + ", ".join(
                index.estimate(key, values, self._has_lists(key), older, cap)
                for key, values in self._query.filter
            )
        )

    # ------------------------------------------------------------ stages

    def _stages(self, term: int | None, rest: Filter, budget: int, first: int) -> int:
        """Look at candidates, more each time, until there is enough or the work is spent.

        Args:
            term: Whose candidates; None for all events.
            rest: What they are to be tested by.
            budget: How many candidates at the most.
            first: How many in the first stage.

        Returns:
            How many were looked at.
        """
        looked, size = 0, first
        while looked < budget and not self._done():
            size = max(min(size, budget - looked), 1)
            looked += self._stage(term, rest, size)
            size *= 4
        return looked

    def _stage(self, term: int | None, rest: Filter, size: int) -> int:
        if term is None:
            source = index.newest(self._place, self._since, size)
        else:
            key, values = self._query.filter[term]
            source = index.newest_of(
                key, values, self._has_lists(key), self._place, self._since, size
            )
        tests = "".join(f" AND {index.tested(k, v, self._has_lists(k))}" for k, v in rest)
        join = " LEFT JOIN events e ON e.id = c.id" if rest else ""
        head = "" if self._head is None else f" AND c.id <= {self._head}"
        match = f"c.id > h.floor{head}{tests}"
        last, seen, place, found = self._session.row(
            f"SELECT MAX(h.last), COUNT(c.id), MIN(c.ts * {index.PLACE}.0 + c.id),"
            f" GROUP_CONCAT(IF({match}, c.ts, NULL), ' ', c.id)"
            f" FROM head h LEFT JOIN ({source}) c ON TRUE{join}"
        )
        if not self._begun:
            # Later stages keep to what was there at the first one.
            self._begun, self.last = True, last
            self._head = last if self._head is None else min(self._head, last)
        self.found += _places(found)
        if seen:
            self._place = Position(*divmod(int(place), index.PLACE))
        self._ended = seen < size
        return int(seen)

    def _jump(self) -> None:
        """Nothing was found: go on where the next event with one of the values is."""
        key, values = self._query.filter[0]
        if len(values) > _JUMPED:
            return
        newest = self._session.row(
            index.newest_times(key, values, self._has_lists(key), self._place, self._since)
        )[0]
        if newest is None:
            self._ended = True
        else:
            self._place = min(self._place, Position(newest + 1, 0))


def _places(text: bytes | None) -> list[Position]:
    if not text:
        return []
    numbers = list(map(int, text.replace(b" ", b",").split(b",")))
    return sorted(map(Position, numbers[::2], numbers[1::2]), reverse=True)
