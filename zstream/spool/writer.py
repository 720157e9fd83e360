"""A client's own lane: events out of the outbox, cut into batches, committed, synced, handed over.

Nothing here is a thread; `zstream.spool.thread` calls it.
"""

import logging
from collections.abc import Callable
from typing import Final

from zstream.errors import BackendError
from zstream.outbox import Outbox
from zstream.source import ELEMENT_OVERHEAD, Batch, MemoryQueue
from zstream.spool.folder import Folder
from zstream.spool.source import FileSource
from zstream.wire import array_header

#: Seconds after a commit in which the next events wait for company.
_NAP_S: Final = 0.001
#: Seconds until what is settled is deleted, what failed is tried again, and it is looked whether
#: a full spool has room.
SWEEP_S: Final = 0.2
RETRY_S: Final = 0.5
#: Batches and bytes of one commit.
_COMMIT_BATCHES: Final = 100
_COMMIT_BYTES: Final = 8 << 20

_log = logging.getLogger("zstream")


class Writer:
    """The own lane of one client, in the spool's thread.

    Args:
        folder: Where its file is.
        sync_s: Seconds after an insert in which it is synced.
        limit: Bytes that all lanes in the folder may have, about.
        outbox: Where the events are.
        ring: Wakes the spool's thread.

    Attributes:
        source: The lane as the link sees it.
        others: Bytes of the other lanes in the folder.
        written: Events that were written, ever.
        problem: Why nothing can be written, or None.
        has_more: There is something to write at once.
    """

    def __init__(
        self, folder: Folder, sync_s: float, limit: int, outbox: Outbox, ring: Callable[[], None]
    ) -> None:
        self._folder, self._limit, self._outbox = folder, limit, outbox
        # It is over when the time is up, unless a disk takes longer than half of it.
        self._sync_after_s = sync_s / 2
        self.source = FileSource(None, ring)
        self.others = self.written = 0
        self.problem: str | None = None
        self.has_more = False
        self._queue = MemoryQueue()
        self._batches: list[Batch] = []  # cut, but not written yet
        self._nap_until = self._retry_at = 0.0
        self._sync_at: float | None = None
        self._sweep_at: float | None = None

    @property
    def path(self) -> str | None:
        """The lane file's, once there is one."""
        return self.source.file.path if self.source.file is not None else None

    @property
    def unwritten(self) -> int:
        """Events that were put and are in memory only."""
        return self._outbox.accepted - self.written

    def takes_at(self) -> float:
        """When ``turn`` may look at the outbox."""
        return max(self._retry_at, self._nap_until)

    def wake_at(self, now: float) -> float | None:
        """When ``turn`` has something to do without being rung for."""
        if now < self._retry_at:
            return self._retry_at
        nap = self._nap_until if self.has_more or now < self._nap_until else None
        times = (nap, self._sync_at, self._sweep_at)
        return min((each for each in times if each is not None), default=None)

    def turn(self, now: float) -> bool:
        """Do whatever there is to do; True if the link has something new."""
        is_new = self._attempt(self._feed, now)
        if self.source.has_settled and self._sweep_at is None:
            self._sweep_at = now + SWEEP_S
        if now >= self._retry_at:
            is_new |= self._attempt(self._keep, now)
        return is_new

    def finish(self, now: float) -> None:
        """Write and sync what is left, beyond the limit if need be, and close the file."""
        self._limit = 1 << 62
        try:
            while self.unwritten and (self._batches or self._cut()):
                self._write(now)
            if self.source.file is not None and self._sync_at is not None:
                self.source.file.sync()
            self.source.sweep()
        except BackendError as error:
            self._fail(error, now)
        file = self.source.file
        if file is not None:
            file.leave()

    # ------------------------------------------------------------ its steps

    def _attempt(self, step: Callable[[float], bool], now: float) -> bool:
        try:
            return step(now)
        except BackendError as error:
            self._fail(error, now)
            return False

    def _feed(self, now: float) -> bool:
        return self.source.file is not None and self.source.feed()

    def _keep(self, now: float) -> bool:
        if self._sweep_at is not None and now >= self._sweep_at:
            self.source.sweep()
            self._sweep_at = None
        is_new = now >= self._nap_until and self._write(now)
        if self._sync_at is not None and now >= self._sync_at:
            assert self.source.file is not None
            self.source.file.sync()
            self._sync_at = None
        if self.problem is not None and not self._is_full():
            _log.info("the spool in %s takes events again", self._folder.path)
            self.problem = None
        return is_new

    def _write(self, now: float) -> bool:
        self.has_more = bool(self._batches) or (not self._is_full() and self._cut())
        if not self.has_more:
            if self._is_full() and self.unwritten:
                self._tell_full(now)
            return False
        file = self.source.file or self.source.attach(self._folder.create)
        rows = file.append([(batch.size, batch.body) for batch in self._batches])
        batches, self._batches = self._batches, []
        self.written += sum(batch.size for batch in batches)
        self._outbox.release(sum(map(_memory, batches)))
        if self._sync_at is None:
            self._sync_at = now + self._sync_after_s
        self._nap_until = now + _NAP_S
        return self.source.offer(rows)

    def _cut(self) -> bool:
        self._queue.put(self._outbox.take())
        size = 0
        while len(self._batches) < _COMMIT_BATCHES and size < _COMMIT_BYTES:
            batch = self._queue.take()
            if batch is None:
                break
            self._batches.append(batch)
            size += len(batch.body)
            if self._is_full(size):
                break
        return bool(self._batches)

    def _is_full(self, more: int = 0) -> bool:
        kept = self.source.file.bytes if self.source.file is not None else 0
        total = self.others + kept + more
        return total >= self._limit and total > more

    def _tell_full(self, now: float) -> None:
        self._retry_at = now + RETRY_S
        if self.problem is None:
            self.problem = f"the spool in {self._folder.path} has {self._limit} bytes (spool_bytes)"
            _log.warning("%s; further events wait in memory", self.problem)

    def _fail(self, error: BackendError, now: float) -> None:
        self._retry_at = now + RETRY_S
        if self.problem is None:
            _log.warning("the spool cannot be used, events wait in memory: %s", error)
        self.problem = str(error)
        file = self.source.file
        if file is not None:
            try:
                file.checkpoint()
            except BackendError as again:
                _log.debug("and its log cannot be written back: %s", again)


def _memory(batch: Batch) -> int:
    return len(batch.body) - len(array_header(batch.size)) + ELEMENT_OVERHEAD * batch.size
