"""What the store keeps: one floor that only rises, moved by the writer's thread."""

import logging
import time
from collections.abc import Callable
from typing import Final

from zstream import times
from zstream.backends.base import Backend
from zstream.errors import BackendError, BackendUnavailable, Error, Unavailable
from zstreamd.kinds import Keep
from zstreamd.outage import Outage

#: Seconds from one look at what is too old, or at what a store has put off, to the next.
_EVERY_S: Final = 1.0

_log = logging.getLogger("zstreamd.retention")

#: Is told how many events were forgotten and the floor, or why not.
Trimmed = Callable[[tuple[int, int] | Error], None]


class Retention:
    """Applies what is to be kept, and what is asked for by ``trim``.

    Used by the writer's thread; ``floor`` is read by any.

    Args:
        backend: The store, open.
        floor: Where it stands.
        keep: What is to be kept; None is all.
        outage: Knows whether the store is away; then nothing need be said of it here.

    Attributes:
        keep: What is to be kept.
        floor: Events up to it are forgotten. It is told before the store does it, so that who
            reads a page and looks at it afterwards has missed nothing in between.
    """

    def __init__(
        self, backend: Backend, floor: int, keep: Keep | None, outage: Outage | None = None
    ) -> None:
        self._backend, self.keep = backend, keep or Keep()
        self._outage = outage or Outage()
        self.floor = self._applied = floor
        self._due = 0.0
        self._more = True
        self._failures = 0
        self._said = False

    def wait_s(self, others: float | None) -> float:
        """How long the writer may wait for inserts: so many seconds, or less."""
        if self._more:
            return 0.0
        due = max(0.0, self._due - time.monotonic())
        return due if others is None else min(due, others)

    def turn(self, head: int, busy: bool) -> None:
        """Do a little of what is due; called after each commit and whenever nothing came.

        Args:
            head: The last id committed.
            busy: Whether something was committed since the last call.
        """
        now_s = time.monotonic()
        is_due = now_s >= self._due
        if not (is_due or busy or self._more):
            return
        try:
            if is_due:
                self._due = now_s + _EVERY_S
                self._move(max(self.floor, self._limit(head)))
            self._more = self._backend.tidy(idle=not busy)
        except BackendUnavailable as error:
            self._more = False
            self._due = now_s + _EVERY_S
            self._fail(error)
            return
        if is_due:
            self._failures = 0
            if self._said:
                self._said = False
                _log.warning("what is not kept can be forgotten again")

    def trim(self, floor: int, reply: Trimmed) -> None:
        """Forget the events up to ``floor`` now, and reply."""
        try:
            count = self._move(max(self.floor, floor))
        except BackendUnavailable as error:
            self._fail(error)
            reply(Unavailable(f"the store cannot be written, this will be tried again: {error}"))
            return
        except BackendError as error:
            reply(Unavailable(f"the store is lost: {error}"))
            raise
        reply((count, self.floor))

    def _limit(self, head: int) -> int:
        """The last id that is not to be kept."""
        floor = 0
        if self.keep.events is not None:
            floor = head - self.keep.events
        if self.keep.age_us is not None:
            # By the clock and not by the newest arrival: that may lie ahead, after a clock that
            # was wrong, and nothing is forgotten before its time.
            since = times.now() - self.keep.age_us
            floor = max(floor, self._backend.arrived(since)) if since > 0 else floor
        return floor

    def _move(self, floor: int) -> int:
        self.floor = floor
        if floor == self._applied:
            return 0
        count = self._backend.trim(floor)
        self._applied = floor
        self._more = True
        return count

    def _fail(self, error: BackendUnavailable) -> None:
        self._failures += 1
        # The first may be of a connection that has been dead for long, to a store that is there.
        if self._failures > 1 and not self._said and self._outage.down is None:
            self._said = True
            _log.error("what is not kept cannot be forgotten, it waits: %s", error)
