"""Looking into sealed runs of the SQLite store for the newest rows of a slice.

The way goes by density: a few values are looked up one by one; many, that few rows have, all at
once; many, that many rows have, by reading rows newest first and testing each. A wrong guess
costs no more than the right way would have.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from zstream.backends import sqlite_plan as plan
from zstream.backends.base import Position, Query
from zstream.backends.slices import Looked, Run
from zstream.backends.sqlite_index import SLOTS

#: What a look for one value in one run costs, in rows looked at.
SEEK: Final = 5
#: What it costs to fetch and test a row that an entry names, where rows in a row cost one each.
TEST: Final = 4
#: Of the rows of a value that is not dense, so many are expected in a run.
SPARSE: Final = 8
#: Rows looked at in the first try, and by how much each further one looks at more.
_FIRST, _GROWTH = 1_000, 4
#: One row in so many is expected to match, where nothing is known.
_AMONG: Final = 128

Ask = Callable[[str, dict[str, Any]], Sequence[Any]]


class Look:
    """Looks for the rows of one query in one snapshot; see `zstream.backends.slices.Runs`.

    Args:
        ask: Executes a text with parameters in the snapshot and gives its one row.
        query: What is wanted.
        head, floor: Only ids up to the one and above the other.
    """

    def __init__(self, ask: Ask, query: Query, head: int, floor: int) -> None:
        self._ask = ask
        self._terms = dict(query.filter)
        self._since = query.since or 0
        self._ids = (floor, head)
        self._missed = False
        self._wanted = {f"j{key}": json.dumps(values) for key, values in query.filter}

    def newest(self, runs: Sequence[Run], top: Position, want: int, budget: int) -> Looked:
        """Find matching rows that are older than ``top``; see the protocol."""
        terms = self._terms
        if not terms:
            return self._read(runs[0], top, want, budget)
        if len(terms) == 1:
            ((key, values),) = terms.items()
            if len(values) <= plan.MERGED:
                return self._few(runs, key, top, want)
        found = self._sizes(runs)
        entries, key = min((size + len(terms[key]) * SPARSE, key) for key, size in found[0].items())
        run, frequent = runs[0], found[0][key]
        if run.ordered and frequent * TEST > run.last - run.first:
            return self._read(run, top, want, budget)
        if len(terms[key]) <= plan.MERGED and frequent:
            return self._tested(run, key, top, want, budget)
        if not frequent:
            sparse = next((n for n, size in enumerate(found) if size[key]), len(runs))
            return self._sparse(runs[:sparse], key, top, want, budget)
        return self._many(run, key, entries, top, want, budget)

    # ------------------------------------------------------------ ways

    def _few(self, runs: Sequence[Run], key: int, top: Position, want: int) -> Looked:
        """Each value in each run by itself."""
        values = self._terms[key]
        width = plan.rounded(len(values))
        runs = runs[: max(plan.MERGED // width, 1)]
        height = plan.rounded(len(runs))
        args: dict[str, Any] = {"want": want} | self._values(key)
        for place in range(height):
            run = runs[min(place, len(runs) - 1)]
            args |= self._bounds(place, run, key + 1, top)
            if place >= len(runs):
                args[f"r{place}"] = -1
        row = self._ask(plan.few(height, width), args)
        found = plan.places(row)
        return Looked(found, None, len(found) + SEEK * len(values) * len(runs), len(runs))

    def _tested(self, run: Run, key: int | None, top: Position, want: int, budget: int) -> Looked:
        """A few values in one run, newest first, each row tested by the other keys.

        Without a key: all rows of a run that are not in the order of time. Most of them are
        neighbours all the same, and cost little.
        """
        rest = tuple(other for other in self._terms if other != key)
        values = {"v0": ""} if key is None else self._values(key)
        text = plan.tested(len(values), rest, by_id=key is None and bool(rest))
        each = TEST if key is not None else 1
        found: list[Position] = []
        spent, most = 0, max(_FIRST, want * (2 if key is not None else _AMONG))
        most = max(min(most, budget), want)
        while True:
            args = {**values, **self._wanted, "want": want - len(found), "budget": most}
            args |= self._bounds(0, run, 0 if key is None else key + 1, top)
            row = self._ask(text, args)
            found += plan.places(row)
            seen, *last = row[2:]
            spent += seen * each
            if seen < most or len(found) >= want:
                return Looked(found, None, spent, 1)
            top = Position(*last)
            if spent >= budget:
                return Looked(found, top, spent, 1)
            most = min(most * _GROWTH, max((budget - spent) // each, _FIRST))

    def _sparse(
        self, runs: Sequence[Run], key: int, top: Position, want: int, budget: int
    ) -> Looked:
        """Values of which none is dense in any of the runs."""
        seeks = SEEK * len(self._terms[key])
        spent = 0
        if len(self._terms[key]) > plan.MERGED and not self._missed:
            # Together they may be frequent all the same; the newest rows tell.
            looked = self._try_reading(runs[0], top, want, min(seeks, budget))
            if looked.stop is None:
                return looked
            self._missed, spent = True, looked.spent
        runs = runs[: max((budget - spent) // seeks, 1)]
        looked = self._gather(runs, key, top, want, budget)
        return looked._replace(spent=looked.spent + spent)

    def _many(
        self, run: Run, key: int, entries: int, top: Position, want: int, budget: int
    ) -> Looked:
        """Many values, some of them dense."""
        cost = SEEK * len(self._terms[key]) + entries
        if cost > budget:
            return self._read(run, top, want, budget)
        spent = 0
        if want * (run.last - run.first) // entries <= cost:
            looked = self._try_reading(run, top, want, cost)
            if looked.stop is None:
                return looked
            spent = looked.spent
        looked = self._gather([run], key, top, want, budget)
        return looked._replace(spent=looked.spent + spent)

    def _gather(
        self, runs: Sequence[Run], key: int, top: Position, want: int, budget: int
    ) -> Looked:
        rest = tuple(other for other in self._terms if other != key)
        rows = [list(self._bounds(0, run, key + 1, top).values()) for run in runs]
        most = max(budget // TEST, want) if rest else -1
        args = {**self._wanted, "want": want, "budget": most, "runs": json.dumps(rows)}
        row = self._ask(plan.gathered(key, rest), args)
        seen, *last = row[2:]
        spent = seen * (TEST if rest else 1) + SEEK * len(self._terms[key]) * len(runs)
        found = plan.places(row)
        stop = Position(*last) if seen == most and len(found) < want else None
        return Looked(found, stop, spent, len(runs))

    def _try_reading(self, run: Run, top: Position, want: int, budget: int) -> Looked:
        """Read so many rows, and some more if it seems worth while."""
        looked = self._read(run, top, want, budget)
        if looked.stop is None or len(looked.places) * 4 < want:
            return looked
        more = self._read(run, looked.stop, want - len(looked.places), budget * 4)
        spent = looked.spent + more.spent
        return Looked(looked.places + more.places, more.stop, spent, 1)

    def _read(self, run: Run, top: Position, want: int, budget: int) -> Looked:
        """Rows newest first, each tested by all keys."""
        if not run.ordered:
            return self._tested(run, None, top, want, budget)
        floor, head = self._ids
        low, high = max(run.first, floor + 1), min(run.last, head) + 1
        if self._since > run.min_ts:
            low = self._bisect(low, high, Position(self._since, 0))
        if top.ts <= run.max_ts:
            high = self._bisect(low, high, top)
        if low >= high:
            return Looked([], None, 0, 1)
        start = max(low, high - max(budget, want))
        args = {**self._wanted, "low": start, "high": high, "want": want}
        row = self._ask(plan.scanned(tuple(self._terms)), args)
        found = plan.places(row)
        full = len(found) == want or start == low
        seen = high - (found[-1].id if len(found) == want else start)
        return Looked(found, None if full else Position(row[2], start), seen, 1)

    # ------------------------------------------------------------ parts

    def _bisect(self, low: int, high: int, place: Position) -> int:
        if low >= high:
            return high
        args = {"low": low, "high": high, "ts": place.ts, "id": place.id}
        return int(self._ask(plan.BISECT, args)[0])

    def _bounds(self, place: int, run: Run, slot: int, top: Position) -> dict[str, int]:
        return plan.bounds(place, run, slot, top, self._since, self._ids)

    def _values(self, key: int) -> dict[str, Any]:
        values = self._terms[key]
        width = plan.rounded(len(values))
        return {f"v{n}": values[n] if n < len(values) else None for n in range(width)}

    def _sizes(self, runs: Sequence[Run]) -> list[dict[int, int]]:
        return sizes(self._ask, runs, tuple(self._terms), self._wanted)


def sizes(
    ask: Ask, runs: Sequence[Run], keys: tuple[int, ...], wanted: dict[str, Any]
) -> list[dict[int, int]]:
    """For each run and key: how many rows the dense ones of its wanted values have together."""
    args = {**wanted, "rs": json.dumps([run.number * SLOTS for run in runs])}
    rows = json.loads(ask(plan.estimated(keys), args)[0])
    return [dict(zip(keys, map(int, row), strict=True)) for row in rows]
