"""Pages over rows in memory and sealed runs of rows, newest first.

The newest rows of a store stand in memory (`zstream.backends.index`), the others in runs that
were sealed, each with an index of its own in the database. A page visits memory and the runs by
falling time and stops where nothing older can belong to it, so it costs the same however many
runs there are; a value that is rare is looked for in more and more runs at once.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from zstream.backends import index_read
from zstream.backends.base import Position, Query
from zstream.backends.index import View
from zstream.limits import MAX_INTEGER

#: By how much more runs are looked into after each look, and so many at once at the most.
_GROWTH: Final = 4
_MOST_RUNS: Final = 16


class Run(NamedTuple):
    """A sealed run of rows.

    Attributes:
        number: Its name in the store.
        first, last: Its ids are from the one to the other, and all there but for trimmed ones.
        min_ts, max_ts: No row is outside.
        ordered: Whether its rows rise by (ts, id) as they do by id.
        several: Positions of the keys of which a row has a list.
    """

    number: int
    first: int
    last: int
    min_ts: int
    max_ts: int
    ordered: bool
    several: frozenset[int]


class Looked(NamedTuple):
    """What a look into some runs gave.

    Attributes:
        places: Matching rows, newest first, each once; as many as were wanted or fewer.
        stop: Among fewer, all that are not older than this are there; None: all are there.
        spent: The work that it took, in rows looked at.
        taken: How many of the runs were looked into, from the first.
    """

    places: list[Position]
    stop: Position | None
    spent: int
    taken: int


class Runs(Protocol):
    """How the rows of runs are looked for; bound to a snapshot of the store and to a query."""

    def newest(self, runs: Sequence[Run], top: Position, want: int, budget: int) -> Looked:
        """Find matching rows that are older than ``top``, down to the query's ``since``.

        Args:
            runs: Where to look, by falling ``max_ts``; at the first at least.
            top: Only what is older.
            want: How many are wanted.
            budget: About so many rows may be looked at.
        """


class Slice(NamedTuple):
    """A page's places, where the next one begins, and how many were passed over."""

    places: list[Position]
    next: Position | None
    skipped: int


def find(view: View, runs: Sequence[Run], source: Runs, query: Query, budget: int) -> Slice:
    """Find a page, newest first.

    Args:
        view: The rows in memory; none of them stands in a run.
        runs: The sealed runs.
        source: Looks into them.
        query: What is wanted; ``max_bytes`` is not looked at.
        budget: Rows to look at. When it is spent the page is short and has a next.
    """
    want = query.offset + query.limit + 1
    top = _top(query)
    rows, next, _ = index_read.find(view, replace(query, offset=0, limit=want), budget)
    places = [Position(row.ts, row.id) for row in rows]
    stop = None if len(places) == want else next
    left = _by_falling_time(runs, top, query.since or 0)
    group = _GROWTH
    while left and not _is_settled(places, want, stop, left[0].max_ts):
        newest_left = Position(left[0].max_ts + 1, 0)
        if budget <= 0 and newest_left < top:
            stop = newest_left if stop is None else max(stop, newest_left)
            break
        looked = source.newest(left[:group], top, want, budget)
        if looked.taken == group:
            group = min(group * _GROWTH, _MOST_RUNS)
        left = left[looked.taken :]
        budget -= looked.spent
        places = sorted({*places, *looked.places}, reverse=True)[:want]
        if looked.stop is not None:
            stop = looked.stop if stop is None else max(stop, looked.stop)
    return _page(places, stop, query)


def _page(places: list[Position], stop: Position | None, query: Query) -> Slice:
    end = query.offset + query.limit
    if stop is not None:
        places = [place for place in places if place >= stop]
    if len(places) > end:
        stop = places[end - 1]
    return Slice(places[query.offset : end], stop, min(query.offset, len(places)))


def _top(query: Query) -> Position:
    top = query.before or Position(MAX_INTEGER + 1, 0)
    return top if query.until is None else min(top, Position(query.until, 0))


def _by_falling_time(runs: Sequence[Run], top: Position, since: int) -> list[Run]:
    left = [run for run in runs if run.min_ts <= top.ts and run.max_ts >= since]
    return sorted(left, key=lambda run: run.max_ts, reverse=True)


def _is_settled(
    places: Sequence[Position], want: int, stop: Position | None, newest_left: int
) -> bool:
    """Whether nothing up to this time can belong to the page any more."""
    if stop is not None and stop.ts > newest_left:
        return True
    return len(places) == want and places[-1].ts > newest_left
