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
#: Entries that are so few that nothing is better than to read them all.
_FEW: Final = 2_000
#: Entries up to which keys with few values are compared.
_MANY: Final = 10_000
#: Values of a key up to which its entries are counted before anything else is tried.
_COUNTED: Final = 200
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
        else:
            self._choose()
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

    def _choose(self) -> None:
        """By the key with the fewest entries, if it has few; to count a few is soon done."""
        many = [len(values) for _, values in self._query.filter]
        counted = [term for term, values in enumerate(many) if values <= _COUNTED]
        all_sought = max(many) <= index.SOUGHT
        size, most, term = 0, 0, -1
        few = min(_FEW, self._limits.gathered)
        for most in (few, _MANY) if all_sought else (few,):
            if counted:
                sizes = self._sizes(counted, most + 1)
                size, term = min(zip(sizes, counted, strict=True))
                if size <= most:
                    break
        if all_sought or (counted and size <= most and many[term] <= index.SOUGHT):
            self._seek(term)
        elif counted and size <= most:
            self._gather(term, size)
        else:
            self._feed()

    def _gather(self, term: int, size: int) -> None:
        """Many values with few entries: all of them are read."""
        if rest := self._rest(term):
            # An event may stand there under each of its values: there are no more than these.
            self._stages(term, rest, size + 1, size + 1)
        else:
            # Nothing is to be tested: the order by time ends where there is enough.
            missing = self._need - len(self.found)
            self._stages(term, (), missing, missing)

    def _feed(self) -> None:
        """Many values with many entries: a glance at the newest events, more if it is promising."""
        scanned, gathered, terms = self._limits.scanned, self._limits.gathered, self._query.filter
        glance = min(_GLANCE, scanned)
        looked = self._stages(None, terms, glance, glance)
        if self._done():
            return
        missing = self._need - len(self.found)
        if missing * glance <= len(self.found) * (scanned - glance):
            first = missing * glance * 5 // (len(self.found) * 4)
            self._stages(None, terms, scanned - looked, first)
            return
        every = range(len(terms))
        size, term = min(zip(self._sizes(every, gathered + 1), every, strict=True))
        if len(terms[term][1]) <= index.SOUGHT:
            self._seek(term)
        elif size <= gathered:
            self._gather(term, size)
        else:
            self._stages(None, terms, scanned - looked, scanned - looked)
            if len(terms) == 1 and not self.found and not self._done():
                self._jump()

    def _rest(self, term: int) -> Filter:
        return self._query.filter[:term] + self._query.filter[term + 1 :]

    def _has_lists(self, key: int) -> bool:
        return bool(self._lists >> key & 1)

    def _sizes(self, chosen: Sequence[int], cap: int) -> Sequence[int]:
        """How many entries some terms have from here on, each counted up to a cap."""
        if not chosen:
            return ()
        until = None if self._place.ts > MAX_INTEGER else self._place.ts + 1
        older = index.bounds(self._since, until)
        terms = [self._query.filter[term] for term in chosen]
        return self._session.row(
            "SELECT "
            + ", ".join(
                index.estimate(key, values, self._has_lists(key), older, cap)
                for key, values in terms
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
