"""The thread that keeps the SQLite index: seals what is full, drops what was trimmed, merges.

It has a connection of its own, which writes to the index and reads the rows, so that appends
never wait for it; only where too much waits to be sealed do they.
"""

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import ClassVar

from zstream.backends import sqlite_index, sqlite_merge, sqlite_runs
from zstream.backends.index import Segment
from zstream.backends.sqlite_errors import translated
from zstream.backends.sqlite_file import Log
from zstream.errors import BackendCorrupt, BackendError

_log = logging.getLogger(__name__)


class Keeper(threading.Thread):
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
    #: Seconds from one look for idle work to the next, and after a failure.
    IDLE_S: ClassVar[float] = 0.25
    RETRY_S: ClassVar[float] = 1.0

    def __init__(
        self, path: str, db: sqlite3.Connection, opening: int, keys: int,
        sealed: Callable[[Segment, int], None], pulse: Callable[[], tuple[int, int]], busy_s: float,
    ) -> None:  # fmt: skip
        super().__init__(name="zstream-keeper", daemon=True)
        self._path, self._db, self._opening, self._keys = path, db, opening, keys
        self._sealed, self._pulse = sealed, pulse
        self._log = Log(db, sqlite_index.path_of(path), busy_s)
        self._waiting: deque[tuple[Segment, frozenset[int]]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._at_rest = False
        self._seen = (time.monotonic(), pulse()[0])
        self._merge: sqlite_merge.Merge | None = None
        self._slot = 0
        self._merging = False
        self.is_reading_rows = False
        self.trouble: BackendError | None = None

    # ------------------------------------------------------------ for the writer

    def put(self, segment: Segment, several: frozenset[int]) -> None:
        """Have a segment sealed to which nothing is appended any more."""
        with self._wake:
            self._waiting.append((segment, several))
            self._at_rest = False
            self._wake.notify_all()

    def backlog(self) -> int:
        """How many segments wait."""
        return len(self._waiting)

    def await_room(self, most: int, timeout_s: float) -> bool:
        """Wait until no more than so many segments wait; tell whether it came to that."""
        with self._wake:
            self._wake.wait_for(
                lambda: len(self._waiting) <= most or not self.is_alive(), timeout_s
            )
            return len(self._waiting) <= most

    def settle(self, timeout_s: float) -> bool:
        """Wait until there was nothing to do at a look that began later than this call."""
        with self._wake:
            self._at_rest = False
            self._wake.notify_all()
            return self._wake.wait_for(lambda: self._at_rest, timeout_s)

    def close(self) -> None:
        """Seal what waits, end, and close the index."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self.ident is not None:
            self.join()
        self._db.close()

    # ------------------------------------------------------------ the thread

    def run(self) -> None:
        """Work until told to end; see the class."""
        while not (self._closing and (not self._waiting or self.trouble)):
            try:
                with translated(sqlite_index.path_of(self._path)):
                    busy = self._step()
                    self._log.check()
                self._recover()
            except BackendError as error:
                self._fail(error)
                if isinstance(error, BackendCorrupt):
                    return
                busy = False
            except Exception as error:  # noqa: BLE001 - a defect must be told, not end in silence
                _log.exception("indexing failed")
                self.trouble = BackendCorrupt(f"a defect ended the indexing of the rows: {error!r}")
                return
            if not busy:
                with self._wake:
                    self._rest()
                    if not self._closing and (not self._waiting or self.trouble):
                        self._wake.wait(self.RETRY_S if self.trouble else self.IDLE_S)

    def _rest(self) -> None:
        """Nothing is left to do just now."""
        if self._merging and not (self._waiting or self._merge or self.trouble):
            self._at_rest = True
            self._wake.notify_all()

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
        with self._wake:
            self._waiting.popleft()
            self._wake.notify_all()

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

    def _fail(self, error: BackendError) -> None:
        self._merge = None  # what is left of it is looked up again
        if self.trouble is None:
            _log.error("the index cannot be written, its newest rows stay in memory: %s", error)
        self.trouble = error

    def _recover(self) -> None:
        if self.trouble is not None:
            _log.warning("the index can be written again")
            self.trouble = None
