"""Counting a slice in the SQLite store, exactly.

Of runs that belong to the slice with all their rows, the sums that were noted at sealing answer
for one key; elsewhere entries are counted, and with several keys rows are tested.
"""

import json
from collections.abc import Sequence

from zstream.backends import index_read
from zstream.backends import sqlite_plan as plan
from zstream.backends.base import Position, Query
from zstream.backends.index import View
from zstream.backends.slices import Run
from zstream.backends.sqlite_index import SLOTS
from zstream.backends.sqlite_look import SPARSE, Ask, sizes
from zstream.limits import MAX_INTEGER


def count(ask: Ask, view: View, runs: Sequence[Run], query: Query) -> int:
    """Count the rows of a slice.

    Args:
        ask: Executes a text with parameters in the snapshot and gives its one row.
        view: The rows in memory.
        runs: The sealed runs.
        query: Of it, ``filter``, ``since`` and ``until`` count; every key has wanted values.
    """
    if not query.filter and query.since is None and query.until is None:
        return view.head - view.floor
    return _Count(ask, view, query).of(runs) + index_read.count(view, query)


class _Count:
    """The count over sealed runs."""

    def __init__(self, ask: Ask, view: View, query: Query) -> None:
        self._ask = ask
        self._ids = (view.floor, view.head)
        self._terms = dict(query.filter)
        self._wanted = {f"j{key}": json.dumps(values) for key, values in query.filter}
        self._since = query.since or 0
        self._top = Position(MAX_INTEGER + 1 if query.until is None else query.until, 0)

    def of(self, runs: Sequence[Run]) -> int:
        """Count in these runs."""
        runs = [
            run
            for run in runs
            if run.min_ts < self._top.ts and run.max_ts >= self._since and run.last > self._ids[0]
        ]
        if not runs:
            return 0
        if not self._terms:
            return sum(self._times(run) for run in runs)
        if len(self._terms) > 1:
            return self._tested(runs)
        ((key, values),) = self._terms.items()
        whole: list[Run] = []
        parts: list[Run] = []
        for run in runs:
            is_sum = len(values) == 1 or key not in run.several
            (whole if is_sum and self._is_whole(run) else parts).append(run)
        total = 0
        if whole:
            args = {**self._wanted, "rs": json.dumps([run.number * SLOTS for run in whole])}
            total += int(self._ask(plan.summed(key), args)[0])
        return total + self._entries(parts, key)

    def _is_whole(self, run: Run) -> bool:
        floor, head = self._ids
        inside = run.min_ts >= self._since and run.max_ts < self._top.ts
        return inside and run.first > floor and run.last <= head

    def _tested(self, runs: Sequence[Run]) -> int:
        found = sizes(self._ask, runs, tuple(self._terms), self._wanted)
        _, key = min(
            (sum(size[key] for size in found) + len(values) * SPARSE, key)
            for key, values in self._terms.items()
        )
        return self._entries(runs, key)

    def _entries(self, runs: Sequence[Run], key: int) -> int:
        if not runs:
            return 0
        rest = tuple(other for other in self._terms if other != key)
        rows = [
            list(plan.bounds(0, run, key + 1, self._top, self._since, self._ids).values())
            for run in runs
        ]
        args = {**self._wanted, "runs": json.dumps(rows)}
        return int(self._ask(plan.counted(key, rest), args)[0])

    def _times(self, run: Run) -> int:
        """Rows of a run between the times, whatever their keys."""
        if not run.ordered:
            args = plan.bounds(0, run, 0, self._top, self._since, self._ids)
            return int(self._ask(plan.COUNT_TIMES, args)[0])
        floor, head = self._ids
        low, high = max(run.first, floor + 1), min(run.last, head) + 1
        begin = self._bisect(low, high, Position(self._since, 0))
        return max(self._bisect(begin, high, self._top) - begin, 0)

    def _bisect(self, low: int, high: int, place: Position) -> int:
        if low >= high:
            return high
        args = {"low": low, "high": high, "ts": place.ts, "id": place.id}
        return int(self._ask(plan.BISECT, args)[0])
