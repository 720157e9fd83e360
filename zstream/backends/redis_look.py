"""Finding rows of a slice, newest first, in sealed runs of the Redis store."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from zstream import wire
from zstream.backends import redis_lookups
from zstream.backends.base import Position, Query
from zstream.backends.redis_link import Script
from zstream.backends.redis_runs import Layout, unpack_ranks, wanted
from zstream.backends.redis_times import Times
from zstream.backends.slices import Looked, Run

#: Executes a script with its arguments behind the run and the head, in the reader's session.
Ask = Callable[..., Any]

#: Values times runs that one script looks up, so that the server is not held up.
LOOKUPS: Final = 8_000
#: Rows of a value that are fetched at first where other keys have to match as well.
TRIED: Final = 2_000
#: Ranks fetched that cost as much as a look-up.
CHEAP: Final = 32


class Term:
    """One key of a filter, as the scripts want it."""

    def __init__(self, key: int, values: Sequence[str]) -> None:
        self.key, self.count = key, len(values)
        self.values = wanted(values)
        self.packed = wire.pack(self.values, raw=True)


class Lookups:
    """A filter's terms, looked up in runs.

    Args:
        ask: See `Ask`.
        query: Whose filter it is.

    Attributes:
        spent: The work so far, in look-ups.
    """

    def __init__(self, ask: Ask, query: Query) -> None:
        self._ask = ask
        self.terms = [Term(*term) for term in query.filter]
        self.values = sum(term.count for term in self.terms)
        self.spent = 0

    def sizes(self, layouts: Sequence[Layout]) -> list[list[int]]:
        """For each run and each term, how many entries its values have."""
        keys = [term.key for term in self.terms]
        runs = [[each.run.number, *(each.buckets[key] for key in keys)] for each in layouts]
        terms = [[term.key, term.values] for term in self.terms]
        self.spent += self.values * len(layouts)
        found: list[list[int]] = self._run(redis_lookups.SIZES, runs, wire.pack(terms, raw=True))
        return found

    def ranks(
        self, term: Term, spans: Sequence[tuple[Layout, int, int]], most: int, rising: bool = False
    ) -> Sequence[tuple[int, Sequence[int]]]:
        """Ranks of the rows that have one of a term's values, in no order.

        Args:
            term: The key and the values.
            spans: Runs, each with the first rank that counts and the end of them.
            most: So many of each value: the highest, or with ``rising`` the lowest.
            rising: See above.

        Returns:
            For each run a rank, and the ranks; those from there on are complete, or with
            ``rising`` those below. There may be others beside them, also outside of the span.
        """
        runs = [
            [layout.run.number, layout.buckets[term.key], layout.rows, low, high]
            for layout, low, high in spans
        ]
        found = self._run(redis_lookups.RANKS, runs, term.packed, term.key, most, int(rising))
        every = [(edge, unpack_ranks(data)) for edge, data in found]
        self.spent += term.count * len(spans) + sum(len(ranks) for _, ranks in every) // CHEAP
        return every

    def _run(self, script: Script, runs: Sequence[Any], *args: Any) -> Any:
        return self._ask(script, wire.pack(runs, raw=True), *args)

    def others(self, but: Term, layout: Layout, ranks: set[int]) -> set[int]:
        """Those of the ranks that all other terms have, too."""
        low, high = min(ranks), max(ranks) + 1
        for term in self.terms:
            if term is not but and ranks:
                ((_, found),) = self.ranks(term, [(layout, low, high)], layout.rows)
                ranks = ranks.intersection(found)
        return ranks


class _Scan:
    """The rows found in one run: all that match from the rank ``high`` on."""

    def __init__(self, layout: Layout, low: int, high: int, term: Term | None) -> None:
        self.layout, self.low, self.high, self.term = layout, low, high, term
        self.found: list[int] = []

    def is_done(self, want: int) -> bool:
        return self.high <= self.low or len(self.found) >= want


class Look:
    """Looks into runs; see `zstream.backends.slices.Runs`.

    Args:
        ask: See `Ask`.
        layouts: The runs, by their numbers.
        times: Where their rows are.
        query: What is wanted.
        head, floor: Ids up to the one and above the other count.
    """

    def __init__(
        self, ask: Ask, layouts: Mapping[int, Layout], times: Times, query: Query, head: int,
        floor: int,
    ) -> None:  # fmt: skip
        self._layouts, self._times = layouts, times
        self._since, self._head, self._floor = query.since or 0, head, floor
        self._lookups = Lookups(ask, query)

    def newest(self, runs: Sequence[Run], top: Position, want: int, budget: int) -> Looked:
        """Find matching rows; see `zstream.backends.slices.Runs`."""
        before = self._lookups.spent
        runs = runs[: max(LOOKUPS // max(self._lookups.values, 1), 1)]
        scans = self._scans([self._layouts[run.number] for run in runs], top)
        most = want if len(self._lookups.terms) <= 1 else max(TRIED, want)
        left = [scan for scan in scans if not scan.is_done(want)]
        while left:
            self._step(left, most)
            most *= 4
            left = [scan for scan in left if not scan.is_done(want)]
            if self._lookups.spent - before >= budget:
                break
        # All at once, and not one by one as they are placed.
        placed = [(scan.layout, rank) for scan in scans for rank in scan.found[:want]]
        ends = [(scan.layout, scan.high) for scan in left]
        self._times.load([*placed, *ends])
        places = sorted((self._times.place(*each) for each in placed), reverse=True)
        stop = max((self._times.place(*each) for each in ends), default=None)
        return Looked(places[:want], stop, self._lookups.spent - before, len(runs))

    def _scans(self, layouts: Sequence[Layout], top: Position) -> list[_Scan]:
        terms = self._lookups.terms
        rarest: list[Term | None] = [terms[0] if terms else None] * len(layouts)
        if len(terms) > 1:
            sizes = self._lookups.sizes(layouts)
            rarest = [terms[each.index(min(each))] for each in sizes]
        return [
            _Scan(layout, *self._span(layout, top), term)
            for layout, term in zip(layouts, rarest, strict=True)
        ]

    def _span(self, layout: Layout, top: Position) -> tuple[int, int]:
        """The first rank that counts, and the end of them."""
        low = self._times.rank(layout, Position(self._since, 0))
        high = self._times.rank(layout, top)
        if layout.run.ordered:
            low = max(low, self._floor + 1 - layout.run.first)
            high = min(high, self._head + 1 - layout.run.first)
        return low, max(low, high)

    def _step(self, scans: Sequence[_Scan], most: int) -> None:
        """Go on in each of the runs."""
        for term in {scan.term for scan in scans}:
            mine = [scan for scan in scans if scan.term is term]
            if term is None:
                for scan in mine:
                    edge = max(scan.high - most, scan.low)
                    self._take(scan, edge, range(edge, scan.high))
                    self._lookups.spent += most // CHEAP
                continue
            spans = [(scan.layout, scan.low, scan.high) for scan in mine]
            for scan, (edge, ranks) in zip(
                mine, self._lookups.ranks(term, spans, most), strict=True
            ):
                self._take(scan, max(edge, scan.low), ranks)

    def _take(self, scan: _Scan, edge: int, ranks: Sequence[int]) -> None:
        """Take the candidates from a rank on; below it some may be missing."""
        matching = {rank for rank in ranks if edge <= rank < scan.high}
        if matching and len(self._lookups.terms) > 1:
            assert scan.term is not None
            matching = self._lookups.others(scan.term, scan.layout, matching)
        found = sorted(matching, reverse=True)
        run = scan.layout.run
        if not run.ordered and (self._head < run.last or self._floor >= run.first):
            self._times.load((scan.layout, rank) for rank in found)
            found = [
                rank
                for rank in found
                if self._floor < self._times.id(scan.layout, rank) <= self._head
            ]
        scan.found += found
        scan.high = edge
