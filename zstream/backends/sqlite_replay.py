"""Finding rows of a slice by rising id in the SQLite store."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from zstream.backends import index_read
from zstream.backends import sqlite_plan as plan
from zstream.backends.base import Position, Query
from zstream.backends.index import View
from zstream.backends.slices import Run
from zstream.backends.sqlite_look import SEEK, SPARSE, Ask, sizes
from zstream.limits import MAX_INTEGER

#: By how much more runs rare values are looked for after each look, and in how many at the most.
_GROWTH: Final = 4
_MOST_RUNS: Final = 16
_NEWEST: Final = Position(MAX_INTEGER, 0)


def find_by_id(
    ask: Ask, view: View, runs: Sequence[Run], query: Query, after: int, budget: int
) -> tuple[list[int], int]:
    """Find a page by rising id, from above ``after``.

    Args:
        ask: Executes a text with parameters in the snapshot and gives its one row.
        view: The rows in memory; its floor is not above ``after``.
        runs: The sealed runs.
        query: Of it, ``filter`` and ``limit`` count.
        after: See above.
        budget: Rows to look at.

    Returns:
        The ids, and the id that the page is complete up to.
    """
    if not query.filter:
        upto = max(min(after + query.limit, view.head), after)
        return list(range(after + 1, upto + 1)), upto
    walk = _Walk(ask, query, view.head, after, budget)
    sealed = min(max((run.last for run in runs), default=0), view.head)
    while walk.done < sealed:
        if walk.is_over:
            return walk.ids, walk.done
        walk.step([run for run in runs if run.last > walk.done])
    left = query.limit - len(walk.ids)
    if not left:
        return walk.ids, walk.done
    rows, upto = index_read.replay(view, replace(query, limit=left), walk.done, budget)
    return walk.ids + [row.id for row in rows], upto


class _Walk:
    """A page in the making: the ids so far, and up to where they are all there."""

    def __init__(self, ask: Ask, query: Query, head: int, after: int, budget: int) -> None:
        self._ask, self._query, self._head = ask, query, head
        self._terms = dict(query.filter)
        self._wanted = {f"j{key}": json.dumps(values) for key, values in query.filter}
        self._budget = budget
        self._group = 1
        self.ids: list[int] = []
        self.done = after

    @property
    def is_over(self) -> bool:
        """Whether the page is full, or as much was looked at as may be."""
        return len(self.ids) >= self._query.limit or self._budget <= 0

    def step(self, runs: Sequence[Run]) -> None:
        """Go on through some of the runs that have rows above the place reached."""
        runs = sorted(runs, key=lambda run: run.first)[: self._group]
        self._group = min(self._group * _GROWTH, _MOST_RUNS)
        found = sizes(self._ask, runs, tuple(self._terms), self._wanted)
        entries, key = min(
            (size + len(self._terms[key]) * SPARSE, key) for key, size in found[0].items()
        )
        if found[0][key]:
            # Of so many entries a page wants the first few; reading rows finds those sooner.
            if entries * entries > self._query.limit * (runs[0].last - runs[0].first + 1):
                self._scan()
            else:
                self._gather(runs[:1], key)
            return
        sparse = next((n for n, size in enumerate(found) if size[key]), len(found))
        seeks = SEEK * len(self._terms[key])
        self._gather(runs[: max(min(sparse, self._budget // seeks), 1)], key)

    def _scan(self) -> None:
        """Read rows by id and test each."""
        upto = min(self.done + self._budget, self._head)
        left = self._query.limit - len(self.ids)
        args = {**self._wanted, "after": self.done, "upto": upto, "want": left}
        found = _ids(self._ask(plan.scanned_by_id(tuple(self._terms)), args)[0])
        self.ids += found
        self._budget -= upto - self.done
        self.done = found[-1] if len(found) == left else upto

    def _gather(self, runs: Sequence[Run], key: int) -> None:
        """Look up all rows that have one of a key's values, in runs that follow each other."""
        rest = tuple(other for other in self._terms if other != key)
        ids = (self.done, self._head)
        rows = [list(plan.bounds(0, run, key + 1, _NEWEST, 0, ids).values()) for run in runs]
        left = self._query.limit - len(self.ids)
        args = {**self._wanted, "want": left, "runs": json.dumps(rows)}
        text, seen = self._ask(plan.gathered_by_id(key, rest), args)
        self._budget -= int(seen) + SEEK * len(self._terms[key]) * len(runs)
        found = _ids(text)
        self.ids += found
        self.done = found[-1] if len(found) == left else min(runs[-1].last, self._head)


def _ids(text: bytes | None) -> list[int]:
    return [int(id) for id in text.split(b",")] if text else []
