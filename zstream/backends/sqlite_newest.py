"""The newest rows of the SQLite store: indexed in memory until a run of them is sealed."""

import sqlite3
from collections.abc import Sequence
from typing import ClassVar

from zstream.backends import newest, sqlite_index, sqlite_runs
from zstream.backends.base import Batch
from zstream.backends.index import Segment, View
from zstream.backends.sqlite_keeper import Keeper
from zstream.backends.sqlite_rows import load
from zstream.errors import BackendCorrupt, BackendError, BackendUnavailable


class Newest(newest.Newest):
    """What readers see beside the sealed runs. The thread that appends calls its methods.

    Args:
        path: The row file.
        db: A connection to it.
        rows: What it says of itself.
        seal_rows, seal_bytes: Rows, and bytes of their bodies, that make a run.
        busy_s: How long to wait for another program's transaction, in seconds.
    """

    #: Runs that may wait to be sealed before appends wait for them.
    WAITING_RUNS: ClassVar[int] = 2

    def __init__(
        self, path: str, db: sqlite3.Connection, rows: sqlite_index.Rows,
        seal_rows: int, seal_bytes: int, busy_s: float,
    ) -> None:  # fmt: skip
        self._path, self._busy_s = path, busy_s
        self._is_doubtful = False
        keys = len(rows.keys)
        index = sqlite_index.open_index(path, rows, busy_s)
        try:
            most = (self.WAITING_RUNS + 1) * seal_rows - 1
            done = sqlite_runs.catch_up(index, rows, keys, seal_rows, most)
            view = View((), done, rows.floor, sqlite_runs.version(index))
            super().__init__(view, keys, seal_rows, seal_bytes, self._seal)
            opening = rows.runs[-1][0]
            self._keeper = Keeper(path, index, opening, keys, self.drop, self._pulse, busy_s)
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
            upto = min(head + self.room, last)
            ids, ts, size, columns, listed = load(db, head + 1, upto, self._keys)
            self.add(upto, ids, ts, columns, size, listed)

    def add_batch(self, batch: Batch, listed: Sequence[int]) -> None:
        """Let readers see a batch that was committed.

        Args:
            batch: It.
            listed: The keys of which it has lists.
        """
        last = batch.first + len(batch.ts) - 1
        size = sum(map(len, batch.bodies))
        self.add(last, range(batch.first, last + 1), batch.ts, batch.columns, size, listed)

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

    def _seal(self, segment: Segment, several: frozenset[int]) -> None:
        self._keeper.put(segment, several)

    def _pulse(self) -> tuple[int, int]:
        return self.view.head, self.view.floor
