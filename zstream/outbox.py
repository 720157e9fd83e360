"""Where callers leave packed events, and where they wait for what became of them.

Any thread puts; the link's thread takes, and tells how far it came. Nothing here does I/O.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, Literal, NamedTuple

from zstream.confirmation import Refusal
from zstream.errors import BufferFull, Closed, FlushError
from zstream.outcome import flush_message, refused_error
from zstream.source import ELEMENT_OVERHEAD

OnFull = Literal["drop", "block", "raise"]

#: Refusals that the next flush can tell of.
_KEPT_REFUSALS: Final = 100

_log = logging.getLogger("zstream")


class Progress(NamedTuple):
    """What became of the events, counted from the first; see `zstream.ledger.Ledger`."""

    settled: int = 0
    sent: int = 0
    stored: int = 0
    refused: int = 0
    lost: int = 0


class Flush(NamedTuple):
    """A flush under way: the events up to ``mark``, and what had been told before."""

    mark: int
    told: Progress
    told_dropped: int


class Outbox:
    """A buffer bounded in bytes, and the conditions to wait for.

    Args:
        limit: Bytes of events, `ELEMENT_OVERHEAD` included, that are neither stored nor lost.
            One event is taken however large.
        on_full: What ``put`` does beyond it.
        raises_refused: Whether ``flush`` tells of refused events.

    Attributes:
        wake: Called, with the lock held, when the link's thread sleeps and has something to do.
        threads: Those that take events from here, and cannot wait for themselves.
        watchers: Called, with the lock held, when a waiting ``flush`` or ``put`` may go on.
        dropped: Events that were dropped because the buffer was full.
        progress: What the link's thread told last.
    """

    def __init__(self, limit: int, on_full: OnFull, raises_refused: bool) -> None:
        self._limit = limit
        self._on_full = on_full
        self._raises_refused = raises_refused
        self.wake: Callable[[], None] = lambda: None
        # Reentrant, because a signal handler or a finalizer may insert in the middle of an insert.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._elements: list[bytes] = []
        self._new_bytes = self._held = self._taken = 0
        self._asleep = True
        self._closed = self._connected = False
        self._refusals: list[Refusal] = []
        self._told = Progress()
        self._told_dropped = 0
        self.threads: set[int] = set()
        self.watchers: list[Callable[[], None]] = []
        self.dropped = 0
        self.progress = Progress()

    @property
    def accepted(self) -> int:
        """Events that were put, ever."""
        return self._taken + len(self._elements)

    @property
    def unsettled(self) -> int:
        """Events whose fate is not known."""
        return self.accepted - self.progress.settled

    def stats(self) -> dict[str, int]:
        """What ``Client.stats`` tells of the events."""
        with self._lock:
            unconfirmed = self.progress.sent - self.progress.settled
            return {
                "queued": self.unsettled - unconfirmed,
                "queued_bytes": self._held + self._new_bytes,
                "sent": self.progress.sent,
                "confirmed": self.progress.stored,
                "unconfirmed": unconfirmed,
                "refused": self.progress.refused,
                "lost": self.progress.lost,
                "dropped": self.dropped,
            }

    # ------------------------------------------------------------ any thread

    def put(self, element: bytes, on_full: OnFull | None = None) -> None:
        """Leave one packed element.

        Raises:
            BufferFull: There is no room, and that is to be raised.
            Closed: Nothing is taken any more.
        """
        size = len(element) + ELEMENT_OVERHEAD
        with self._lock:
            if self._closed:
                raise Closed("the client is closed")
            if self._held + self._new_bytes + size <= self._limit or self._has_room(
                size, on_full or self._on_full
            ):
                self._new_bytes += size
                self._elements.append(element)
                if self._asleep:
                    # In this order, and under the lock: an interrupt between the two costs a
                    # needless wake-up, the other way round it would cost the needed one.
                    self.wake()
                    self._asleep = False
                return
            self.dropped += 1
            is_first = self.dropped == 1
        if is_first:  # without the lock: the log's handler may insert
            _log.warning(
                "events are dropped: %d bytes of them wait for the daemon already (buffer_bytes);"
                " stats() counts them", self._limit,
            )  # fmt: skip

    def put_all(self, elements: Iterable[bytes]) -> None:
        """Leave packed elements in their order, waiting for room; raises as ``put``."""
        for element in elements:
            self.put(element, "block")

    def is_ready(self, element: bytes) -> bool:
        """Whether ``put`` would take it, or refuse it, at once."""
        with self._lock:
            return self._closed or self._fits(len(element) + ELEMENT_OVERHEAD)

    def flush(self, timeout: float) -> None:
        """Wait until the fate of all that was put before is known.

        Raises:
            FlushError: Some of it is not known to be on disk: not yet, or never.
            Refused: The daemon refused some of it.
        """
        until = time.monotonic() + timeout
        with self._changed:
            flush = self.begin_flush()
            self._wait(lambda: self.progress.settled >= flush.mark, until)
            self.end_flush(flush, timeout)

    def begin_flush(self) -> Flush:
        """Note what was put so far. It is flushed once ``progress.settled`` reaches the mark."""
        with self._lock:
            return Flush(self.accepted, self._told, self._told_dropped)

    def end_flush(self, flush: Flush, timeout: float) -> None:
        """Tell what became of it, after ``timeout`` seconds at the most; raises as ``flush``."""
        with self._lock:
            pending = max(0, flush.mark - self.progress.settled)
            lost = self.progress.lost - flush.told.lost
            dropped = self.dropped - flush.told_dropped
            refused = self.progress.refused - flush.told.refused
            if pending or lost or dropped:
                self._told = self._told._replace(lost=self.progress.lost)
                self._told_dropped = self.dropped
                raise FlushError(
                    flush_message(pending, lost, dropped, timeout, self._connected),
                    pending=pending + lost + dropped,
                )
            if refused and self._raises_refused:
                self._told = self._told._replace(refused=self.progress.refused)
                refusals, self._refusals = tuple(self._refusals), []
                raise refused_error(refused, refusals)

    def drain(self, start: float, timeout: float, alone: float) -> int:
        """Close, and wait for the fate of all that was put.

        Args:
            start: By the monotonic clock; from when the seconds count.
            timeout: Seconds to wait at the most.
            alone: Seconds to wait as long as nobody is connected.

        Returns:
            How many events are not known to be on disk, the lost ones that nobody was told of
            included.
        """
        with self._changed:
            self.close()
            while not self.is_drained(start, timeout, alone):
                until = start + (timeout if self._connected else alone)
                self._changed.wait(max(0.0, until - time.monotonic()))
            lost, self._told = self.progress.lost - self._told.lost, self.progress
            return self.unsettled + lost

    def is_drained(self, start: float, timeout: float, alone: float) -> bool:
        """Whether ``drain`` has nothing, or no time, to wait for."""
        until = start + (timeout if self._connected else alone)
        return not self.unsettled or time.monotonic() >= until

    def _wait(self, is_done: Callable[[], bool], until: float) -> None:
        while not is_done() and (left := until - time.monotonic()) > 0:
            self._changed.wait(left)

    def _fits(self, size: int) -> bool:
        held = self._held + self._new_bytes
        return held + size <= self._limit or held <= 0

    def _has_room(self, size: int, on_full: OnFull) -> bool:
        while not self._fits(size):
            if on_full == "drop":
                return False
            if on_full == "raise" or threading.get_ident() in self.threads:
                raise BufferFull(f"{self._limit} bytes of events wait for the daemon already")
            self._changed.wait()
            if self._closed:
                raise Closed("the client was closed while it waited for room")
        return True

    # ------------------------------------------------------------ the link's thread

    def take(self) -> list[bytes]:
        """All that was put since the last call."""
        if not self._elements:
            return []
        with self._lock:
            taken, self._elements = self._elements, []
            self._taken += len(taken)
            self._held += sum(map(len, taken)) + ELEMENT_OVERHEAD * len(taken)
            self._new_bytes = 0
            return taken

    def sleep(self) -> bool:
        """Ask to be woken by the next ``put``; False if there is something already."""
        with self._lock:
            self._asleep = not self._elements
            return self._asleep

    def wake_up(self) -> None:
        """Ask not to be woken."""
        self._asleep = False

    def tell(self, progress: Progress, refusals: list[Refusal], released: int = 0) -> None:
        """Say how far the events came, and how many bytes of them need no room any more."""
        with self._changed:
            self._held -= released
            self.progress = progress
            self._refusals = [*self._refusals, *refusals][-_KEPT_REFUSALS:]
            self._notify()

    def release(self, size: int) -> None:
        """Say that so many bytes of what was taken are kept elsewhere now."""
        with self._changed:
            self._held -= size
            self._notify()

    def close(self) -> None:
        """Take nothing any more, and wake whoever waits for room."""
        with self._changed:
            self._closed = True
            self._notify()

    def tell_connected(self, connected: bool) -> None:
        """Say whether somebody is there."""
        with self._changed:
            self._connected = connected
            self._notify()

    def _notify(self) -> None:
        self._changed.notify_all()
        for watcher in list(self.watchers):
            watcher()
