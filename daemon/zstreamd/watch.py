"""The watch over a store that a server keeps: asks for signs of life, and frees who is stuck.

A connection over which nothing comes any more says nothing, for minutes or for ever. So the store
is asked over a connection that nobody else uses, and when it does not answer, all that waits for it
is made to fail. What hangs although the store answers waits on a connection that has lost
something: that is ended after a time, too.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from zstream.backends.base import Backend
from zstream.errors import BackendError
from zstreamd.outage import Outage

#: Seconds from one sign of life to the next question, and from one question to the next without.
EVERY_S: Final = 0.5
AGAIN_S: Final = 0.1
#: A question that fails so soon is asked once more.
QUICK_S: Final = 0.2


class Patience:
    """How long the thread that writes may wait for the store, in one call.

    Each time that it was too long the next call may take twice as long: a store that is slow must
    get on, too.
    """

    #: Seconds at first, and at the most.
    FIRST_S: Final = 3.0
    MOST_S: Final = 60.0

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._patience_s = self.FIRST_S

    @contextmanager
    def call(self) -> Iterator[None]:
        """The block calls the store."""
        self._since_s = time.monotonic()
        try:
            yield
            self._patience_s = self.FIRST_S
        finally:
            self._since_s = None

    def is_over(self) -> bool:
        """Whether the call under way has taken too long; then it is expected to be ended."""
        since_s = self._since_s
        if since_s is None or time.monotonic() - since_s < self._patience_s:
            return False
        self._patience_s = min(self._patience_s * 2, self.MOST_S)
        return True


class Watch(threading.Thread):
    """The thread that watches.

    Args:
        backend: The store.
        outage: Is told what it finds.
        patience: With the thread that writes.
        give_up: Called when the store does not answer, to answer who waits for it.
        is_overdue: Tells whether somebody has waited for too long although it answers.
    """

    def __init__(
        self, backend: Backend, outage: Outage, patience: Patience,
        give_up: Callable[[BackendError], None], is_overdue: Callable[[], bool],
    ) -> None:  # fmt: skip
        super().__init__(name="zstreamd-watch", daemon=True)
        self._backend, self._outage, self._patience = backend, outage, patience
        self._give_up, self._is_overdue = give_up, is_overdue
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin, if there is anything to watch: not a store in this process or in files."""
        if type(self._backend).probe is not Backend.probe:
            super().start()

    def end(self) -> None:
        """Look no more; return when the last look is over."""
        self._stopping.set()
        if self.ident is not None:
            self.join()

    def run(self) -> None:
        """Ask until told to stop."""
        while not self._stopping.wait(EVERY_S if self._outage.away is None else AGAIN_S):
            self.look()

    def look(self) -> None:
        """Ask once, and do what follows from it."""
        was_away = self._outage.away is not None
        try:
            self._probe()
        except BackendError as error:
            if was_away and self._outage.away is None:
                # Something was written since: the question was lost in the outage that is over.
                self.look()
                return
            self._outage.note("probe", error)
            self._backend.interrupt()
            self._give_up(error)
            return
        if self._outage.away is not None:
            # Connections that were begun meanwhile may stand where nothing will ever come.
            self._backend.interrupt()
        self._outage.answers()
        if self._patience.is_over() or self._is_overdue():
            self._backend.interrupt()

    def _probe(self) -> None:
        began_s = time.monotonic()
        try:
            self._backend.probe()
        except BackendError:
            # It may be the end of a connection that was kept: the next one is made anew.
            if self._outage.away is not None or time.monotonic() - began_s > QUICK_S:
                raise
            self._backend.probe()
