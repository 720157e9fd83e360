"""The thread that keeps the Redis store: seals what is full, frees what was trimmed.

It has a session of its own, and all that it writes is fenced by the run, as appends are. A piece is
so small that it does not hold up the server for longer than a few milliseconds.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import ClassVar

from zstream import wire
from zstream.backends import keeper, redis_lookups, redis_scripts
from zstream.backends import redis_link as link
from zstream.backends.index import Segment
from zstream.backends.redis_runs import Layout, Pieces, describe, entries, numbers, pack_layout
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

    #: Bytes that are written at once, and keys or lists that are freed at once.
    STEP_BYTES: ClassVar[int] = 64 << 10
    STEP_KEYS: ClassVar[int] = 500

    def __init__(
        self, address: link.Address, opened: Opened, layouts: dict[int, Layout],
        unfinished: dict[int, Layout], swept: int, *, sealed: Callable[[Segment, Layout], None],
        batches: Callable[[Segment], int], floor: Callable[[], int], timeout_s: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self._address, self._opened, self._timeout_s = address, opened, timeout_s
        self._layouts, self._unfinished, self._swept = layouts, unfinished, swept
        self._sealed, self._batches, self._floor = sealed, batches, floor
        self._left: dict[int, deque[str]] = {}
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

    def _run(self, script: link.Script, *args: str | bytes | int) -> bytes | int | None:
        if self._session is None:
            self._session = link.Session(self._address, self._timeout_s)
        try:
            answer: bytes | int | None = self._opened.ask(self._session, script, *args)
        except BackendError:
            self._forget_session()
            raise
        return answer

    def _work(self) -> bool:
        if self._waiting:
            self._seal_next()
            return True
        floor = self._floor()
        for number, layout in self._layouts.items():
            if layout.run.last <= floor:
                self._retire(number, layout)
                return True
        return self._free() or self._sweep(floor)

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
        ordered = segment.sealed(segment.last)
        for key in ordered.keys:
            key.settle()
        layout = describe(ordered, several)
        number = self._run(redis_lookups.BEGIN_RUN, pack_layout(layout))
        assert isinstance(number, int)
        layout = layout._replace(run=layout.run._replace(number=number))
        self._unfinished[number] = layout
        for pieces in self._pieces(ordered, layout):
            self._run(
                redis_lookups.PUT, number,
                wire.pack(pieces.hashes, raw=True), wire.pack(pieces.strings, raw=True),
            )  # fmt: skip
        self._run(redis_lookups.END_RUN, number, self._batches(segment))
        del self._unfinished[number]
        self._layouts[number] = layout
        self._sealed(segment, layout)
        self._done_with_first()

    def _pieces(self, segment: Segment, layout: Layout) -> Iterator[Pieces]:
        yield from numbers(segment)
        for key in range(len(layout.buckets)):
            yield from entries(segment, layout, key, self.STEP_BYTES)

    def _retire(self, number: int, layout: Layout) -> None:
        self._run(redis_lookups.RETIRE, number)
        self._unfinished[number] = layout
        del self._layouts[number]

    def _free(self) -> bool:
        """Free some keys of a run that nobody looks into."""
        for number, layout in self._unfinished.items():
            left = self._left.setdefault(number, deque(layout.pieces()))
            names = list(islice(left, self.STEP_KEYS))
            last = len(names) == len(left)
            packed = wire.pack(names, raw=True)
            self._run(redis_lookups.FREE, number, packed, int(last))
            for _ in names:
                left.popleft()
            if last:
                del self._unfinished[number], self._left[number]
            return True
        return False

    def _sweep(self, floor: int) -> bool:
        """Free some lists of bodies all of which were trimmed."""
        end = min(floor // redis_scripts.BLOCK, self._swept + self.STEP_KEYS)
        if end <= self._swept:
            return False
        self._run(redis_scripts.SWEEP, self._swept, end)
        self._swept = end
        return True
