"""The newest rows of the SQLite store: indexed in memory until a run of them is sealed."""

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

from zstream.backends import sqlite_index, sqlite_runs
from zstream.backends.base import Batch
from zstream.backends.index import Segment, View
from zstream.backends.sqlite_keeper import Keeper
from zstream.backends.sqlite_rows import load
from zstream.errors import BackendCorrupt, BackendError, BackendUnavailable
from zstream.keys import Value


class Newest:
    """What readers see beside the sealed runs. The thread that appends calls its methods.

    Args:
        path: The row file.
        db: A connection to it.
        rows: What it says of itself.
        seal_rows, seal_bytes: Rows, and bytes of their bodies, that make a run.
        busy_s: How long to wait for another program's transaction, in seconds.

    Attributes:
        view: The rows in memory, for any thread.
    """

    #: Runs that may wait to be sealed before appends wait for them.
    WAITING_RUNS: ClassVar[int] = 2

    def __init__(
        self, path: str, db: sqlite3.Connection, rows: sqlite_index.Rows,
        seal_rows: int, seal_bytes: int, busy_s: float,
    ) -> None:  # fmt: skip
        self._path, self._busy_s = path, busy_s
        self._seal_rows, self._seal_bytes = seal_rows, seal_bytes
        self._keys = keys = len(rows.keys)
        self._viewing = threading.Lock()
        self._is_doubtful = False
        index = sqlite_index.open_index(path, rows, busy_s)
        try:
            most = (self.WAITING_RUNS + 1) * seal_rows - 1
            done = sqlite_runs.catch_up(index, rows, keys, seal_rows, most)
            self.view = View((), done, rows.floor, sqlite_runs.version(index))
            opening = rows.runs[-1][0]
            self._keeper = Keeper(path, index, opening, keys, self._drop, self._pulse, busy_s)
            self._begin_segment()
            self.load(db, rows.last)
        except BaseException:
            index.close()
            raise
        self._keeper.start()

    @property
    def trouble(self) -> BackendError | None:
        """Why the index cannot be written just now, or None."""
        return self._keeper.trouble

    @property
    def is_read_by_keeper(self) -> bool:
        """Whether rows are being read to be sealed."""
        return self._keeper.is_reading_rows

    def await_room(self) -> None:
        """Wait where too much waits to be sealed: memory is bounded.

        Raises:
            BackendUnavailable, BackendCorrupt: It came to nothing.
        """
        keeper = self._keeper
        if keeper.backlog() <= self.WAITING_RUNS:
            return
        if not keeper.await_room(self.WAITING_RUNS, self._busy_s):
            why = "its rows are not indexed as fast as they come"
            raise keeper.trouble or BackendUnavailable(f"{self._path}: {why}")

    def load(self, db: sqlite3.Connection, last: int) -> None:
        """Take rows that are stored, up to an id, and not in memory yet."""
        while (head := self.view.head) < last:
            upto = min(head + self._seal_rows - len(self.view.segments[-1]), last)
            ids, ts, size, columns, listed = load(db, head + 1, upto, self._keys)
            self._add(upto, ids, ts, columns, size, listed)

    def add(self, batch: Batch, listed: Sequence[int]) -> None:
        """Let readers see a batch that was committed.

        Args:
            batch: It.
            listed: The keys of which it has lists.
        """
        last = batch.first + len(batch.ts) - 1
        size = sum(map(len, batch.bodies))
        self._add(last, range(batch.first, last + 1), batch.ts, batch.columns, size, listed)

    def _add(
        self, last: int, ids: Sequence[int], ts: Sequence[int], columns: Sequence[Sequence[Value]],
        size: int, listed: Iterable[int],
    ) -> None:  # fmt: skip
        segment = self.view.segments[-1]
        segment.extend(ids, ts, columns)
        self._several.update(listed)
        self._bytes += size
        full = len(segment) >= self._seal_rows or self._bytes >= self._seal_bytes
        several = frozenset(self._several)
        with self._viewing:
            self.view = replace(self.view, head=last)
        if full:
            segment.last = last
            self._begin_segment()
            self._keeper.put(segment, several)

    def _begin_segment(self) -> None:
        #: Of the segment that is appended to: the keys that have lists, bytes of its bodies.
        self._several, self._bytes = set[int](), 0
        with self._viewing:
            view = self.view
            fresh = Segment(view.head + 1, self._keys)
            self.view = replace(view, segments=(*view.segments, fresh))

    def trim(self, floor: int) -> None:
        """Mask the rows up to an id."""
        with self._viewing:
            self.view = replace(self.view, floor=floor)

    def tidy(self, idle: bool) -> bool:
        """Index a batch that waits for it, if there is nothing else to do; tell if more wait."""
        left = [segment.settle(int(idle)) for segment in self.view.segments]
        return any(left)

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing is left to seal, drop or merge; tell whether it came to that."""
        return self._keeper.settle(timeout_s)

    def distrust(self) -> None:
        """Damage was found: make the index anew with the next opening."""
        self._is_doubtful = True

    def close(self) -> None:
        """Seal what waits, and close the index."""
        self._keeper.close()
        if self._is_doubtful or isinstance(self._keeper.trouble, BackendCorrupt):
            sqlite_index.remove(self._path)  # the next opening makes it anew

    def _drop(self, segment: Segment, version: int) -> None:
        """A segment stands in the index now."""
        with self._viewing:
            left = tuple(other for other in self.view.segments if other is not segment)
            self.view = replace(self.view, segments=left, version=version)

    def _pulse(self) -> tuple[int, int]:
        return self.view.head, self.view.floor
