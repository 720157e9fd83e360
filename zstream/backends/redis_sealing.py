"""Runs of the Redis store are written and freed, a piece at a time.

A run that is being made stands among the unfinished ones from before its first piece on, so that
whoever is interrupted leaves nothing behind that nobody knows of.
"""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

from zstream import wire
from zstream.backends import redis_lookups
from zstream.backends.index import Segment
from zstream.backends.redis_runs import Layout, Pieces, describe, entries, numbers, pack_layout

#: Bytes that are written at once, and keys that are freed at once.
STEP_BYTES: Final = 64 << 10
STEP_KEYS: Final = 200

#: Executes a script with its arguments behind the run and the head.
Run = Callable[..., Any]


def begin(run: Run, segment: Segment, several: frozenset[int]) -> Layout:
    """Note that a segment, in order, is to become a run; return what that will be."""
    for key in segment.keys:
        key.settle()
    layout = describe(segment, several)
    number = run(redis_lookups.BEGIN_RUN, pack_layout(layout))
    return layout._replace(run=layout.run._replace(number=number))


def write(run: Run, segment: Segment, layout: Layout) -> None:
    """Write all pieces of a run."""
    for pieces in _pieces(segment, layout):
        hashes, strings = (wire.pack(each, raw=True) for each in pieces)
        run(redis_lookups.PUT, layout.run.number, hashes, strings)


def _pieces(segment: Segment, layout: Layout) -> Iterator[Pieces]:
    yield from numbers(segment)
    for key in range(len(layout.buckets)):
        yield from entries(segment, layout, key, STEP_BYTES)


class Freeing:
    """Frees the runs of which nobody is to know any more.

    Args:
        run: See `Run`.
        unfinished: They, by their numbers; what is freed is taken out.
    """

    def __init__(self, run: Run, unfinished: dict[int, Layout]) -> None:
        self._run, self._unfinished = run, unfinished
        self._left: dict[int, deque[str]] = {}

    def step(self) -> bool:
        """Free some keys; tell whether there were any."""
        for number, layout in self._unfinished.items():
            left = self._left.setdefault(number, deque(layout.pieces()))
            names = list(islice(left, STEP_KEYS))
            last = len(names) == len(left)
            packed = wire.pack(names, raw=True)
            self._run(redis_lookups.FREE, number, packed, int(last))
            for _ in names:
                left.popleft()
            if last:
                del self._unfinished[number], self._left[number]
            return True
        return False
