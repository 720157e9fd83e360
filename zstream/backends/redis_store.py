"""The Redis store while it is open: appends, doubts, reads."""

import threading
import time
from collections.abc import Callable
from typing import ClassVar, Final, TypeVar

from zstream import wire
from zstream.backends import redis_link as link
from zstream.backends import redis_newest, redis_scripts
from zstream.backends.base import Batch
from zstream.backends.redis_errors import is_hang_up, is_refusal
from zstream.backends.redis_open import pack_others
from zstream.backends.redis_read import Reader
from zstream.backends.redis_times import Chunks, Gone
from zstream.backends.redis_writer import Opened, Writer
from zstream.errors import BackendConflict, BackendCorrupt, BackendUnavailable

Answer = TypeVar("Answer")
#: How often a page is read again because what it found was trimmed meanwhile.
_TRIES: Final = 5


class OpenStore:
    """One opening of a store.

    Args:
        name: The store, as it may be shown.
        writer, newest, readers: Its session that writes; what is in memory; the sessions that read.
        next_mark, mark_us: From which arrival on the next mark is due; how far apart they are.
        budget: The work of one page, in values looked up and rows looked at.
    """

    #: How often an idle store is looked at, in seconds.
    LOOK_S: ClassVar[float] = 1.0

    def __init__(
        self, name: str, writer: Writer, newest: redis_newest.Newest, readers: link.Pool,
        next_mark: int, mark_us: int, budget: int,
    ) -> None:  # fmt: skip
        self._name, self._writer, self._readers = name, writer, readers
        self.newest = newest
        self._opened: Opened = writer.opened
        self._chunks = Chunks()
        self._next_mark, self._mark_us, self._budget = next_mark, mark_us, budget
        self._next_look_s = 0.0
        #: A batch of which it is not known whether it was stored.
        self._doubtful: Batch | None = None
        self._writing = threading.Lock()

    def close(self) -> None:
        """Seal what waits, give the lock back, and end all sessions."""
        self.newest.close()
        self._opened.closed = True
        self._readers.close()
        self._writer.close()

    def interrupt(self) -> None:
        """End the calls under way; see `Backend.interrupt`."""
        self._writer.interrupt()
        self._readers.interrupt()
        self.newest.interrupt()

    # ------------------------------------------------------------ writing

    def append(self, batch: Batch) -> None:
        """Store a batch; see `Backend.append`."""
        with self._writing:
            doubtful = self._doubtful
            if doubtful is not None and self._settle() and doubtful is batch:
                return
            head = self._opened.head
            if batch.first != head + 1:
                raise BackendConflict(
                    f"{self._name}: the batch begins with {batch.first}, but the last id is {head}"
                )
            self.newest.await_room()
            self._write(batch)

    def _write(self, batch: Batch) -> None:
        rows = redis_newest.pack_rows(batch) if batch.bodies else b""
        bodies = wire.pack(list(batch.bodies), raw=True) if batch.bodies else b""
        marks = batch.arrival >= self._next_mark
        mark = f"{batch.arrival} {batch.first - 1}" if marks else ""
        others = pack_others(batch)
        try:
            acts = self._writer.run(
                redis_scripts.APPEND, _last(batch), batch.arrival, mark, bodies, rows, *others
            )
            self._opened.note(acts)
        except BackendUnavailable as error:
            if not is_refusal(error):
                self._doubtful = batch
            raise
        self._take(batch, len(rows))
        if marks:
            self._next_mark = batch.arrival + self._mark_us

    def _take(self, batch: Batch, size: int) -> None:
        """A batch was stored: let readers see it. So many bytes are kept to index it."""
        self._doubtful = None
        if batch.bodies:
            self.newest.add_batch(batch, size)
            self._opened.head = _last(batch)

    def _settle(self) -> bool:
        """Find out whether the batch in doubt was stored; if it was, readers see it now.

        One without events moves no head, so nobody can tell; to write it again does no harm.
        """
        batch = self._doubtful
        assert batch is not None
        if not batch.bodies or int(self._writer.run(redis_scripts.LAST)) < _last(batch):
            return False
        self._take(batch, len(redis_newest.pack_rows(batch)))
        return True

    def trim(self, floor: int) -> int:
        """Forget events; see `Backend.trim`. What they occupied is freed by the keeper."""
        before, after = map(int, self._writer.run(redis_scripts.TRIM, floor))
        self.newest.trim(after)
        return after - before

    def tidy(self, idle: bool) -> bool:
        """Index what waits, and see now and then whether the store is still there."""
        trouble = self.newest.trouble
        if trouble is not None and not isinstance(trouble, BackendUnavailable):
            raise trouble
        now = time.monotonic()
        if idle and now >= self._next_look_s:
            self._next_look_s = now + self.LOOK_S
            self._writer.run(redis_scripts.LAST)
        return self.newest.tidy(idle)

    # ------------------------------------------------------------ reading

    def read(self, ask: Callable[[Reader], Answer]) -> Answer:
        """Read of one state of the store, over a session that nobody else uses meanwhile."""
        while True:
            waited = False
            try:
                with self._readers.session() as (session, waited):
                    return self._try(session, ask)
            except BackendUnavailable as error:
                # A session that has waited here may have been closed by the server long ago, and
                # so may the others.
                if not waited or session.interrupted or not is_hang_up(error):
                    raise
                self._readers.forget()

    def _try(self, session: link.Session, ask: Callable[[Reader], Answer]) -> Answer:
        for _ in range(_TRIES):
            view, layouts = self.newest.view, self.newest.layouts  # in this order
            reader = Reader(session, self._opened, view, layouts, self._chunks, self._budget)
            try:
                return ask(reader)
            except Gone:
                continue
        raise BackendCorrupt(f"{self._name}: events are indexed that are not there")

    def last_id(self) -> int:
        """The last id; see `Backend.last_id`."""
        if self._doubtful is not None:
            with self._writing:
                if self._doubtful is not None:
                    self._settle()
        return self.read(lambda reader: reader.last_id())


def _last(batch: Batch) -> int:
    """The id of the last event of a batch, or that before it if it has none."""
    return batch.first + len(batch.ts) - 1
