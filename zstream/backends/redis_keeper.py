"""The thread that keeps the Redis store: seals what is full, frees what was trimmed.

It has a session of its own, and all that it writes is fenced by the run, as appends are. A piece is
so small that it does not hold up the server for longer than a few milliseconds.
"""

import logging
from collections.abc import Callable
from typing import Any, ClassVar

from zstream.backends import keeper, redis_lookups, redis_scripts, redis_sealing
from zstream.backends import redis_link as link
from zstream.backends.index import Segment
from zstream.backends.redis_runs import Layout
from zstream.backends.redis_writer import Opened
from zstream.errors import BackendError, BackendUnavailable

_log = logging.getLogger("zstream.backends.redis")


class Keeper(keeper.Keeper):
    """Keeps one store.

    Args:
        address: Where it is.
        opened: The run that is written in.
        layouts: The runs that are sealed, by their numbers; the thread's own from now on.
        unfinished: Runs to be freed: whose making was interrupted, or that were trimmed.
        swept: The first list of bodies that may still be there.
        sealed: Called when a segment has become a run, with it.
        batches: Gives how many batches a segment is made of, as they stand in the store.
        floor: Gives the id up to which events were trimmed.
        timeout_s: How long an answer may take, in seconds.
    """

    #: Lists of bodies that are freed at once.
    STEP_LISTS: ClassVar[int] = 500

    def __init__(
        self, address: link.Address, opened: Opened, layouts: dict[int, Layout],
        unfinished: dict[int, Layout], swept: int, *, sealed: Callable[[Segment, Layout], None],
        batches: Callable[[Segment], int], floor: Callable[[], int], timeout_s: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self._address, self._opened, self._timeout_s = address, opened, timeout_s
        self._layouts, self._unfinished, self._swept = layouts, unfinished, swept
        self._sealed, self._batches, self._floor = sealed, batches, floor
        self._freeing = redis_sealing.Freeing(self._run, unfinished)
        #: The run of the first segment that waits, if it is whole but not known to be listed.
        self._written: Layout | None = None
        self._session: link.Session | None = None

    def close(self) -> None:
        """Seal what waits, and end."""
        super().close()
        self._forget_session()

    def interrupt(self) -> None:
        """Make the call under way fail at once."""
        session = self._session
        if session is not None:
            session.interrupt()

    def _forget_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _run(self, script: link.Script, *args: Any) -> Any:
        if self._session is None:
            self._session = link.Session(self._address, self._timeout_s)
        try:
            return self._opened.ask(self._session, script, *args)
        except BackendError:
            self._forget_session()
            raise

    def _work(self) -> bool:
        if self._waiting:
            self._seal_next()
            return True
        floor = self._floor()
        for number, layout in self._layouts.items():
            if layout.run.last <= floor:
                self._retire(number, layout)
                return True
        return self._freeing.step() or self._sweep(floor)

    def _tell_failed(self, error: BackendError) -> None:
        # The daemon tells that the server is away, and that it is back.
        if not isinstance(error, BackendUnavailable):
            super()._tell_failed(error)

    def _tell_recovered(self) -> None:
        _log.debug("the index can be written again")

    # ------------------------------------------------------------ steps

    def _seal_next(self) -> None:
        segment, several = self._waiting[0]
        assert segment.last is not None
        layout = self._written
        if layout is None:
            ordered = segment.sealed(segment.last)
            layout = redis_sealing.begin(self._run, ordered, several)
            self._unfinished[layout.run.number] = layout
            redis_sealing.write(self._run, ordered, layout)
            self._written = layout
        # Whose answer is lost is said again, of the same run.
        acts = self._run(redis_lookups.END_RUN, layout.run.number, self._batches(segment))
        self._opened.note(acts)
        self._written = None
        del self._unfinished[layout.run.number]
        self._layouts[layout.run.number] = layout
        self._sealed(segment, layout)
        self._done_with_first()

    def _retire(self, number: int, layout: Layout) -> None:
        self._run(redis_lookups.RETIRE, number)
        self._unfinished[number] = layout
        del self._layouts[number]

    def _sweep(self, floor: int) -> bool:
        """Free some lists of bodies all of which were trimmed."""
        end = min(floor // redis_scripts.BLOCK, self._swept + self.STEP_LISTS)
        if end <= self._swept:
            return False
        self._run(redis_scripts.SWEEP, self._swept, end)
        self._swept = end
        return True
