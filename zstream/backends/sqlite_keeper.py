"""The thread that keeps the SQLite index: seals what is full, drops what was trimmed, merges.

It has a connection of its own, which writes to the index and reads the rows, so that appends
never wait for it; only where too much waits to be sealed do they.
"""

import sqlite3
import time
from collections.abc import Callable
from typing import ClassVar

from zstream.backends import keeper, sqlite_index, sqlite_merge, sqlite_runs
from zstream.backends.index import Segment
from zstream.backends.sqlite_errors import translated
from zstream.backends.sqlite_file import Log
from zstream.errors import BackendError


class Keeper(keeper.Keeper):
    """Keeps the index of one store.

    Args:
        path: The row file.
        db: The index, as `sqlite_index.open_index` gives it; the thread's alone from now on.
        opening: The run of the store that began with this opening.
        keys: How many keys the store has.
        sealed: Called when a segment has become a run, with it and the index's new version.
        pulse: Gives the last id and the floor.
        busy_s: How long the connection waits for another program's transaction, in seconds.

    Attributes:
        trouble: Why the index cannot be written just now, or None.
    """

    #: Entries of one source that one step of a merge moves, and that one step drops.
    STEP_ENTRIES: ClassVar[int] = 4_000
    #: Free pages that one step gives back to the file system.
    STEP_PAGES: ClassVar[int] = 1_000
    #: While more rows than these come in a second, merges wait …
    BUSY_ROWS: ClassVar[int] = 20_000
    #: … unless so many runs are there that looking into all of them would be slow.
    MANY_RUNS: ClassVar[int] = 128

    def __init__(
        self, path: str, db: sqlite3.Connection, opening: int, keys: int,
        sealed: Callable[[Segment, int], None], pulse: Callable[[], tuple[int, int]], busy_s: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self._path, self._db, self._opening, self._keys = path, db, opening, keys
        self._sealed, self._pulse = sealed, pulse
        self._log = Log(db, sqlite_index.path_of(path), busy_s)
        self._seen = (time.monotonic(), pulse()[0])
        self._merge: sqlite_merge.Merge | None = None
        self._slot = 0
        self._merging = False
        self.is_reading_rows = False

    def close(self) -> None:
        """Seal what waits, end, and close the index."""
        super().close()
        self._db.close()

    def _work(self) -> bool:
        try:
            with translated(sqlite_index.path_of(self._path)):
                busy = self._step()
                self._log.check()
        except BackendError:
            self._merge = None  # what is left of it is looked up again
            raise
        return busy

    def _is_done(self) -> bool:
        return self._merging and not self._merge

    def _step(self) -> bool:
        if self._waiting:
            self._seal_next()
            return True
        head, floor = self._pulse()
        if sqlite_runs.retire(self._db, floor) or sqlite_merge.drop(self._db, self.STEP_ENTRIES):
            return True
        self._merging = self._may_merge(head)
        if not self._merging:
            return False
        if self._merge_step() or sqlite_merge.shrink(self._db, self.STEP_PAGES):
            return True
        self._log.rest()
        return False

    def _seal_next(self) -> None:
        segment, several = self._waiting[0]
        assert segment.last is not None
        span = sqlite_runs.Span(
            segment.first, segment.last, segment.min_ts, segment.max_ts, segment.ordered, several
        )
        self.is_reading_rows = True
        try:
            sqlite_runs.seal(self._db, span, self._opening, self._keys)
        finally:
            self.is_reading_rows = False
        self._sealed(segment, sqlite_runs.version(self._db))
        self._done_with_first()

    def _may_merge(self, head: int) -> bool:
        """Whether so little comes in, or so much is there, that runs should be merged."""
        now = time.monotonic()
        at, before = self._seen
        if now - at < self.IDLE_S:
            return self._merge is not None
        self._seen = (now, head)
        if (head - before) / (now - at) <= self.BUSY_ROWS:
            return True
        return sqlite_runs.count(self._db) > self.MANY_RUNS

    def _merge_step(self) -> bool:
        db = self._db
        if self._merge is None:
            self._merge = sqlite_merge.unfinished(db) or sqlite_merge.begin_merge(db)
            self._slot = 0
            return self._merge is not None
        if self._slot <= self._keys:
            if not sqlite_merge.move(db, self._merge, self._slot, self.STEP_ENTRIES):
                self._slot += 1
        else:
            sqlite_merge.end_merge(db, self._merge)
            self._merge = None
        return True
