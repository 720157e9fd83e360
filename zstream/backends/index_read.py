"""Reading the index in memory: pages newest first, replays by id, counts."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush, heapreplace, merge
from itertools import chain, groupby, takewhile
from operator import itemgetter
from typing import Final, NamedTuple

from zstream.backends.base import Position, Query
from zstream.backends.index import Row, Segment, View
from zstream.backends.index_key import KeyIndex
from zstream.keys import Filter
from zstream.limits import MAX_INTEGER

#: So many values are merged as they come; more are gathered, or looked for row by row.
MERGED_VALUES: Final = 64
#: Rows are looked through where one in so many or more has a wanted value.
_SCANNED: Final = 16
#: Rows that are looked at beyond a full page, to tell whether it is the last.
_LOOKAHEAD: Final = 1_000
_FIRST: Final = itemgetter(0)


class _Term(NamedTuple):
    key: KeyIndex
    wanted: frozenset[int]
    size: int

    def runs(self, end: int) -> list[Iterator[int]]:
        """For each wanted value the slots below ``end``, newest first."""
        return [self.key.slots(number, end) for number in self.wanted]

    def slots(self, end: int) -> Iterable[int]:
        """The slots of all wanted values, each once, in no order."""
        runs = self.runs(end)
        return runs[0] if len(runs) == 1 else set(chain.from_iterable(runs))


def _terms(segment: Segment, filter: Filter) -> list[_Term] | None:
    """The filter in the segment's terms, the rarest first; None if nothing can match."""
    terms = []
    for position, values in sorted(filter, key=lambda term: len(term[1])):
        key = segment.keys[position]
        wanted = key.wanted(values)
        if not wanted:
            return None
        terms.append(_Term(key, wanted, key.size(wanted)))
    return sorted(terms, key=lambda term: term.size)


def _matches(slot: int, terms: Sequence[_Term]) -> bool:
    return all(term.key.matches(slot, term.wanted) for term in terms)


def _range(segment: Segment, count: int, top: Position, since: int) -> tuple[int, int]:
    """First slot and end of the rows from ``since`` to below ``top``.

    With late rows the slots outside are none of them, but those inside need a closer look.
    """
    if not segment.ordered:
        return bisect_left(segment.peaks, since, 0, count), count
    ts, ids = segment.ts, segment.ids
    end = bisect_left(ts, top.ts, 0, count)
    if top.id > 0 and end < count and ts[end] == top.ts:
        # Only among rows of one time do ids rise; the end of these is where the next begins.
        end = bisect_left(ids, top.id, end, bisect_left(ts, top.ts + 1, end, count))
    return bisect_left(ts, since, 0, end), end


class _Run:
    """One segment's candidates for a page, newest first, as far as they were asked for."""

    __slots__ = ("cost", "rest", "segment", "slots")

    def __init__(self, segment: Segment, count: int, query: Query, top: Position) -> None:
        self.segment = segment
        self.rest: Sequence[_Term] = ()
        self.slots: Iterator[int] = iter(())
        #: Work done before the first candidate.
        self.cost = sum(len(values) for _, values in query.filter) // 8
        terms = _terms(segment, query.filter)
        if terms is None:
            return
        since = query.since or 0
        self.rest = terms[1:]
        begin, end = _range(segment, count, top, since)
        if not terms:
            self.slots = iter(range(end - 1, begin - 1, -1))
        elif len(terms[0].wanted) <= MERGED_VALUES:
            runs = terms[0].runs(end)
            slots = runs[0] if len(runs) == 1 else map(_FIRST, groupby(merge(*runs, reverse=True)))
            self.slots = takewhile(lambda slot: slot >= begin, slots)
        elif terms[0].size * _SCANNED > count:
            self.slots = iter(range(end - 1, begin - 1, -1))
            self.rest = terms
        else:
            gathered = sorted(set(terms[0].slots(end)), reverse=True)
            self.cost += len(gathered) // 4
            self.slots = takewhile(lambda slot: slot >= begin, gathered)

        if not segment.ordered:
            self.slots = _by_time(segment, self.slots, top, since)


def _by_time(segment: Segment, slots: Iterator[int], top: Position, since: int) -> Iterator[int]:
    """Slots of a segment with late rows, from falling slots to falling (ts, id)."""
    ts, ids, peaks = segment.ts, segment.ids, segment.peaks
    waiting: list[tuple[int, int]] = []
    for slot in slots:
        # No row from here on is newer than this, so those waiting that are not older may go.
        peak = -peaks[slot]
        while waiting and waiting[0][0] <= peak:
            yield -heappop(waiting)[1]
        at = ts[slot]
        if since <= at and (at < top.ts or (at == top.ts and ids[slot] < top.id)):
            heappush(waiting, (-at, -slot))
    while waiting:
        yield -heappop(waiting)[1]


class Found(NamedTuple):
    """Rows of a page, where the next one begins, and how many were passed over."""

    rows: list[Row]
    next: Position | None
    skipped: int


#: A segment in the heap: its next row's time, id (both negative), number, slot, and its run.
_Entry = tuple[int, int, int, int, _Run | None]


def find(view: View, query: Query, budget: int) -> Found:
    """Find a page, newest first.

    Segments are visited by falling time, each opened only when its newest row could be next.

    Args:
        view: The snapshot.
        query: What is wanted; ``max_bytes`` is not looked at.
        budget: Candidates to look at, and as much work to open segments. When it is spent the
            page is short and has a next.
    """
    top = _top(query)
    head = view.head if query.head is None else min(query.head, view.head)
    heap = _unopened(view, top, query.since or 0)
    rows: list[Row] = []
    skipped = spent = opening = 0
    while heap:
        older, lower, number, slot, run = heap[0]
        if spent >= budget or (run is None and opening >= budget):
            here = Position(-older, -lower + 1)
            if here < top:
                return Found(rows, here, skipped)
        if run is None:
            segment = view.segments[number]
            run = _Run(segment, segment.count(view.head), query, top)
            opening += run.cost
        else:
            spent += 1
            if view.floor < -lower <= head and _matches(slot, run.rest):
                if skipped < query.offset:
                    skipped += 1
                elif len(rows) == query.limit:
                    return Found(rows, Position(rows[-1].ts, rows[-1].id), skipped)
                else:
                    rows.append(Row(run.segment, slot))
                    if len(rows) == query.limit:
                        budget = min(budget, spent + _LOOKAHEAD)
        _advance(heap, number, run)
    return Found(rows, None, skipped)


def _advance(heap: list[_Entry], number: int, run: _Run) -> None:
    """Put the run's next row in the place of the heap's first."""
    slot = next(run.slots, -1)
    if slot < 0:
        heappop(heap)
    else:
        segment = run.segment
        heapreplace(heap, (-segment.ts[slot], -segment.ids[slot], number, slot, run))


def _top(query: Query) -> Position:
    """Every row of the page is older than this place."""
    top = query.before or Position(MAX_INTEGER + 1, 0)
    return top if query.until is None else min(top, Position(query.until, 0))


def _unopened(view: View, top: Position, since: int) -> list[_Entry]:
    """A heap of the segments that can matter, each at the newest place that it can have."""
    heap: list[_Entry] = [
        (-min(segment.max_ts, top.ts), -(MAX_INTEGER - 1), number, -1, None)
        for number, segment in enumerate(view.segments)
        if segment.min_ts <= top.ts and segment.max_ts >= since and segment.count(view.head) > 0
    ]
    heapify(heap)
    return heap


def replay(view: View, query: Query, after: int, budget: int) -> tuple[list[Row], int]:
    """Find a page by rising id, from above ``after``.

    Returns:
        The rows, and the id that the page is complete up to.
    """
    rows: list[Row] = []
    spent = opening = 0
    done = start = max(after, view.floor)
    for segment in view.segments:
        count = segment.count(view.head)
        if count <= 0 or segment.first + count - 1 <= done:
            continue
        if opening >= budget and done > start:
            return rows, done
        slots, rest = _by_id(segment, count, query.filter, done)
        opening += sum(len(values) for _, values in query.filter) // 8
        for slot in slots:
            if spent >= budget:
                return rows, done
            spent += 1
            if _matches(slot, rest):
                if len(rows) == query.limit:
                    return rows, done
                rows.append(Row(segment, slot))
                if len(rows) == query.limit:
                    budget = min(budget, spent + _LOOKAHEAD)
            done = segment.ids[slot]
        done = segment.first + count - 1
    return rows, view.head


def _by_id(
    segment: Segment, count: int, filter: Filter, after: int
) -> tuple[Iterable[int], Sequence[_Term]]:
    """The candidates above an id by rising id, and the terms to test them by."""
    terms = _terms(segment, filter)
    if terms is None:
        return (), ()
    if terms and terms[0].size * _SCANNED <= count:
        ids = segment.ids
        slots = [slot for slot in terms[0].slots(count) if ids[slot] > after]
        return sorted(slots, key=ids.__getitem__), terms[1:]
    begin = max(after + 1 - segment.first, 0)
    by_id = segment.slots_by_id
    return range(begin, count) if by_id is None else by_id[begin:], terms


def count(view: View, query: Query) -> int:
    """Count the events of a slice."""
    if not query.filter and query.since is None and query.until is None:
        return view.head - view.floor
    top, since = _top(query), query.since or 0
    return sum(
        _count_in(view, segment, query.filter, top, since)
        for segment in view.segments
        if segment.min_ts < top.ts and segment.max_ts >= since
    )


def _count_in(view: View, segment: Segment, filter: Filter, top: Position, since: int) -> int:
    rows = segment.count(view.head)
    terms = _terms(segment, filter)
    if terms is None or rows <= 0:
        return 0
    begin, end = _range(segment, rows, top, since)
    if segment.first > view.floor:
        if not terms and segment.ordered:
            return end - begin
        if _is_sum(segment, terms) and since <= segment.min_ts and segment.max_ts < top.ts:
            size = terms[0].size
            if len(segment) == rows:  # nothing has been appended meanwhile
                return size
    ts, ids = segment.ts, segment.ids
    return sum(
        1
        for slot in (terms[0].slots(end) if terms else range(end))
        if slot >= begin
        and since <= ts[slot] < top.ts
        and ids[slot] > view.floor
        and _matches(slot, terms[1:])
    )


def _is_sum(segment: Segment, terms: Sequence[_Term]) -> bool:
    return len(terms) == 1 and (len(terms[0].wanted) == 1 or not terms[0].key.several)
