"""A store in memory: gone with the process, and otherwise like any other."""

import random
import threading
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar

from zstream.backends import index_read
from zstream.backends.base import (
    DEFAULT_KEYS,
    Backend,
    Batch,
    Durability,
    Head,
    Page,
    Position,
    Query,
    Replay,
    Stats,
    check_batch,
)  # fmt: skip
from zstream.backends.index import Row, Segment, View
from zstream.errors import BackendConflict, BackendUnavailable, ConfigError, StoreLocked
from zstream.keys import check_keys
from zstream.limits import MAX_INTEGER

#: What an event occupies beside its body, roughly.
_ROW_BYTES = 180


class MemoryBackend(Backend):
    """The index of `zstream.backends.index`, in segments, with the bodies."""

    #: Rows after which a segment is closed and the next one begun.
    SEGMENT_ROWS: ClassVar[int] = 100_000
    #: Rows that one page looks at.
    BUDGET: ClassVar[int] = 20_000
    #: Marks of arrival are so far apart, in microseconds.
    MARK_US: ClassVar[int] = 1_000_000

    name = "memory:"

    def __init__(self, url: str) -> None:
        """Take the URL apart; see the base class."""
        super().__init__(url)
        if url != "memory:":
            raise ConfigError(f"{url!r}: the store in memory is memory: and nothing after it")
        self._opening = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._view: View | None = None
        self._keys: tuple[str, ...] = ()
        self._arrival = 0
        self._marks = (array("q"), array("q"))  # arrivals, and the last ids before them

    def open(self, keys: Sequence[str] | None) -> Head:
        """Begin with an empty store; see the base class."""
        keys = check_keys(DEFAULT_KEYS if keys is None else keys)
        with self._opening:
            if self._view is not None:
                raise StoreLocked("the store in memory is open already")
            self._keys = keys
            self._view = View((Segment(1, len(keys)),), 0, 0)
        run = random.SystemRandom().randint(1, MAX_INTEGER)
        return Head(run, ((run, 0),), 0, 0, 0, 0, keys, {})

    @property
    def durability(self) -> Durability:
        """Nothing outlives the process; see the base class."""
        return "unsynced"

    def _snapshot(self) -> View:
        view = self._view
        if view is None:
            raise BackendUnavailable("the store is not open")
        return view

    def append(self, batch: Batch) -> None:
        """Store a batch; see the base class."""
        view = self._snapshot()
        count = len(batch.ts)
        check_batch(batch, len(self._keys))
        if batch.first != view.head + 1:
            raise BackendConflict(
                f"the batch begins with {batch.first}, but the last id is {view.head}"
            )
        last = view.head + count
        segment = view.segments[-1]
        try:
            ids = range(batch.first, last + 1)
            segment.extend(ids, batch.ts, batch.columns, batch.bodies)
            segment.settle()
        except BaseException:
            # Half a batch stands in the segment: close it below that and go on in another.
            self._view = self._next_segment(view)
            raise
        arrivals, ids_before = self._marks
        if not arrivals or batch.arrival >= arrivals[-1] + self.MARK_US:
            ids_before.append(view.head)
            arrivals.append(batch.arrival)
        self._arrival = max(self._arrival, batch.arrival)
        self._view = View(view.segments, last, view.floor)
        if len(segment) >= self.SEGMENT_ROWS:
            self._view = self._next_segment(self._view)

    def _next_segment(self, view: View) -> View:
        *closed, segment = view.segments
        if view.head >= segment.first:
            closed.append(segment.sealed(view.head))
        fresh = Segment(view.head + 1, len(self._keys))
        return View((*closed, fresh), view.head, view.floor)

    def last_id(self) -> int:
        """The last id; see the base class."""
        return self._snapshot().head

    def items(self, query: Query) -> Page:
        """Read a page, newest first; see the base class."""
        view = self._snapshot()
        rows, next, skipped = index_read.find(view, query, self.BUDGET)
        kept = _within(rows, query.max_bytes)
        if len(kept) < len(rows):
            next = Position(kept[-1].ts, kept[-1].id)
        return Page(*_columns(kept), next, skipped, view.head)

    def replay(self, query: Query, after: int) -> Replay:
        """Read a page, oldest first; see the base class."""
        view = self._snapshot()
        rows, upto = index_read.replay(view, query, after, self.BUDGET)
        kept = _within(rows, query.max_bytes)
        if len(kept) < len(rows):
            upto = kept[-1].id
        return Replay(*_columns(kept), upto, view.head)

    def count(self, query: Query) -> int:
        """Count the events of a slice; see the base class."""
        return index_read.count(self._snapshot(), query)

    def arrived(self, since: int) -> int:
        """The last id before a time; see the base class."""
        view = self._snapshot()
        if since > self._arrival:
            return view.head
        arrivals, ids_before = self._marks
        place = bisect_right(arrivals, since)
        return ids_before[place - 1] if place else 0

    def trim(self, floor: int) -> int:
        """Forget events; see the base class."""
        view = self._snapshot()
        floor = min(floor, view.head)
        if floor <= view.floor:
            return 0
        if floor == view.head:
            view = self._next_segment(view)
        *closed, fresh = view.segments
        kept = [segment for segment in closed if segment.last is None or segment.last > floor]
        self._view = View((*kept, fresh), view.head, floor)
        arrivals, ids_before = self._marks
        useless = max(bisect_right(ids_before, floor) - 1, 0)
        self._marks = (arrivals[useless:], ids_before[useless:])
        return floor - view.floor

    def stats(self) -> Stats:
        """Tell the figures; see the base class."""
        view = self._snapshot()
        size = sum(segment.bytes + len(segment) * _ROW_BYTES for segment in view.segments)
        return Stats(view.head - view.floor, size, {"segments": len(view.segments)})

    def close(self) -> None:
        """Forget everything; see the base class."""
        self._forget()


def _within(rows: list[Row], max_bytes: int) -> list[Row]:
    """The rows whose bodies have so many bytes together, but one at least."""
    total = accumulate(len(row.segment.bodies[row.slot]) for row in rows)
    fitting = sum(1 for size in total if size <= max_bytes)
    return rows[: max(fitting, 1)]


def _columns(rows: Sequence[Row]) -> tuple[list[int], list[int], list[bytes]]:
    bodies = [row.segment.bodies[row.slot] for row in rows]
    return [row.id for row in rows], [row.ts for row in rows], bodies
