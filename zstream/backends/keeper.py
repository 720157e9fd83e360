"""A thread that does what a store puts off: seals what is full, frees what was trimmed."""

import logging
import threading
from abc import abstractmethod
from collections import deque
from typing import ClassVar

from zstream.backends.index import Segment
from zstream.errors import BackendCorrupt, BackendError

_log = logging.getLogger(__name__)


class Keeper(threading.Thread):
    """The thread; a store says what its steps are.

    Attributes:
        trouble: Why the last step failed, or None.
    """

    #: Seconds from one look for idle work to the next, and after a failure.
    IDLE_S: ClassVar[float] = 0.25
    RETRY_S: ClassVar[float] = 1.0

    def __init__(self) -> None:
        super().__init__(name="zstream-keeper", daemon=True)
        self._waiting: deque[tuple[Segment, frozenset[int]]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._at_rest = False
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
        """Seal what waits, and end."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self.ident is not None:
            self.join()

    # ------------------------------------------------------------ the thread

    def run(self) -> None:
        """Work until told to end; see the class."""
        while not (self._closing and (not self._waiting or self.trouble)):
            try:
                busy = self._work()
                if self.trouble is not None:
                    self.trouble = None
                    self._tell_recovered()
            except BackendError as error:
                if self.trouble is None:
                    self._tell_failed(error)
                self.trouble = error
                if isinstance(error, BackendCorrupt):
                    return
                busy = False
            except Exception as error:  # noqa: BLE001 - a defect must be told, not end in silence
                _log.exception("indexing failed")
                self.trouble = BackendCorrupt(f"a defect ended the indexing of the rows: {error!r}")
                return
            if not busy:
                self._pause()

    def _pause(self) -> None:
        with self._wake:
            if self._is_done() and not self._waiting and self.trouble is None:
                self._at_rest = True
                self._wake.notify_all()
            if not self._closing and (not self._waiting or self.trouble):
                self._wake.wait(self.RETRY_S if self.trouble else self.IDLE_S)

    def _done_with_first(self) -> None:
        """The first segment that waited is sealed."""
        with self._wake:
            self._waiting.popleft()
            self._wake.notify_all()

    # ------------------------------------------------------------ the store's own

    @abstractmethod
    def _work(self) -> bool:
        """Do a step; tell whether there is more to do at once.

        Raises:
            BackendError: It is tried again after ``RETRY_S``, but for `BackendCorrupt`.
        """

    def _is_done(self) -> bool:
        """Whether nothing is left to do, segments that wait aside."""
        return True

    def _tell_failed(self, error: BackendError) -> None:
        """A step failed after one that did not."""
        _log.error("the index cannot be written, its newest rows stay in memory: %s", error)

    def _tell_recovered(self) -> None:
        """A step worked again."""
        _log.warning("the index can be written again")
