"""Finding rows by rising id, and counting them, in sealed runs of the Redis store."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from zstream.backends import index_read
from zstream.backends.base import Position, Query
from zstream.backends.index import View
from zstream.backends.redis_look import LOOKUPS, TRIED, Ask, Lookups, Term
from zstream.backends.redis_runs import Layout
from zstream.backends.redis_times import Times
from zstream.limits import MAX_INTEGER

#: By how much more runs rare values are looked for after each look.
_GROWTH: Final = 4


def find_by_id(
    ask: Ask, view: View, layouts: Mapping[int, Layout], times: Times, query: Query, after: int,
    budget: int,
) -> tuple[list[int], int]:  # fmt: skip
    """Find a page by rising id, from above ``after``.

    Args:
        ask: See `redis_look.Ask`.
        view: The rows in memory; its floor is not above ``after``.
        layouts: The sealed runs.
        times: Where their rows are.
        query: Of it, ``filter`` and ``limit`` count.
        after: See above.
        budget: The work to do at the most, in look-ups.

    Returns:
        The ids, and the id that the page is complete up to.
    """
    if not query.filter:
        upto = max(min(after + query.limit, view.head), after)
        return list(range(after + 1, upto + 1)), upto
    walk = _Walk(ask, query, times, after, budget)
    left = sorted(
        (each for each in layouts.values() if each.run.last > after),
        key=lambda each: each.run.first,
    )
    while left:
        if walk.is_over:
            return walk.ids, walk.done
        left = left[walk.step(left) :]
    if walk.is_over:
        return walk.ids, walk.done
    more = replace(query, limit=query.limit - len(walk.ids))
    rows, upto = index_read.replay(view, more, walk.done, budget)
    return walk.ids + [row.id for row in rows], upto


class _Walk:
    """A page in the making: the ids so far, and up to where they are all there."""

    def __init__(self, ask: Ask, query: Query, times: Times, after: int, budget: int) -> None:
        self._times, self._limit, self._budget = times, query.limit, budget
        self._lookups = Lookups(ask, query)
        self._group = 1
        self.ids: list[int] = []
        self.done = after

    @property
    def is_over(self) -> bool:
        """Whether the page is full, or as much was done as may be."""
        return len(self.ids) >= self._limit or self._lookups.spent >= self._budget

    def step(self, layouts: Sequence[Layout]) -> int:
        """Go on through some of the runs; tell how many are done with."""
        most = max(LOOKUPS // max(self._lookups.values, 1), 1)
        some = layouts[: min(self._group, most)]
        self._group *= _GROWTH
        terms = self._lookups.terms
        rarest = terms[0]
        if len(terms) > 1:
            sizes = self._lookups.sizes(some)
            sums = [sum(column) for column in zip(*sizes, strict=True)]
            rarest = terms[sums.index(min(sums))]
        spans = [self._span(layout) for layout in some]
        left = max(self._limit - len(self.ids), 1)
        most = left if len(terms) == 1 else max(TRIED, left)
        if not all(layout.run.ordered for layout in some):
            most = max(layout.rows for layout in some)
        found = self._lookups.ranks(rarest, spans, most, rising=True)
        for number, (span, (edge, ranks)) in enumerate(zip(spans, found, strict=True)):
            if not self._take(rarest, span, edge, ranks):
                return number
        return len(some)

    def _span(self, layout: Layout) -> tuple[Layout, int, int]:
        low = max(self.done + 1 - layout.run.first, 0) if layout.run.ordered else 0
        return layout, low, layout.rows

    def _take(
        self, term: Term, span: tuple[Layout, int, int], edge: int, ranks: Sequence[int]
    ) -> bool:
        """Take the candidates below a rank; tell whether the run is done with."""
        layout, low, high = span
        matching = {rank for rank in ranks if low <= rank < edge}
        if matching and len(self._lookups.terms) > 1:
            matching = self._lookups.others(term, layout, matching)
        ids = self._times.ids(layout)
        found = sorted(id for id in map(ids.__getitem__, matching) if id > self.done)
        room = self._limit - len(self.ids)
        self.ids += found[:room]
        if len(found) >= room:
            self.done = self.ids[-1]
            return False
        if edge < high:  # in a run in order, or all would have been fetched
            self.done = layout.run.first + edge - 1
            return False
        self.done = layout.run.last
        return True


def count(ask: Ask, view: View, layouts: Mapping[int, Layout], times: Times, query: Query) -> int:
    """Count the events of a slice."""
    everything = index_read.count(view, query)
    if not query.filter and query.since is None and query.until is None:
        return everything  # by the head and the floor
    since = query.since or 0
    until = MAX_INTEGER + 1 if query.until is None else query.until
    touched = [
        each
        for each in layouts.values()
        if each.run.min_ts < until and each.run.max_ts >= since and each.run.last > view.floor
    ]
    lookups = Lookups(ask, query)
    sums = [
        each
        for each in touched
        if since <= each.run.min_ts
        and each.run.max_ts < until
        and each.run.first > view.floor
        and _is_sum(lookups.terms, each)
    ]
    step = max(LOOKUPS // max(lookups.values, 1), 1)
    for start in range(0, len(sums), step):
        everything += sum(sum(each) for each in lookups.sizes(sums[start : start + step]))
    summed = {each.run.number for each in sums}
    others = [each for each in touched if each.run.number not in summed]
    return everything + sum(
        _count_in(lookups, each, times, since, until, view.floor) for each in others
    )


def _is_sum(terms: Sequence[Term], layout: Layout) -> bool:
    """Whether no row can be counted twice, so that sums will do."""
    if len(terms) != 1:
        return False
    return terms[0].count == 1 or terms[0].key not in layout.run.several


def _count_in(
    lookups: Lookups, layout: Layout, times: Times, since: int, until: int, floor: int
) -> int:
    low = times.rank(layout, Position(since, 0))
    high = times.rank(layout, Position(until, 0))
    run = layout.run
    if run.ordered:
        low = max(low, floor + 1 - run.first)
    if not lookups.terms and (run.ordered or floor < run.first):
        return max(high - low, 0)
    matching = set(range(low, high))
    for term in lookups.terms:
        ((_, ranks),) = lookups.ranks(term, [(layout, low, high)], layout.rows)
        matching.intersection_update(ranks)
    if not run.ordered and floor >= run.first:
        ids = times.ids(layout)
        matching = {rank for rank in matching if ids[rank] > floor}
    return len(matching)
